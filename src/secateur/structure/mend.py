"""Mend what a module remembers of its sizes (`out_channels`, `num_features`, …) after its parameters shrank."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from torch import Tensor, nn

from secateur.checks import is_whole
from secateur.randomness import private_draws
from secateur.state import evaluating, first_names
from secateur.structure.axes import Atom, keep_vector
from secateur.structure.carriers import Attribute, Uses
from secateur.structure.infer import Structure
from secateur.structure.literals import size_changes
from secateur.structure.rules import Value, op_name
from secateur.structure.sized_axes import SizedAxes
from secateur.structure.watch import watch

__all__ = ["SWITCHES", "Edits", "edits", "proposals"]

Edits = dict[str, dict[str, int | list[int]]]
"""New values of attributes: module path → attribute → value."""

SWITCHES = frozenset({"use_nested_tensor"})
"""Attributes that are no sizes, and turned off: what they ask for takes layers of torch's own sizes alone."""

Shape = tuple[int, ...]


def _linear(module: nn.Module, shapes: Mapping[str, Shape]) -> dict[str, int | list[int]]:
    out, into = shapes["weight"]
    return {"out_features": out, "in_features": into}


def _conv(module: nn.Module, shapes: Mapping[str, Shape]) -> dict[str, int | list[int]]:
    first, second = shapes["weight"][:2]
    groups = int(module.groups)  # type: ignore[arg-type]
    if module.transposed:
        return {"in_channels": first, "out_channels": second * groups}
    return {"out_channels": first, "in_channels": second * groups}


def _norm(module: nn.Module, shapes: Mapping[str, Shape]) -> dict[str, int | list[int]]:
    shape = shapes.get("weight") or shapes.get("running_mean")
    return {"num_features": shape[0]} if shape else {}


def _layer_norm(module: nn.Module, shapes: Mapping[str, Shape]) -> dict[str, int | list[int]]:
    return {"normalized_shape": list(shapes["weight"])} if "weight" in shapes else {}


def _group_norm(module: nn.Module, shapes: Mapping[str, Shape]) -> dict[str, int | list[int]]:
    return {"num_channels": shapes["weight"][0]} if "weight" in shapes else {}


def _bilinear(module: nn.Module, shapes: Mapping[str, Shape]) -> dict[str, int | list[int]]:
    out, first, second = shapes["weight"]
    return {"out_features": out, "in1_features": first, "in2_features": second}


def _embedding(module: nn.Module, shapes: Mapping[str, Shape]) -> dict[str, int | list[int]]:
    return {"num_embeddings": shapes["weight"][0], "embedding_dim": shapes["weight"][1]}


def _prelu(module: nn.Module, shapes: Mapping[str, Shape]) -> dict[str, int | list[int]]:
    return {"num_parameters": shapes["weight"][0]}


def _recurrent(module: nn.Module, shapes: Mapping[str, Shape]) -> dict[str, int | list[int]]:
    assert isinstance(module, nn.RNNBase)
    gates = shapes["weight_ih_l0"][0]
    old = int(module.weight_ih_l0.shape[0]) // module.hidden_size  # type: ignore[index]
    sizes: dict[str, int | list[int]] = {"input_size": shapes["weight_ih_l0"][1], "hidden_size": gates // old}
    if "weight_hr_l0" in shapes:
        sizes["proj_size"] = shapes["weight_hr_l0"][0]
    return sizes


def _cell(module: nn.Module, shapes: Mapping[str, Shape]) -> dict[str, int | list[int]]:
    return {"input_size": shapes["weight_ih"][1], "hidden_size": shapes["weight_hh"][1]}


Mender = Callable[[nn.Module, Mapping[str, Shape]], dict[str, int | list[int]]]

# The first class that a module is an instance of decides.
MENDERS: list[tuple[type[nn.Module], Mender]] = [
    (nn.Linear, _linear),
    (nn.modules.conv._ConvNd, _conv),
    (nn.modules.batchnorm._NormBase, _norm),
    (nn.Bilinear, _bilinear),
    (nn.LayerNorm, _layer_norm),
    (nn.RMSNorm, _layer_norm),
    (nn.GroupNorm, _group_norm),
    (nn.Embedding, _embedding),
    (nn.EmbeddingBag, _embedding),
    (nn.PReLU, _prelu),
    (nn.RNNBase, _recurrent),
    (nn.RNNCellBase, _cell),
]


def edits(model: nn.Module, structure: Structure, gone: Mapping[Atom, Tensor], shapes: Mapping[str, Shape]) -> Edits:
    """Return the attributes of torch's own layers that follow from the new `shapes` of their tensors (by full name)."""
    first = first_names(model)
    edits_by_path: Edits = {}
    for path, attribute, value in _group_counts(model, structure, gone):
        edits_by_path.setdefault(path, {})[attribute] = value
    for path, module in model.named_modules():
        if isinstance(module, nn.MultiheadAttention):
            edits_by_path.setdefault(path, {}).update(_attention(path, module, structure, gone, shapes))
            continue
        mender = next((m for kind, m in MENDERS if isinstance(module, kind)), None)
        names = {n: first[id(getattr(module, n))] for n in _own_tensors(module)}
        names |= {n: full for full in structure.derived if (n := _name_in(path, full))}
        if mender is None or not any(full in shapes for full in names.values()):
            continue
        tensor_shapes = {n: shapes.get(full) or tuple(getattr(module, n).shape) for n, full in names.items()}
        new = mender(module, tensor_shapes)
        groups = edits_by_path.get(path, {}).get("groups")
        if isinstance(groups, int) and isinstance(module, nn.modules.conv._ConvNd):
            grouped = "out_channels" if module.transposed else "in_channels"
            new[grouped] = int(new[grouped]) // int(module.groups) * groups  # type: ignore[arg-type]
        changed = {k: v for k, v in new.items() if _differs(getattr(module, k, None), v)}
        if changed:
            edits_by_path.setdefault(path, {}).update(changed)
    for path, attribute, sizes in _other_sizes(model, structure, gone, edits_by_path):
        edits_by_path.setdefault(path, {})[attribute] = sizes
    for path, module in model.named_modules():
        # An encoder hands its layers ragged batches for a fused kernel, which keeps to attention as torch has it.
        if isinstance(module, nn.TransformerEncoder) and any(_is_freed(model, path, inner) for inner in edits_by_path):
            edits_by_path.setdefault(path, {}).update(dict.fromkeys(SWITCHES, False))
    return {path: attributes for path, attributes in edits_by_path.items() if attributes}


NORMS: list[tuple[type[nn.Module], str]] = [
    (nn.modules.batchnorm._NormBase, "num_features"),
    (nn.GroupNorm, "num_channels"),
    (nn.LayerNorm, "normalized_shape"),
    (nn.RMSNorm, "normalized_shape"),
]


def _other_sizes(
    model: nn.Module, structure: Structure, gone: Mapping[Atom, Tensor], edits_by_path: Edits
) -> Iterator[tuple[str, str, int | list[int]]]:
    """The sizes that norms without tensors remember, and the width that a transformer compares its inputs with."""
    modules = dict(model.named_modules())
    for path, module in modules.items():
        first_norm = f"{path}.encoder.layers.0.norm1".lstrip(".")
        width = edits_by_path.get(first_norm, {}).get("normalized_shape")
        if isinstance(module, nn.Transformer) and isinstance(width, list):
            yield path, "d_model", width[0]
    for node in structure.values:
        stack = list((node.meta.get("nn_module_stack") or {}).values())
        path = stack[-1][0] if stack else ""
        name = next((a for kind, a in NORMS if isinstance(modules.get(path), kind)), None)
        if name is None or "norm" not in op_name(node) or _own_tensors(modules[path]):
            continue
        seen = structure.values.get(node.args[0])  # type: ignore[arg-type]
        kept = [int(keep_vector(axis, gone).sum()) for axis in seen.axes] if isinstance(seen, Value) else []
        old = getattr(modules[path], name)
        new: int | list[int] = kept[-len(old) :] if isinstance(old, (list, tuple)) else (kept[1:2] or [old])[0]
        if kept and _differs(old, new):
            yield path, name, new


def _name_in(path: str, full: str) -> str:
    """The name of a tensor in the module at `path`; "" where it is another module's."""
    layer, _, name = full.rpartition(".")
    return name if layer == path else ""


def _is_freed(model: nn.Module, path: str, inner: str) -> bool:
    return inner.startswith(f"{path}." if path else "") and isinstance(
        model.get_submodule(inner), nn.MultiheadAttention
    )


def _attention(
    path: str,
    module: nn.MultiheadAttention,
    structure: Structure,
    gone: Mapping[Atom, Tensor],
    shapes: Mapping[str, Shape],
) -> dict[str, int | list[int]]:
    """The sizes of an attention module: heads from the product of queries and keys, widths from the weights."""
    names = [f"{path}.{n}" if path else n for n in ("in_proj_weight", "q_proj_weight", "out_proj.weight")]
    if not any(name in shapes for name in names):
        return {}
    first, width = next(shapes.get(n) or structure.tensors[n].shape for n in names[:2] if n in structure.tensors)
    inner = first // 3 if module.in_proj_weight is not None else first
    heads = _heads(path, module, structure, gone)
    new: dict[str, int | list[int]] = {"num_heads": heads, "head_dim": inner // heads, "embed_dim": width}
    projections = {n: f"{path}.{n}_proj_weight" if path else f"{n}_proj_weight" for n in "kv"}
    for attribute, name in (("kdim", projections["k"]), ("vdim", projections["v"])):
        value = structure.tensors.get(name)
        new[attribute] = (shapes.get(name) or value.shape)[1] if value is not None else width
    return {k: v for k, v in new.items() if getattr(module, k) != v} or {"num_heads": heads}


PRODUCTS = {"scaled_dot_product_attention", "bmm", "baddbmm", "matmul"}


def _heads(path: str, module: nn.MultiheadAttention, structure: Structure, gone: Mapping[Atom, Tensor]) -> int:
    for node, value in structure.values.items():
        stack = list((node.meta.get("nn_module_stack") or {}).values())
        if stack and stack[-1][0] == path and op_name(node) in PRODUCTS:
            axis = value.axes[1] if len(value.axes) == 4 else value.axes[0]
            return int(module.num_heads) * int(keep_vector(axis, gone).sum()) // int(axis.size)
    return int(module.num_heads)


def _own_tensors(module: nn.Module) -> list[str]:
    return [n for n, t in [*module._parameters.items(), *module._buffers.items()] if t is not None]


def _differs(old: object, new: int | list[int]) -> bool:
    return (list(old) if isinstance(old, (list, tuple)) else old) != new


def _group_counts(model: nn.Module, structure: Structure, keep: Mapping[Atom, Tensor]) -> list[tuple[str, str, int]]:
    """New numbers of groups of the convolutions and norms whose group axis is cut."""
    group_counts: list[tuple[str, str, int]] = []
    modules = dict(model.named_modules())
    for node, axis in structure.ties.groups.items():
        keep_mask = keep_vector(axis, keep)
        stack = list((node.meta.get("nn_module_stack") or {}).values())
        path = stack[-1][0] if stack else ""
        if bool(keep_mask.all()) or path not in modules:
            continue
        names = [a for a in ("groups", "num_groups") if getattr(modules[path], a, None) == axis.size]
        group_counts.extend((path, name, int(keep_mask.sum())) for name in names)
    return group_counts


@dataclass(frozen=True)
class Guess:
    """An attribute that holds a size which changes where its module's forward uses it; `seen` to set that very size."""

    path: str
    attribute: str
    value: int | list[int]
    kind: str
    of_torch: bool = False
    seen: bool = False


# Names of attributes that hold sizes of other things than channels: tried last.
UNLIKELY = re.compile(
    r"window|kernel|stride|padding|dilation|depth|patch|img|image|size|grid|resolution|length|num_classes|num_layers"
    r"|shift|seq|max_|pool|_h$|_w$|rank|bits"
)


def proposals(
    model: nn.Module, structure: Structure, gone: Mapping[Atom, Tensor], certain_edits: Edits
) -> Iterator[Edits]:
    """Yield sets of attribute edits to try, the likeliest first; `certain_edits` are in every set.

    An attribute is proposed when it equals a size that changes in its module's own part of the graph, or in a part
    that it calls, and the forward pass was seen to read it for no arithmetic. Which of them are meant is decided by
    trying: a wrong set fails to run or to verify. Last come those of whose use something was lost from sight.
    """
    guesses = _guesses(model, structure, gone, lambda module, path, name: True)
    tried: list[Edits] = []
    if structure.graph.uses is None or not guesses:
        # A plain network mostly needs no edits, and to watch what it reads takes another forward pass.
        tried.append(certain_edits)
        yield certain_edits
    uses = _uses(model, structure)
    if guesses:
        guesses = _guesses(model, structure, gone, partial(_may_change, uses))
    for known in (*_sized(model, structure, gone, uses, guesses), guesses):
        some = [g for g in known if g.attribute not in certain_edits.get(g.path, {})]
        for choice in _choices(uses, some):
            attempt = _merged(certain_edits, [g for g in some if (g.kind, g.attribute) in choice])
            if attempt not in tried:
                tried.append(attempt)
                yield attempt


def _choices(uses: Uses, guesses: list[Guess]) -> list[set[tuple[str, str]]]:
    """Which kinds of attributes to change, the likeliest first."""
    kinds = list(dict.fromkeys((g.kind, g.attribute) for g in guesses))
    lost = {
        (g.kind, g.attribute)
        for g in guesses
        if not g.of_torch and not uses.only_sizes(_watched(uses, g.path, g.attribute))
    }
    unlikely = {k for k in kinds if UNLIKELY.search(k[1])} - lost - {(g.kind, g.attribute) for g in guesses if g.seen}
    likely = set(kinds) - unlikely - lost
    choices = [likely, likely | unlikely, likely | lost, set(kinds), set()]
    choices += [likely - {k} for k in kinds if k in likely]
    choices += [likely | {k} for k in kinds if k not in likely]
    return choices[:24]


def _sized(
    model: nn.Module, structure: Structure, gone: Mapping[Atom, Tensor], uses: Uses, guesses: list[Guess]
) -> Iterator[list[Guess]]:
    """The guesses, and in their place what is known where an attribute was seen to set dimensions that the graph has.

    Two attributes of one value, such as as many heads as each has dimensions, are told apart so. Where tensors of one
    shape have other sizes after the cut, there is a list for each of them.
    """
    places = SizedAxes(uses, structure.values)
    paths = {uses.first_names.get(path, path): path for path, _ in model.named_modules()}
    seen: dict[tuple[str, str], list[int]] = {}
    for attribute, dimensions in uses.sizes.items():
        path = paths.get(attribute.path, attribute.path)
        old = vars(model.get_submodule(path)).get(attribute.name)
        if uses.may_change(attribute) and type(old) is int:
            axes = places.axes(d for d in dimensions if d.shape[d.dim] == old)
            seen[path, attribute.name] = list(dict.fromkeys(int(keep_vector(axis, gone).sum()) for axis in axes))
    guessed = {(g.path, g.attribute) for g in guesses}
    open_sizes = {key: sizes for key, sizes in seen.items() if len(sizes) > 1 and key not in guessed}
    for number in range(min(MOST_SIZES, max(map(len, open_sizes.values()), default=1))):
        sizes_by_key = {key: sizes[0] for key, sizes in seen.items() if len(sizes) == 1}
        sizes_by_key |= {key: sizes[number % len(sizes)] for key, sizes in open_sizes.items()}
        known = {
            (path, name): Guess(path, name, size, _kind(model, path), seen=True)
            for (path, name), size in sizes_by_key.items()
        }
        others = [known.pop((g.path, g.attribute), g) for g in guesses]
        yield others + [g for g in known.values() if g.value != getattr(model.get_submodule(g.path), g.attribute)]


MOST_SIZES = 3
"""How many sizes are tried in the place of one number, where several tensors had it."""


def _kind(model: nn.Module, path: str) -> str:
    return type(model.get_submodule(path)).__qualname__


def _may_change(uses: Uses, module: nn.Module, path: str, name: str) -> bool:
    """Torch's own layers are not watched; those without parameters, such as a plain layer norm, hold sizes as well."""
    return _is_of_torch(module) or uses.may_change(_watched(uses, path, name))


def _is_of_torch(module: nn.Module) -> bool:
    return type(module).__module__.startswith("torch.")


def _uses(model: nn.Module, structure: Structure) -> Uses:
    """What the model reads its attributes for; a recorded graph was not watched yet."""
    graph = structure.graph
    if graph.uses is not None:
        return graph.uses
    with evaluating(model), private_draws():
        return watch(model, graph.args, graph.kwargs)[0] or Uses()


def _watched(uses: Uses, path: str, name: str) -> Attribute:
    return Attribute(uses.first_names.get(path, path), name)


def _merged(certain_edits: Edits, guesses: list[Guess]) -> Edits:
    merged = {path: dict(attributes) for path, attributes in certain_edits.items()}
    for guess in guesses:
        merged.setdefault(guess.path, {})[guess.attribute] = guess.value
    return merged


def _guesses(
    model: nn.Module,
    structure: Structure,
    gone: Mapping[Atom, Tensor],
    may_change: Callable[[nn.Module, str, str], bool],
) -> list[Guess]:
    modules = dict(model.named_modules(remove_duplicate=False))
    holders = {
        path: {name: value for name, value in vars(module).items() if may_change(module, path, name)}
        for path, module in modules.items()
    }
    new_sizes_by_path: dict[str, dict[int, set[int]]] = {}
    for node in structure.values:
        pairs = size_changes(structure, node, gone)
        stack = [path for path, _ in (node.meta.get("nn_module_stack") or {}).values()] if pairs else []
        for old, new in pairs:
            for path in reversed(stack):
                new_sizes_by_path.setdefault(path, {}).setdefault(old, set()).add(new)
                if any(_holds(value, old) for value in holders.get(path, {}).values()):
                    break
    guesses: list[Guess] = []
    for path, sizes in new_sizes_by_path.items():
        # A size that would have to become two different ones is no single attribute.
        settled = {old: next(iter(new)) for old, new in sizes.items() if len(new) == 1}
        # The sizes of attention are worked out (`_attention`), and its code would not stumble over wrong ones.
        if path in modules and not isinstance(modules[path], nn.MultiheadAttention):
            guesses += _module_guesses(path, modules[path], holders[path], settled)
    return guesses


def _holds(value: object, size: int) -> bool:
    if isinstance(value, (list, tuple)):
        return any(_holds(v, size) for v in value)
    return is_whole(value) and value == size


def _module_guesses(
    path: str, module: nn.Module, attributes: Mapping[str, Any], settled: Mapping[int, int]
) -> list[Guess]:
    guesses = []
    for name, value in attributes.items():
        if not any(_holds(value, old) for old in settled):
            continue
        new = settled[value] if isinstance(value, int) else [settled.get(v, v) for v in value]
        guesses.append(Guess(path, name, new, type(module).__qualname__, _is_of_torch(module)))
    return guesses
