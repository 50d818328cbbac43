"""Layers put in another form: each becomes plain layers in a row, under its old name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Self

from torch import Tensor, nn

from secateur.checks import is_whole
from secateur.copies import copied
from secateur.edits.base import Edit
from secateur.randomness import private_draws
from secateur.types import FileError

__all__ = ["LayerSpec", "Rebuilt", "replace_layer", "rows_of"]

_LINEAR = {"in_features", "out_features", "bias"}
_CONVOLUTION = {
    *("in_channels", "out_channels", "kernel_size", "stride", "padding", "dilation", "groups", "bias"),
    "padding_mode",
}
_TRANSPOSED = _CONVOLUTION | {"output_padding"}
OPTIONS: Mapping[str, set[str]] = {
    "Linear": _LINEAR,
    "Conv1d": _CONVOLUTION,
    "Conv2d": _CONVOLUTION,
    "Conv3d": _CONVOLUTION,
    "ConvTranspose1d": _TRANSPOSED,
    "ConvTranspose2d": _TRANSPOSED,
    "ConvTranspose3d": _TRANSPOSED,
    "BatchNorm1d": {"num_features"},
    "BatchNorm2d": {"num_features"},
    "BatchNorm3d": {"num_features"},
    "ReLU": set(),
}
"""The layers that a saved folder may ask for, with the options of their constructors that it may give."""

WORDS = {"same", "valid", "zeros", "reflect", "replicate", "circular"}
MOST = 2**20
"""No size is larger, so that a forged file is never worked with."""


@dataclass(frozen=True)
class LayerSpec:
    """One of torch's own layers: its class and the options of its constructor.

    >>> LayerSpec("Linear", {"in_features": 4, "out_features": 2, "bias": False}).build()
    Linear(in_features=4, out_features=2, bias=False)
    """

    kind: str
    options: Mapping[str, Any]

    def build(self) -> nn.Module:
        """Return such a layer, its values drawn, but not from the global random numbers.

        Raises:
            FileError: a class that is none of these, or an option that is none of its own or no size.
        """
        wrong = [key for key, value in self.options.items() if not _is_option(value)]
        if self.kind not in OPTIONS or not set(self.options) <= OPTIONS[self.kind] or wrong:
            raise FileError(f"a layer {self.kind}({dict(self.options)}) is none that a model can be given")
        options = {key: tuple(v) if isinstance(v, list) else v for key, v in self.options.items()}
        try:
            with private_draws(0):
                layer: nn.Module = getattr(nn, self.kind)(**options)
        except (TypeError, ValueError, RuntimeError) as error:
            raise FileError(f"a layer {self.kind}({dict(self.options)}) cannot be made ({error})") from error
        return layer

    def to_dict(self) -> dict[str, Any]:
        """Return the class and the options."""
        options = {key: list(v) if isinstance(v, tuple) else v for key, v in self.options.items()}
        return {"kind": self.kind, "options": options}


def _is_weighted(kind: str) -> bool:
    return kind in OPTIONS and kind.startswith(("Linear", "Conv"))


def _is_option(value: object) -> bool:
    if isinstance(value, (list, tuple)):
        return len(value) <= 3 and all(is_whole(size, 0) and size <= MOST for size in value)
    return isinstance(value, bool) or (is_whole(value, 0) and value <= MOST) or value in WORDS


@dataclass(frozen=True)
class Rebuilt(Edit):
    """The base of edits that put plain layers in the place of one.

    Attributes:
        layers: by the module path of the layer: what is there now, an `nn.Sequential` of these.
    """

    kinds: ClassVar[tuple[str, ...]]
    layers: Mapping[str, Sequence[LayerSpec]]

    def apply(self, model: nn.Module) -> nn.Module:
        """Return a copy of `model` with the layers in their place."""
        result = copied(model)
        modules = dict(result.named_modules())
        for path, specs in self.layers.items():
            if path not in modules or not _is_weighted(type(modules[path]).__name__):
                raise FileError(f"{path!r} is no linear layer or convolution of it")
            if not specs or any(spec.kind not in self.kinds for spec in specs):
                raise FileError(f"what stands in the place of {path!r} is none of {', '.join(self.kinds)}")
            result = replace_layer(result, path, [spec.build() for spec in specs])
        return result

    def to_dict(self) -> dict[str, Any]:
        """Return the layers by path."""
        return {"layers": {path: [spec.to_dict() for spec in specs] for path, specs in self.layers.items()}}

    @classmethod
    def from_dict(cls, record: Mapping[str, Any]) -> Self:
        """Return the edit that `to_dict` described."""
        layers = {
            path: tuple(LayerSpec(spec["kind"], dict(spec["options"])) for spec in specs)
            for path, specs in record["layers"].items()
        }
        return cls(layers)

    def outputs_under(self, path: str) -> str:
        """Return the path of the layer that makes the outputs of `path` now.

        >>> Rebuilt({"fc": [LayerSpec("Linear", {}), LayerSpec("Linear", {})]}).outputs_under("fc")
        'fc.1'
        """
        if path not in self.layers:
            return path
        weighted = [number for number, spec in enumerate(self.layers[path]) if _is_weighted(spec.kind)]
        return f"{path}.{weighted[-1]}" if path else str(weighted[-1])


def replace_layer(model: nn.Module, path: str, layers: Sequence[nn.Module]) -> nn.Module:
    """Put layers in a row in the place of one, under all of its names, and return the model (another only for ``""``).

    They get the type, the device, the mode and `requires_grad` of the one that was there.

    Raises:
        FileError: they do not take what it took or do not make what it made, or are far larger.
    """
    before = model.get_submodule(path)
    weight = before.weight
    assert isinstance(weight, Tensor)
    row = nn.Sequential(*layers).to(device=weight.device, dtype=weight.dtype).train(before.training)
    row.requires_grad_(weight.requires_grad)
    sizes, had = sum(p.numel() for p in row.parameters()), sum(p.numel() for p in before.parameters())
    if _ends(layers) != _ends([before]) or sizes > 16 * had + 4096:
        raise FileError(f"the layers in the place of {path!r} are of other sizes: {row}")
    if not path:
        return row
    for name, module in list(model.named_modules(remove_duplicate=False)):
        if module is before:
            parent, _, attribute = name.rpartition(".")
            setattr(model.get_submodule(parent), attribute, row)
    return model


def rows_of(layer: nn.Module) -> tuple[int, int]:
    """Return how many inputs and outputs a linear layer or a convolution has.

    >>> rows_of(nn.Linear(3, 2)), rows_of(nn.ConvTranspose1d(4, 6, 3, groups=2))
    ((3, 2), (4, 6))
    """
    if isinstance(layer, nn.Linear):
        return layer.in_features, layer.out_features
    assert isinstance(layer, nn.modules.conv._ConvNd)
    return layer.in_channels, layer.out_channels


def _ends(layers: Sequence[nn.Module]) -> tuple[int, int]:
    weighted = [layer for layer in layers if isinstance(layer, (nn.Linear, nn.modules.conv._ConvNd))]
    return rows_of(weighted[0])[0], rows_of(weighted[-1])[1]
