"""Save a smaller model and load it again in another process: safetensors and JSON, no pickle.

A folder holds three files:

- ``model.safetensors`` — the small model's state dict (a tensor under two names is stored once), but for what is
  encoded;
- ``edits.safetensors`` — the tensors of the edits: the rows that were kept of each tensor that shrank, masks, what a
  graph answers to a plain input, to compare, and the tensors that an edit says how to encode (`Edit.codecs`), such as
  the codebooks and entropy-coded indices of shared weights;
- ``secateur.json`` — the edits, the report, the history, and the SHA-256 of the other two and of itself.
"""

from secateur.saving.model import load, load_with_edits, read_record, save
from secateur.saving.stored import stored_bytes
from secateur.saving.weights import load_weights, save_weights

__all__ = ["load", "load_weights", "load_with_edits", "read_record", "save", "save_weights", "stored_bytes"]
