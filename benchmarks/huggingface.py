"""Tiny models of transformers cut to equal widths, saved, and loaded by plain ``from_pretrained`` in a new process.

    python benchmarks/huggingface.py --folder cut                       # cuts and saves, one row a family, and loads them
    python benchmarks/huggingface.py --folder cut --table > docs/results/huggingface.md

Each family is built from a config (`families_*.py`), cut by L2 norm to half of every width that its config says, and written
by `secateur.integrations.huggingface.save`. A new process loads all folders with ``from_pretrained``, compares the
outputs with those of the cut model to the bit, and generates where the class can. A rerun goes on where the last
one stopped. Needs what benchmarks/README.md lists.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
import warnings
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

CAUSAL = (
    "Llama", "Mistral", "Qwen2", "Qwen3", "Gemma", "Gemma-2", "Gemma-3", "Phi", "Phi-3", "GPT-2", "GPT-Neo", "GPT-NeoX",
    "GPT-J", "CodeGen", "OPT", "BLOOM", "Falcon", "MPT", "StableLM", "Persimmon", "OLMo", "OLMo-2", "OLMo-3", "Cohere",
    "Cohere-2", "Granite", "SmolLM3", "Starcoder2", "GLM", "GLM-4", "Nemotron", "Arcee", "Helium", "CTRL", "XGLM", "Mixtral",
    "Qwen2-MoE", "Qwen3-MoE", "OLMoE", "PhiMoE", "GPT-OSS",
)  # fmt: skip
OTHERS = (
    "BERT", "RoBERTa", "ALBERT", "ELECTRA", "DistilBERT", "DeBERTa", "DeBERTa-v2", "MPNet", "XLNet", "FNet", "ModernBERT",
    "T5", "T5-gated", "mT5", "BART", "mBART", "Marian", "Pegasus", "ViT", "DeiT", "DINOv2", "Wav2Vec2", "HuBERT", "Whisper",
)  # fmt: skip
ROWS, TENSORS, LOADED = "cut.jsonl", "answers", "loaded.jsonl"


def flat(outputs: Any) -> list[Tensor]:
    """Return the tensors of an output of transformers, those in its caches left out."""
    return [value.contiguous() for value in outputs.to_tuple() if isinstance(value, Tensor)]


def answers(model: nn.Module, inputs: dict[str, Any]) -> list[Tensor]:
    """Return what a model in eval mode answers."""
    with torch.no_grad():
        return flat(model.eval()(**inputs))


def cut_one(name: str, folder: Path) -> dict[str, Any]:
    """Cut and save one family; its row says by how much, or what stood in the way."""
    import secateur as sc
    from families import MODELS
    from secateur.integrations import huggingface

    torch.manual_seed(0)
    model, inputs = MODELS[name]()
    start = time.perf_counter()
    result = sc.prune(model.eval(), inputs, "l2", 0.5, scope="layer", latency=False)
    row: dict[str, Any] = {"name": name, "class": type(model).__name__, "form": result.report.form}
    row |= {"parameters": result.report.parameters, "seconds": time.perf_counter() - start}
    row["reloadable"] = huggingface.is_reloadable(result.model)
    if row["reloadable"]:
        before, after = (sc.structure.whole_numbers(m.config) for m in (model, result.model))
        row["sizes"] = {size: [before.get(size), new] for size, new in after.items() if before.get(size) != new}
    huggingface.save(result, folder / name)
    tensors = {f"in.{key}": value for key, value in inputs.items() if isinstance(value, Tensor)}
    outputs = answers(result.model, inputs)
    save_file(
        {**tensors, **{f"out.{n}": value for n, value in enumerate(outputs)}}, folder / TENSORS / f"{name}.safetensors"
    )
    return row


def cut_all(folder: Path, names: tuple[str, ...]) -> None:
    """Cut every family that has no row yet."""
    import families_pairs
    import families_pictures
    import families_text

    _ = (families_text, families_pairs, families_pictures)
    (folder / TENSORS).mkdir(parents=True, exist_ok=True)
    done = {row["name"] for row in rows(folder / ROWS)}
    for name in names:
        if name in done:
            continue
        try:
            row = cut_one(name, folder)
        except Exception as error:  # noqa: BLE001  (a row says what stood in the way)
            row = {"name": name, "error": f"{type(error).__name__}: {str(error).splitlines()[0]}"}
        with open(folder / ROWS, "a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
        print(json.dumps(row), flush=True)


def load_one(name: str, folder: Path) -> dict[str, Any]:
    """Load one folder as anybody would, compare, and generate."""
    from coverage_libraries import import_torchvision

    import_torchvision()
    import transformers

    path = folder / name
    config = transformers.AutoConfig.from_pretrained(path)
    model = getattr(transformers, config.architectures[0]).from_pretrained(path).eval()
    tensors = load_file(folder / TENSORS / f"{name}.safetensors")
    inputs = {key.removeprefix("in."): value for key, value in tensors.items() if key.startswith("in.")}
    expected = [tensors[f"out.{n}"] for n in range(len(tensors) - len(inputs))]
    model.config.use_cache = False
    outputs = answers(model, inputs)
    equal = len(outputs) == len(expected) and all(map(torch.equal, outputs, expected))
    row: dict[str, Any] = {"name": name, "equal": equal, "generates": None}
    if model.can_generate():
        model.config.use_cache = True
        ids = model.generate(inputs[model.main_input_name][:1], max_new_tokens=4, do_sample=False)
        row["generates"] = ids.shape[0] == 1
    return row


def load_all(folder: Path) -> None:
    """Load every folder that says it can be, in this process, which has cut none."""
    done = {row["name"] for row in rows(folder / LOADED)}
    for cut in rows(folder / ROWS):
        if not cut.get("reloadable") or cut["name"] in done:
            continue
        try:
            row = load_one(cut["name"], folder)
        except Exception as error:  # noqa: BLE001  (a row says what stood in the way)
            row = {
                "name": cut["name"],
                "equal": False,
                "error": f"{type(error).__name__}: {str(error).splitlines()[0]}",
            }
        with open(folder / LOADED, "a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
    assert "secateur" not in sys.modules


def rows(path: Path) -> list[dict[str, Any]]:
    """Return the rows of a file; none where there is no file."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.exists() else []


def table(folder: Path) -> str:
    """Return the results as Markdown."""
    loaded = {row["name"]: row for row in rows(folder / LOADED)}
    cut = {row["name"]: row for row in rows(folder / ROWS)}
    lines = ["# Cut, saved, and loaded by `from_pretrained`", "", *INTRODUCTION]
    for title, names in (
        ("Causal language models", CAUSAL),
        ("Encoders, encoder-decoders, pictures and sound", OTHERS),
    ):
        tried = [name for name in names if name in cut]
        held = [name for name in tried if _holds(loaded.get(name, {}))]
        lines += ["", f"## {title}: {len(held)} of {len(tried)}", ""]
        lines += ["| family | sizes in the config | parameters left | equal | generates |", "|---|---|---:|---|---|"]
        lines += [_line(cut[name], loaded.get(name, {})) for name in tried]
    return "\n".join(lines)


INTRODUCTION = (
    "Made by `python benchmarks/huggingface.py`: tiny models of random weights, cut by L2 norm to half of every width that",
    "their config says, saved, and loaded by plain `from_pretrained` in a process that has not imported secateur. *Equal*: the",
    "outputs are those of the cut model to the bit. *Generates*: `generate` runs on the loaded model, with its cache.",
)


def _holds(row: dict[str, Any]) -> bool:
    return bool(row.get("equal")) and row.get("generates") is not False


def _line(cut: dict[str, Any], loaded: dict[str, Any]) -> str:
    if "error" in cut:
        return f"| {cut['name']} | {cut['error'][:120]} | | | |"
    sizes = ", ".join(
        f"{name} {'open' if old is None else old} → {new}" for name, (old, new) in cut.get("sizes", {}).items()
    )
    left = f"{cut['parameters'][1] / cut['parameters'][0]:.0%}"
    if not cut["reloadable"]:
        return f"| {cut['name']} | none that the config says ({cut['form']}) | {left} | own folder | |"
    words = {True: "yes", False: "no", None: ""}
    equal = loaded.get("error") or words[loaded.get("equal")]
    return f"| {cut['name']} | {sizes} | {left} | {equal} | {words[loaded.get('generates')]} |"


def main() -> None:
    """Cut, load, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True, help="where models and rows are kept")
    parser.add_argument("--only", nargs="*", help="these families")
    parser.add_argument("--load", action="store_true", help="only load what was saved")
    parser.add_argument("--table", action="store_true", help="only print what is there")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    if options.table:
        print(table(options.folder))
    elif options.load:
        load_all(options.folder)
    else:
        cut_all(options.folder, tuple(options.only or (*CAUSAL, *OTHERS)))
        subprocess.run([sys.executable, __file__, "--folder", str(options.folder), "--load"], check=True)
        print(table(options.folder))


if __name__ == "__main__":
    main()
