"""Cut models of transformers as that library keeps them: a folder for ``from_pretrained``, a model card, the hub.

>>> # small = sc.prune(model, ids, sparsity=0.25, scope="layer")
>>> # huggingface.save(small, "small", tokenizer)      # then, in any process: AutoModelForCausalLM.from_pretrained("small")
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from secateur.checks import in_one_line
from secateur.files import MALFORMED, new_folder, require, write_text
from secateur.result import Result
from secateur.state import evaluating, split_inputs
from secateur.structure import is_configured, rebuilt_shapes, whole_numbers
from secateur.trees import tensors_within
from secateur.types import ExampleInputs, FileError, InputError

__all__ = [
    "example_inputs",
    "is_reloadable",
    "load",
    "load_tokenizer",
    "model_card",
    "push_to_hub",
    "read_tokens",
    "save",
]

EXTRA = "lm"
OWN_FOLDER = "secateur"
"""The folder within the one that is saved, for a model whose widths no config can say."""

LENGTH = 64
"""Tokens of an example that is made up."""


def load(path: str, **options: Any) -> nn.Module:
    """Return the model of a folder, or of the hub, as the class that its config names.

    Args:
        path: what ``from_pretrained`` takes.
        options: what else it takes, such as ``dtype`` or ``local_files_only``.

    Raises:
        MissingLibraryError: transformers is not installed.
        FileError: there is no such model, its files are damaged or lack weights, or its config names no class of transformers.
    """
    transformers = require("transformers", EXTRA)
    from safetensors import SafetensorError

    if not path:
        raise FileError("hf: names no model; give a folder or a name on the hub behind it, such as hf:path/to/llama")
    try:
        config = transformers.AutoConfig.from_pretrained(path)
        architecture = (config.architectures or ["none"])[0]
        kind = getattr(transformers, architecture, None)
        if kind is None:
            raise FileError(f"{path}: its config names the class {architecture!r}, which transformers does not have")
        model, told = kind.from_pretrained(path, **options, output_loading_info=True)
    except (OSError, SafetensorError, *MALFORMED) as error:
        raise FileError(
            f"{path}: transformers cannot load it ({in_one_line(error)}); give a folder that save_pretrained wrote"
        ) from error
    if missing := sorted(told["missing_keys"]):
        raise FileError(
            f"{path}: its files lack {len(missing)} of the weights that its config asks for, {missing[0]} among them, which "
            "would be random; give the config that belongs to the files, or train the whole model and save it"
        )
    return model.eval()  # type: ignore[no-any-return]


def load_tokenizer(path: str) -> Any:
    """Return the tokenizer that lies with a model; None where there is none."""
    transformers = require("transformers", EXTRA)
    try:
        return transformers.AutoTokenizer.from_pretrained(path)
    except (OSError, ValueError, LookupError, ImportError):
        return None


def read_tokens(model: nn.Module, path: str, text: str | os.PathLike[str], length: int = 512) -> Tensor:
    """Return a file of text as tokens, whole sequences ``(sequences, length)``, by the tokenizer that lies with a model.

    Args:
        model: whose config says how long a sequence may be at most.
        path: where its tokenizer is.
        text: the file.
        length: of a sequence.

    Raises:
        FileError: there is no such file, or no tokenizer.
        InputError: the text is too short for two sequences, one to cut on and one to measure on.
    """
    tokenizer = load_tokenizer(path)
    if tokenizer is None:
        raise FileError(f"{path}: there is no tokenizer beside the model; save one with it (tokenizer.save_pretrained)")
    try:
        words = Path(text).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise FileError(f"{text}: cannot be read as text: {error}") from error
    config: Any = model.config
    length = min(length, getattr(config, "max_position_embeddings", None) or length)
    ids: Tensor = tokenizer(words, return_tensors="pt", verbose=False)["input_ids"][0]
    if len(ids) < 2 * length:
        raise InputError(
            f"{text}: holds {len(ids)} tokens; give some thousands, two sequences of {length} at the least"
        )
    return ids[: len(ids) // length * length].view(-1, length)


def example_inputs(model: nn.Module) -> dict[str, Any]:
    """Return inputs that a model of transformers takes: random tokens, or a random picture, by what its config says.

    Raises:
        InputError: the model reads something else; give inputs of your own.
    """
    config: Any = model.config
    name = getattr(model, "main_input_name", "input_ids")
    generator = torch.Generator().manual_seed(0)
    if name == "input_ids" and hasattr(config, "vocab_size"):
        length = min(LENGTH, getattr(config, "max_position_embeddings", None) or LENGTH)
        ids = torch.randint(0, config.vocab_size, (1, length), generator=generator)
        return {"input_ids": ids, **({"decoder_input_ids": ids} if config.is_encoder_decoder else {})}
    if name == "pixel_values" and hasattr(config, "image_size"):
        size = config.image_size
        height, width = size if isinstance(size, list | tuple) else (size, size)
        return {name: torch.randn(1, getattr(config, "num_channels", 3), height, width, generator=generator)}
    raise InputError(
        f"what {type(model).__name__} reads ({name}) cannot be made up from its config; give example inputs"
    )


def is_reloadable(model: nn.Module) -> bool:
    """Return whether the config of a model says all its shapes, so that ``from_pretrained`` can build it."""
    if not is_configured(model) or not hasattr(model, "save_pretrained"):
        return False
    return rebuilt_shapes(model) == {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}


def save(result: Result, folder: str | os.PathLike[str], tokenizer: Any = None) -> Path:
    """Write a smaller model so that plain ``from_pretrained`` loads it, with a model card, and check that it does.

    Where widths differ in a way that no config can say, the model lies in ``secateur/`` under `folder` instead, and the
    model card says how it is loaded.

    Args:
        result: from `secateur.prune` or another road, of a model of transformers.
        folder: where to; new or empty.
        tokenizer: saved with it, for whoever generates.

    Raises:
        FileError: the folder holds other files; or the model that is loaded from it answers otherwise.
    """
    target = Path(folder)
    with new_folder(target) as written:
        _write(result, written, tokenizer)
    return target


def _write(result: Result, folder: Path, tokenizer: Any) -> None:
    model: Any = result.model
    card = model_card(result)  # now, as saving writes into the config
    if is_reloadable(model):
        model.save_pretrained(folder)
        _check_reloaded(result, folder)
    else:
        result.save(folder / OWN_FOLDER)
    if tokenizer is not None:
        tokenizer.save_pretrained(folder)
    write_text(folder / "README.md", card)


def _check_reloaded(result: Result, folder: Path) -> None:
    """Load what was saved, and require the same tensors and, on the example, the same answers to the bit."""
    model: Any = result.model
    again = type(model).from_pretrained(folder, dtype=model.dtype).to(model.device)
    state = model.state_dict()
    differing = [name for name, tensor in again.state_dict().items() if not torch.equal(tensor, state[name])]
    if differing:
        raise FileError(
            f"save: {differing[0]!r} is another tensor when the model is loaded again, so nothing is written"
        )
    if result.inputs is not None and not _same_answers(model, again, result.inputs):
        raise FileError(
            f"save: {type(model).__name__} answers otherwise when it is loaded again, so nothing is written: something that "
            "it computes when it is made is not in its config; Result.save and secateur.load keep the model as it is"
        )


def _same_answers(model: nn.Module, again: nn.Module, inputs: ExampleInputs) -> bool:
    args, kwargs = split_inputs(inputs)
    answers = []
    for rated in (model, again):
        with evaluating(rated), torch.no_grad():
            answers.append(tensors_within(rated(*args, **kwargs)))
    return all(torch.equal(a, b) for a, b in zip(*answers, strict=True))


def model_card(result: Result) -> str:
    """Return a model card (Markdown, with the hub's header): what went, what it cost, and how the model is loaded."""
    model: Any = result.model
    name = type(model).__name__
    base = str(getattr(getattr(result.original, "config", None), "_name_or_path", "") or "")
    header = ["---", "library_name: transformers", "tags:", "- secateur", "- pruning"]
    header += [f"base_model: {base}"] if base.count("/") == 1 and not Path(base).exists() else []
    of = f" of `{base}`" if base else ""
    text = [
        *header,
        "---",
        "",
        f"# {name}, pruned",
        "",
        f"A smaller copy{of}, cut by [secateur](https://pypi.org/project/secateur/).",
        "",
    ]
    text += ["## How to load it", "", *_how_to_load(name, is_reloadable(model), base), ""]
    sizes = list(_new_sizes(result))
    if sizes:
        text += ["## New sizes", "", "| size | before | after |", "|---|---:|---:|", *sizes, ""]
    return "\n".join([*text, "## Report", "", "```text", str(result.report), "```", ""])


def _how_to_load(name: str, reloadable: bool, base: str) -> Iterator[str]:
    if reloadable:
        yield from (
            "```python",
            f"from transformers import {name}",
            "",
            f'model = {name}.from_pretrained("PATH")',
            "```",
        )
        return
    yield (
        "Its shapes differ from those of its class in a way that a config of transformers cannot say, so `from_pretrained` cannot "
        "build it. Load the model that it was made of, and cut that anew:"
    )
    yield from ("", "```python", "import secateur as sc", f"from transformers import {name.removeprefix('Cut')}", "")
    yield f'original = {name.removeprefix("Cut")}.from_pretrained("{base or "ORIGINAL"}")'
    yield from (f'model = sc.load("PATH/{OWN_FOLDER}", original)', "```")


def _new_sizes(result: Result) -> Iterator[str]:
    """The rows of a table of what changed in the config."""
    configs: list[Any] = [getattr(model, "config", None) for model in (result.original, result.model)]
    if None in configs:
        return
    before, after = map(whole_numbers, configs)
    for name, size in after.items():
        if before.get(name) != size:
            yield f"| {name} | {_words(before.get(name))} | {_words(size)} |"


def _words(size: object) -> str:
    return "as the others say" if size is None else str(size)


def push_to_hub(
    result: Result,
    repo_id: str,
    *,
    tokenizer: Any = None,
    private: bool = False,
    token: str | None = None,
    endpoint: str | None = None,
    message: str = "A smaller model, cut by secateur",
) -> str:
    """Upload what `save` writes to the hub, by its own client, and return the address of the repository.

    Args:
        result, tokenizer: as for `save`.
        repo_id: ``"name/of-the-model"``; it is made where it is not there.
        private: whether a new repository is seen by its owner alone.
        token, endpoint: as for ``huggingface_hub.HfApi``; None takes what the client is set up with.
        message: of the commit.

    Raises:
        MissingLibraryError: huggingface_hub is not installed.
        FileError: see `save`.
    """
    hub = require("huggingface_hub", EXTRA)
    api = hub.HfApi(endpoint=endpoint, token=token)
    with tempfile.TemporaryDirectory() as scratch:
        folder = save(result, Path(scratch) / "model", tokenizer)
        address = api.create_repo(repo_id, private=private, exist_ok=True)
        api.upload_folder(repo_id=repo_id, folder_path=folder, commit_message=message)
    return str(address)
