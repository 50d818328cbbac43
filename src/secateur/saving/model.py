"""Saving a smaller model to a folder, and building it again from the original architecture."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

from safetensors.torch import save as dump_tensors
from torch import Tensor, nn

from secateur import edits as edit_kinds
from secateur.calls import usual
from secateur.copies import copied
from secateur.edits import Edit, GraphCut
from secateur.files import MALFORMED
from secateur.saving.answers import check_answers, question_and_answers
from secateur.saving.folder import check_target, write_folder
from secateur.saving.manifest import EDITS, MANIFEST, MODEL, Manifest, dump_manifest, read_manifest, read_tensors
from secateur.saving.records import joined, parted
from secateur.saving.stored import StateOnDisk, encoded
from secateur.saving.weights import unshared
from secateur.state_dicts import fill
from secateur.types import ExampleInputs, FileError, MissingLibraryError, SecateurError
from secateur.wrappers import check_module

__all__ = ["load", "load_with_edits", "read_record", "save"]


@usual
def save(
    folder: str | os.PathLike[str],
    model: nn.Module,
    edits: Sequence[Edit],
    report: Mapping[str, Any],
    history: Mapping[str, Any] | None = None,
    inputs: ExampleInputs | None = None,
) -> Path:
    """Write a smaller model to `folder` and return its path; the folder appears whole or not at all.

    A folder that this function wrote before is replaced; any other folder that is not empty is refused.

    Args:
        folder: where to.
        model: the smaller model.
        edits: what was done to the original, in order.
        report, history: plain data to keep with it.
        inputs: example inputs: numbers of what the model answers to ones of their shapes are kept, so that `load` can tell code
            that computes something else with tensors of the same shapes.

    Raises:
        FileError: the folder holds other files or cannot be written, or a graph's example inputs cannot be kept.
    """
    target = Path(folder)
    check_target(target)
    tensors, shared = unshared(model.state_dict())
    stored = encoded(tensors, edits)
    numbered: dict[str, Tensor] = {}
    records = [parted(edit_kinds.to_dict(edit), numbered, tensors) for edit in edits]
    codes = parted(stored, numbered)
    graph = next((edit for edit in edits if isinstance(edit, GraphCut)), None)
    answers = parted(question_and_answers(model, graph.inputs), numbered) if graph else None
    if graph is None and inputs is not None:
        with suppress(FileError):  # what cannot be described, or does not run on ones
            answers = parted(question_and_answers(model, inputs), numbered)
    plain = {name: tensor for name, tensor in tensors.items() if name not in stored}
    files = {MODEL: dump_tensors(plain), EDITS: dump_tensors(numbered)}
    sha256 = {name: hashlib.sha256(data).hexdigest() for name, data in files.items()}
    manifest = Manifest(sha256, records, shared, report, history, answers, codes)
    write_folder(target, {**files, MANIFEST: dump_manifest(manifest)})
    return target


@usual
def load(folder: str | os.PathLike[str], model: nn.Module) -> nn.Module:
    """Return the smaller model that `folder` holds, built from a `model` of the original architecture.

    What was done to the original is done again, then the saved tensors are filled in. A model in graph form is traced
    and cut again. Its answers to inputs of ones are compared with those of the saved one, where they were kept.

    Args:
        folder: what `Result.save` wrote.
        model: the model as it was before; its weights do not matter, and it is left as it is.

    Raises:
        FileError: a file is missing, truncated or tampered with, or `model` is of another architecture or answers otherwise.
        MissingLibraryError: its tensors were written by an entropy coder that is not installed.

    >>> import tempfile, torch
    >>> from secateur.pruning import prune
    >>> model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 2))
    >>> folder = prune(model, torch.zeros(1, 8), latency=False).save(Path(tempfile.mkdtemp()) / "small")
    >>> load(folder, nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 2)))[0]
    Linear(in_features=8, out_features=8, bias=True)
    """
    return load_with_edits(folder, model)[0]


@usual
def load_with_edits(folder: str | os.PathLike[str], model: nn.Module) -> tuple[nn.Module, tuple[Edit, ...]]:
    """Return the smaller model as `load` does, and the edits that were saved with it."""
    check_module(model, "load")
    source = Path(folder)
    manifest = read_manifest(source)
    tensors = read_tensors(source / MODEL, manifest.sha256[MODEL])
    numbered = read_tensors(source / EDITS, manifest.sha256[EDITS])
    state = StateOnDisk(tensors, manifest.encoded, numbered, manifest.shared)
    try:
        small, edits = _replayed(manifest, numbered, state, model)
        fill(small, state.whole(small), "the saved model")
        if manifest.answers is not None and not any(t.is_meta for t in small.parameters()):
            check_answers(small, joined(manifest.answers, numbered))
    except MissingLibraryError:
        raise
    # What a wrong architecture or a forged manifest leads to; the trace itself says what it cannot follow.
    except (SecateurError, *MALFORMED) as error:
        first = next(iter(str(error).splitlines()), type(error).__name__)
        raise FileError(
            f"{source}: does not fit this {type(model).__name__} ({first}); "
            "pass the architecture that was pruned, with the same options"
        ) from error
    return small, edits


def _replayed(
    manifest: Manifest, numbered: Mapping[str, Tensor], state: StateOnDisk, model: nn.Module
) -> tuple[nn.Module, tuple[Edit, ...]]:
    """Do the edits one after another: what one of them takes from the saved tensors must fit the model so far."""
    edits: list[Edit] = []
    small = model
    for record in manifest.edits:
        edits.append(edit_kinds.from_dict(joined(record, numbered, partial(state.tensor, model=small))))
        small = edits[-1].apply(small)
    return copied(model) if small is model else small, tuple(edits)


def read_record(folder: str | os.PathLike[str]) -> tuple[dict[str, Any], dict[str, Any] | None]:
    """Return the report and the history that were saved with a model, as plain data.

    Raises:
        FileError: the manifest is missing or damaged.
    """
    manifest = read_manifest(Path(folder))
    return dict(manifest.report), None if manifest.history is None else dict(manifest.history)
