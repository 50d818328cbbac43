"""How far a model's answers are from its teacher's, by what the answers are."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils import _pytree as pytree

from secateur.checks import check_name
from secateur.labelled import logits_of
from secateur.losses import LOSSES, gives_numbers, is_cross_entropy, loss_function
from secateur.types import InputError, Loss

__all__ = ["MATCHES", "Match", "Matched", "match_by_kind", "output_tensors", "soft_cross_entropy"]

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


MATCHES: Mapping[str, Callable[[Tensor, Tensor, float], Tensor]] = {
    "logits": soft_cross_entropy,
    "probabilities": _of_probabilities,
    "binary_logits": soft_binary,
    "binary_probabilities": _of_sigmoids,
    "embeddings": _of_embeddings,
    "numbers": _of_numbers,
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
        ours, theirs = output_tensors(outputs), output_tensors(answers)
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


def output_tensors(outputs: Any) -> list[Tensor]:
    """Return the tensors of numbers among a model's outputs, in their order; the logits alone of what names them.

    Raises:
        InputError: there is none.

    >>> len(output_tensors((torch.zeros(1), [torch.zeros(1), None]))), len(output_tensors({"logits": torch.zeros(1)}))
    (2, 1)
    """
    leaves = pytree.tree_leaves(logits_of(outputs))
    numbers = [leaf for leaf in leaves if isinstance(leaf, Tensor) and leaf.is_floating_point() and leaf.ndim]
    if not numbers:
        raise InputError(
            f"distillation: the model returns a {type(outputs).__name__} without a tensor of numbers; give "
            "match= as a function of (outputs, answers)"
        )
    return numbers


def _shapes(parts: list[Tensor]) -> str:
    return " and ".join(str(tuple(part.shape)) for part in parts)


def match_by_kind(match: str, temperature: float, answers: Any, targets: Any, loss: str | Loss) -> Matched:
    """Return how to hold outputs against the teacher's: by a name of `MATCHES`, or ``"auto"`` by what they are.

    Args:
        match: the name.
        temperature: of logits and probabilities.
        answers: what the teacher answers on some samples.
        targets: of these samples; None where there are none.
        loss: of the targets.

    Raises:
        UnknownNameError: there is no such name.

    >>> match_by_kind("auto", 4.0, torch.tensor([[0.1, 0.9], [0.2, 0.8]]), None, "cross_entropy").kinds
    ('probabilities',)
    """
    check_name("match of a student and its teacher", match, ("auto", *MATCHES))
    parts = output_tensors(answers)
    # Targets say what a single tensor is; of several it is not known which of them they are of.
    said = targets if len(parts) == 1 and isinstance(targets, Tensor) else None
    dim = 1 if said is not None and is_cross_entropy(loss) else None
    if match != "auto":
        return Matched((match,), temperature, dim=dim)
    named = logits_of(answers) is not answers
    kinds = tuple(_kind(part, said, loss, named) for part in parts)
    plain = Matched(kinds, temperature, dim=dim)
    return plain if len(parts) == 1 else Matched(kinds, temperature, _scales(plain, parts))


def _kind(answers: Tensor, targets: Tensor | None, loss: str | Loss, named: bool) -> str:
    """What a tensor of answers is, by the loss of its targets, and else by its values."""
    function = loss_function(loss)
    if function is LOSSES["bce"]:
        return "binary_logits"
    if targets is not None and is_cross_entropy(loss):
        return "logits"
    if function in (LOSSES["mse"], LOSSES["l1"]) or (targets is not None and gives_numbers(loss, answers, targets)):
        return "numbers"
    by_value = _kind_by_value(answers)
    if by_value == "numbers" and (targets is not None or (named and answers.shape[-1] > 1)):
        return "logits"
    return by_value


def _kind_by_value(answers: Tensor) -> str:
    rows = answers.detach().float()
    rows = rows.movedim(_class_dim(rows), -1)
    several = rows.ndim > 1 and rows.shape[-1] > 1
    if bool(((rows >= 0) & (rows <= 1)).all()):
        return "probabilities" if several and _near_one(rows.sum(-1)) else "binary_probabilities"
    if several and _near_one(rows.norm(dim=-1)):
        return "embeddings"
    return "logits" if several and _near_one(rows.logsumexp(-1).exp()) else "numbers"


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
