"""Saving a pruned model to a folder, and building it again from the original architecture."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors.torch import save as dump_tensors
from torch import Tensor, int32, int64, nn
from torch.fx import GraphModule

from secateur.saving.folder import check_target, write_folder
from secateur.saving.graph import check_answers, keep_graph, rebuild
from secateur.saving.manifest import MANIFEST, MODEL, PLAN, Manifest, dump_manifest, read_manifest, read_tensors
from secateur.saving.weights import unshared
from secateur.state import check_module
from secateur.state_dicts import fill
from secateur.structure.cut import Plan, apply_plan
from secateur.types import FileError, InputError, Keep, Sites, TraceError

__all__ = ["load", "read_report", "save"]


def save(
    folder: str | os.PathLike[str],
    model: nn.Module,
    plan: Plan,
    report: Mapping[str, Any],
    graph: tuple[Sites, Keep] | None = None,
) -> Path:
    """Write a pruned model to `folder` and return its path; the folder appears whole or not at all.

    A folder that this function wrote before is replaced; any other folder that is not empty is refused.

    Args:
        folder: where to.
        model: the pruned model.
        plan: what the cut did.
        report: plain data to keep with it.
        graph: for a model in graph form, the sites of the original and the masks; None for a module.

    Raises:
        FileError: the folder holds other files or cannot be written, or a graph's example inputs cannot be kept.
    """
    target = Path(folder)
    check_target(target)
    tensors, shared = unshared(model.state_dict())
    inputs: dict[str, Any] | None = None
    if graph is None:
        form, attributes = "module", plan.attributes
        kept = {f"{n}|{d}": index.to(int32) for n, dims in plan.rows.items() for d, index in dims.items()}
    else:
        assert isinstance(model, GraphModule)
        form, attributes = "graph", {}
        inputs, kept = keep_graph(model, *graph)
    files = {MODEL: dump_tensors(tensors), PLAN: dump_tensors(kept)}
    sha256 = {name: hashlib.sha256(data).hexdigest() for name, data in files.items()}
    manifest = Manifest(form, sha256, attributes, shared, report, inputs)
    write_folder(target, {**files, MANIFEST: dump_manifest(manifest)})
    return target


def load(folder: str | os.PathLike[str], model: nn.Module) -> nn.Module:
    """Return the pruned model that `folder` holds, built from a `model` of the original architecture.

    A model in graph form is traced and cut again, and its answers are compared with those of the saved one.

    Args:
        folder: what `Result.save` wrote.
        model: the model as it was before pruning; its weights do not matter, and it is left as it is.

    Raises:
        FileError: a file is missing, truncated or tampered with, or `model` is of another architecture.

    >>> import tempfile, torch
    >>> from secateur.prune import prune
    >>> model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 2))
    >>> folder = prune(model, torch.zeros(1, 8), latency=False).save(Path(tempfile.mkdtemp()) / "small")
    >>> load(folder, nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 2)))[0]
    Linear(in_features=8, out_features=8, bias=True)
    """
    check_module(model, "load")
    source = Path(folder)
    manifest = read_manifest(source)
    tensors = read_tensors(source / MODEL, manifest.sha256[MODEL])
    kept = read_tensors(source / PLAN, manifest.sha256[PLAN])
    try:
        if manifest.form == "graph":
            return _load_graph(model, manifest, tensors, kept)
        plan = Plan(_rows(model, kept), _attributes(model, manifest.attributes))
        return _filled(apply_plan(model, plan), tensors, manifest.shared)
    # What a wrong architecture or a forged manifest leads to; the trace itself says what it cannot follow.
    except (
        FileError,
        InputError,
        TraceError,
        RuntimeError,
        LookupError,
        AttributeError,
        TypeError,
        ValueError,
    ) as error:
        first = next(iter(str(error).splitlines()), type(error).__name__)
        raise FileError(
            f"{source}: does not fit this {type(model).__name__} ({first}); "
            "pass the architecture that was pruned, with the same options"
        ) from error


def _load_graph(
    model: nn.Module, manifest: Manifest, tensors: dict[str, Tensor], kept: Mapping[str, Tensor]
) -> nn.Module:
    if manifest.inputs is None:
        raise FileError("the manifest of a graph has no inputs")
    graph = rebuild(model, manifest.inputs, kept)
    _filled(graph, tensors, manifest.shared)
    check_answers(graph, manifest.inputs, kept)
    return graph


def _filled(small: nn.Module, tensors: dict[str, Tensor], shared: Mapping[str, str]) -> nn.Module:
    fill(small, {**tensors, **{name: tensors[other] for name, other in shared.items()}}, "the saved model")
    return small


def read_report(folder: str | os.PathLike[str]) -> dict[str, Any]:
    """Return the report that was saved with a pruned model, as plain data.

    Raises:
        FileError: the manifest is missing or damaged.

    >>> import tempfile, torch
    >>> from secateur.prune import prune
    >>> model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 2))
    >>> folder = prune(model, torch.zeros(1, 8), latency=False).save(Path(tempfile.mkdtemp()) / "small")
    >>> read_report(folder)["parameters"]
    [178, 90]
    """
    return dict(read_manifest(Path(folder)).report)


def _rows(model: nn.Module, stored: Mapping[str, Tensor]) -> dict[str, dict[int, Tensor]]:
    """The rows to keep; each must be a selection of rows that the model has, in their order."""
    rows: dict[str, dict[int, Tensor]] = {}
    for key, index in stored.items():
        name, _, dim = key.rpartition("|")
        path, _, attribute = name.rpartition(".")
        tensor = getattr(model.get_submodule(path), attribute, None)
        if not isinstance(tensor, Tensor) or not dim.isdecimal() or int(dim) >= tensor.ndim:
            raise FileError(f"{key!r} is not a dimension of a tensor of it")
        size = tensor.shape[int(dim)]
        # The count first, so that a forged index is never worked with.
        if index.dtype not in (int32, int64) or index.ndim != 1 or not 0 < index.numel() <= size:
            raise FileError(f"the rows of {name!r} are {index.dtype} of shape {tuple(index.shape)} for its {size}")
        if int(index[0]) < 0 or int(index[-1]) >= size or not bool((index.diff() > 0).all()):
            raise FileError(f"the rows of {name!r} lie outside its {size}, or are out of order")
        rows.setdefault(name, {})[int(dim)] = index.long()
    return rows


def _attributes(
    model: nn.Module, stored: Mapping[str, Mapping[str, int | list[int]]]
) -> dict[str, dict[str, int | list[int]]]:
    """The attributes to mend; only sizes that a module already has may be set, and only to smaller ones."""
    modules = dict(model.named_modules())
    for path, attributes in stored.items():
        for attribute, value in attributes.items():
            own = {} if attribute.startswith("_") or path not in modules else vars(modules[path])
            if not _is_smaller(value, own.get(attribute)):
                raise FileError(f"{path}.{attribute} = {value!r} is no size of it")
    return {path: dict(attributes) for path, attributes in stored.items()}


def _is_smaller(new: object, old: object) -> bool:
    if isinstance(new, list):
        return isinstance(old, (list, tuple)) and len(new) == len(old) and all(map(_is_smaller, new, old))
    if not isinstance(new, int) or not isinstance(old, int) or isinstance(old, bool):
        return False
    return 1 <= new <= old or new == old
