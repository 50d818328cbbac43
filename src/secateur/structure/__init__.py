"""What in a model is tied to what, and cutting it.

`trace` makes a graph of ATen ops, `rules` tie the axes of its tensors (`axes`), `infer` finds the sites, `cut` slices
and mends (`mend`), and `verify` compares the result with the masked model.
"""

from secateur.structure.cutting import cut
from secateur.structure.depth import blocks
from secateur.structure.derived import folded
from secateur.structure.infer import Structure
from secateur.structure.masking import mask
from secateur.structure.show import to_dict, to_svg, to_text
from secateur.structure.sites import channels, weights

__all__ = ["Structure", "blocks", "channels", "cut", "folded", "mask", "to_dict", "to_svg", "to_text", "weights"]
