"""The networks of the published experiments, by name, and any other model by its import path.

>>> import torch
>>> from secateur import models
>>> model = models.build("lenet-300-100", seed=0)
>>> model(torch.zeros(5, *models.input_shape("lenet-300-100"))).shape
torch.Size([5, 10])
"""

from secateur.models.initialisation import initialise, schemes
from secateur.models.registry import build, describe, fitting, input_shape, names

__all__ = ["build", "describe", "fitting", "initialise", "input_shape", "names", "schemes"]
