"""Save a pruned model and load it again in another process: safetensors and JSON, no pickle.

A folder holds three files:

- ``model.safetensors`` — the small model's state dict (a tensor under two names is stored once);
- ``plan.safetensors`` — for each tensor that shrank, the rows that were kept, so that tensors outside the state dict
  (tables made at construction) are cut again on loading;
- ``secateur.json`` — the format, the attributes to mend, the report, and the SHA-256 of the other two and of itself.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load as parse_tensors
from safetensors.torch import save as dump_tensors
from torch import Tensor, nn

from secateur.files import write_bytes
from secateur.structure.cut import Plan, apply_plan
from secateur.types import FileError

__all__ = ["load", "load_weights", "read_report", "save", "save_weights"]

FORMAT = 1
MODEL, PLAN, MANIFEST = "model.safetensors", "plan.safetensors", "secateur.json"


def save(folder: str | os.PathLike[str], model: nn.Module, plan: Plan, report: Mapping[str, Any]) -> Path:
    """Write a pruned model to `folder` and return its path; the folder appears whole or not at all.

    A folder that this function wrote before is replaced; any other folder that is not empty is refused.
    """
    target = Path(folder)
    _check_target(target)
    tensors, shared = _unshared(model.state_dict())
    rows = {f"{n}|{d}": index.to(torch.int32) for n, dims in plan.rows.items() for d, index in dims.items()}
    files = {MODEL: dump_tensors(tensors), PLAN: dump_tensors(rows)}
    body = {
        "format": FORMAT,
        "sha256": {name: hashlib.sha256(data).hexdigest() for name, data in files.items()},
        "attributes": plan.attributes,
        "shared": shared,
        "report": report,
    }
    files[MANIFEST] = json.dumps({**body, "checksum": _checksum(body)}, indent=1).encode()
    _write_folder(target, files)
    return target


def load(folder: str | os.PathLike[str], model: nn.Module) -> nn.Module:
    """Return the pruned model that `folder` holds, built from a `model` of the original architecture.

    Args:
        folder: what `Result.save` wrote.
        model: the model as it was before pruning; its weights do not matter, and it is left as it is.

    Raises:
        FileError: a file is missing, truncated or tampered with, or `model` is of another architecture.
    """
    source = Path(folder)
    manifest = _read_manifest(source)
    tensors = _read_tensors(source / MODEL, manifest["sha256"][MODEL])
    rows = _read_tensors(source / PLAN, manifest["sha256"][PLAN])
    plan = Plan(_rows(source, model, rows), _attributes(source, model, manifest["attributes"]))
    try:
        small = apply_plan(model, plan)
        for name, other in manifest["shared"].items():
            tensors[name] = tensors[other]
        small.load_state_dict(tensors)
    except (RuntimeError, IndexError, AttributeError, KeyError) as error:
        raise FileError(
            f"{source}: does not fit this {type(model).__name__} ({str(error).splitlines()[0]}); "
            "pass the architecture that was pruned, with the same options"
        ) from error
    return small


def save_weights(path: str | os.PathLike[str], model: nn.Module) -> None:
    """Write the state dict of `model` to one safetensors file; it appears whole or not at all."""
    tensors, shared = _unshared(model.state_dict())
    write_bytes(Path(path), dump_tensors(tensors, metadata=shared or None))


def load_weights(path: str | os.PathLike[str], model: nn.Module) -> None:
    """Load a state dict from a safetensors file, or from one that `torch.save` wrote, into `model`.

    A ``torch.save`` file is read with ``weights_only=True``: tensors and plain containers, no code.

    Raises:
        FileError: the file is missing or damaged, or does not fit the model, which is then left as it was.
    """
    source = Path(path)
    try:
        if source.suffix == ".safetensors":
            with safe_open(source, framework="pt") as file:
                state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  (not a mapping)
                state |= {name: state[other] for name, other in (file.metadata() or {}).items() if other in state}
        else:
            state = torch.load(source, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise FileError(f"{source}: not found; give a file of weights") from None
    except Exception as error:
        first = next(iter(str(error).splitlines()), type(error).__name__)
        raise FileError(f"{source}: cannot be read as weights ({first}); give a safetensors file") from error
    _fit_state(source, model, state)


def _fit_state(source: Path, model: nn.Module, state: Any) -> None:
    own = model.state_dict()
    if not isinstance(state, Mapping) or not all(isinstance(t, Tensor) for t in state.values()):
        raise FileError(f"{source}: holds no state dict (names and tensors); save model.state_dict()")
    wrong = [n for n in own if n not in state or state[n].shape != own[n].shape] + [n for n in state if n not in own]
    if wrong:
        raise FileError(
            f"{source}: does not fit this {type(model).__name__} ({len(wrong)} tensors are missing, spare or of another "
            f"shape, the first {wrong[0]!r}); pass the same architecture and options"
        )
    model.load_state_dict(dict(state))


def read_report(folder: str | os.PathLike[str]) -> dict[str, Any]:
    """Return the report that was saved with a pruned model."""
    report: dict[str, Any] = _read_manifest(Path(folder))["report"]
    return report


def _check_target(target: Path) -> None:
    if target.is_file():
        raise FileError(f"{target}: is a file; name a folder to save to")
    if target.is_dir() and any(target.iterdir()) and not (target / MANIFEST).exists():
        raise FileError(f"{target}: holds other files; name a new or empty folder to save to")


def _unshared(state: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors to store, and the names of those that are another one."""
    first: dict[tuple[int, tuple[int, ...]], str] = {}
    tensors: dict[str, Tensor] = {}
    shared: dict[str, str] = {}
    for name, tensor in state.items():
        key = (tensor.data_ptr(), tuple(tensor.shape))
        if tensor.numel() and key in first:
            shared[name] = first[key]
        else:
            first[key] = name
            tensors[name] = tensor.detach().cpu().clone().contiguous()
    return tensors, shared


def _checksum(body: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()


def _write_folder(target: Path, files: Mapping[str, bytes]) -> None:
    """Write beside the target and rename, so that a crash leaves either the old folder or the new one."""
    target.parent.mkdir(parents=True, exist_ok=True)
    staging = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
    try:
        for name, data in files.items():
            with open(staging / name, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
        staging.chmod(0o755)
        if target.exists():
            old = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
            target.rename(old / "old")
            staging.rename(target)
            shutil.rmtree(old)
        else:
            staging.rename(target)
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def _read_manifest(source: Path) -> dict[str, Any]:
    path = source / MANIFEST
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
        body = {key: value for key, value in manifest.items() if key != "checksum"}
        found = manifest["checksum"] == _checksum(body)
    except FileNotFoundError:
        raise FileError(f"{path}: not found; pass a folder that Result.save wrote") from None
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise FileError(f"{path}: is not a manifest of a pruned model ({error}); save the model again") from error
    if not found:
        raise FileError(f"{path}: was changed after it was written (its checksum differs); save the model again")
    if manifest["format"] != FORMAT:
        raise FileError(f"{path}: has format {manifest['format']}; this version reads {FORMAT}; save the model again")
    return manifest  # type: ignore[no-any-return]


def _read_tensors(path: Path, sha256: str) -> dict[str, Tensor]:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise FileError(f"{path}: cannot be read ({error.strerror}); save the model again") from error
    if hashlib.sha256(data).hexdigest() != sha256:
        raise FileError(f"{path}: truncated or changed after it was written (SHA-256 differs); save the model again")
    try:
        return parse_tensors(data)
    except (SafetensorError, ValueError) as error:
        raise FileError(f"{path}: is not a safetensors file ({error}); save the model again") from error


def _rows(source: Path, model: nn.Module, stored: Mapping[str, Tensor]) -> dict[str, dict[int, Tensor]]:
    rows: dict[str, dict[int, Tensor]] = {}
    for key, index in stored.items():
        name, _, dim = key.rpartition("|")
        path, _, attribute = name.rpartition(".")
        try:
            tensor = getattr(model.get_submodule(path), attribute)
            size = tensor.shape[int(dim)]
        except (AttributeError, IndexError, ValueError):
            raise FileError(
                f"{source}: {name!r} is not a tensor of this {type(model).__name__}; pass the model pruned"
            ) from None
        if index.numel() == 0 or int(index.min()) < 0 or int(index.max()) >= size:
            raise FileError(f"{source}: rows of {name!r} lie outside its {size}; pass the architecture that was pruned")
        rows.setdefault(name, {})[int(dim)] = index.long()
    return rows


def _attributes(source: Path, model: nn.Module, stored: Any) -> dict[str, dict[str, Any]]:
    """The attributes to mend; only sizes that the module already has may be set, and only to sizes."""
    modules = dict(model.named_modules())
    for path, attributes in stored.items():
        for attribute, value in attributes.items():
            old = getattr(modules.get(path), attribute, None)
            if not (_is_size(old) and _is_size(value)):
                raise FileError(
                    f"{source}: would set {path}.{attribute}, which is no size of this {type(model).__name__}"
                )
    return stored  # type: ignore[no-any-return]


def _is_size(value: object) -> bool:
    if isinstance(value, (list, tuple)):
        return bool(value) and all(_is_size(v) for v in value)
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0
