"""Where a model routes tokens to experts, found by what its modules are called with, and what each expert gives."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree

from secateur.measure.language import run_on_tokens
from secateur.state import device_of, evaluating
from secateur.trees import tensors_within

__all__ = ["Routing", "find_routings", "routed_pass", "routing_only"]

NEVER = -1e30
"""A router's logit of an expert that no token is to go to."""


@dataclass(frozen=True)
class Routing:
    """A layer of experts with the router that chooses among them.

    Attributes:
        experts, router: their paths; the first dimension of the experts' parameters, and of the router's, is the expert.
        size: how many experts there are.
        top: to how many of them a token goes.
    """

    experts: str
    router: str
    size: int
    top: int


@dataclass(frozen=True, eq=False)
class RoutedCall:
    """What a layer of experts is called with, as one flat list.

    Attributes:
        leaves, spec: all arguments.
        hidden, index, weights: where among the leaves stand the tokens' activations ``(tokens, width)``, the numbers of
            the experts that each goes to, and what their outputs are multiplied by, ``(tokens, top)``.
    """

    leaves: list[Any]
    spec: pytree.TreeSpec
    hidden: int
    index: int
    weights: int

    @classmethod
    def of(cls, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> RoutedCall | None:
        """Return the call, where it is one of experts."""
        leaves, spec = pytree.tree_flatten((args, dict(kwargs)))
        tensors = {place: leaf for place, leaf in enumerate(leaves) if isinstance(leaf, Tensor) and leaf.ndim == 2}
        whole = [place for place, leaf in tensors.items() if leaf.dtype in (torch.int64, torch.int32)]
        if len(whole) != 1:
            return None
        floats = [place for place, leaf in tensors.items() if leaf.is_floating_point()]
        weights = [place for place in floats if tensors[place].shape == tensors[whole[0]].shape]
        hidden = [place for place in floats if place not in weights and len(leaves[place]) == len(leaves[whole[0]])]
        return cls(leaves, spec, hidden[0], whole[0], weights[0]) if len(weights) == len(hidden) == 1 else None

    def norms(self, experts: nn.Module) -> Tensor:
        """Return the norm of what each chosen expert gives for each token, ``(tokens, top)``."""
        index = self.leaves[self.index]
        columns = []
        for column in index.split(1, dim=1):
            leaves = list(self.leaves)
            leaves[self.index], leaves[self.weights] = column, torch.ones_like(self.leaves[self.weights][:, :1])
            args, kwargs = pytree.tree_unflatten(leaves, self.spec)
            columns.append(tensors_within(experts(*args, **kwargs))[0].float().norm(dim=-1).view(-1, 1))
        return torch.cat(columns, dim=1)


def find_routings(model: nn.Module, tokens: Tensor) -> list[Routing]:
    """Return the layers of experts that are called with whole numbers which another module chose.

    Args:
        model: whose experts lie in parameters with the expert as first dimension.
        tokens: a few, ``(sequences, length)``.
    """
    chosen: list[tuple[str, Tensor]] = []
    routings: list[Routing] = []

    def note_call(path: str, module: nn.Module, args: Any, kwargs: Any) -> None:
        call, size = RoutedCall.of(args, kwargs), _experts_in(module)
        if call is not None and size:
            index = call.leaves[call.index]
            routers = [
                name for name, tensor in chosen if tensor is index and _experts_in(model.get_submodule(name)) == size
            ]
            if routers and int(index.max()) < size:
                routings.append(Routing(path, routers[0], size, index.shape[1]))

    with ExitStack() as stack, torch.no_grad(), evaluating(model):
        for path, module in model.named_modules():
            stack.callback(module.register_forward_hook(_note_outputs(path, chosen)).remove)
            hook = lambda m, args, kwargs, path=path: note_call(path, m, args, kwargs)  # noqa: E731
            stack.callback(module.register_forward_pre_hook(hook, with_kwargs=True).remove)
        run_on_tokens(model, tokens.to(device_of(model)), None)
    return routings


def _note_outputs(path: str, chosen: list[tuple[str, Tensor]]) -> Any:
    def hook(_m: nn.Module, _args: Any, out: Any) -> None:
        chosen.extend((path, tensor) for tensor in tensors_within(out) if tensor.dtype in (torch.int64, torch.int32))

    return hook


def _experts_in(module: nn.Module) -> int:
    """The first dimension that all of a module's own parameters have in common; 0 where there is none."""
    sizes = {parameter.shape[0] for parameter in module.parameters(recurse=False) if parameter.ndim}
    return sizes.pop() if len(sizes) == 1 else 0


def routed_pass(
    model: nn.Module, routings: Sequence[Routing], tokens: Tensor, mask: Tensor | None
) -> Iterator[tuple[Routing, Tensor, Tensor, Tensor]]:
    """Yield, for one batch, each layer with its tokens' experts, their weights and the norms of what they give.

    All three are ``(tokens, top)``, of the tokens that count alone.
    """
    seen: list[tuple[Routing, Tensor, Tensor, Tensor]] = []
    counts = slice(None) if mask is None else mask.flatten()
    within: list[str] = []

    def hook(routing: Routing) -> Any:
        def look(module: nn.Module, args: Any, kwargs: Any) -> None:
            call = None if within else RoutedCall.of(args, kwargs)
            if call is not None:
                within.append(routing.experts)
                norms = call.norms(module)
                within.clear()
                index, weights = call.leaves[call.index], call.leaves[call.weights]
                seen.append((routing, index[counts], weights[counts].float(), norms[counts]))

        return look

    with ExitStack() as stack, torch.no_grad(), evaluating(model):
        for routing in routings:
            module = model.get_submodule(routing.experts)
            stack.callback(module.register_forward_pre_hook(hook(routing), with_kwargs=True).remove)
        run_on_tokens(model, tokens, mask)
    yield from seen


@contextmanager
def routing_only(model: nn.Module, keep: Mapping[str, Tensor]) -> Iterator[None]:
    """Let the routers of a model choose among the experts that are kept alone: the others' logits are as low as can be.

    Args:
        model: a copy, whose routers' biases change.
        keep: by the path of the router, True = keep.
    """
    with ExitStack() as stack, torch.no_grad():
        for path, mask in keep.items():
            router, gone = model.get_submodule(path), ~mask
            for name, tensor in [*router.named_parameters(recurse=False), *router.named_buffers(recurse=False)]:
                if tensor.shape == mask.shape and tensor.is_floating_point():
                    tensor.data = tensor.masked_fill(gone.to(tensor.device), NEVER)
                    assert getattr(router, name) is tensor
            mode = _LowLogits(gone)
            stack.callback(router.register_forward_pre_hook(lambda *_, mode=mode: mode.__enter__() and None).remove)
            stack.callback(router.register_forward_hook(lambda *_, mode=mode: mode.__exit__(None, None, None)).remove)
        yield


class _LowLogits(TorchFunctionMode):
    """While a router runs: what its linear layer makes for experts that are gone is as low as can be."""

    def __init__(self, gone: Tensor) -> None:
        super().__init__()
        self.gone = gone

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if getattr(func, "__name__", "") == "linear" and out.shape[-1] == len(self.gone):
            return out.masked_fill(self.gone.to(out.device), NEVER)
        return out
