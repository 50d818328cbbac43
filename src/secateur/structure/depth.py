"""Whole blocks as units: a residual block that is skipped passes its input on."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from secateur.calls import usual
from secateur.randomness import private_draws
from secateur.state import called, check_finite, check_ordinary, evaluating, fresh, split_inputs
from secateur.structure.sites import REPAIR
from secateur.types import ExampleInputs, Keep, Member, Site, Sites
from secateur.untouched import copied, run_with
from secateur.wrappers import check_module

__all__ = ["BlockStructure", "Skip", "blocks", "removed_blocks", "skipping"]

TOLERANCE = 1e-5


class Skip(nn.Module):
    """Stands where a block was and gives back the block's first input.

    Attributes:
        wrapped: whether the block gave a tuple, of which the first item goes on.

    >>> Skip()(torch.ones(2), "what else the block was given")
    tensor([1., 1.])
    """

    def __init__(self, wrapped: bool = False) -> None:
        super().__init__()
        self.wrapped = wrapped

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Any:
        """Return `x`, in a tuple if the block returned one."""
        return (x,) if self.wrapped else x

    def extra_repr(self) -> str:
        """Say what printing shows."""
        return "wrapped" if self.wrapped else ""


@dataclass(frozen=True, eq=False)
class BlockStructure:
    """What skipping blocks needs to know.

    Attributes:
        args, kwargs: the example inputs.
        paths: for each site the module paths of its blocks, in order.
        wrapped: the paths of the blocks that return tuples.
    """

    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    paths: Mapping[str, tuple[str, ...]]
    wrapped: frozenset[str]


@usual
def blocks(model: nn.Module, example_inputs: ExampleInputs, ignore: Iterable[str] = ()) -> Sites:
    """Return sites whose units are whole blocks that can be left out: the depth of a residual network.

    A site is a container (`nn.Sequential`, `nn.ModuleList`); its units are those of its blocks that pass their input
    on unchanged when all their parameters are zero, as residual blocks do. That is tried on the example inputs, not
    guessed. `secateur.cut` puts a `Skip` in a removed block's place, so the other blocks keep their names.

    Raises:
        InputError: the inputs do not fit the model, or the model holds NaN.

    >>> class Block(nn.Module):
    ...     def __init__(self):
    ...         super().__init__()
    ...         self.fc = nn.Linear(3, 3)
    ...     def forward(self, x):
    ...         return x + self.fc(x)
    >>> model = nn.Sequential(nn.Linear(2, 3), nn.Sequential(Block(), Block()), nn.Linear(3, 1))
    >>> {name: site.size for name, site in blocks(model, torch.ones(1, 2)).items()}
    {'1': 2}
    """
    check_module(model, "blocks")
    check_ordinary(model, "blocks")
    check_finite(model, "blocks", REPAIR)
    args, kwargs = fresh(*split_inputs(example_inputs))
    ignored = set(ignore)
    paths: dict[str, list[str]] = {}
    wrapped: set[str] = set()
    frozen: dict[str, str] = {}
    for path, call in _calls(model, args, kwargs).items():
        container = path.rpartition(".")[0]
        problem = "ignored, as asked" if container in ignored else _problem(model.get_submodule(path), call)
        if problem:
            frozen[path] = problem
        else:
            paths.setdefault(container, []).append(path)
            if isinstance(call[2], tuple):
                wrapped.add(path)
    table = {name: _site(model, name, block_paths) for name, block_paths in paths.items()}
    structure = BlockStructure(args, kwargs, {n: tuple(p) for n, p in paths.items()}, frozenset(wrapped))
    return Sites(table, frozen, structure)


Called = tuple[tuple[Any, ...], Mapping[str, Any], Any]


def _candidates(model: nn.Module) -> Iterator[str]:
    for path, module in model.named_modules():
        if isinstance(module, (nn.Sequential, nn.ModuleList)):
            for name, child in module.named_children():
                if _is_block(child):
                    yield f"{path}.{name}" if path else name


def _is_block(module: nn.Module) -> bool:
    """Whether a module has parts and parameters, and is no mere sequence of blocks itself."""
    parts = list(module.children())
    if isinstance(module, nn.Sequential) and any(_is_block(part) for part in parts):
        return False
    return bool(parts) and any(True for _ in module.parameters())


def _calls(model: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, Called]:
    """What each candidate block was called with and gave, on the example inputs."""
    calls_by_path: dict[str, Called] = {}
    handles = []
    for path in _candidates(model):

        def note(_m: nn.Module, a: tuple[Any, ...], k: dict[str, Any], out: Any, path: str = path) -> None:
            calls_by_path[path] = (a, k, out)

        handles.append(model.get_submodule(path).register_forward_hook(note, with_kwargs=True))
    try:
        with evaluating(model), private_draws():
            called(model, args, kwargs)
    finally:
        for handle in handles:
            handle.remove()
    return calls_by_path


def _problem(block: nn.Module, call: Called) -> str:
    """Why a block cannot be skipped; empty when it can."""
    args, kwargs, out = call
    first = args[0] if args else None
    passed = out[0] if isinstance(out, tuple) and len(out) == 1 else out
    if not isinstance(first, Tensor) or not isinstance(passed, Tensor):
        return "takes or gives no single tensor"
    if first.shape != passed.shape:
        return "changes the shape of its input"
    zeros = {name: torch.zeros_like(p) for name, p in block.named_parameters()}
    with evaluating(block), private_draws():
        result = run_with(block, zeros, args, kwargs)
    result = result[0] if isinstance(result, tuple) else result
    scale = max(float(first.abs().max()), torch.finfo(torch.float32).tiny)
    return "" if float((result - first).abs().max()) / scale <= TOLERANCE else "is no residual block"


def _site(model: nn.Module, name: str, paths: list[str]) -> Site:
    members = [
        Member(f"{path}.{inner}", tuple(p.shape), role="out", unit=number)
        for number, path in enumerate(paths)
        for inner, p in model.get_submodule(path).named_parameters()
    ]
    return Site(name or "blocks", "block", (len(paths),), tuple(members), unit="block")


def removed_blocks(structure: BlockStructure, keep: Keep) -> dict[str, bool]:
    """Return the paths of the blocks that `keep` marks False, and whether each returns a tuple."""
    return {
        path: path in structure.wrapped
        for name, keep_mask in keep.items()
        for path, stays in zip(structure.paths[name], keep_mask.tolist(), strict=True)
        if not stays
    }


def skipping(model: nn.Module, blocks: Mapping[str, bool]) -> nn.Module:
    """Return a copy of `model` with a `Skip` in the place of each block, of one that returns a tuple where marked True."""
    # Put into the memo, so that the copy never copies what it leaves out.
    memo: dict[int, Any] = {id(model.get_submodule(path)): Skip(wrapped) for path, wrapped in blocks.items()}
    return copied(model, memo)
