"""Save a pruned model and load it again in another process: safetensors and JSON, no pickle.

A folder holds three files:

- ``model.safetensors`` — the small model's state dict (a tensor under two names is stored once);
- ``plan.safetensors`` — for a module, the rows that were kept of each tensor that shrank, so that tensors outside the
  state dict (tables made at construction) are cut again on loading; for a graph, the masks, to cut the traced graph
  again, and what it answers to a plain input, to compare;
- ``secateur.json`` — the form, the attributes to mend, a graph's inputs, the report, and the SHA-256 of the other two
  and of itself.
"""

from secateur.saving.model import load, read_report, save
from secateur.saving.weights import load_weights, save_weights

__all__ = ["load", "load_weights", "read_report", "save", "save_weights"]
