"""Whole blocks as units: a residual block that is skipped passes its input on."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_pre_hook

from secateur.calls import usual
from secateur.randomness import private_draws
from secateur.state import called, check_finite, check_ordinary, evaluating, fresh, split_inputs
from secateur.structure.added_blocks import added_blocks
from secateur.structure.asking import mode_reads
from secateur.structure.sites import REPAIR
from secateur.structure.skippable import needed_blocks
from secateur.types import ExampleInputs, Keep, Member, Site, Sites
from secateur.untouched import run_with
from secateur.wrappers import check_module

__all__ = ["BlockStructure", "Skip", "blocks", "removed_blocks"]

TOLERANCE = 1e-5


class Skip(nn.Module):
    """Stands where a block was and gives back the block's first input, or zeros where the model adds them to that.

    Attributes:
        wrapped: whether the block gave a tuple, of which the first item goes on.
        zero: whether it gives zeros.

    >>> Skip()(torch.ones(2), "what else the block was given"), Skip(zero=True)(torch.ones(2))
    (tensor([1., 1.]), tensor([0., 0.]))
    """

    def __init__(self, wrapped: bool = False, zero: bool = False) -> None:
        super().__init__()
        self.wrapped, self.zero = wrapped, zero

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Any:
        """Return `x`, or zeros, in a tuple if the block returned one."""
        passed = torch.zeros_like(x) if self.zero else x
        return (passed,) if self.wrapped else passed

    def extra_repr(self) -> str:
        """Say what printing shows."""
        return ", ".join(name for name in ("wrapped", "zero") if getattr(self, name))


@dataclass(frozen=True, eq=False)
class BlockStructure:
    """What skipping blocks needs to know.

    Attributes:
        args, kwargs: the example inputs.
        paths: for each site the module paths of its blocks, in order.
        wrapped: the paths of the blocks that return tuples.
        added: the paths of the blocks whose answers the model adds to something.
    """

    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    paths: Mapping[str, tuple[str, ...]]
    wrapped: frozenset[str]
    added: frozenset[str] = frozenset()


@usual
def blocks(model: nn.Module, example_inputs: ExampleInputs, ignore: Iterable[str] = ()) -> Sites:
    """Return sites whose units are whole blocks that can be left out: the depth of a residual network.

    A site is a container (`nn.Sequential`, `nn.ModuleList`); its units are those of its blocks that pass their input
    on unchanged when all their parameters are zero, as residual blocks do, or that answer zeros then, which the model
    adds to something or takes from it (``x = x + block(x)``). Of such a block the model may use the answer alone: neither
    its layers nor its weights. That is tried on the example inputs, not guessed. `secateur.cut` puts a
    `Skip` in a removed block's place, so the other blocks keep their names.

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
    frozen: dict[str, str] = {}
    calls, uncalled, asks_mode = _calls(model, args, kwargs)
    problems = {path: _problem(model.get_submodule(path), call) for path, call in calls.items()}
    zeros = [path for path, problem in problems.items() if problem == ZERO]
    added = added_blocks(model, zeros, (args, kwargs)) if zeros else frozenset()
    wrapped = {path for path, call in calls.items() if isinstance(call[2], tuple)}
    problems |= dict.fromkeys(added, "")
    skips = {path: Skip(path in wrapped, path in added) for path, problem in problems.items() if not problem}
    problems |= needed_blocks(model, skips, (args, kwargs), asks_mode) if skips else {}
    for path, reason in (problems | uncalled).items():
        container = path.rpartition(".")[0]
        problem = "ignored, as asked" if container in ignored else reason
        if problem:
            frozen[path] = problem
        else:
            paths.setdefault(container, []).append(path)
    table = {name: _site(model, name, block_paths) for name, block_paths in paths.items()}
    structure = BlockStructure(args, kwargs, {n: tuple(p) for n, p in paths.items()}, frozenset(wrapped), added)
    return Sites(table, frozen, structure)


ZERO = "is no residual block"
"""Of a block that answers zeros where its parameters are."""
BY_LAYERS = "code calls its layers one by one; it can be skipped where the block itself is called"
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


def _calls(
    model: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> tuple[dict[str, Called], dict[str, str], bool]:
    """What each candidate block was called with and gave, on the example inputs; why others were not called; and whether
    code asks for the mode.
    """
    calls_by_path: dict[str, Called] = {}
    candidates = list(_candidates(model))
    ran: set[int] = set()
    handles = [register_module_forward_pre_hook(lambda module, _: ran.add(id(module)))]
    for path in candidates:

        def note(_m: nn.Module, a: tuple[Any, ...], k: dict[str, Any], out: Any, path: str = path) -> None:
            calls_by_path[path] = (a, k, out)

        handles.append(model.get_submodule(path).register_forward_hook(note, with_kwargs=True))
    try:
        with evaluating(model), private_draws(), mode_reads(model) as reads:
            called(model, args, kwargs)
    finally:
        for handle in handles:
            handle.remove()
    uncalled = {}
    for path in candidates:
        if path not in calls_by_path:
            by_layers = any(id(module) in ran for module in model.get_submodule(path).modules())
            uncalled[path] = BY_LAYERS if by_layers else "the example inputs never run it"
    return calls_by_path, uncalled, reads.asked_mode


def _problem(block: nn.Module, call: Called) -> str:
    """Why a block cannot be skipped; empty when it can."""
    args, kwargs, out = call
    first = args[0] if args else None
    passed = out[0] if isinstance(out, tuple) and len(out) == 1 else out
    if not isinstance(first, Tensor) or not isinstance(passed, Tensor):
        return "takes or gives no single tensor"
    if first.shape != passed.shape:
        return "changes the shape of its input"
    if first.is_floating_point() and not bool(
        first.count_nonzero()
    ):  # of zeros no block shows whether it passes them on
        first = torch.ones_like(first)
    zeros = {name: torch.zeros_like(p) for name, p in block.named_parameters()}
    with evaluating(block), private_draws():
        result = run_with(block, zeros, (first, *args[1:]), kwargs)
    result = result[0] if isinstance(result, tuple) else result
    if not bool(result.count_nonzero()):
        return ZERO
    scale = max(float(first.abs().max()), torch.finfo(torch.float32).tiny)
    return "" if float((result - first).abs().max()) / scale <= TOLERANCE else "is no residual block"


def _site(model: nn.Module, name: str, paths: list[str]) -> Site:
    members = [
        Member(f"{path}.{inner}", tuple(p.shape), role="out", unit=number)
        for number, path in enumerate(paths)
        for inner, p in model.get_submodule(path).named_parameters()
    ]
    return Site(name or "blocks", "block", (len(paths),), tuple(members), unit="block")


def removed_blocks(structure: BlockStructure, keep: Keep) -> dict[str, Skip]:
    """Return the paths of the blocks that `keep` marks False, and what stands in the place of each."""
    return {
        path: Skip(path in structure.wrapped, path in structure.added)
        for name, keep_mask in keep.items()
        for path, stays in zip(structure.paths[name], keep_mask.tolist(), strict=True)
        if not stays
    }
