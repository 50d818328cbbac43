"""Weights that are no parameters: what a parametrization, a mask or a normalisation makes of parameters on each run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.fx import Node
from torch.nn.utils import prune, remove_spectral_norm, remove_weight_norm
from torch.nn.utils.parametrize import ParametrizationList, is_parametrized
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm

from secateur.calls import usual
from secateur.copies import copied
from secateur.state import modes_kept, own_tensors
from secateur.structure.nodes import module_paths
from secateur.wrappers import check_module

__all__ = ["effective_weights", "folded", "folding", "parametrized"]


def parametrized(model: nn.Module, graph: fx.Graph, tensors: Mapping[Node, str]) -> dict[str, Node]:
    """Return the nodes that make the parametrized weights of a model, by the weights' names.

    Args:
        model: the model.
        graph: its graph.
        tensors: the placeholders of the graph that stand for the model's tensors, with their names.
    """
    lists = [path for path, module in model.named_modules() if isinstance(module, ParametrizationList)]
    if not lists:
        return {}
    makers: dict[str, Node] = {}
    for node in graph.nodes:
        stack = set(module_paths(node))
        if node.op == "call_function" and isinstance(node.meta.get("val"), Tensor):
            makers |= {path: node for path in lists if path in stack}
    holders = {name: node for node, name in tensors.items()}
    # A parametrization that gives back what it is given leaves no node.
    nodes = {path: makers.get(path, holders.get(f"{path}.original")) for path in lists}
    return {_weight_name(path): node for path, node in nodes.items() if node is not None}


def _weight_name(path: str) -> str:
    """The name of the weight whose parametrizations lie at a path."""
    layer, _, name = path.rpartition("parametrizations.")
    return layer + name


@usual
def folded(model: nn.Module) -> nn.Module:
    """Return a copy of `model` whose weights are plain parameters, with the values that they have in evaluation.

    Masks of `torch.nn.utils.prune`, parametrizations, and weight and spectral norms of either kind are carried out once
    and leave. The copy answers as the model does; trained, it is another one.

    >>> model = torch.nn.utils.parametrizations.weight_norm(nn.Linear(2, 1))
    >>> sorted(folded(model).state_dict())
    ['bias', 'weight']
    """
    check_module(model, "folded")
    plain = copied(model)
    with modes_kept(plain):
        for module in plain.eval().modules():
            if is_parametrized(module):
                _make_plain(module)
            for hook in list(module._forward_pre_hooks.values()):
                _fold_hook(module, hook)
    return plain


def folding(model: nn.Module) -> list[str]:
    """Return the layers that `folded` gives plain weights, by their paths.

    >>> folding(nn.Sequential(torch.nn.utils.parametrizations.weight_norm(nn.Linear(2, 1)), nn.Linear(1, 1)))
    ['0']
    """
    hooks = (WeightNorm, SpectralNorm, prune.BasePruningMethod)
    return [
        path
        for path, module in model.named_modules()
        if is_parametrized(module) or any(isinstance(hook, hooks) for hook in module._forward_pre_hooks.values())
    ]


def _make_plain(module: nn.Module) -> None:
    """Let a parametrized module be one of its own class again; torch's way changes the class, which copies share."""
    lists = dict(module.parametrizations.items())  # type: ignore[union-attr, operator]
    values = {name: getattr(module, name).detach().clone() for name in lists}
    del module.parametrizations
    module.__class__ = type(module).__bases__[0]
    for name, value in values.items():
        originals = list(lists[name].parameters(recurse=False))
        if originals:
            trained = any(original.requires_grad for original in originals)
            module.register_parameter(name, nn.Parameter(value, requires_grad=trained))
        else:
            module.register_buffer(name, value)


def _fold_hook(module: nn.Module, hook: object) -> None:
    """Carry out what a hook of torch's makes of weights before each run."""
    if isinstance(hook, WeightNorm):
        remove_weight_norm(module, hook.name)
    elif isinstance(hook, SpectralNorm):
        remove_spectral_norm(module, hook.name)
    elif isinstance(hook, prune.BasePruningMethod):
        prune.remove(module, hook._tensor_name)  # type: ignore[no-untyped-call]


def effective_weights(model: nn.Module, derived: Mapping[str, Node], tensors: Mapping[Node, str]) -> dict[str, Tensor]:
    """Return what layers compute with in the place of parameters that a mask, a norm or another function changes.

    Args:
        model: the model.
        derived: the nodes of its graph that make weights of parameters.
        tensors: the placeholders of the graph, with the names of the model's tensors.

    Returns:
        The weights by the names of those parameters of theirs that have their shape: ``weight_orig``, ``weight_v``.
    """
    own = own_tensors(model)
    weights: dict[str, Tensor] = {}
    values: dict[Node, Tensor] = {}
    for node in derived.values():
        sources = _sources(node)
        if not all(source.op == "call_function" or tensors.get(source) in own for source in sources):
            continue
        with torch.no_grad():
            for source in sources:
                values.setdefault(source, _computed(source, values, own, tensors))
        names = [tensors[source] for source in sources if source in tensors]
        alike = [
            name for name in names if isinstance(own[name], nn.Parameter) and own[name].shape == values[node].shape
        ]
        weights |= dict.fromkeys(alike, values[node])
    return weights


def _sources(node: Node) -> list[Node]:
    """What a node is computed from, in order, with itself."""
    needed, waiting = {node}, [node]
    while waiting:
        fresh = [operand for operand in waiting.pop().all_input_nodes if operand not in needed]
        needed.update(fresh)
        waiting += fresh
    return [candidate for candidate in node.graph.nodes if candidate in needed]


def _computed(node: Node, values: Mapping[Node, Tensor], own: Mapping[str, Tensor], tensors: Mapping[Node, str]) -> Any:
    if node.op == "placeholder":
        return own[tensors[node]].detach()
    args, kwargs = fx.map_arg((node.args, node.kwargs), values.__getitem__)
    return node.target(*args, **kwargs)  # type: ignore[operator]
