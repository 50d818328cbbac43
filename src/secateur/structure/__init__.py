"""What in a model is tied to what, and cutting it.

`trace` makes a graph of ATen ops, `rules` tie the axes of its tensors (`axes`), `infer` finds the sites, `cut` slices
and mends (`mend`), and `verify` compares the result with the masked model.
"""

from secateur.structure.configs import ConfigWidth, config_widths
from secateur.structure.cutting import cut
from secateur.structure.depth import blocks
from secateur.structure.derived import folded, folding
from secateur.structure.infer import Structure
from secateur.structure.masking import mask
from secateur.structure.rebuilding import is_configured, rebuilt_shapes, whole_numbers
from secateur.structure.show import to_dict, to_svg, to_text
from secateur.structure.sites import channels, weights

__all__ = [
    "ConfigWidth",
    "Structure",
    "blocks",
    "channels",
    "config_widths",
    "cut",
    "folded",
    "folding",
    "is_configured",
    "mask",
    "rebuilt_shapes",
    "to_dict",
    "to_svg",
    "to_text",
    "weights",
    "whole_numbers",
]
