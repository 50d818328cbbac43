"""A language model cut on text, on the command line."""

from __future__ import annotations

import json
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from secateur.cli.networks import TRANSFORMERS, is_of_transformers, write_pruned
from secateur.pruning import PruneOptions

if TYPE_CHECKING:
    from torch import nn

    from secateur.result import Result

__all__ = ["prune_on_text"]

SPARSITY, HELD_OUT = 0.25, 8
"""The fraction of every MLP that goes where none is asked for, and of how many sequences one is for measuring alone."""

TAKEN = ("sparsity", "criterion")


def prune_on_text(
    name: str, network: nn.Module, text: Path, chosen: dict[str, Any], out: Path, *, recover: bool, as_json: bool
) -> None:
    """Cut every MLP of a model of transformers on a file of text, repair and perhaps train it, and write it.

    Args:
        name: of the model, ``hf:PATH``.
        network: it.
        text: the file.
        chosen: the options of `prune`.
        out: the folder to write to.
        recover: whether the cut model is trained on the uncut one's answers to the text.
        as_json: whether a record is printed in the place of a report.

    Raises:
        InputError: the model is another, or an option does not go with text.
    """
    from secateur.types import InputError

    if not is_of_transformers(name):
        raise InputError(
            f"--text cuts a language model of transformers; {name} is none, which begins with {TRANSFORMERS}"
        )
    defaults = {field.name: field.default for field in fields(PruneOptions)}
    asked_for = {option: value for option, value in chosen.items() if value != defaults[option]}
    other = next((option for option in asked_for if option not in TAKEN), None)
    if other is not None:
        raise InputError(
            f"--{other.replace('_', '-')} does not go with --text, which takes --sparsity and --criterion; leave it out"
        )
    result = _walked(name, network, text, asked_for, recover)
    history = result.history
    write_pruned(name, result, out)
    if as_json:
        perplexity = history.to_dict()["perplexity"]
        print(json.dumps({"folder": str(out), **result.report.to_dict(), "perplexity": perplexity}))
        return
    print(result.report)
    trained = "" if history.untrained is None else f"{history.untrained:.2f} untrained → "
    print(f"{'perplexity':<11}{history.before:>14.2f} → {trained}{history.after:.2f}     (text that was held out)")
    print(f"written to {out}")


def _walked(name: str, network: nn.Module, text: Path, chosen: dict[str, Any], recover: bool) -> Result:
    from secateur.integrations import huggingface
    from secateur.stream import CutUnits, walk
    from secateur.train import Recovery

    sequences = huggingface.read_tokens(network, name.removeprefix(TRANSFORMERS), text)
    step = CutUnits(chosen.get("sparsity", SPARSITY), chosen.get("criterion") or "output-norm", "stream")
    held_out = max(1, len(sequences) // HELD_OUT)
    recovery = Recovery() if recover else None
    return walk(network, sequences[held_out:], step, recover=recovery, held_out=sequences[:held_out])
