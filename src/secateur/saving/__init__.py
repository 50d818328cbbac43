"""Save a smaller model and load it again in another process: safetensors and JSON, no pickle.

A folder holds three files:

- ``model.safetensors`` — the small model's state dict (a tensor under two names is stored once);
- ``edits.safetensors`` — the tensors of the edits: the rows that were kept of each tensor that shrank, masks, and what
  a graph answers to a plain input, to compare;
- ``secateur.json`` — the edits, the report, the history, and the SHA-256 of the other two and of itself.
"""

from secateur.saving.model import load, read_edits, read_record, save
from secateur.saving.weights import load_weights, save_weights

__all__ = ["load", "load_weights", "read_edits", "read_record", "save", "save_weights"]
