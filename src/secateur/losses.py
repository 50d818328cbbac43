"""The losses that have a name, and what a model's outputs and its targets must be for one to mean anything."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from functools import partial, wraps
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from secateur.checks import imported
from secateur.labelled import are_classes, check_no_nan, check_outputs, logits_of
from secateur.trees import Packing, tensors_within
from secateur.types import InputError, Loss, UnknownNameError, unknown_name

__all__ = [
    "IGNORED",
    "LOSSES",
    "PackedLoss",
    "answers",
    "are_probabilities",
    "check_answers",
    "check_loss",
    "check_slope",
    "gives_numbers",
    "is_cross_entropy",
    "is_of_tensors",
    "is_plain_cross_entropy",
    "loss_function",
    "mean_squared_error",
    "next_token_cross_entropy",
    "packed",
    "scalar",
    "sequence_cross_entropy",
]

CERTAIN = 1e-3
"""How far the probabilities of a sample may add up from 1."""


def mean_squared_error(outputs: Tensor, targets: Tensor, reduction: str = "mean") -> Tensor:
    """Return the mean of the squared differences; class labels stand for their one-hot vectors.

    One column takes targets ``(N,)`` too, as numbers.

    >>> mean_squared_error(torch.tensor([[1.0, 0.0]]), torch.tensor([1]))
    tensor(1.)
    """
    return F.mse_loss(outputs, _like("mse", outputs, targets), reduction=reduction)


def mean_absolute_error(outputs: Tensor, targets: Tensor, reduction: str = "mean") -> Tensor:
    """Return the mean of the absolute differences; class labels stand for their one-hot vectors.

    One column takes targets ``(N,)`` too, as numbers.

    >>> mean_absolute_error(torch.tensor([[3.0], [0.0]]), torch.tensor([[1.0], [0.0]]))
    tensor(1.)
    """
    return F.l1_loss(outputs, _like("l1", outputs, targets), reduction=reduction)


def binary_cross_entropy(outputs: Tensor, targets: Tensor, reduction: str = "mean") -> Tensor:
    """Return the mean cross-entropy of logits, each a yes or no of its own; one column takes targets ``(N,)`` too.

    >>> binary_cross_entropy(torch.zeros(2, 1), torch.tensor([0, 1]))    # log 2
    tensor(0.6931)
    """
    return F.binary_cross_entropy_with_logits(outputs, _like("bce", outputs, targets), reduction=reduction)


def sequence_cross_entropy(outputs: Tensor, targets: Tensor, reduction: str = "mean") -> Tensor:
    """Return the mean cross-entropy of the classes at each position: outputs ``(N, T, C)``, targets ``(N, T)``.

    Positions whose target is −100 do not count.

    >>> sequence_cross_entropy(torch.zeros(1, 3, 2), torch.tensor([[0, 1, -100]]))    # log 2
    tensor(0.6931)
    """
    return F.cross_entropy(outputs.movedim(-1, 1), targets, reduction=reduction)


def next_token_cross_entropy(outputs: Tensor, targets: Tensor, reduction: str = "mean") -> Tensor:
    """Return the cross-entropy of a causal language model: outputs ``(N, T, C)`` foretell the tokens ``(N, T)`` one later.

    Tokens that are −100 do not count; neither do the first of each sequence, nor what is foretold behind the last.

    >>> next_token_cross_entropy(torch.zeros(1, 3, 2), torch.tensor([[0, 1, -100]]))    # log 2, of the 1 alone
    tensor(0.6931)
    """
    return sequence_cross_entropy(outputs[:, :-1], targets[:, 1:], reduction)


def _like(name: str, outputs: Tensor, targets: Tensor) -> Tensor:
    """The targets in the outputs' shape and dtype."""
    if _is_column(outputs, targets):
        targets = targets.unsqueeze(1)
    if not targets.is_floating_point() and outputs.ndim == targets.ndim + 1:
        classes = torch.arange(outputs.shape[-1], device=targets.device)
        targets = targets.unsqueeze(-1) == classes  # as one_hot, which torch.vmap does not take
    if targets.shape != outputs.shape:
        raise InputError(
            f"{name}: outputs of shape {tuple(outputs.shape)} against targets of shape {tuple(targets.shape)}; "
            "give targets of the outputs' shape, or class labels of shape (N,)"
        )
    return targets.to(outputs.dtype)


def _is_column(outputs: Tensor, targets: Tensor) -> bool:
    """Whether outputs are one column, and targets a number for each of its rows."""
    return outputs.ndim == 2 and outputs.shape[1] == 1 and targets.ndim == 1


LOSSES: dict[str, Loss] = {
    "cross_entropy": F.cross_entropy,
    "sequence_cross_entropy": sequence_cross_entropy,
    "next_token_cross_entropy": next_token_cross_entropy,
    "mse": mean_squared_error,
    "l1": mean_absolute_error,
    "bce": binary_cross_entropy,
}
"""The losses that have a name; a hyphen does as well as an underscore."""


def loss_function(loss: str | Loss) -> Loss:
    """Return the loss of this name, what an import path such as ``"package.module:name"`` names, or the callable itself.

    A class, as one of `torch.nn`, is made without arguments.

    Raises:
        UnknownNameError: it is none of these.
        InputError: the import path names nothing that can be called, or the loss gives a number for each sample.

    >>> loss_function("mse")(torch.tensor([1.0, 3.0]), torch.tensor([0.0, 0.0]))
    tensor(5.)
    >>> loss_function("cross-entropy") is F.cross_entropy
    True
    >>> loss_function("torch.nn:HuberLoss")
    HuberLoss()
    """
    if callable(loss):
        return _reduced(loss)
    if ":" in str(loss):
        function: Any = imported(str(loss), f"loss {loss!r}", "loss")
        made: Loss = function() if isinstance(function, type) else function
        return _reduced(made)
    name = str(loss).replace("-", "_")
    if name not in LOSSES:
        raise UnknownNameError(
            f"{unknown_name('loss', loss, LOSSES)}; or give a function of (outputs, targets), by its import path "
            "('package.module:name') where a name is asked for"
        )
    return LOSSES[name]


def _reduced(loss: Loss) -> Loss:
    """The loss, unless it says of itself that it gives a number for each sample.

    >>> _reduced(nn.MSELoss(reduction="none"))
    Traceback (most recent call last):
    secateur.types.InputError: the loss MSELoss() has reduction='none', so it gives a number for each sample; a loss gives the mean over the batch: leave reduction out
    """
    reduction = getattr(loss, "reduction", None)
    if isinstance(loss, partial):
        reduction = loss.keywords.get("reduction")
    if reduction == "none":
        name = loss.func.__name__ if isinstance(loss, partial) else repr(loss)
        raise InputError(
            f"the loss {name} has reduction='none', so it gives a number for each sample; a loss gives the mean over the "
            "batch: leave reduction out"
        )
    return loss


def scalar(loss: Loss) -> Loss:
    """Return a loss that refuses to give anything but one number for a batch; those that are known to do so as they are.

    >>> def squares(outputs, targets): return (outputs - targets) ** 2
    >>> scalar(squares)(torch.ones(2), torch.zeros(2))
    Traceback (most recent call last):
    secateur.types.InputError: the loss squares gave a tensor of shape (2,) for a batch; give one that returns the mean, a scalar
    """
    if is_of_tensors(loss) or is_cross_entropy(loss) or isinstance(loss, nn.modules.loss._Loss):
        return loss

    @wraps(loss)
    def checked(*args: Any, **options: Any) -> Tensor:
        value: Any = loss(*args, **options)
        if "reduction" in options or (isinstance(value, Tensor) and not value.ndim):
            return value  # type: ignore[no-any-return]
        name = getattr(loss, "__name__", type(loss).__name__)
        what = f"tensor of shape {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
        raise InputError(f"the loss {name} gave a {what} for a batch; give one that returns the mean, a scalar")

    return checked


def is_cross_entropy(loss: str | Loss) -> bool:
    """Return whether a loss is the cross-entropy of classes, by name, as torch's function or as its module."""
    function: Any = loss_function(loss)
    while isinstance(function, partial):
        function = function.func
    return function is F.cross_entropy or isinstance(function, nn.CrossEntropyLoss)


def is_plain_cross_entropy(loss: str | Loss) -> bool:
    """Return whether a loss is the cross-entropy without weights of classes, so that all classes count alike.

    >>> is_plain_cross_entropy("cross_entropy"), is_plain_cross_entropy(nn.CrossEntropyLoss(torch.ones(2)))
    (True, False)
    """
    function: Any = loss_function(loss)
    if isinstance(function, nn.CrossEntropyLoss):
        return function.weight is None and function.reduction == "mean" and function.ignore_index == IGNORED
    return function is F.cross_entropy


def gives_numbers(loss: str | Loss, outputs: Any, targets: Any) -> bool:
    """Return whether outputs are numbers of their own, as in a regression, and not the logits of classes.

    Of several outputs, where any of the targets is a number, or there are none.
    """
    if not (isinstance(outputs, Tensor) and isinstance(targets, Tensor)):
        kinds = [target.is_floating_point() for target in tensors_within(targets)]
        return any(kinds) or not kinds
    single = outputs.ndim < 2 or outputs.shape[1] == 1
    return single or (targets.is_floating_point() and not is_cross_entropy(loss))


def answers(outputs: Any, loss: str | Loss) -> Any:
    """Return what a loss is of: for one that has a name, the logits of what names them; else all that a model returns.

    >>> answers({"logits": torch.zeros(1)}, "mse"), answers((1, 2), lambda outputs, targets: 0)
    (tensor([0.]), (1, 2))
    """
    return logits_of(outputs) if not isinstance(outputs, Tensor) and is_of_tensors(loss) else outputs


@dataclass(frozen=True, eq=False)
class PackedLoss:
    """A loss of several outputs, as one of the tensor in which they lie.

    Attributes:
        loss: of (outputs, targets).
        packing: how the outputs lie in the tensor.
    """

    loss: Loss
    packing: Packing

    def __call__(self, outputs: Tensor, targets: Any) -> Tensor:
        """Return the loss of outputs ``(samples, numbers)``."""
        return self.loss(self.packing.unpack(outputs), targets)


def packed(outputs: Any, loss: Loss, count: int) -> tuple[Tensor, Loss]:
    """Return what a loss is of as one tensor with a row for each of `count` samples, and the loss of that.

    >>> outputs, loss = packed({"a": torch.ones(2, 3), "b": torch.zeros(2)}, lambda o, y: (o["a"].sum(1) + o["b"]).sum(), 2)
    >>> outputs.shape, loss(outputs, None)
    (torch.Size([2, 4]), tensor(6.))
    """
    outputs = answers(outputs, loss)
    if isinstance(outputs, Tensor):
        return outputs, loss
    packing = Packing.of(outputs, count)
    return packing.pack(outputs), PackedLoss(loss, packing)


def is_of_tensors(loss: str | Loss) -> bool:
    """Whether a loss is known to be of one tensor of outputs and one of targets."""
    return is_cross_entropy(loss) or any(loss_function(loss) is named for named in LOSSES.values())


def check_answers(outputs: Any, targets: Any, loss: str | Loss, doing: str) -> None:
    """Refuse outputs that hold NaN, a loss that does not fit them, and, for one tensor, rows that are not the targets'.

    A function of one's own may take whatever the model returns and the data hold, nothing for targets included.

    Raises:
        InputError: with the remedy.
    """
    if not (isinstance(outputs, Tensor) and isinstance(targets, Tensor)) and not is_of_tensors(loss):
        check_no_nan(outputs, doing)
        return
    if not isinstance(targets, Tensor):
        problem = "no targets" if targets is None else "several targets"
        raise InputError(
            f"{doing}: there are {problem} for the loss; give pairs (inputs, targets), a function of (outputs, targets) "
            "as the loss, or a teacher (distill)"
        )
    if not isinstance(outputs, Tensor):
        raise InputError(
            f"{doing}: the model returned a {type(outputs).__name__}, not one tensor; give a function of (outputs, "
            "targets) as the loss, or wrap the model in a module that returns one"
        )
    check_outputs(outputs, targets, doing)
    check_loss(loss, outputs, targets, doing)


def check_loss(loss: str | Loss, outputs: Tensor, targets: Tensor, doing: str) -> None:
    """Refuse the cross-entropy where targets are no classes, or the model has one output column, and loose pairs.

    Its value would be an error of torch's at best, and at worst 0 or nonsense, whatever the model answers. Pairs are
    loose where shapes such as ``(N, 1)`` and ``(N,)`` make a function of one's own compare all outputs with all targets.

    >>> check_loss("cross_entropy", torch.zeros(4, 1), torch.zeros(4, 1), "evaluate")
    Traceback (most recent call last):
    secateur.types.InputError: evaluate: the loss is cross-entropy, and targets are floats of shape (4, 1): \
pass loss='mse', or a function of (outputs, targets)
    """
    if is_cross_entropy(loss):
        problem, name = _unfit(outputs, targets), "cross-entropy"
    elif loss_function(loss) in (sequence_cross_entropy, next_token_cross_entropy):
        problem, name = _unfit(outputs.movedim(-1, 1) if outputs.ndim > 1 else outputs, targets), "cross-entropy"
    else:
        labels = loss_function(loss) in (mean_squared_error, mean_absolute_error) and not targets.is_floating_point()
        one_hot = labels and outputs.ndim == targets.ndim + 1 and not _is_column(outputs, targets)
        problem, name = _out_of_range(targets, outputs.shape[-1]) if one_hot else "", "a distance to one-hot vectors"
        if not is_of_tensors(loss) and _is_loose(loss_function(loss), outputs, targets):
            name = "the same whichever target goes with which sample"
            problem = (
                f"outputs of shape {tuple(outputs.shape)} and targets of shape {tuple(targets.shape)} are all compared "
                "with all: give targets of the outputs' shape, or pass loss='mse'"
            )
    if problem:
        raise InputError(f"{doing}: the loss is {name}, and {problem}")


def check_slope(mean: Tensor) -> None:
    """Refuse a loss that cannot be derived, as where it detaches the outputs, counts, or takes the greatest.

    >>> check_slope(torch.zeros(()))
    Traceback (most recent call last):
    secateur.types.InputError: the loss has no gradient by the model's outputs: it does not depend on them, or in a way that cannot be derived (detach, argmax, numpy); give one that has
    """
    if not (isinstance(mean, Tensor) and mean.requires_grad):
        raise InputError(
            "the loss has no gradient by the model's outputs: it does not depend on them, or in a way that cannot be "
            "derived (detach, argmax, numpy); give one that has"
        )


def are_probabilities(targets: Tensor) -> bool:
    """Return whether targets are probabilities of two classes or more, along dimension 1.

    >>> are_probabilities(torch.tensor([[0.3, 0.7]])), are_probabilities(torch.tensor([[0.3, 0.6]]))
    (True, False)
    """
    if targets.ndim < 2 or targets.shape[1] < 2 or float(targets.min()) < 0:
        return False
    return bool(((targets.sum(1) - 1).abs() <= CERTAIN).all())


def _is_loose(loss: Loss, outputs: Tensor, targets: Tensor) -> bool:
    """Whether shapes that differ by dimensions of 1 let a loss forget which target is which output's."""
    as_many = outputs.numel() == targets.numel() and outputs.shape != targets.shape and len(targets) > 1
    if not as_many:
        return False
    if bool((targets == targets[0]).all()):
        if not targets.is_floating_point():
            return False
        # Targets that are alike tell nothing; others in [0, 1], which every loss of numbers takes, do.
        targets = torch.linspace(0, 1, targets.numel(), dtype=targets.dtype, device=targets.device).view_as(targets)
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's own losses warn of such shapes
        paired, rolled = (float(loss(outputs, y)) for y in (targets, targets.roll(1, 0)))
    return abs(paired - rolled) <= 1e-6 * max(abs(paired), abs(rolled))


def _unfit(outputs: Tensor, targets: Tensor) -> str:
    """Why cross-entropy means nothing here, with the remedy; empty where it does."""
    shape = tuple(targets.shape)
    if targets.is_floating_point():
        if targets.shape == outputs.shape and outputs.ndim > 1 and outputs.shape[1] > 1:
            if are_probabilities(targets):
                return ""
            return f"targets are floats of shape {shape} that are no probabilities: {NUMBERS}"
        return f"targets are floats of shape {shape}: {NUMBERS}"
    if outputs.ndim < 2 or outputs.shape[1] == 1:
        return (
            f"the model has one output column (outputs of shape {tuple(outputs.shape)}), for which it is 0 whatever the "
            "answer: pass loss='bce' for a yes or no, loss='mse' for a number, or a function of (outputs, targets)"
        )
    expected = (outputs.shape[0], *outputs.shape[2:])
    if shape != expected:
        return (
            f"targets have the shape {shape}: give class labels of shape {expected}, "
            "or pass another loss, as loss='mse'"
            + (", or 'sequence_cross_entropy' where the last dimension is the classes'" if outputs.ndim > 2 else "")
        )
    return "" if are_classes(outputs, targets) else _out_of_range(targets, outputs.shape[1])


NUMBERS = "pass loss='mse', or a function of (outputs, targets)"

IGNORED = -100
"""The label that torch's cross-entropy leaves out."""


def _out_of_range(labels: Tensor, classes: int) -> str:
    wrong = labels[((labels < 0) | (labels >= classes)) & (labels != IGNORED)]
    if not len(wrong):
        return ""
    return f"label {int(wrong[0])} is out of range for {classes} classes: labels must be in 0 … {classes - 1}"
