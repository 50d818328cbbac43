"""How many tokens a second a language model reads (prefill) and writes (decode)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from inspect import signature
from typing import Any

import torch
from torch import Tensor, nn

from secateur.calls import usual
from secateur.labelled import logits_of
from secateur.measure.language import Tokens, check_tokens, taking
from secateur.measure.speed import LatencyComparison, Spread, compare_latency
from secateur.runtimes.base import Runtime
from secateur.state import device_of, evaluating
from secateur.types import InputError
from secateur.wrappers import check_module

__all__ = ["TokenRate", "TokenRates", "tokens_per_second"]

Caches = list[tuple[Tensor, Tensor]]
"""Keys and values of each layer, ``(sequences, heads, length, size)``."""


@dataclass(frozen=True)
class TokenRate:
    """How many tokens a second one model takes.

    Attributes:
        prefill: of a text that is there as a whole, all sequences together.
        decode: of a text that is written one token after the other, all sequences together, behind a context.
        cached: whether keys and values of the context are kept; else each token is a whole pass over the context.
    """

    prefill: float
    decode: float
    cached: bool


@dataclass(frozen=True)
class TokenRates:
    """The tokens a second of several models that were measured in turns.

    Where one thread does all of the work they are tokens a second of the processor's time, so that what else the machine does
    hardly enters; with more threads, of the wall clock.

    Attributes:
        rates: of each model, by its name.
        prefill_speedups, decode_speedups: the first model's time ÷ this model's, round by round: median and quartiles.
        context: how many tokens were read, and stand before the one that is written.
        batch_size, threads, repeats: how it was measured.
    """

    rates: Mapping[str, TokenRate]
    prefill_speedups: Mapping[str, Spread]
    decode_speedups: Mapping[str, Spread]
    context: int
    batch_size: int
    threads: int
    repeats: int


@usual
def tokens_per_second(
    models: nn.Module | Mapping[str, nn.Module],
    tokens: Tokens,
    *,
    runtime: Runtime = "eager",
    threads: int | None = None,
    warmup: int = 1,
    repeats: int = 5,
) -> TokenRates:
    """Measure how fast language models read and write, in turns, and how much faster each is than the first.

    Reading (prefill) is one pass over the tokens. Writing (decode) is one pass over one more token for each sequence, with
    keys and values of the others kept, where the model keeps them (Hugging Face's `DynamicCache`); where it does not, a pass
    over all of them. Both are timed as `compare_latency` times any model, in any runtime that takes them.

    Args:
        models: by name, the first one to compare with; or one model, then called ``"model"``. They are left as they are.
        tokens: the context, ids ``(sequences, length)``; speed hangs on its shape, not on what it says.
        runtime, threads, warmup, repeats: as for `compare_latency`.

    Raises:
        InputError: there are no models, tokens do not fit, or a number is out of range.
        MissingLibraryError, ExportError, UnknownNameError: see `secateur.export`.

    >>> from secateur.measure import tokens_per_second
    >>> class Uniform(nn.Module):
    ...     def forward(self, tokens):
    ...         return torch.zeros(*tokens.shape, 50)
    >>> rates = tokens_per_second(Uniform(), torch.zeros(2, 16, dtype=torch.long), repeats=3)
    >>> rates.context, rates.batch_size, rates.rates["model"].cached, rates.rates["model"].prefill > 0
    (16, 2, False, True)
    """
    models = {"model": models} if isinstance(models, nn.Module) else models
    ids, mask = check_tokens(tokens, None, "tokens_per_second")
    if mask is not None:
        raise InputError("tokens_per_second: the sequences have different lengths; give one length")
    for model in models.values():
        check_module(model, "tokens_per_second")
    options: dict[str, Any] = {"runtime": runtime, "threads": threads, "warmup": warmup, "repeats": repeats}
    with taking(ids):
        caches = {name: _kept(model, ids) for name, model in models.items()}
        prefill = compare_latency({name: _Prefill(model) for name, model in models.items()}, ids, **options)
        decode = _decoded(models, caches, ids, options)
    return _rates(prefill, decode, caches, ids)


def _decoded(
    models: Mapping[str, nn.Module], kept: Mapping[str, Caches | None], ids: Tensor, options: Mapping[str, Any]
) -> LatencyComparison:
    """Time one more token, of models whose caches differ in their shapes."""
    steps = {name: _Decode(model, kept[name], ids) for name, model in models.items()}
    return compare_latency(steps, ids[:, -1:], **options)


def _rates(
    prefill: LatencyComparison, decode: LatencyComparison, kept: Mapping[str, Caches | None], ids: Tensor
) -> TokenRates:
    rates = {
        name: TokenRate(ids.numel() / read.median, len(ids) / decode.compared[name].median, kept[name] is not None)
        for name, read in prefill.compared.items()
    }
    any_ = next(iter(prefill.latencies.values()))
    how = {"batch_size": len(ids), "threads": any_.threads, "repeats": any_.repeats}
    return TokenRates(rates, prefill.speedups, decode.speedups, ids.shape[1], **how)


class _Prefill(nn.Module):
    """A model that answers with its logits alone, and keeps nothing."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.options = {"use_cache": False} if _cache_name(model) else {}

    def forward(self, tokens: Tensor) -> Tensor:
        """Return logits ``(sequences, length, vocabulary)``."""
        return _logits(self.model(tokens, **self.options))


class _Decode(nn.Module):
    """A model that reads one more token behind a context of which it has keys and values, or has to read it again."""

    def __init__(self, model: nn.Module, caches: Caches | None, context: Tensor) -> None:
        super().__init__()
        self.model, self.layers = model, 0 if caches is None else len(caches)
        tensors = [context] if caches is None else [part for pair in caches for part in pair]
        for number, tensor in enumerate(tensors):
            self.register_buffer(f"past_{number}", tensor, persistent=False)

    def forward(self, token: Tensor) -> Tensor:
        """Return the logits of one more token ``(sequences, 1)``."""
        if not self.layers:
            return _logits(self.model(torch.cat([self.past_0, token], 1)))  # type: ignore[list-item]
        cache = _empty_cache()
        for layer in range(self.layers):
            cache.update(getattr(self, f"past_{2 * layer}"), getattr(self, f"past_{2 * layer + 1}"), layer)
        return _logits(self.model(token, **{_cache_name(self.model): cache}, use_cache=True))


CACHES = ("cache", "past_key_values")
"""What transformers calls the keys and values that a model keeps: today's name, and the one before 5.24."""


def _cache_name(model: nn.Module) -> str:
    """The argument that a model takes its cache by; empty where it keeps none."""
    accepted = signature(model.forward).parameters
    return next((name for name in CACHES if name in accepted), "") if "use_cache" in accepted else ""


def _empty_cache() -> Any:
    return import_module("transformers").DynamicCache()  # a model that keeps one brings it


def _kept(model: nn.Module, ids: Tensor) -> Caches | None:
    """What a model keeps of a context; None where that is not keys and values that grow with it."""
    if not _cache_name(model):
        return None
    with evaluating(model), torch.no_grad():
        outputs = model(ids.to(device_of(model)), use_cache=True)
    cache = next((c for name in CACHES if (c := getattr(outputs, name, None)) is not None), None)
    layers: Sequence[Any] = getattr(cache, "layers", ())
    caches = [(getattr(layer, "keys", None), getattr(layer, "values", None)) for layer in layers]
    whole = all(isinstance(k, Tensor) and isinstance(v, Tensor) and k.shape[-2] == ids.shape[1] for k, v in caches)
    return caches if caches and whole else None  # type: ignore[return-value]


def _logits(outputs: Any) -> Tensor:
    logits = logits_of(outputs)
    if not isinstance(logits, Tensor):
        raise InputError(f"tokens_per_second: the model returned {type(logits).__name__}; give a causal language model")
    return logits
