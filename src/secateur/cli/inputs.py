"""Example inputs as the command line gives them: ``ids=int64[2,128]<50257``, ``[1,3,224,224]``, or a file of tensors."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Generator, Tensor

    from secateur.types import ExampleInputs

__all__ = ["example_inputs"]

FORM = re.compile(
    r"(?:(?P<name>[A-Za-z_]\w*)=)?(?P<dtype>[a-z]+\d*)?\[(?P<sizes>\d+(?:,\d+)*)\](?:<(?P<limit>[1-9]\d*))?"
)
DTYPES = ("float32", "float64", "float16", "bfloat16", "complex64", "int64", "int32", "uint8", "bool")


def example_inputs(texts: Sequence[str]) -> ExampleInputs:
    """Return the inputs that `texts` describe: by name where they have names, else one after another.

    Numbers are drawn from a normal distribution, whole numbers from 0 up to the limit (2 without one), and masks are all
    true. A file (safetensors) gives its tensors by their names; names that are numbers stand for positions.

    Raises:
        InputError: a text is of another form, or some inputs have names and others have none.
        FileError: a file cannot be read.

    >>> inputs = example_inputs(["ids=int64[2,5]<7", "mask=bool[2,5]"])
    >>> {name: (tuple(x.shape), x.dtype) for name, x in inputs.items()}
    {'ids': ((2, 5), torch.int64), 'mask': ((2, 5), torch.bool)}
    """
    import torch

    from secateur.types import InputError

    generator = torch.Generator().manual_seed(0)
    named: list[tuple[str, Tensor]] = []
    for text in texts:
        matched = FORM.fullmatch(text.replace(" ", ""))
        if matched is None:
            named += _of_file(text)
        else:
            sizes = [int(size) for size in matched["sizes"].split(",")]
            drawn = _drawn(text, matched["dtype"] or "float32", sizes, matched["limit"], generator)
            named.append((matched["name"] or "", drawn))
    positional = [tensor for name, tensor in named if not name]
    if positional and len(positional) < len(named):
        raise InputError("--input: give all inputs by name (x=[1,8] mask=bool[1,8]), or none")
    return tuple(positional) if positional else dict(named)


def _of_file(text: str) -> list[tuple[str, Tensor]]:
    from secateur.files import read_tensors
    from secateur.types import FileError, InputError

    path = Path(text)
    if path.suffix != ".safetensors":
        raise InputError(
            f"--input {text!r}: write name=dtype[sizes]<limit, such as ids=int64[2,128]<50257 or [1,3,224,224] (quoted, as "
            "a shell takes < for its own), or name a .safetensors file"
        )
    try:
        _, tensors = read_tensors(path)
    except (OSError, ValueError) as error:
        raise FileError(f"--input: {path} cannot be read: {error}; give a .safetensors file of tensors") from error
    if not tensors:
        raise FileError(f"--input: {path} holds no tensor; give a .safetensors file of tensors")
    # Names of ASCII digits: others that are decimal digits, too, would stand for the same positions.
    if all(name.isascii() and name.isdecimal() for name in tensors):
        return [("", tensors[name]) for name in sorted(tensors, key=int)]
    return list(tensors.items())


def _drawn(text: str, dtype_name: str, sizes: Sequence[int], limit: str | None, generator: Generator) -> Tensor:
    import torch

    from secateur.checks import check_name
    from secateur.types import InputError

    check_name("dtype of --input", dtype_name, DTYPES)
    dtype: torch.dtype = getattr(torch, dtype_name)
    if dtype is torch.bool:
        return torch.ones(sizes, dtype=dtype)
    if not (dtype.is_floating_point or dtype.is_complex):
        return torch.randint(0, int(limit or 2), sizes, generator=generator).to(dtype)
    if limit is not None:
        raise InputError(f"--input {text!r}: a limit goes with whole numbers, such as int64[2,128]<50257")
    wide = torch.complex64 if dtype.is_complex else torch.float32
    return torch.randn(sizes, generator=generator, dtype=wide).to(dtype)
