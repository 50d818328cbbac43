"""The walk: activations flow from block to block; each block is scored, cut and repaired once, and passes on what it makes.

Beside the cut model's activations flow those of the uncut one: what the residual stream is to be behind each block.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from secateur.calls import usual
from secateur.copies import copied
from secateur.deadline import check_time
from secateur.edits import Cut
from secateur.labelled import SampleBatch
from secateur.measure.language import Tokens, check_tokens, perplexity
from secateur.repair.beside import Beside
from secateur.result import Method, Result
from secateur.state import device_of, own_tensors
from secateur.stream.blocks import Recorded, block_container, record, twin
from secateur.stream.history import WalkHistory
from secateur.stream.slots import PREFIX, CallFrame, Slot, kind_of
from secateur.stream.steps import BlockStep, CutUnits, Stage
from secateur.structure import channels
from secateur.structure.cutting import cut_with_plan
from secateur.structure.fitting import fitting_sizes, set_config
from secateur.structure.flow import Flow
from secateur.structure.held import set_attributes
from secateur.structure.mend import Edits
from secateur.structure.plan import Plan, make_plan
from secateur.types import ExampleInputs, Keep, Sites, VerificationError
from secateur.wrappers import check_module

__all__ = ["BlockKind", "BlockWalk", "CutBlock", "walk"]

Rows = Mapping[str, Mapping[int, Tensor]]

Recover = Callable[[nn.Module, nn.Module, Tokens, Tensor | None], Any]
"""Trains a cut model in place, beside the uncut one, on text with its mask."""

LOUD = 1.5
"""From this many times the perplexity on, a cut is warned of."""

ALIKE = 1e-3
"""How far the cut block's activations may be from the masked block's, relative to the greatest."""


@dataclass(frozen=True, eq=False)
class CutBlock:
    """What became of one block.

    Attributes:
        name: its path in the model.
        keep: the masks of its sites, by their names in the model.
        tensors: its tensors, by their names in the block.
        rows: what stays of those that shrink, by the same names.
        attributes: what changes in its modules, by their paths in the block.
        error: the square of what is missing of the uncut model's residual stream behind it, as a share of the stream's.
    """

    name: str
    keep: Keep
    tensors: Mapping[str, Tensor]
    rows: Rows
    attributes: Edits
    error: float

    def replacing(self, block: nn.Module) -> dict[int, Any]:
        """Return the block's new parameters by the identity of those in whose place they come when the model is copied."""
        own = own_tensors(block)
        return {
            id(own[name]): nn.Parameter(tensor, own[name].requires_grad)
            for name, tensor in self.tensors.items()
            if isinstance(own[name], nn.Parameter)
        }


@usual
def walk(
    model: nn.Module,
    tokens: Tokens,
    step: BlockStep | None = None,
    *,
    mask: Tensor | None = None,
    container: str | None = None,
    recover: Recover | None = None,
    held_out: Tokens | None = None,
) -> Result:
    """Make a language model smaller, block by block, on what text makes of the blocks before.

    Its cost grows with depth as one forward pass does, and it holds the activations of two models at one border between
    blocks, however many there are. Every block loses as much, so that its shapes are alike.

    Args:
        model: a Hugging Face causal model, or any module whose blocks lie in an `nn.ModuleList` or `nn.Sequential` and pass
            activations on, be it causal or not; it is left as it is.
        tokens: calibration text, ids ``(sequences, length)``; some 10,000 tokens and more.
        step: what is done to each block; without one, `CutUnits` takes a quarter of each MLP.
        mask: True where there is a token, of the tokens' shape, where sequences are filled up.
        container: the path of the blocks' container, where the model's greatest one is another.
        recover: trains the cut model in place beside the uncut one on the same text, as `secateur.train.Recovery` does.
        held_out: other text, on which perplexities before and after are measured; of causal models alone.

    Returns:
        The smaller model, with a `WalkHistory`: what is missing behind each block, and the perplexities.

    Raises:
        InputError: no blocks are found, or one has no such units; or perplexities are asked of a model that is not causal.
        VerificationError: a cut block computes something else than the masked one.

    Warns:
        UserWarning: the perplexity on held-out text grows by half or more; with what to try.

    >>> from secateur.models.decoder import decoder
    >>> model, tokens = decoder(blocks=2, neurons=12), torch.arange(40).view(2, 20) % 11
    >>> walked = walk(model, tokens, CutUnits(0.25))
    >>> {name: int(mask.sum()) for name, mask in walked.keep.items()}
    {'layers.0.gate': 9, 'layers.1.gate': 9}
    """
    check_module(model, "walk")
    step = step or CutUnits()
    path = block_container(model, container)
    # Measured first, so that what has no perplexity is refused before the work.
    before = None if held_out is None else perplexity(model, held_out)
    blocks = dict(model.get_submodule(path).named_children())
    walking = BlockWalk.begin(model, path, tokens, mask, own_tensors(next(iter(blocks.values()))))
    cut_blocks = [walking.advance(step, own_tensors(block)) for block in blocks.values()]
    small, plan = _assembled(model, blocks.values(), cut_blocks)
    keep = {name: mask for cut in cut_blocks for name, mask in cut.keep.items()}
    history = WalkHistory({cut.name: cut.error for cut in cut_blocks}, before)
    if recover is not None:
        untrained = None if held_out is None else perplexity(small, held_out)
        history = replace(history, untrained=untrained, recovery=recover(small, model, tokens, mask))
    if held_out is not None:
        history = replace(history, after=perplexity(small, held_out))
        _warn_of_a_loud_cut(history, step)
    sites = Sites.of_masks(keep, "channel", "channel")
    inputs = check_tokens(tokens, mask, "walk")[0][:1]
    return Result(small, model, sites, keep, (Cut(plan),), Method("walk"), history=history, inputs=inputs)


def _assembled(model: nn.Module, blocks: Iterable[nn.Module], cut_blocks: Sequence[CutBlock]) -> tuple[nn.Module, Plan]:
    """A copy of the model with its cut blocks, and the sizes in its config that its class makes such a model of."""
    memo: dict[int, Any] = {}
    rows: dict[str, Mapping[int, Tensor]] = {}
    attributes: Edits = {}
    for block, cut in zip(blocks, cut_blocks, strict=True):
        memo |= cut.replacing(block)
        rows |= {f"{cut.name}.{name}": dims for name, dims in cut.rows.items()}
        attributes |= {f"{cut.name}.{path}".rstrip("."): values for path, values in cut.attributes.items()}
    small = copied(model, memo)
    set_attributes(small, attributes)
    config = set_config(small, fitting_sizes(model, {n: tuple(t.shape) for n, t in own_tensors(small).items()}))
    return small, Plan(rows, {**attributes, **({"": config} if config else {})})


def _warn_of_a_loud_cut(history: WalkHistory, step: BlockStep) -> None:
    """Warn where the perplexity on held-out text is many times what it was."""
    before, after = history.before, history.after
    if before is None or after is None or after <= LOUD * before:
        return
    repaired = getattr(step, "repair", None) == "stream"
    remedies = [] if repaired else ["repair (repair='stream')"]
    remedies += ["remove less", "give more calibration text of the kind that the model is for"]
    remedies += ["train the cut model longer" if history.recovery else "recover (recover=secateur.train.Recovery())"]
    warnings.warn(
        f"walk: the perplexity on held-out text went from {before:.4g} to {after:.4g}, {after / before:.3g} times as much; "
        f"the model will make less sense. Try: {'; '.join(remedies)}",
        stacklevel=4,
    )


@dataclass(eq=False)
class BlockKind:
    """Blocks that are made alike: the two slots that hold one of them at a time, and what was found out once for all.

    Attributes:
        teacher, student: the slots.
        sites, flow: of both.
        attributes: what else changes in a block that is cut, by the counts of units that stay.
    """

    teacher: Slot
    student: Slot
    sites: Sites
    flow: Flow
    attributes: dict[str, Edits] = field(default_factory=dict)

    @classmethod
    def of(cls, block: nn.Module, frame: CallFrame, tensors: Mapping[str, Tensor], example: ExampleInputs) -> BlockKind:
        device = (example[0] if isinstance(example, tuple) else example).device  # type: ignore[union-attr]
        teacher, student = Slot(block, frame, device), Slot(block, frame, device)
        for slot in (teacher, student):
            slot.load(tensors, frame)
        sites = channels(student, example)
        return cls(teacher, student, sites, Flow(teacher, sites))


@dataclass(eq=False)
class BlockWalk:
    """A walk that is under way: the next block, and what enters it.

    Attributes:
        blocks: the model's blocks, by their paths, with their weights or on meta.
        recorded: by batch, what the blocks are called with.
        dense, pruned: by batch, the activations of the uncut and of the cut model.
        number: of the next block.
    """

    blocks: Mapping[str, nn.Module]
    recorded: Sequence[Recorded]
    dense: list[Tensor]
    pruned: list[Tensor]
    number: int = 0
    _kinds: dict[str, BlockKind] = field(default_factory=dict)

    @classmethod
    def begin(
        cls, model: nn.Module, path: str, tokens: Tokens, mask: Tensor | None, first: Mapping[str, Tensor]
    ) -> BlockWalk:
        """Run the model as far as its first block, on one sequence after the other.

        Args:
            model: whose tensors outside of the blocks are there.
            path: of the blocks' container.
            tokens, mask: as in `walk`.
            first: the tensors of the first block, or such on meta.
        """
        ids, ids_mask = check_tokens(tokens, mask, "walk")
        container = model.get_submodule(path)
        blocks = {f"{path}.{name}": block for name, block in container.named_children()}
        block = next(iter(blocks.values()))
        device = device_of(model)
        device = torch.device("cpu") if device.type == "meta" else device
        meta = any(tensor.is_meta for tensor in first.values())
        target = torch.device("meta") if meta else device
        memo: dict[int, Any] = {
            id(p): nn.Parameter(first[name].to(target), False) for name, p in block.named_parameters()
        }
        # What only fills a sequence up would be scored and refitted as if it were text.
        texts = list(ids) if ids_mask is None else [row[there] for row, there in zip(ids, ids_mask, strict=True)]
        batches = [text.unsqueeze(0).to(device) for text in texts if len(text)]
        recorded = record(twin(model), path, batches, copied(block, memo).to(target).eval())
        return cls(blocks, recorded, [r.x for r in recorded], [r.x for r in recorded])

    def advance(self, step: BlockStep, tensors: Mapping[str, Tensor]) -> CutBlock:
        """Do a step to the next block, whose tensors are given, and go on behind it."""
        check_time()
        name = list(self.blocks)[self.number]
        kind, frame = self.kind(tensors), self._frame
        dense, pruned = self._batches(frame, self.dense), self._batches(frame, self.pruned)
        for slot in (kind.teacher, kind.student):
            slot.load(tensors, frame)
        beside = step(Stage(kind.teacher, kind.student, kind.sites, kind.flow, dense, pruned))
        error = self._go_on(beside)
        keep = {n: mask for n, mask in beside.keep.items() if not bool(mask.all())}
        small, rows, attributes = _cut(kind, keep, pruned[0].inputs, self.pruned[0])
        self.number += 1
        named = {f"{name}.{site.removeprefix(PREFIX)}": mask for site, mask in keep.items()}
        return CutBlock(name, named, small, rows, attributes, error)

    def kind(self, tensors: Mapping[str, Tensor]) -> BlockKind:
        """Return the slots for the next block, whose tensors are given."""
        block, frame = list(self.blocks.values())[self.number], self._frame
        key = kind_of(block, frame)
        if key not in self._kinds:
            self._kinds[key] = BlockKind.of(block, frame, tensors, self._batches(frame, self.pruned)[0].inputs)
        return self._kinds[key]

    @property
    def _frame(self) -> CallFrame:
        return CallFrame.of([recorded.calls[self.number] for recorded in self.recorded])

    def _batches(self, frame: CallFrame, activations: Sequence[Tensor]) -> list[SampleBatch]:
        """What enters the next block."""
        calls = (recorded.calls[self.number] for recorded in self.recorded)
        return [frame.batch(x, call) for x, call in zip(activations, calls, strict=True)]

    def _go_on(self, beside: Beside) -> float:
        """Take what the block makes for what enters the next; return the error of the stream."""
        missing = total = 0.0
        for batch, (dense, pruned) in enumerate(beside.outputs()):
            missing += float((dense - pruned).double().square().sum())
            total += float(dense.double().square().sum())
            self.dense[batch], self.pruned[batch] = dense, pruned
        return missing / max(total, 1e-300)


def _cut(kind: BlockKind, keep: Keep, inputs: ExampleInputs, outputs: Tensor) -> tuple[dict[str, Tensor], Rows, Edits]:
    """The tensors of the student's block without what goes and which rows of them stay, by their names in the block, and what changes besides.

    The first block of a kind is cut and verified as any model is; the others lose as much, and must give what the masked
    one gave on the first batch.
    """
    student, sites = kind.student, kind.sites
    own = {name: tensor.detach() for name, tensor in own_tensors(student.block).items()}
    if not keep:
        return {name: tensor.clone() for name, tensor in own.items()}, {}, {}
    counts = str({name: int(mask.sum()) for name, mask in keep.items()})
    gone = {sites.structure.units[name]: mask for name, mask in keep.items()}
    if counts not in kind.attributes:
        kind.attributes[counts] = cut_with_plan(student, sites, keep, form="module").plan.attributes
    planned = make_plan(student, sites.structure, gone).rows
    rows = {name.removeprefix(PREFIX): dims for name, dims in planned.items() if name.startswith(PREFIX)}
    attributes = {
        "" if path == PREFIX[:-1] else path.removeprefix(PREFIX): v for path, v in kind.attributes[counts].items()
    }
    small = {name: _rows(tensor, rows.get(name, {})) for name, tensor in own.items()}
    _verify(student, small, attributes, inputs, outputs)
    return small, rows, attributes


def _rows(tensor: Tensor, rows: Mapping[int, Tensor]) -> Tensor:
    for dim, index in rows.items():
        tensor = tensor.index_select(dim, index.to(tensor.device))
    return tensor if rows else tensor.clone()


def _verify(
    student: Slot,
    small: Mapping[str, Tensor],
    attributes: Edits,
    inputs: ExampleInputs,
    outputs: Tensor,
) -> None:
    own = own_tensors(student.block)
    memo: dict[int, Any] = {id(own[name]): nn.Parameter(tensor, False) for name, tensor in small.items()}
    cut_slot = copied(student, memo)
    block = cut_slot.block
    assert isinstance(block, nn.Module)
    set_attributes(block, attributes)
    with torch.no_grad():
        difference = cut_slot(*(inputs if isinstance(inputs, tuple) else (inputs,))) - outputs
    apart = float(difference.abs().max()) / max(float(outputs.abs().max()), 1e-30)
    if not apart <= ALIKE:
        raise VerificationError(
            f"walk: a cut block is {apart:.2g} away from the masked one, relative to its greatest output"
        )
