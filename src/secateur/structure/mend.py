"""Mend what a module remembers of its sizes (`out_channels`, `num_features`, …) after its parameters shrank."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

from torch import Tensor, nn

from secateur.state import first_names
from secateur.structure.axes import Atom, keep_vector
from secateur.structure.infer import Structure
from secateur.structure.nodes import innermost, module_paths
from secateur.structure.rules import Value, op_name

__all__ = ["SWITCHES", "Edits", "differs", "edits"]

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
        changed = {k: v for k, v in new.items() if differs(getattr(module, k, None), v)}
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
        path = innermost(node)
        name = next((a for kind, a in NORMS if isinstance(modules.get(path), kind)), None)
        if name is None or "norm" not in op_name(node) or _own_tensors(modules[path]):
            continue
        seen = structure.values.get(node.args[0])  # type: ignore[arg-type]
        if not isinstance(seen, Value):
            continue
        kept = [int(keep_vector(axis, gone).sum()) for axis in seen.axes]
        old = getattr(modules[path], name)
        # An instance norm runs as a norm of samples × channels.
        several = isinstance(old, (list, tuple))
        new: int | list[int] = kept[-len(old) :] if several else old * kept[1] // seen.axes[1].size
        if differs(old, new):
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
        paths = module_paths(node)
        if paths and paths[-1] == path and op_name(node) in PRODUCTS:
            axis = value.axes[1] if len(value.axes) == 4 else value.axes[0]
            return int(module.num_heads) * int(keep_vector(axis, gone).sum()) // int(axis.size)
    return int(module.num_heads)


def _own_tensors(module: nn.Module) -> list[str]:
    return [n for n, t in [*module._parameters.items(), *module._buffers.items()] if t is not None]


def differs(old: object, new: int | list[int]) -> bool:
    """Return whether an attribute holds other sizes than these, whatever holds them."""
    return (list(old) if isinstance(old, (list, tuple)) else old) != new


def _group_counts(model: nn.Module, structure: Structure, keep: Mapping[Atom, Tensor]) -> list[tuple[str, str, int]]:
    """New numbers of groups of the convolutions and norms whose group axis is cut."""
    group_counts: list[tuple[str, str, int]] = []
    modules = dict(model.named_modules())
    for node, axis in structure.ties.groups.items():
        keep_mask = keep_vector(axis, keep)
        path = innermost(node)
        if bool(keep_mask.all()) or path not in modules:
            continue
        names = [a for a in ("groups", "num_groups") if getattr(modules[path], a, None) == axis.size]
        group_counts.extend((path, name, int(keep_mask.sum())) for name in names)
    return group_counts
