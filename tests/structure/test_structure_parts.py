"""Parts of what ties and cuts by themselves, and the numbers that they are written with."""

from __future__ import annotations

from inspect import signature

from torch import nn

from constants import constants_of
from secateur.structure.attention import RectangularAttention


def test_the_numbers_that_structure_is_written_with() -> None:
    assert constants_of("structure") == {
        "structure.cases.CHEAP": 10**8,
        "structure.cases.DRAWS": ((0, 1.0), (1, 2.0), (2, 0.5)),
        "structure.configs.MOST_BUILT": 500,
        "structure.configs.MOST_TOGETHER": 3,
        "structure.cutting.TOLERANCE": 1e-4,
        "structure.depth.TOLERANCE": 1e-5,
        "structure.difference.MARKER": 1e6,
        "structure.draws.POOL": 1_000_003,
        "structure.export.OTHERWISE": 1e-3,
        "structure.export.OTHERWISE_IN_HALF": 0.03,
        "structure.frames.LARGE": 6,
        "structure.frames.LONGER": 1.25,
        "structure.frames.PICTURE": 64,
        "structure.frames.SCALES": (1.0, 0.1, 3.0),
        "structure.frames.SHORTER": 0.75,
        "structure.mend.MOST_SIZES": 3,
        "structure.moments.FEW": 2**28,
        "structure.patches.PART": 2**23,
        "structure.regions.CALLS": 4,
        "structure.show.LANE": 16,
        "structure.show.ROW": 18,
        "structure.show.TOP": 56,
        "structure.stand_in.LARGEST_CACHED": 2**27,
        "structure.verify.IN_DOUBLE": 1e-9,
        "structure.verify.IN_SINGLE": 1e-4,
        "structure.watch.POWERS": (-1, 0.5, -0.5, 0.25, -0.25),
        "structure.watch.TELLING": 5,
    }


def test_attention_with_fewer_heads_is_called_as_torchs_is() -> None:
    mine, torchs = (signature(kind.forward).parameters for kind in (RectangularAttention, nn.MultiheadAttention))
    assert {n: p.default for n, p in mine.items()} == {n: p.default for n, p in torchs.items()}
