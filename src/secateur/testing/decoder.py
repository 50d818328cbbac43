"""The small language model of tests and examples; it lies in `secateur.models.decoder`."""

from secateur.models.decoder import Decoder, decoder

__all__ = ["Decoder", "decoder"]
