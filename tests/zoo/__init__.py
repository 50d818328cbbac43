"""The zoo: toy models, each a few lines, that are hard to cut for one reason each; for tests, not for use.

`ZOO` holds models that must be cut right, `DECIDING` such as must be cut in regions, `REFUSED` models that must be refused with a clear error. `build` makes one
with seeded weights, and with norms, gates and tables moved off their initial zeros and ones, so that a wrong cut shows.

>>> model, inputs = build("unet")
>>> model(*inputs).shape
torch.Size([2, 3, 16, 16])
"""

from __future__ import annotations

from torch import Tensor, nn

from secateur.randomness import private_draws
from secateur.types import unknown_name
from zoo import branches, convolutions, deciding, indexed, sequences
from zoo.parts import ZooToy, randomise

__all__ = ["DECIDING", "REFUSED", "ZOO", "ZooToy", "build", "randomise"]

ZOO: dict[str, ZooToy] = {**branches.TOYS, **convolutions.TOYS, **indexed.TOYS, **sequences.TOYS}
"""Models that must be cut right, by name."""

DECIDING: dict[str, ZooToy] = dict(deciding.TOYS)
"""Models that decide by the values of tensors, and must be cut in regions, by name."""

REFUSED: dict[str, ZooToy] = dict(sequences.REFUSED)
"""Models that must be refused with a clear error, by name."""


def build(name: str, seed: int = 0) -> tuple[nn.Module, tuple[Tensor, ...]]:
    """Return the toy model `name` in eval mode with its example inputs; the global random state stays as it is.

    Args:
        name: a key of `ZOO`, `DECIDING` or `REFUSED`.
        seed: same seed, same weights and inputs.

    Raises:
        UnknownNameError: there is no such toy.

    >>> build("lstm")[0].fc.out_features
    3
    """
    toys = {**ZOO, **DECIDING, **REFUSED}
    if name not in toys:
        raise unknown_name("toy model", name, toys)
    with private_draws(seed):
        model = toys[name].make()
        inputs = toys[name].inputs()
    randomise(model, seed)
    return model.eval(), inputs
