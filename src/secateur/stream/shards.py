"""Weights that stay on disk: read block by block from safetensors shards, and written one shard a block."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save as dump_tensors
from torch import Tensor, nn

from secateur.calls import looking
from secateur.checks import in_one_line
from secateur.copies import copied
from secateur.files import MALFORMED, check_regular, from_json, new_folder, read_text, write_bytes, write_text
from secateur.measure.language import Tokens
from secateur.state import all_finite, own_tensors
from secateur.stream.blocks import block_container
from secateur.stream.steps import BlockStep, CutUnits
from secateur.stream.walking import BlockWalk
from secateur.structure.fitting import fitting_sizes
from secateur.structure.rebuilding import Changes, is_configured
from secateur.types import FileError
from secateur.wrappers import check_module

__all__ = ["Shards", "WalkedFolder", "empty_weights", "walk_folder"]

INDEX, SINGLE, CONFIG = "model.safetensors.index.json", "model.safetensors", "config.json"

WEIGHTS, INDICES = (".safetensors", ".bin", ".pt", ".pth", ".ckpt", ".h5", ".msgpack", ".gguf", ".onnx"), ".index.json"
"""Files of the larger model's weights, in whatever form: they have no place beside the smaller one."""


@contextmanager
def empty_weights() -> Iterator[None]:
    """Let modules that are made within have their parameters on the meta device, where they take no memory.

    Buffers are real, as those that no file holds (rotary frequencies) must have their values.

    >>> with empty_weights():
    ...     layer = nn.BatchNorm1d(3)
    >>> layer.weight.is_meta, layer.running_var.is_meta
    (True, False)
    """
    original = nn.Module.register_parameter

    def on_meta(module: nn.Module, name: str, param: nn.Parameter | None) -> None:
        original(module, name, param)
        if param is not None and not param.is_meta:
            module._parameters[name] = nn.Parameter(param.detach().to("meta"), param.requires_grad)

    nn.Module.register_parameter = on_meta  # type: ignore[method-assign, assignment]
    try:
        yield
    finally:
        nn.Module.register_parameter = original  # type: ignore[method-assign]


@dataclass(frozen=True)
class Shards:
    """The tensors of a folder of safetensors files, by name, read when they are asked for.

    Attributes:
        files: the file of each tensor.

    Raises:
        FileError: the folder holds no such files, or a damaged one.
    """

    files: Mapping[str, Path]

    @classmethod
    def of(cls, folder: str | os.PathLike[str]) -> Shards:
        """Return the tensors of a folder with `model.safetensors`, or with shards and their index."""
        root = Path(folder)
        if (root / INDEX).is_file():
            with _reading(root / INDEX):
                table = from_json(read_text(root / INDEX))["weight_map"]
                return cls({name: root / Path(file).name for name, file in table.items()})
        if not (root / SINGLE).is_file():
            raise FileError(f"{root}: there is no {SINGLE} and no {INDEX}; give a folder that save_pretrained wrote")
        with _opened(root / SINGLE) as file:
            return cls(dict.fromkeys(file.keys(), root / SINGLE))

    def read(self, names: Iterable[str]) -> dict[str, Tensor]:
        """Return some of the tensors; names that the files do not hold are left out."""
        tensors: dict[str, Tensor] = {}
        for path, file_names in self._by_file(names):
            with _opened(path) as file:
                tensors.update({name: file.get_tensor(name) for name in file_names})
            for name in file_names:
                if not all_finite(tensors[name]):
                    raise FileError(f"{path}: {name} holds NaN or infinite values; give a good checkpoint")
        return tensors

    def headers(self) -> dict[str, str]:
        """Return the shape of every tensor in words, and whether it holds whole numbers."""
        headers: dict[str, str] = {}
        for path, names in self._by_file(self.files):
            with _opened(path) as file:
                for name in names:
                    part = file.get_slice(name)
                    headers[name] = _header(part.get_shape(), "F" in part.get_dtype())
        return headers

    def check(self, model: nn.Module, path: str) -> None:
        """Refuse tensors that are not those of a model, whose blocks lie at `path`.

        Raises:
            FileError: blocks are too many, a parameter is missing, or one has another shape.
        """
        held, own = self.headers(), own_tensors(model)
        blocks = {name for name, _ in model.get_submodule(path).named_children()}
        inside = (name for name in held if name.startswith(f"{path}."))
        wrong = [name for name in inside if name.removeprefix(f"{path}.").partition(".")[0] not in blocks]
        known = {
            id(own[name]) for name in held if name in own
        }  # a parameter that is tied has its values by another name
        wrong += [n for n, t in own.items() if isinstance(t, nn.Parameter) and id(t) not in known]
        needed = {name: _header(tensor.shape, tensor.is_floating_point()) for name, tensor in own.items()}
        wrong += [name for name, header in held.items() if needed.get(name, header) != header]
        if wrong:
            name = wrong[0]
            raise FileError(
                f"walk_folder: {name} is {needed.get(name, 'not')} in the model and {held.get(name, 'not')} in the files; make the model of the config that "
                "lies beside the files, by AutoConfig.from_pretrained"
            )

    def _by_file(self, names: Iterable[str]) -> Iterable[tuple[Path, list[str]]]:
        by_file: dict[Path, list[str]] = {}
        for name in names:
            if name in self.files:
                by_file.setdefault(self.files[name], []).append(name)
        return by_file.items()


def _header(shape: Iterable[int], floating: bool) -> str:
    return f"{tuple(shape)}{'' if floating else ' of whole numbers'}"


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    """Say of what is damaged which file it is in."""
    try:
        yield
    except (OSError, SafetensorError, *MALFORMED) as error:
        raise FileError(f"{path}: cannot be read ({in_one_line(error)}); download the model again") from error


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    with _reading(path):
        check_regular(path)
        with safe_open(str(path), framework="pt") as file:
            yield file


@dataclass(frozen=True)
class WalkedFolder:
    """A smaller language model on disk.

    Attributes:
        folder: where it is.
        errors: by block, how much of the uncut model's residual stream is missing behind it (a share of its square).
        sizes: what changed in its config, by dotted names.
    """

    folder: Path
    errors: Mapping[str, float]
    sizes: Mapping[str, int]


@looking
def walk_folder(
    model: nn.Module,
    source: str | os.PathLike[str],
    target: str | os.PathLike[str],
    tokens: Tokens,
    step: BlockStep | None = None,
    *,
    mask: Tensor | None = None,
    container: str | None = None,
) -> WalkedFolder:
    """Make a model smaller whose weights stay on disk: blocks are read, cut and written one by one.

    It holds what stands outside of the blocks, one block three times, and the calibration text's activations, however many
    blocks there are.

    Args:
        model: made within `empty_weights`; it is left as it is.
        source: a folder of safetensors files whose tensors are named as the model's, as `save_pretrained` writes it.
        target: where the smaller model goes: one shard a block, an index, and the other files of `source` with the new
            sizes in `config.json`.
        tokens, step, mask, container: as in `secateur.stream.walk`.

    Raises:
        FileError: files are missing, damaged or not those of this model, or `target` is `source` or holds files.
    """
    check_module(model, "walk_folder")
    root, shards, path = Path(target), Shards.of(source), block_container(model, container)
    if root.resolve() == Path(source).resolve():
        raise FileError(f"{root}: the smaller model would replace the one it is made of; give another folder")
    shards.check(model, path)
    config = _config(model, Path(source))
    rest = shards.read(name for name in shards.files if not name.startswith(f"{path}."))
    first = next(iter(dict(model.get_submodule(path).named_children())))
    walking = BlockWalk.begin(_with_tensors(model, rest), path, tokens, mask, _block(shards, f"{path}.{first}"))
    with new_folder(root) as scratch:
        errors, shapes = _write_blocks(walking, shards, rest, scratch, step or CutUnits())
        sizes = fitting_sizes(model, shapes)
        _copy_rest(Path(source), scratch, config, sizes)
    return WalkedFolder(root, errors, {".".join(map(str, place)): size for place, size in sizes.items()})


def _write_blocks(
    walking: BlockWalk, shards: Shards, rest: Mapping[str, Tensor], folder: Path, step: BlockStep
) -> tuple[dict[str, float], dict[str, tuple[int, ...]]]:
    """Walk over the blocks, write what is left of each, and return their errors, and the shapes of all tensors."""
    files, errors = _Files(folder, len(walking.blocks) + 1), {}
    shapes = {name: tuple(tensor.shape) for name, tensor in rest.items()}
    files.write(rest)
    for name in walking.blocks:
        cut = walking.advance(step, _block(shards, name))
        small = {
            f"{name}.{tensor}": value for tensor, value in cut.tensors.items() if f"{name}.{tensor}" in shards.files
        }
        files.write(small)
        errors[name] = cut.error
        shapes |= {tensor: tuple(value.shape) for tensor, value in small.items()}
    files.finish()
    return errors, shapes


def _config(model: nn.Module, source: Path) -> dict[str, Any] | None:
    """What the config of a folder says; None where it has none."""
    if not (source / CONFIG).exists():
        if is_configured(model):
            raise FileError(f"{source}: there is no {CONFIG}; copy the one that the model was made of there")
        return None
    with _reading(source / CONFIG):
        config = from_json(read_text(source / CONFIG))
        if not isinstance(config, dict):
            raise ValueError("it holds no options by name")
    return config


def _block(shards: Shards, name: str) -> dict[str, Tensor]:
    prefix = f"{name}."
    return {n.removeprefix(prefix): t for n, t in shards.read(n for n in shards.files if n.startswith(prefix)).items()}


def _with_tensors(model: nn.Module, tensors: Mapping[str, Tensor]) -> nn.Module:
    """A copy of the model with these parameters; the others stay on meta."""
    own = own_tensors(model)
    memo: dict[int, Any] = {id(own[n]): nn.Parameter(t.to(own[n].dtype), False) for n, t in tensors.items() if n in own}
    return copied(model, memo)


class _Files:
    """Shards that are written one after the other, and their index."""

    def __init__(self, folder: Path, count: int) -> None:
        self.folder, self.count, self.nbytes, self.number = folder, count, 0, 0
        self.table: dict[str, str] = {}

    def write(self, tensors: Mapping[str, Tensor]) -> None:
        """Write the next shard."""
        self.number += 1
        name = f"model-{self.number:05d}-of-{self.count:05d}.safetensors"
        whole = {tensor: value.contiguous() for tensor, value in tensors.items()}
        write_bytes(self.folder / name, dump_tensors(whole, {"format": "pt"}))
        self.table |= dict.fromkeys(tensors, name)
        self.nbytes += sum(value.nbytes for value in tensors.values())

    def finish(self) -> None:
        """Write the index."""
        index = {"metadata": {"total_size": self.nbytes}, "weight_map": self.table}
        write_text(self.folder / INDEX, json.dumps(index, indent=2, sort_keys=True))


def _copy_rest(source: Path, target: Path, config: dict[str, Any] | None, sizes: Changes) -> None:
    for file in sorted(source.iterdir()):
        if file.is_file() and file.suffix not in WEIGHTS and not file.name.endswith(INDICES) and file.name != CONFIG:
            shutil.copyfile(file, target / file.name)
    if config is not None:
        for place, size in sizes.items():
            holder: Any = config
            for name in place[:-1]:
                holder = holder.setdefault(name, {})
            holder[place[-1]] = size
        write_text(target / CONFIG, json.dumps(config, indent=2, sort_keys=True))
