"""Whole blocks as units: a residual block that is skipped passes its input on."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
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

__all__ = ["BlockStructure", "Shapes", "Skip", "blocks", "removed_blocks"]

TOLERANCE = 1e-5


Shapes = tuple[tuple[int | None, ...], ...]
"""The shapes of the tensors that a block gives; None for a size that is its first input's along the same dimension."""


class Skip(nn.Module):
    """Stands where a block was and gives back the block's first input, or zeros where the model adds them to something.

    Attributes:
        wrapped: whether the block gave a tuple.
        zero: whether it gives zeros.
        shapes: of those, where the block gave other tensors than one of its input's shape.

    >>> Skip()(torch.ones(2), "what else the block was given"), Skip(zero=True)(torch.ones(2))
    (tensor([1., 1.]), tensor([0., 0.]))
    >>> [y.shape for y in Skip(wrapped=True, zero=True, shapes=((None, None), (None, 1)))(torch.ones(5, 3))]
    [torch.Size([5, 3]), torch.Size([5, 1])]
    """

    def __init__(self, wrapped: bool = False, zero: bool = False, shapes: Shapes = ()) -> None:
        super().__init__()
        self.wrapped, self.zero, self.shapes = wrapped, zero, shapes

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Any:
        """Return `x`, or zeros, in a tuple if the block returned one."""
        if self.shapes:
            sizes = [[x.shape[dim] if size is None else size for dim, size in enumerate(s)] for s in self.shapes]
            zeros = tuple(x.new_zeros(size) for size in sizes)
            return zeros if self.wrapped else zeros[0]
        passed = torch.zeros_like(x) if self.zero else x
        return (passed,) if self.wrapped else passed

    def extra_repr(self) -> str:
        """Say what printing shows."""
        return ", ".join(name for name in ("wrapped", "zero", "shapes") if getattr(self, name))


@dataclass(frozen=True, eq=False)
class BlockStructure:
    """What skipping blocks needs to know.

    Attributes:
        args, kwargs: the example inputs.
        paths: for each site the module paths of its blocks, in order.
        wrapped: the paths of the blocks that return tuples.
        added: the paths of the blocks whose answers the model adds to something.
        shapes: of those, the shapes of what gives other tensors than one of its input's shape.
    """

    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    paths: Mapping[str, tuple[str, ...]]
    wrapped: frozenset[str]
    added: frozenset[str] = frozenset()
    shapes: Mapping[str, Shapes] = field(default_factory=dict)

    def skip(self, path: str) -> Skip:
        """Return what stands in the place of a block."""
        return Skip(path in self.wrapped, path in self.added, self.shapes.get(path, ()))


@usual
def blocks(model: nn.Module, example_inputs: ExampleInputs, ignore: Iterable[str] = ()) -> Sites:
    """Return sites whose units are whole blocks that can be left out: the depth of a residual network.

    A site is a container (`nn.Sequential`, `nn.ModuleList`); its units are those of its blocks that pass their input
    on unchanged when all their parameters are zero, as residual blocks do, or that answer zeros then, which the model
    adds to something or takes from it (``x = x + block(x)``), of whatever shape, and several of them too. Of such a block the model may use the answer alone: neither
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
    tried = {path: _tried(model.get_submodule(path), call) for path, call in calls.items()}
    zeros = [path for path, (_, answers_zeros) in tried.items() if answers_zeros]
    added = added_blocks(model, zeros, (args, kwargs)) if zeros else frozenset()
    problems = {path: "" if path in added else problem for path, (problem, _) in tried.items()}
    wrapped = frozenset(path for path, call in calls.items() if isinstance(call[2], tuple))
    shapes = {path: _shapes(calls[path]) for path in sorted(added) if not _is_like_input(calls[path])}
    structure = BlockStructure(args, kwargs, {}, wrapped, added, shapes)
    skips = {path: structure.skip(path) for path, problem in problems.items() if not problem}
    problems |= needed_blocks(model, skips, (args, kwargs), asks_mode) if skips else {}
    for path, reason in (problems | uncalled).items():
        container = path.rpartition(".")[0]
        problem = "ignored, as asked" if container in ignored else reason
        if problem:
            frozen[path] = problem
        else:
            paths.setdefault(container, []).append(path)
    table = {name: _site(model, name, block_paths) for name, block_paths in paths.items()}
    return Sites(table, frozen, replace(structure, paths={n: tuple(p) for n, p in paths.items()}))


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


def _tried(block: nn.Module, call: Called) -> tuple[str, bool]:
    """Why a block's input cannot stand for its answer, empty where it can; and whether its answers are zeros where its parameters are."""
    args, kwargs, out = call
    first, answers = args[0] if args else None, _answers(out)
    if not isinstance(first, Tensor) or not answers or not all(isinstance(y, Tensor) for y in answers):
        return "takes or gives no single tensor", False
    changes = "takes or gives no single tensor" if len(answers) > 1 else "changes the shape of its input"
    changes = "" if _is_like_input(call) else changes
    if changes and any(not y.dim() or y.dtype != first.dtype for y in answers):
        return changes, False
    if first.is_floating_point() and not bool(first.count_nonzero()):
        # Of zeros no block shows whether it passes them on.
        first = torch.ones_like(first)
    zeros = {name: torch.zeros_like(p) for name, p in block.named_parameters()}
    with evaluating(block), private_draws():
        results = _answers(run_with(block, zeros, (first, *args[1:]), kwargs))
    answers_zeros = not any(bool(y.count_nonzero()) for y in results)
    if changes or answers_zeros:
        return changes or "is no residual block", answers_zeros
    scale = max(float(first.abs().max()), torch.finfo(torch.float32).tiny)
    passes_on = float((results[0] - first).abs().max()) / scale <= TOLERANCE
    return "" if passes_on else "is no residual block", False


def _answers(out: Any) -> tuple[Any, ...]:
    return out if isinstance(out, tuple) else (out,)


def _is_like_input(call: Called) -> bool:
    """Whether a block gave one tensor, of the shape of its first input."""
    args, _, out = call
    answers = _answers(out)
    return len(answers) == 1 and bool(answers[0].shape == args[0].shape)


def _shapes(call: Called) -> Shapes:
    """The shapes of what a block gave; of the samples, and where else a size is that of its input, it takes the input's."""
    args, _, out = call
    given = tuple(args[0].shape)
    return tuple(
        tuple(None if dim < len(given) and given[dim] == size else size for dim, size in enumerate(y.shape))
        for y in _answers(out)
    )


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
        path: structure.skip(path)
        for name, keep_mask in keep.items()
        for path, stays in zip(structure.paths[name], keep_mask.tolist(), strict=True)
        if not stays
    }
