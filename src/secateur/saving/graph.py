"""A model in graph form, kept as what it takes to cut the traced graph again."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import GraphModule
from torch.utils import _pytree as pytree

from secateur.randomness import private_draws
from secateur.saving.inputs import describe, restore
from secateur.state import device_of, evaluating
from secateur.structure.cut import apply_plan, make_plan
from secateur.structure.graph import graph_form, graph_structure
from secateur.structure.infer import Structure
from secateur.structure.trace import trace
from secateur.structure.verify import difference
from secateur.types import FileError, Keep, Sites

__all__ = ["check_answers", "keep_graph", "rebuild"]

TOLERANCE = 1e-3
# The key whose presence says that the graph takes any batch size.
ANY_BATCH = "any-batch"


def keep_graph(model: GraphModule, sites: Sites, keep: Keep) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Return a description of the graph's inputs, and the tensors to store: masks, inputs, and the graph's answers.

    Raises:
        FileError: the example inputs cannot be described, or the graph does not run on others of their shapes.
    """
    traced = sites.structure.graph
    tensors: dict[str, Tensor] = {}
    described = describe(dict(traced.kwargs) or tuple(traced.args), tensors)
    answers = _answers(model, restore(described, tensors, device_of(model)))
    tensors |= {f"output|{i}": answer for i, answer in enumerate(answers)}
    if model.meta.get("any_batch"):
        tensors[ANY_BATCH] = torch.ones(1, dtype=torch.bool)
    tensors |= {f"keep|{name}": kept.detach().cpu().contiguous() for name, kept in keep.items()}
    return described, tensors


def _answers(model: nn.Module, inputs: Any) -> list[Tensor]:
    """What the model answers, as tensors on the CPU."""
    args, kwargs = ((), inputs) if isinstance(inputs, dict) else (inputs, {})
    try:
        with evaluating(model), private_draws():
            made = model(*args, **kwargs)
    except Exception as error:
        raise FileError(
            f"the graph does not run on inputs of ones ({error}); save it with torch.export.save"
        ) from error
    return [x.detach().cpu().clone().contiguous() for x in pytree.tree_leaves(made) if isinstance(x, Tensor)]


def rebuild(model: nn.Module, described: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> GraphModule:
    """Return the graph form of `model`, cut by the masks in `tensors`; its weights are those of `model`.

    Raises:
        FileError: the masks do not fit the model.
        InputError, TraceError, KeyError, TypeError, ValueError, RuntimeError: the description does not.
    """
    found = trace(model, restore(described, tensors, device_of(model)))
    structure = graph_structure(model, found, any_batch=ANY_BATCH in tensors)
    keep = {key.partition("|")[2]: kept for key, kept in tensors.items() if key.startswith("keep|")}
    for name, kept in keep.items():
        _check_mask(structure, name, kept)
    gone = {structure.units[name]: kept for name, kept in keep.items() if not bool(kept.all())}
    small = apply_plan(model, make_plan(model, structure, gone))
    return graph_form(small, structure, gone)


def _check_mask(structure: Structure, name: str, kept: Tensor) -> None:
    site = structure.sites.get(name)
    if site is None or kept.dtype is not torch.bool or tuple(kept.shape) != site.shape or not bool(kept.any()):
        shape = "no such site" if site is None else f"{site.size} units"
        raise FileError(f"the mask of {name!r} ({kept.dtype}, {tuple(kept.shape)}) does not fit: the model has {shape}")


def check_answers(model: GraphModule, described: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
    """Require the graph to answer as it did when it was saved.

    Raises:
        FileError: it does not; the code of the original model is another one.
    """
    wanted = [tensors[f"output|{i}"] for i in range(sum(key.startswith("output|") for key in tensors))]
    answers = _answers(model, restore(described, tensors, device_of(model)))
    numbers = [(torch.nan_to_num(a), torch.nan_to_num(b)) for a, b in zip(wanted, answers, strict=True)]
    found = difference([a for a, _ in numbers], [b for _, b in numbers])
    if not found <= TOLERANCE:
        raise FileError(f"the graph answers otherwise than when it was saved (relative difference {found:.1e})")
