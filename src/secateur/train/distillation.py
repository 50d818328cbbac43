"""Training a pruned model with what the unpruned one answers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

from secateur.checks import check_name, check_number
from secateur.labelled import Data
from secateur.losses import check_loss, gives_numbers, loss_function
from secateur.state import digest, evaluating, tensors, usual
from secateur.train.callbacks import Callback, Run
from secateur.train.history import History
from secateur.train.loop import fit
from secateur.train.options import TrainOptions, describe
from secateur.types import InputError, Loss

__all__ = ["Distillation", "distill", "soft_cross_entropy"]


def soft_cross_entropy(outputs: Tensor, answers: Tensor, temperature: float) -> Tensor:
    """Return how far the softened answers are from the teacher's: T² · KL(teacher ‖ student), the mean over the batch.

    Both are divided by the temperature T before the softmax; T² keeps the gradients' size (Hinton et al., 2015).

    >>> import torch
    >>> same = torch.tensor([[1.0, 3.0]])
    >>> soft_cross_entropy(same, same, 4.0).item()
    0.0
    """
    ours, theirs = (F.log_softmax(x / temperature, dim=1) for x in (outputs, answers))
    return temperature**2 * F.kl_div(ours, theirs, reduction="batchmean", log_target=True)


@dataclass(frozen=True, eq=False)
class Distillation(Callback):
    """A loss with a teacher: of the teacher's soft answers, of the true targets, and of hints from inside.

    It is a loss and a callback at once, as a loss alone does not see the inputs that the teacher must answer:
    ``fit(model, data, loss=both, callbacks=[both])``; `distill` does that. Where the model is not being trained, as in
    validation, it is the loss of the true targets alone.

    Where outputs are numbers and no classes (one column, or targets that are floats under another loss than the
    cross-entropy), the teacher's answers are met by their mean squared difference, as a softmax would lose them (Ba and
    Caruana, 2014, match logits so).

    Attributes:
        teacher: answers in eval mode, without gradients; it is left as it is.
        temperature: by how much both answers are softened, above 0.
        weight: the share of the soft answers, in [0, 1]; the rest is that of the true targets.
        loss: of the true targets: a name that `fit` takes, or a callable.
        hints: modules whose outputs should be like those of the teacher's module of the same name (Romero et al.,
            2015), each with the teacher's channels (dimension 1) that the model still has, or None for all.
        hint_weight: what the mean squared difference of each hint is multiplied by before it is added.

    Raises:
        InputError: the temperature, a weight, or the shape of a hint is out of range.
        UnknownNameError: a hint names no module.
    """

    teacher: nn.Module
    temperature: float = 4.0
    weight: float = 0.9
    loss: str | Loss = "cross_entropy"
    hints: Mapping[str, Tensor | None] = field(default_factory=dict)
    hint_weight: float = 1.0
    _seen: dict[str, Any] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        check_number("distillation", "(0, inf)", temperature=self.temperature)
        check_number("distillation", "[0, 1]", weight=self.weight)
        check_number("distillation", "[0, inf)", hint_weight=self.hint_weight)
        loss_function(self.loss)
        _modules(self.teacher, self.hints, "teacher")

    def identity(self) -> str:
        """Return a text that differs where the teacher or an option does."""
        options = f"{self.temperature} {self.weight} {describe(self.loss)} {sorted(self.hints)} {self.hint_weight}"
        return f"Distillation {options} {digest(sorted(tensors(self.teacher).items()))}"

    def on_start(self, run: Run) -> None:
        """Begin to look at what the model is given."""
        if run.model is self.teacher:
            raise InputError("distillation: the model is its own teacher; keep the unpruned model as the teacher")
        hinted = _modules(run.model, self.hints, "model")
        handles = [run.model.register_forward_pre_hook(self._keep_inputs, with_kwargs=True)]
        handles += [module.register_forward_hook(self._keeper("ours", name)) for name, module in hinted.items()]
        theirs = _modules(self.teacher, self.hints, "teacher")
        handles += [module.register_forward_hook(self._keeper("theirs", name)) for name, module in theirs.items()]
        self._seen.update(model=run.model, handles=handles, ours={}, theirs={})

    def on_end(self, run: Run) -> None:
        """Look no longer."""
        for handle in self._seen.get("handles", ()):
            handle.remove()
        self._seen.clear()

    def __call__(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return the loss of a batch."""
        check_loss(self.loss, outputs, targets, "distillation")
        true = loss_function(self.loss)(outputs, targets)
        if "inputs" not in self._seen or not self._seen["model"].training:
            return true
        args, kwargs = self._seen["inputs"]
        with evaluating(self.teacher):
            answers = self.teacher(*args, **kwargs)
        if answers.shape != outputs.shape:
            raise InputError(
                f"distillation: the teacher answers in the shape {tuple(answers.shape)}, the model in "
                f"{tuple(outputs.shape)}; distil from the model that was pruned"
            )
        numbers = gives_numbers(self.loss, outputs, targets)
        soft = F.mse_loss(outputs, answers) if numbers else soft_cross_entropy(outputs, answers, self.temperature)
        return (1 - self.weight) * true + self.weight * soft + self._of_hints()

    def _of_hints(self) -> Tensor | float:
        total: Tensor | float = 0.0
        for name, channels in self.hints.items():
            ours, theirs = self._seen["ours"][name], self._seen["theirs"][name]
            theirs = theirs if channels is None else theirs.index_select(1, channels.to(theirs.device))
            if ours.shape != theirs.shape:
                raise InputError(
                    f"distillation: the hint {name!r} has the shape {tuple(ours.shape)} in the model and "
                    f"{tuple(theirs.shape)} in the teacher; name the teacher's channels that are left"
                )
            total = total + self.hint_weight * F.mse_loss(ours, theirs)
        return total

    def _keep_inputs(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self._seen["inputs"] = (args, kwargs)

    def _keeper(self, whose: str, name: str) -> Callable[[nn.Module, Any, Tensor], None]:
        def look(module: nn.Module, args: Any, output: Tensor) -> None:
            self._seen[whose][name] = output

        return look


@usual
def distill(
    model: nn.Module,
    teacher: nn.Module,
    train: Data,
    validation: Data | None = None,
    options: TrainOptions | None = None,
    *,
    temperature: float = 4.0,
    weight: float = 0.9,
    hints: Mapping[str, Tensor | None] | None = None,
    hint_weight: float = 1.0,
    callbacks: Sequence[Callback] = (),
    **more: Any,
) -> History:
    """Train the model in place on the teacher's soft answers and the true targets, and return the history.

    What `fit` does, with the loss (1 − w) · loss(targets) + w · T² · KL(teacher ‖ student) (Hinton et al., 2015). The
    training loss in the history is that one; the validation loss is that of the true targets. In a regression (with
    ``loss="mse"``, say) the second term is the mean squared difference from the teacher's answers.

    Args:
        model: the pruned model.
        teacher: the unpruned one; it is left as it is.
        train, validation, options, callbacks: as for `fit`; the loss in the options is that of the true targets.
        temperature: T, above 0.
        weight: w, in [0, 1].
        hints, hint_weight: see `Distillation`.
        more: what else `fit` takes, and training options by name.

    Raises:
        InputError, UnknownNameError: as for `fit` and `Distillation`.

    >>> import torch
    >>> with torch.random.fork_rng():
    ...     _ = torch.manual_seed(0)
    ...     teacher, student = nn.Linear(2, 3), nn.Linear(2, 3)
    >>> x = torch.randn(64, 2, generator=torch.Generator().manual_seed(0))
    >>> unlabelled = (x, torch.zeros(64, dtype=torch.long))
    >>> _ = distill(student, teacher, unlabelled, weight=1.0, epochs=150, lr=0.1)
    >>> bool((student(x).softmax(1) - teacher(x).softmax(1)).abs().max() < 0.01)
    True
    """
    loss = more.pop("loss", (options or TrainOptions()).loss)
    both = Distillation(teacher, temperature, weight, loss, dict(hints or {}), hint_weight)
    return fit(model, train, validation, options, callbacks=[both, *callbacks], loss=both, **more)


def _modules(model: nn.Module, names: Mapping[str, Any], whose: str) -> dict[str, nn.Module]:
    modules = dict(model.named_modules())
    for name in names:
        check_name(f"module of the {whose} to take a hint from", name, modules)
    return {name: modules[name] for name in names}
