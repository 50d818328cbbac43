"""Mend what a module remembers of its sizes (`out_channels`, `num_features`, …) after its parameters shrank."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from torch import Tensor, nn

from secateur.structure.axes import Atom, keep_vector
from secateur.structure.infer import Structure

__all__ = ["Edits", "edits"]

Edits = dict[str, dict[str, int | list[int]]]
"""New values of attributes: module path → attribute → value."""

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


def _embedding(module: nn.Module, shapes: Mapping[str, Shape]) -> dict[str, int | list[int]]:
    return {"num_embeddings": shapes["weight"][0], "embedding_dim": shapes["weight"][1]}


def _prelu(module: nn.Module, shapes: Mapping[str, Shape]) -> dict[str, int | list[int]]:
    return {"num_parameters": shapes["weight"][0]}


def _recurrent(module: nn.Module, shapes: Mapping[str, Shape]) -> dict[str, int | list[int]]:
    assert isinstance(module, nn.RNNBase)
    gates = shapes["weight_ih_l0"][0]
    old = int(module.get_parameter("weight_ih_l0").shape[0]) // module.hidden_size
    found: dict[str, int | list[int]] = {"input_size": shapes["weight_ih_l0"][1], "hidden_size": gates // old}
    if "weight_hr_l0" in shapes:
        found["proj_size"] = shapes["weight_hr_l0"][0]
    return found


Mender = Callable[[nn.Module, Mapping[str, Shape]], dict[str, int | list[int]]]

# The first class that a module is an instance of decides.
MENDERS: list[tuple[type[nn.Module], Mender]] = [
    (nn.Linear, _linear),
    (nn.modules.conv._ConvNd, _conv),
    (nn.modules.batchnorm._NormBase, _norm),
    (nn.LayerNorm, _layer_norm),
    (nn.RMSNorm, _layer_norm),
    (nn.GroupNorm, _group_norm),
    (nn.Embedding, _embedding),
    (nn.PReLU, _prelu),
    (nn.RNNBase, _recurrent),
]


def edits(model: nn.Module, structure: Structure, keep: Mapping[Atom, Tensor], shapes: Mapping[str, Shape]) -> Edits:
    """Return the attributes that must change for the tensors' new `shapes` (by full name), with their new values."""
    found: Edits = {}
    for path, attribute, value in _group_counts(model, structure, keep):
        found.setdefault(path, {})[attribute] = value
    for path, module in model.named_modules():
        mender = next((m for kind, m in MENDERS if isinstance(module, kind)), None)
        own = {
            n: shapes[f"{path}.{n}" if path else n]
            for n in _own_tensors(module)
            if (f"{path}.{n}" if path else n) in shapes
        }
        if mender is None or not own:
            continue
        new = mender(module, own)
        groups = found.get(path, {}).get("groups")
        if isinstance(groups, int) and isinstance(module, nn.modules.conv._ConvNd):
            grouped = "out_channels" if module.transposed else "in_channels"
            new[grouped] = int(new[grouped]) // int(module.groups) * groups  # type: ignore[arg-type]
        changed = {k: v for k, v in new.items() if _differs(getattr(module, k, None), v)}
        if changed:
            found.setdefault(path, {}).update(changed)
    return found


def _own_tensors(module: nn.Module) -> list[str]:
    return [n for n, t in [*module._parameters.items(), *module._buffers.items()] if t is not None]


def _differs(old: object, new: int | list[int]) -> bool:
    return (list(old) if isinstance(old, (list, tuple)) else old) != new


def _group_counts(model: nn.Module, structure: Structure, keep: Mapping[Atom, Tensor]) -> list[tuple[str, str, int]]:
    """New numbers of groups of the convolutions and norms whose group axis is cut."""
    found: list[tuple[str, str, int]] = []
    modules = dict(model.named_modules())
    for node, axis in structure.ties.groups.items():
        kept = keep_vector(axis, keep)
        stack = list((node.meta.get("nn_module_stack") or {}).values())
        path = stack[-1][0] if stack else ""
        if bool(kept.all()) or path not in modules:
            continue
        names = [a for a in ("groups", "num_groups") if getattr(modules[path], a, None) == axis.size]
        found.extend((path, name, int(kept.sum())) for name in names)
    return found
