"""Tensors of few values in few bytes, without loss: packed, entropy coded, and read again with every size checked."""

from secateur.coding.codecs import CODECS, Codebook, Codec, Grid, as_integers, decode_tensor, from_grid, to_grid
from secateur.coding.coders import CODERS, check_coder, decode_symbols, encode_symbols
from secateur.coding.packing import pack, unpack

__all__ = [
    "CODECS",
    "CODERS",
    "Codebook",
    "Codec",
    "Grid",
    "as_integers",
    "check_coder",
    "decode_symbols",
    "decode_tensor",
    "encode_symbols",
    "from_grid",
    "pack",
    "to_grid",
    "unpack",
]
