"""What the study cuts, and the text: a small decoder of characters, or a folder that transformers loads."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from secateur.checks import in_one_line
from secateur.files import require
from secateur.lab.plan.recipe import Json
from secateur.models.decoder import Decoder, decoder
from secateur.types import InputError

__all__ = ["DECODER", "TOPICS", "Texts", "characters", "load", "made", "texts", "weights_digest"]

DECODER = "decoder"
"""The model that the study trains itself."""

TOPICS = "python-topics"
"""The text that every Python has: what its help says on the language (`pydoc_data.topics`)."""

_FIRST = 32
"""The code point of the first character that is a token of its own; a new line is token 95, and so is what is not ASCII."""
VOCABULARY = 96


def characters(text: str) -> Tensor:
    """Return a token for each character: printable ASCII in its order, 95 for a new line and all else.

    >>> characters(" a\\n").tolist()
    [0, 65, 95]
    """
    codes = torch.frombuffer(bytearray(text.encode("ascii", "replace")), dtype=torch.uint8).long() - _FIRST
    return codes.where((codes >= 0) & (codes < VOCABULARY - 1), torch.tensor(VOCABULARY - 1))


def made(options: Mapping[str, Any], seed: int) -> Decoder:
    """Return the untrained decoder with these options of `secateur.models.decoder.decoder`.

    Raises:
        InputError: it does not take them.
    """
    sizes = {"blocks": 4, "width": 64, "heads": 4, "groups": 2, "neurons": 192, "vocabulary": VOCABULARY}
    try:
        return decoder(**{**sizes, **options}, seed=seed)
    except (TypeError, RuntimeError) as error:
        raise InputError(f"model_options {dict(options)} make no decoder: {in_one_line(error)}") from error


@lru_cache(maxsize=1)
def load(folder: str) -> nn.Module:
    """Return a causal model from a folder that transformers loads, in float32.

    Raises:
        MissingLibraryError: transformers is not installed.
        InputError: the folder holds none.
    """
    transformers = require("transformers", "lm")
    try:
        model: nn.Module = transformers.AutoModelForCausalLM.from_pretrained(
            _folder(folder), dtype=torch.float32, local_files_only=True
        )
    except (OSError, ValueError) as error:
        raise InputError(f"model {folder!r} is none that transformers loads: {in_one_line(error)}") from error
    return model.eval()


def _folder(folder: str) -> Path:
    if not (Path(folder) / "config.json").is_file():
        raise InputError(
            f"model is {folder!r}; give {DECODER!r} or a folder with a config.json that transformers loads"
        )
    return Path(folder)


def weights_digest(model: nn.Module) -> str:
    """Return what tells one model's weights from another's: the first digits of the SHA-256 of all of its tensors."""
    digest = hashlib.sha256()
    for name, tensor in model.state_dict().items():
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        digest.update(tensor.detach().cpu().contiguous().view(torch.uint8).numpy().data)
    return digest.hexdigest()[:12]


@dataclass(frozen=True, eq=False)
class Texts:
    """Sequences of tokens ``(sequences, length)``, drawn by a seed; no sequence is in two of them but in `training`.

    Attributes:
        untouched: for figures alone.
        calibration: what criteria and repairs look at.
        training: what a model may have been trained on: all but `untouched`.
    """

    untouched: Tensor
    calibration: Tensor
    training: Tensor


def texts(data: str, model: str, seed: int, length: int, untouched: int, calibration: int = 0) -> Texts:
    """Return a text's sequences, in the order that a seed draws.

    Args:
        data: `TOPICS`, or a file or folder of text (``*.txt``).
        model: `DECODER`, whose tokens are characters, or the folder of a model with its tokenizer.
        seed: of the draw.
        length: tokens a sequence.
        untouched, calibration: tokens, of which as many whole sequences are taken.

    Raises:
        InputError: there is no such text, or too little of it.
    """
    tokens = _tokens(data, model)
    sequences = tokens[: len(tokens) // length * length].view(-1, length)
    order = torch.randperm(len(sequences), generator=torch.Generator().manual_seed(seed))
    first, second = -(-untouched // length), -(-calibration // length)
    if len(sequences) <= first + second:
        raise InputError(
            f"the text {data!r} has {len(tokens):,} tokens; {untouched:,} untouched and {calibration:,} for calibration are "
            f"too many in sequences of {length}; give fewer, or more text"
        )
    return Texts(sequences[order[:first]], sequences[order[first : first + second]], sequences[order[first:]])


@lru_cache(maxsize=2)
def _tokens(data: str, model: str) -> Tensor:
    text = _text(data)
    if model == DECODER:
        return characters(text)
    tokenizer = require("transformers", "lm").AutoTokenizer.from_pretrained(_folder(model), local_files_only=True)
    ids: Tensor = tokenizer(text, return_tensors="pt").input_ids[0]
    return ids


def _text(data: str) -> str:
    if data == TOPICS:
        from pydoc_data.topics import topics

        return "\n\n".join(topics[name] for name in sorted(topics))
    path = Path(data)
    files = sorted(path.rglob("*.txt")) if path.is_dir() else [path] if path.is_file() else []
    if not files:
        raise InputError(f"data is {data!r}; give {TOPICS!r}, a file of text, or a folder with *.txt in it")
    return "\n\n".join(file.read_text(encoding="utf-8", errors="replace") for file in files)


def parameters_of(settled: Mapping[str, Json]) -> dict[str, Json]:
    """Return what of a study's options decides the model and its untouched text, in its recipe.

    Raises:
        InputError: sequences are longer than the decoder's.
    """
    trained = settled["model"] == DECODER
    length = settled["length"] or (LONGEST if trained else 512)
    if trained and length > LONGEST:
        raise InputError(f"length is {length}; the decoder takes sequences of at most {LONGEST} tokens")
    shared = {**{name: settled[name] for name in ("data", "model", "untouched")}, "length": length}
    return shared | ({name: settled[name] for name in ("model_options", "epochs", "batch_size")} if trained else {})


LONGEST = 64
"""How many tokens the decoder takes."""
