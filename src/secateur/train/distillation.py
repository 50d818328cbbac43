"""Training a pruned model with what the unpruned one answers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from secateur.calls import training
from secateur.checks import check_name, check_number
from secateur.labelled import SampleBatch, Samples, batches, check_samples
from secateur.losses import answers, check_answers, is_of_tensors, loss_function
from secateur.randomness import private_draws, seeded
from secateur.rate.trying import try_model
from secateur.state import device_of, digest, evaluating, resting, tensors
from secateur.train.callbacks import Callback, Run
from secateur.train.history import History
from secateur.train.loop import fit
from secateur.train.matching import MATCHES, Match, Matched, check_teaches, match_by_kind, numbers_of
from secateur.train.options import TrainOptions, describe
from secateur.train.positions import at_positions, counted_positions
from secateur.types import InputError, Loss
from secateur.wrappers import check_module, unwrapped

__all__ = ["Distillation", "distill"]


@dataclass(frozen=True, eq=False)
class Distillation(Callback):
    """A loss with a teacher: of the teacher's answers, of the true targets, and of hints from inside.

    It is a loss and a callback at once, as a loss alone does not see the inputs that the teacher must answer:
    ``fit(model, data, loss=both, callbacks=[both])``; `distill` does that. Where the model is not being trained, as in
    validation, it is the loss of the true targets alone. Without targets it is the teacher's part alone.

    Attributes:
        teacher: answers in eval mode, without gradients; it is left as it is.
        temperature: by how much both answers are softened, above 0.
        weight: the share of the teacher's answers, in [0, 1]; the rest is that of the true targets.
        loss: of the true targets: a name that `fit` takes, or a callable.
        hints: modules whose outputs should be like those of the teacher's module of the same name (Romero et al.,
            2015), each with the teacher's channels that the model still has, or None for all.
        hint_weight: what the mean squared difference of each hint is multiplied by before it is added.
        match: what the outputs are, by a name of `MATCHES`; or a function of (outputs, answers), of what the model and
            the teacher return, that gives a scalar.

    Raises:
        InputError: the temperature, a weight, or the shape of a hint is out of range.
        UnknownNameError: a hint names no module, or `match` no kind of outputs.
    """

    teacher: nn.Module
    temperature: float = 4.0
    weight: float = 0.9
    loss: str | Loss = "cross_entropy"
    hints: Mapping[str, Tensor | None] = field(default_factory=dict)
    hint_weight: float = 1.0
    match: str | Match = "logits"
    _seen: dict[str, Any] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "teacher", unwrapped(self.teacher))
        check_module(self.teacher, "distillation")
        check_number("distillation", "(0, inf)", temperature=self.temperature)
        check_number("distillation", "[0, 1]", weight=self.weight)
        check_number("distillation", "[0, inf)", hint_weight=self.hint_weight)
        loss_function(self.loss)
        if not callable(self.match):
            check_name("match of a student and its teacher", self.match, MATCHES)
        _modules(self.teacher, self.hints, "teacher")

    def identity(self) -> str:
        """Return a text that differs where the teacher or an option does."""
        options = f"{self.temperature} {self.weight} {describe(self.loss)} {sorted(self.hints)} {self.hint_weight}"
        match = self.match if isinstance(self.match, Matched) else describe(self.match)
        options += "" if match == "logits" else f" {match}"
        return f"Distillation {options} {digest(sorted(tensors(self.teacher).items()))}"

    def on_start(self, run: Run) -> None:
        """Begin to look at what the model is given."""
        if run.model is self.teacher:
            raise InputError("distillation: the model is its own teacher; keep the unpruned model as the teacher")
        hinted = _modules(run.model, self.hints, "model")
        ending = ExitStack()
        ending.enter_context(resting(self.teacher))
        handles = [run.model.register_forward_pre_hook(self._keep_inputs, with_kwargs=True)]
        handles += [module.register_forward_hook(self._keeper("ours", name)) for name, module in hinted.items()]
        theirs = _modules(self.teacher, self.hints, "teacher")
        handles += [module.register_forward_hook(self._keeper("theirs", name)) for name, module in theirs.items()]
        for handle in handles:
            ending.callback(handle.remove)
        self._seen.update(run=run, ending=ending, ours={}, theirs={})

    def on_end(self, run: Run) -> None:
        """Look no longer."""
        self._seen["ending"].close()
        self._seen.clear()

    def __call__(self, outputs: Any, targets: Any) -> Tensor:
        """Return the loss of a batch."""
        taught_alone = "inputs" in self._seen and self.weight == 1 and self._seen["run"].model.training
        true = None if targets is None or taught_alone else self._of_targets(outputs, targets)
        if "inputs" not in self._seen:
            # There is no teacher to answer yet: `fit` only sees whether targets and outputs fit.
            return torch.zeros(()) if true is None else true
        run: Run = self._seen["run"]
        if true is not None and not run.model.training:
            return true
        args, kwargs = self._seen["inputs"]
        with torch.no_grad():
            theirs = run.answer_of(self.teacher, *args, **kwargs)
        if callable(self.match) and not isinstance(self.match, Matched):
            soft = self.match(outputs, theirs)
        else:
            match = self.match if isinstance(self.match, Matched) else Matched((self.match,), self.temperature)
            counts = counted_positions(targets, self.loss, kwargs.get("attention_mask"))
            soft = match(*(at_positions(answer, counts) for answer in (outputs, theirs)))
        if not run.model.training:
            return soft
        mixed = soft if true is None else (1 - self.weight) * true + self.weight * soft
        return mixed + self._of_hints()

    def _of_targets(self, outputs: Any, targets: Any) -> Tensor:
        single = answers(outputs, self.loss)
        check_answers(single, targets, self.loss, "distillation")
        value: object = loss_function(self.loss)(single, targets)
        if not isinstance(value, Tensor) or value.ndim:
            raise InputError("distillation: the loss must return a scalar tensor; take the mean over the batch")
        return value

    def _of_hints(self) -> Tensor | float:
        total: Tensor | float = 0.0
        for name, channels in self.hints.items():
            ours, theirs = self._seen["ours"][name], self._seen["theirs"][name]
            theirs = theirs if channels is None else _select(theirs, channels, ours.shape)
            if ours.shape != theirs.shape:
                raise InputError(
                    f"distillation: the hint {name!r} has the shape {tuple(ours.shape)} in the model and "
                    f"{tuple(theirs.shape)} in the teacher; name the teacher's channels that are left"
                )
            total = total + self.hint_weight * F.mse_loss(ours.to(theirs.dtype), theirs)
        return total

    def _keep_inputs(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self._seen["inputs"] = (args, kwargs)

    def _keeper(self, whose: str, name: str) -> Callable[[nn.Module, Any, Tensor], None]:
        def look(module: nn.Module, args: Any, output: Any) -> None:
            self._seen[whose][name] = numbers_of(output)[0]

        return look


@training
def distill(
    model: nn.Module,
    teacher: nn.Module,
    train: Samples,
    validation: Samples | None = None,
    options: TrainOptions | None = None,
    *,
    loss: str | Loss | None = None,
    match: str | Match = "auto",
    temperature: float = 4.0,
    weight: float = 0.9,
    hints: Mapping[str, Tensor | None] | None = None,
    hint_weight: float = 1.0,
    callbacks: Sequence[Callback] = (),
    **more: Any,
) -> History:
    """Train the model in place on the teacher's answers and the true targets, and return the history.

    What `fit` does, with the loss (1 − w) · loss(targets) + w · difference from the teacher (Hinton et al., 2015), or the
    difference alone where data have no targets. The training loss in the history is that one; the validation loss is
    that of the true targets, where there are any.

    The difference goes by what the outputs are (`match`):

    - ``"logits"`` of classes: T² · KL(teacher ‖ student) of the softmax at the temperature T. Classes are the last
      dimension of sequences ``(N, T, C)``, and else dimension 1 (there too where the loss of targets is the
      cross-entropy).
    - ``"binary_logits"``, each a yes or no: T² · KL of the sigmoids, the mean over all.
    - ``"probabilities"``, ``"binary_probabilities"``: the same where the model ends with a softmax or sigmoid.
    - ``"embeddings"``: 1 − cosine.
    - ``"numbers"``: the mean squared difference (Ba and Caruana, 2014, match logits so).
    - ``"any"``: that of logits, plus the mean squared difference over the variance of the teacher's answers. It is nothing
      only where the answers are the teacher's, whatever they are.
    - ``"auto"`` looks at the loss of the targets, and, where there are none, at the teacher's answers to the first
      batch: rows of no negative numbers that add up to 1 are probabilities, what a sigmoid gave binary probabilities,
      rows of length 1 embeddings, ``logits`` that a model names logits, single columns numbers, and all else any.
    - a function ``match(outputs, answers)`` of what the model and the teacher return, that gives a scalar. It is tried on
      the first batch, and refused if nobody could learn by it.

    Of sequences ``(N, T, C)`` those positions count whose targets do (``"sequence_cross_entropy"``: those that are not −100;
    ``"next_token_cross_entropy"``: those before them), and that an ``attention_mask`` ``(N, T)`` among the inputs leaves.

    Where a model returns several tensors, each is matched by itself, and ``"auto"`` divides its difference by that of
    the teacher's mean answer, so that none outweighs the others.

    Args:
        model: the pruned model.
        teacher: the unpruned one; it is left as it is.
        train, validation, options, callbacks: as for `fit`. Without targets: a tensor of inputs, or batches of a tensor,
            of ``(inputs,)``, or of a mapping without ``"labels"``.
        loss: of the true targets, as `fit` takes it; None takes that of the options. Where there are none the teacher's
            answers stand for them, so a function of one's own is the match.
        match: what the outputs are.
        temperature: T, above 0.
        weight: w, in [0, 1]; without targets it is 1.
        hints, hint_weight: see `Distillation`.
        more: what else `fit` takes, and training options by name.

    Raises:
        InputError, UnknownNameError: as for `fit` and `Distillation`.
        InputError: a loss or match of one's own that cannot teach: it ignores the teacher, is constant, or has no gradient.

    >>> with torch.random.fork_rng():
    ...     _ = torch.manual_seed(0)
    ...     teacher, student = nn.Linear(2, 3), nn.Linear(2, 3)
    >>> x = torch.randn(64, 2, generator=torch.Generator().manual_seed(0))
    >>> _ = distill(student, teacher, x, match="logits", epochs=150, lr=0.1)
    >>> bool((student(x).softmax(1) - teacher(x).softmax(1)).abs().max() < 0.01)
    True
    """
    options = options or TrainOptions()
    loss = options.loss if loss is None else loss
    check_samples(train, "training data")
    first = _first_batch(train, more.get("batch_size", options.batch_size), teacher)
    if first.targets is None and match == "auto" and not is_of_tensors(loss):
        match = loss_function(loss)
    if callable(match):
        _check_teaches(match, model, teacher, first)
    else:
        with evaluating(teacher):
            match = match_by_kind(
                match, temperature, partial(try_model, teacher, first, "teacher"), first.targets, loss
            )
    both = Distillation(teacher, temperature, weight, loss, dict(hints or {}), hint_weight, match)
    return fit(model, train, validation, options, callbacks=[both, *callbacks], loss=both, **more)


def _check_teaches(match: Match, model: nn.Module, teacher: nn.Module, first: SampleBatch) -> None:
    check_module(model, "distillation")
    with evaluating(model), evaluating(teacher), private_draws(0):
        outputs = try_model(model, first.to(device_of(model)), "model")
        check_teaches(match, outputs, try_model(teacher, first, "teacher"))


def _first_batch(train: Samples, size: int, teacher: nn.Module) -> SampleBatch:
    """The first samples, whatever order they are trained in: a resumed training must see the same."""
    device = device_of(teacher)
    with seeded(device, 0):
        return next(batches(train, size, "training data")).to(device)


def _select(theirs: Tensor, channels: Tensor, shape: torch.Size) -> Tensor:
    """The teacher's channels that the model still has, in the dimension that has fewer of them in the model."""
    dims = [dim for dim in range(1, theirs.ndim) if theirs.ndim == len(shape) and theirs.shape[dim] != shape[dim]]
    return theirs.index_select(dims[0], channels.to(theirs.device)) if len(dims) == 1 else theirs


def _modules(model: nn.Module, names: Mapping[str, Any], whose: str) -> dict[str, nn.Module]:
    modules = dict(model.named_modules())
    for name in names:
        check_name(f"module of the {whose} to take a hint from", name, modules)
    return {name: modules[name] for name in names}
