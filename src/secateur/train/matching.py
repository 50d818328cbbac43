"""How far a model's answers are from its teacher's, by what the answers are."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from secateur.checks import check_name
from secateur.labelled import logits_of
from secateur.losses import LOSSES, gives_numbers, is_cross_entropy, loss_function, sequence_cross_entropy
from secateur.trees import changed, numbers_within, tensors_within
from secateur.types import InputError, Loss

__all__ = ["MATCHES", "Match", "Matched", "check_teaches", "match_by_kind", "numbers_of", "soft_cross_entropy"]

Match = Callable[[Any, Any], Tensor]
"""From the model's outputs and the teacher's to a scalar; whatever both return."""

EXACT = 1e-3
"""How far sums of probabilities and lengths of embeddings may be from 1."""

SMALLEST = 1e-7
"""The least probability that is told from 0."""


def soft_cross_entropy(outputs: Tensor, answers: Tensor, temperature: float, dim: int | None = None) -> Tensor:
    """Return how far the softened answers are from the teacher's: T² · KL(teacher ‖ student), the mean over the samples.

    Both are divided by the temperature T before the softmax; T² keeps the gradients' size (Hinton et al., 2015).

    Args:
        outputs, answers: logits ``(N, C)``, ``(N, T, C)`` of sequences, ``(N, C, H, W)`` of pictures.
        temperature: T.
        dim: where the classes lie; None goes by those shapes.

    >>> same = torch.tensor([[1.0, 3.0]])
    >>> soft_cross_entropy(same, same, 4.0).item()
    0.0
    """
    dim = _class_dim(outputs) if dim is None else dim
    rows = (x.movedim(dim, -1).flatten(0, -2) / temperature for x in (outputs, answers))
    ours, theirs = (F.log_softmax(x, dim=1) for x in rows)
    return temperature**2 * F.kl_div(ours, theirs, reduction="batchmean", log_target=True)


def _class_dim(outputs: Tensor) -> int:
    return 2 if outputs.ndim == 3 else min(1, outputs.ndim - 1)


def soft_binary(outputs: Tensor, answers: Tensor, temperature: float) -> Tensor:
    """Return T² · KL of the two answers yes and no, the mean over all logits.

    >>> soft_binary(torch.zeros(1, 1), torch.tensor([[0.0]]), 4.0).item()
    0.0
    """
    ours, theirs = outputs / temperature, (answers / temperature).sigmoid()
    entropy = torch.special.entr(theirs) + torch.special.entr(1 - theirs)
    cross = F.binary_cross_entropy_with_logits(ours, theirs, reduction="none")
    mean: Tensor = (cross - entropy).mean()
    return temperature**2 * mean


def _of_probabilities(outputs: Tensor, answers: Tensor, temperature: float) -> Tensor:
    # A softmax gives the logits' probabilities from their logarithms too.
    ours, theirs = (x.clamp_min(SMALLEST).log() for x in (outputs, answers))
    return soft_cross_entropy(ours, theirs, temperature)


def _of_sigmoids(outputs: Tensor, answers: Tensor, temperature: float) -> Tensor:
    return soft_binary(outputs.logit(SMALLEST), answers.logit(SMALLEST), temperature)


def _of_embeddings(outputs: Tensor, answers: Tensor, temperature: float) -> Tensor:
    return (1 - F.cosine_similarity(outputs, answers, dim=_class_dim(outputs))).mean()


def _of_numbers(outputs: Tensor, answers: Tensor, temperature: float) -> Tensor:
    return F.mse_loss(outputs, answers)


def _of_any(outputs: Tensor, answers: Tensor, temperature: float) -> Tensor:
    # Both are nothing only at the teacher's answers, whatever these are; the first goes faster where they are logits.
    variance = answers.var(correction=0).clamp_min(SMALLEST)
    return soft_cross_entropy(outputs, answers, temperature) + F.mse_loss(outputs, answers) / variance


MATCHES: Mapping[str, Callable[[Tensor, Tensor, float], Tensor]] = {
    "logits": soft_cross_entropy,
    "probabilities": _of_probabilities,
    "binary_logits": soft_binary,
    "binary_probabilities": _of_sigmoids,
    "embeddings": _of_embeddings,
    "numbers": _of_numbers,
    "any": _of_any,
}
"""What outputs can be, each with how the model's are held against the teacher's at a temperature."""


@dataclass(frozen=True)
class Matched:
    """How each output tensor of a model is held against the teacher's, and what it weighs.

    Attributes:
        kinds: a name of `MATCHES` for each tensor; one stands for all.
        temperature: of logits and probabilities.
        scales: what each tensor's difference is multiplied by; empty for 1.
        dim: where the classes of logits lie; None goes by the shape.

    >>> Matched(("numbers",))((torch.zeros(2), torch.ones(2)), (torch.ones(2), torch.ones(2)))
    tensor(1.)
    """

    kinds: tuple[str, ...]
    temperature: float = 4.0
    scales: tuple[float, ...] = ()
    dim: int | None = None

    def __call__(self, outputs: Any, answers: Any) -> Tensor:
        """Return the sum over the output tensors."""
        ours, theirs = numbers_of(outputs), numbers_of(answers)
        if [x.shape for x in ours] != [x.shape for x in theirs]:
            raise InputError(
                f"distillation: the teacher answers in the shape {_shapes(theirs)}, the model in {_shapes(ours)}; "
                "distil from the model that was pruned"
            )
        kinds = self.kinds * (len(ours) if len(self.kinds) == 1 else 1)
        terms = [self._of(*parts) for parts in zip(kinds, ours, theirs, strict=True)]
        if self.scales:
            terms = [scale * term for scale, term in zip(self.scales, terms, strict=True)]
        return torch.stack(terms).sum() if len(terms) > 1 else terms[0]

    def _of(self, kind: str, outputs: Tensor, answers: Tensor) -> Tensor:
        if kind == "logits":
            return soft_cross_entropy(outputs, answers, self.temperature, self.dim)
        return MATCHES[kind](outputs, answers, self.temperature)


def numbers_of(outputs: Any) -> list[Tensor]:
    """Return the tensors of numbers among a model's outputs, in their order; the logits alone of what names them.

    Raises:
        InputError: there is none.

    >>> len(numbers_of((torch.zeros(1), [torch.zeros(1), None]))), len(numbers_of({"logits": torch.zeros(1)}))
    (2, 1)
    """
    numbers = numbers_within(logits_of(outputs))
    if not numbers:
        raise InputError(
            f"distillation: the model returns a {type(outputs).__name__} without a tensor of numbers; give "
            "match= as a function of (outputs, answers)"
        )
    return numbers


def check_teaches(match: Match, outputs: Any, answers: Any) -> None:
    """Refuse a function of one's own by which no student could learn from its teacher.

    It must return a scalar, whose gradient by the model's outputs is not 0 everywhere, and that changes where other
    answers of the teacher's stand beside the same outputs.

    Args:
        match: the function.
        outputs, answers: what the model and the teacher return for the same samples.

    Raises:
        InputError: with what is wrong with it.

    >>> check_teaches(lambda outputs, answers: outputs.square().mean(), torch.eye(2), torch.ones(2, 2) + torch.eye(2))
    Traceback (most recent call last):
    secateur.types.InputError: distillation: the loss cannot teach: it does not depend on the teacher's answers; give a \
function of (outputs, answers) that falls as the first come nearer to the second, such as torch.nn.functional.mse_loss
    """
    values = [_value_and_slopes(match, part, answers) for part in (outputs, *_others(outputs))]
    others = _others(answers)
    problem = next((problem for problem, _ in values if problem), "")
    if not problem and not any(bool(slope.any()) for _, slopes in values for slope in slopes[1:]):
        problem = "it is constant: its gradient by the model's outputs is 0"
    if not problem and others:
        ratings = [_value_and_slopes(match, outputs, other)[1] for other in others]
        if all(map(torch.equal, values[0][1] * len(ratings), [part for slopes in ratings for part in slopes])):
            problem = "it does not depend on the teacher's answers"
    if problem:
        raise InputError(
            f"distillation: the loss cannot teach: {problem}; give a function of (outputs, answers) that falls as the "
            "first come nearer to the second, such as torch.nn.functional.mse_loss"
        )


def _value_and_slopes(match: Match, outputs: Any, answers: Any) -> tuple[str, list[Tensor]]:
    """What is wrong, if anything is; the value, and its gradient by each tensor of the outputs."""
    with torch.enable_grad():
        leafed = changed(outputs, lambda x: x.detach().requires_grad_() if x.is_floating_point() else x)
        value: object = _matched(match, leafed, answers)
        if not isinstance(value, Tensor) or value.ndim:
            returned = f"a tensor of shape {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
            return f"it returns {returned} and no scalar tensor", []
        if not value.requires_grad:
            return "it has no gradient by the model's outputs", []
        leaves = [leaf for leaf in tensors_within(leafed) if leaf.requires_grad]
        slopes = torch.autograd.grad(value, leaves, allow_unused=True)
    return "", [value.detach(), *(x.new_zeros(()) if s is None else s for x, s in zip(leaves, slopes, strict=True))]


def _matched(match: Match, outputs: Any, answers: Any) -> object:
    try:
        return match(outputs, answers)
    except InputError:
        raise
    except Exception as error:
        raise InputError(
            f"distillation: the loss does not take the model's outputs and the teacher's: {type(error).__name__}: {error}"
        ) from error


def _others(value: Any) -> list[Any]:
    """The same with each sample's rows in another's place, and with the first sample's in all; none if that is the same."""
    if all(bool((x == x[:1]).all()) for x in numbers_within(value)):
        return []
    return [
        changed(value, lambda x: x.roll(1, 0) if x.ndim else x),
        changed(value, lambda x: x[:1].expand_as(x) if x.ndim else x),
    ]


def _shapes(parts: list[Tensor]) -> str:
    return " and ".join(str(tuple(part.shape)) for part in parts)


class _Sigmoids(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Remembers what sigmoids give, by its memory: it may be viewed in another shape before it is returned."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.given: list[Tensor] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        output = func(*args, **(kwargs or {}))
        if func in (torch.ops.aten.sigmoid.default, torch.ops.aten.sigmoid_.default):
            self.given.append(output)
        return output

    def __contains__(self, tensor: Tensor) -> bool:
        memory = tensor.untyped_storage().data_ptr()
        return any(output.untyped_storage().data_ptr() == memory for output in self.given)


def match_by_kind(match: str, temperature: float, answer: Callable[[], Any], targets: Any, loss: str | Loss) -> Matched:
    """Return how to hold outputs against the teacher's: by a name of `MATCHES`, or ``"auto"`` by what they are.

    Args:
        match: the name.
        temperature: of logits and probabilities.
        answer: called once for what the teacher answers on some samples.
        targets: of these samples; None where there are none.
        loss: of the targets.

    Raises:
        UnknownNameError: there is no such name.

    >>> match_by_kind("auto", 4.0, lambda: torch.zeros(2, 3).softmax(1), None, "cross_entropy").kinds
    ('probabilities',)
    """
    check_name("match of a student and its teacher", match, ("auto", *MATCHES))
    with _Sigmoids() as sigmoids:
        answers = answer()
    parts = numbers_of(answers)
    # Targets say what a single tensor is; of several it is not known which of them they are of.
    single = targets if len(parts) == 1 and isinstance(targets, Tensor) else None
    dim = None
    if single is not None:
        dim = 1 if is_cross_entropy(loss) else -1 if loss_function(loss) is sequence_cross_entropy else None
    if match != "auto":
        return Matched((match,), temperature, dim=dim)
    named = logits_of(answers) is not answers
    kinds = tuple(_kind(part, single, loss, named, part in sigmoids) for part in parts)
    plain = Matched(kinds, temperature, dim=dim)
    return plain if len(parts) == 1 else Matched(kinds, temperature, _scales(plain, parts))


def _kind(answers: Tensor, targets: Tensor | None, loss: str | Loss, named: bool, sigmoid: bool) -> str:
    """What a tensor of answers is, by the loss of its targets, and else by where it comes from and its values."""
    function = loss_function(loss)
    if function is LOSSES["bce"]:
        return "binary_logits"
    if targets is not None and is_cross_entropy(loss):
        return "logits"
    if function in (LOSSES["mse"], LOSSES["l1"]) or (targets is not None and gives_numbers(loss, answers, targets)):
        return "numbers"
    if sigmoid:
        return "binary_probabilities"
    by_value = _kind_by_value(answers)
    return "logits" if by_value == "any" and (named or targets is not None) else by_value


def _kind_by_value(answers: Tensor) -> str:
    rows = answers.detach().float()
    rows = rows.movedim(_class_dim(rows), -1)
    if rows.ndim < 2 or rows.shape[-1] == 1:
        return "numbers"
    if bool((rows >= 0).all()) and _near_one(rows.sum(-1)):
        return "probabilities"
    if _near_one(rows.norm(dim=-1)):
        return "embeddings"
    return "logits" if _near_one(rows.logsumexp(-1).exp()) else "any"


def _near_one(values: Tensor) -> bool:
    return bool(((values - 1).abs() <= EXACT).all())


def _scales(plain: Matched, parts: list[Tensor]) -> tuple[float, ...]:
    """What makes several outputs weigh alike: each difference as a share of that of the teacher's mean answer."""
    scales = []
    for kind, part in zip(plain.kinds, parts, strict=True):
        whole = part.detach().float()
        spread = float(Matched((kind,), plain.temperature)(whole.mean(0, keepdim=True).expand_as(whole), whole))
        scales.append(1 / spread if spread > SMALLEST else 1.0)
    return tuple(scales)
