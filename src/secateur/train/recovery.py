"""Making sense again after a cut: a language model is trained on what the uncut one answers to text."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from inspect import signature
from typing import Any

from torch import Tensor, nn

from secateur.calls import usual
from secateur.checks import check_number, check_whole
from secateur.files import require
from secateur.hints import Checked
from secateur.measure.language import Tokens, check_tokens, targets_of
from secateur.state import device_of
from secateur.train.distillation import distill
from secateur.train.history import History
from secateur.train.options import TrainOptions
from secateur.types import InputError

__all__ = ["Recovery", "recover"]

EXTRA = "lm"


def _options() -> TrainOptions:
    return TrainOptions(epochs=1, batch_size=2, lr=2e-4, schedule="onecycle", clip_norm=1.0)


@dataclass(frozen=True)
class Recovery(Checked):
    """Trains a cut language model in place on the uncut one's answers to text (Hinton et al., 2015), next token by next token.

    What counts is the next tokens' distributions: KL(uncut ‖ cut), the mean over all tokens that count, and with a `weight`
    below 1 the text itself, too. Text alone teaches a model the text; the uncut model's answers, what it was.

    With a `rank`, each linear layer in the blocks gets a low-rank change W + BA (LoRA: Hu et al., 2022), which alone is
    trained, and is added into W at the end: the model that comes out has the layers that it had. That needs peft (the extra
    ``lm``), takes less memory, and wants a learning rate some times as high.

    Attributes:
        options: of the training; a batch is of sequences. By default one pass over the text in steps of two sequences.
        weight: the share of the uncut model's answers, in [0, 1]; the rest is the cross-entropy of the text.
        temperature: by how much both answers are softened.
        rank: of the changes; None trains all weights.

    Raises:
        InputError: an option out of range.
        MissingLibraryError: there is a rank, and peft is not installed.

    >>> import torch
    >>> from secateur.models.decoder import decoder
    >>> model, tokens = decoder(blocks=1), torch.arange(60).view(3, 20) % 11
    >>> small = decoder(blocks=1, seed=1)
    >>> history = Recovery(TrainOptions(epochs=8, batch_size=1, lr=1e-2))(small, model, tokens)
    >>> history[-1].train_loss < history[0].train_loss / 2
    True
    """

    options: TrainOptions = field(default_factory=_options)
    weight: float = 1.0
    temperature: float = 1.0
    rank: int | None = None

    def __post_init__(self) -> None:
        check_number("Recovery", "[0, 1]", weight=self.weight)
        check_number("Recovery", "(0, inf)", temperature=self.temperature)
        check_whole("Recovery", or_none=True, rank=self.rank)

    def __call__(self, model: nn.Module, original: nn.Module, tokens: Tokens, mask: Tensor | None = None) -> History:
        """Train the model in place, as `recover` does."""
        return recover(model, original, tokens, self, mask=mask)


@usual
def recover(
    model: nn.Module,
    original: nn.Module,
    tokens: Tokens,
    recovery: Recovery | None = None,
    *,
    mask: Tensor | None = None,
) -> History:
    """Train a cut language model in place on what the uncut one answers to text, and return the history.

    Args:
        model: the cut model.
        original: the uncut one; it is left as it is.
        tokens: text, ids ``(sequences, length)``, or sequences ``(length,)``.
        recovery: how; without it as `Recovery` is by default.
        mask: True where a token counts, of the tokens' shape.

    Raises:
        InputError: the text does not fit, or training diverges.
        MissingLibraryError: there is a rank, and peft is not installed.
    """
    recovery = recovery or Recovery()
    ids, counts = check_tokens(tokens, mask, "recover")
    ids = ids.to(device_of(model))
    with _low_rank(model, recovery.rank):
        return distill(
            model,
            original,
            (_inputs(model, ids, counts), targets_of(ids, counts)),
            options=recovery.options,
            loss="next_token_cross_entropy",
            match="logits",
            temperature=recovery.temperature,
            weight=recovery.weight,
        )


def _inputs(model: nn.Module, ids: Tensor, counts: Tensor | None) -> Any:
    """What the model is called with: by name where it takes a mask, as Hugging Face's models do."""
    accepted = signature(model.forward).parameters
    if "input_ids" not in accepted:
        return ids
    masked = counts is not None and "attention_mask" in accepted
    return {"input_ids": ids, **({"attention_mask": counts.to(ids).long()} if masked else {})}  # type: ignore[union-attr]


@contextmanager
def _low_rank(model: nn.Module, rank: int | None) -> Iterator[None]:
    """Let low-rank changes alone be trained, and add them into the weights at the end."""
    if rank is None:
        yield
        return
    peft = require("peft", EXTRA)
    required = {name: parameter.requires_grad for name, parameter in model.named_parameters()}
    config = peft.LoraConfig(r=rank, lora_alpha=2 * rank, target_modules=_inner_layers(model))
    tuned = peft.get_peft_model(model, config)
    try:
        yield
    except BaseException:
        tuned.unload()
        raise
    else:
        tuned.merge_and_unload(safe_merge=True)
    finally:
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(required[name])


def _inner_layers(model: nn.Module) -> list[str]:
    """The linear layers that are repeated: in the blocks, and not what makes logits."""
    names = [
        name
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and any(part.isdigit() for part in name.split("."))
    ]
    if not names:
        raise InputError("recover: the model has no linear layers in blocks to change by a low rank; leave rank out")
    return names
