"""The tensors of a model that an edit names."""

from __future__ import annotations

from torch import Tensor, nn

from secateur.state import own_tensors
from secateur.types import FileError

__all__ = ["floating_tensor"]


def floating_tensor(model: nn.Module, name: str) -> Tensor:
    """Return a parameter or buffer of floating-point numbers.

    Raises:
        FileError: the model has none of that name.

    >>> floating_tensor(nn.Linear(2, 1), "bias").shape
    torch.Size([1])
    """
    tensor = own_tensors(model).get(name)
    if tensor is None or not tensor.is_floating_point():
        raise FileError(f"{name!r} is no tensor of floating-point numbers of it")
    return tensor
