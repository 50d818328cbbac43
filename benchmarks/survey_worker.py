"""One model surveyed: cut 30 % of every site, then compare with the zero-padded original, and look at the original."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Iterator
from typing import Any
from zlib import crc32

import torch
from torch import Tensor, nn

from coverage_case import Case
from coverage_worker import first_line
from oracle.unseen import Comparison, compare
from secateur.criteria import Magnitude, Random
from secateur.selection import select
from secateur.state import own_tensors
from secateur.structure import channels
from secateur.structure.cutting import cut_with_plan
from secateur.types import SecateurError
from zoo.parts import randomise

__all__ = ["TOLERANCE", "VERDICTS", "survey"]

SPARSITY, TOLERANCE = 0.3, 1e-9
VERDICTS = ("wrong", "touched", "narrow", "refused", "failed", "right")
"""Verified and wrong; the original changed; the cut model runs on less than the original; nothing was returned, with
an error of ours; something else went wrong; right."""

Row = dict[str, Any]


def survey(case: Case, scores: str, report: Callable[[Row], None]) -> None:
    """Survey one model; `report` is given the row after every stage, so that a child that is killed leaves word."""
    row: Row = {"suite": case.suite, "model": case.name, "verdict": "failed", "stage": "build"}
    warnings.simplefilter("ignore")
    logging.disable(logging.CRITICAL)  # torch reports failed attempts of its own
    torch.manual_seed(0)
    report(row)
    try:
        _survey(case, scores, row, report)
    except Exception as error:  # noqa: BLE001  (a survey records whatever happens)
        refused = isinstance(error, SecateurError) and row["stage"] in {"trace", "cut"}
        row.update(verdict="refused" if refused else row["verdict"])
        row.update(error_type=type(error).__name__, error=first_line(error))
    report(row)


def _survey(case: Case, scores: str, row: Row, report: Callable[[Row], None]) -> None:
    model, inputs = case.make()
    model.eval()
    randomise(model)
    next(model.children(), model).train()  # modes of both kinds are to be kept
    before = _state(model)
    report(row | {"stage": "trace"})
    row["stage"] = "trace"
    sites = channels(model, inputs)
    seed = crc32(case.name.encode())
    keep = select(
        (Random(seed) if scores == "random" else Magnitude(p=2))(model, sites), SPARSITY, scope="layer", sites=sites
    )
    row.update(stage="cut", sites=len(sites), frozen=len(sites.frozen))
    report(row)
    made = cut_with_plan(model, sites, keep)
    row.update(stage="compare", form="graph" if isinstance(made.model, torch.fx.GraphModule) else "module")
    row.update(own_difference=made.verification.example, removed=round(1 - _count(made.model) / _count(model), 4))
    report(row)
    touched = list(_moved(before, _state(model)))
    comparisons = compare(model, made.model, sites, keep, inputs, _vocabulary(model))
    _judge(row, comparisons, touched)
    row["stage"] = "done"


def _judge(row: Row, comparisons: list[Comparison], touched: list[str]) -> None:
    apart = [c.difference for c in comparisons if c.difference is not None]
    row["difference"] = max(apart, default=0.0)
    row["comparisons"] = [(_words(c), c.difference, c.error) for c in comparisons]
    # A graph that says which shapes it takes, and refuses others, promises no more than it holds.
    errors = [f"{_words(c)}: {c.error}" for c in comparisons if c.error and not c.refused]
    row["own_shapes"] = any(c.refused for c in comparisons)
    if touched:
        row.update(verdict="touched", error=f"the original changed: {', '.join(touched[:5])}")
    elif row["difference"] > TOLERANCE:
        worst = [_words(c) for c in comparisons if c.difference is not None and c.difference > TOLERANCE]
        row.update(verdict="wrong", error=f"verified at {row['own_difference']:.0e}; wrong with {'; '.join(worst)}")
    elif errors or not apart:
        row.update(verdict="narrow", error=next(iter(errors), "it refuses even the example's shapes"))
    else:
        row["verdict"] = "right"


def _words(comparison: Comparison) -> str:
    draw = comparison.inputs
    said = [f"{comparison.weights} weights", f"batch {draw.batch}", f"scale {draw.scale:g}"]
    return " ".join([*said, *(["longer"] if draw.stretch != (False, ()) else []), *(["padded"] if draw.padded else [])])


def _count(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


def _state(model: nn.Module) -> dict[str, Any]:
    tensors = {name: tensor.detach().clone() for name, tensor in own_tensors(model).items()}
    return {**tensors, **{f"mode of {path}": module.training for path, module in model.named_modules()}}


def _moved(before: dict[str, Any], after: dict[str, Any]) -> Iterator[str]:
    for name in dict.fromkeys([*before, *after]):
        old, new = before.get(name), after.get(name)
        same = torch.equal(old, new) if isinstance(old, Tensor) and isinstance(new, Tensor) else old == new
        if not same:
            yield name


def _vocabulary(model: nn.Module) -> int | None:
    """How many words a model knows: what its configuration says, else its largest table of embeddings."""
    config = getattr(model, "config", None)
    for holder in (config, getattr(config, "text_config", None)):
        for name in ("vocab_size", "src_vocab_size"):
            if isinstance(size := getattr(holder, name, None), int):
                return size
    return max((m.num_embeddings for m in model.modules() if isinstance(m, nn.Embedding)), default=None)
