"""The layers that a transform may change, what they read and what they make of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from fnmatch import fnmatchcase
from functools import partial
from typing import Any

from torch import Tensor, nn
from torch.nn.utils import parametrize

from secateur.criteria.batches import moved
from secateur.labelled import Samples
from secateur.randomness import private_draws
from secateur.rate.trying import try_model
from secateur.state import called, device_of, evaluating, split_inputs
from secateur.types import ExampleInputs, unknown_name

__all__ = ["Shapes", "changeable", "hooked", "layers_of", "passes", "seen_shapes"]

Shapes = Mapping[str, tuple[tuple[int, ...], ...]]
"""The shapes of what each layer reads on the example inputs, one for each time that it is called."""


def layers_of(model: nn.Module, kinds: tuple[type[nn.Module], ...]) -> dict[str, nn.Module]:
    """Return the layers of these classes and their subclasses by the first of their paths, in the model's order.

    >>> list(layers_of(nn.Sequential(nn.Linear(1, 1), nn.ReLU()), (nn.Linear,)))
    ['0']
    """
    return {path: module for path, module in model.named_modules() if isinstance(module, kinds)}


def changeable(
    model: nn.Module, layers: Mapping[str, nn.Module], shapes: Shapes, ignore: Iterable[str]
) -> tuple[list[str], dict[str, str]]:
    """Return the layers that may be put in another form in the order of their calls, and the others with the reason.

    Args:
        model: the model.
        layers: its layers of the kinds in question.
        shapes: what they read; see `seen_shapes`.
        ignore: names and patterns of layers to leave whole.

    Raises:
        UnknownNameError: one of those that matches no layer.
    """
    patterns = [ignore] if isinstance(ignore, str) else list(ignore)
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in layers):
            raise unknown_name("layer to ignore", pattern, layers)
    uses = Counter(id(p) for module in model.modules() for p in module._parameters.values() if p is not None)
    left = {}
    for name, layer in layers.items():
        reason = _why_whole(layer, uses, called=bool(shapes.get(name)))
        if any(fnmatchcase(name, pattern) for pattern in patterns):
            reason = "ignored, as asked"
        if reason:
            left[name] = reason
    return [name for name in shapes if name in layers and name not in left], left


def _why_whole(layer: nn.Module, uses: Mapping[int, int], *, called: bool) -> str:
    if parametrize.is_parametrized(layer) or "weight" not in layer._parameters:
        return "its weight is computed"
    if type(layer).__name__ == "NonDynamicallyQuantizableLinear" or not called:
        return "its module is not called, or other code reads its weight"
    if type(layer).__module__ not in ("torch.nn.modules.linear", "torch.nn.modules.conv"):
        return f"a {type(layer).__name__}, which is none of torch's own layers"
    if any(uses[id(p)] > 1 for p in layer._parameters.values() if p is not None):
        return "it shares a parameter with another layer"
    if layer._forward_hooks or layer._forward_pre_hooks:
        return "it has hooks"
    weight = layer.weight
    assert isinstance(weight, Tensor)
    return "" if weight.is_floating_point() else f"its weight is {weight.dtype}"


@contextmanager
def hooked(layers: Mapping[str, nn.Module], see: Callable[[str, Tensor, Tensor], None]) -> Iterator[None]:
    """Call `see` with a layer's name, what it reads and what it makes, whenever one is called."""

    def hook(name: str) -> Callable[[nn.Module, Any, Any], None]:
        return lambda module, args, output: see(name, args[0], output)

    with ExitStack() as stack:
        for name, layer in layers.items():
            stack.callback(layer.register_forward_hook(hook(name)).remove)
        yield


class _AttributeReads(nn.Module):
    """Stands in a layer's place, and notes what other code than the layer's own reads of it."""

    def __init__(self, layer: nn.Module, note: Callable[[], None]) -> None:
        super().__init__()
        # Not as a submodule, of which the model's own code could know.
        self.__dict__ |= {"layer": layer, "note": note}

    def __getattr__(self, name: str) -> Any:
        self.__dict__["note"]()
        return getattr(self.__dict__["layer"], name)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self.__dict__["layer"](*args, **kwargs)


def read_elsewhere(model: nn.Module, layers: Mapping[str, nn.Module], example_inputs: ExampleInputs) -> set[str]:
    """Return the layers of which the model's own code reads something, such as their weight, on the example inputs.

    It does so to hand weights to a fused kernel (`nn.TransformerEncoderLayer`), or to ask for their type.
    """
    names = {id(layer): name for name, layer in layers.items()}
    places = [
        (module, key, child)
        for module in model.modules()
        for key, child in module._modules.items()
        if child is not None and id(child) in names
    ]
    read: set[str] = set()
    with evaluating(model), private_draws(0), ExitStack() as stack:
        for module, key, child in places:
            stack.callback(module._modules.__setitem__, key, child)
            module._modules[key] = _AttributeReads(child, partial(read.add, names[id(child)]))
        called(model, *split_inputs(example_inputs))
    return read


def seen_shapes(model: nn.Module, layers: Mapping[str, nn.Module], example_inputs: ExampleInputs) -> Shapes:
    """Return the shapes of what layers read on the example inputs, in the order of their first calls.

    There are none of a layer of which other code reads something, as that could not read it of what takes its place.
    """
    shapes: dict[str, tuple[tuple[int, ...], ...]] = {}

    def see(name: str, x: Tensor, output: Tensor) -> None:
        shapes[name] = (*shapes.get(name, ()), tuple(x.shape))

    with evaluating(model), private_draws(0), hooked(layers, see):
        called(model, *split_inputs(example_inputs))
    read = read_elsewhere(model, layers, example_inputs)
    return {name: shape_list for name, shape_list in shapes.items() if name not in read}


def passes(
    model: nn.Module, layers: Mapping[str, nn.Module], data: Samples, batch_size: int, doing: str
) -> Iterator[dict[str, list[tuple[Tensor, Tensor]]]]:
    """Yield, batch by batch, what layers read and what they made of it, once for each time that they were called.

    Args:
        model: it is run as in evaluation.
        layers: which, by any names.
        data: samples; targets are not looked at.
        batch_size: samples a pass, where the data are in memory.
        doing: who asks, for the errors.
    """
    for batch in moved(data, batch_size, doing, device_of(model)):
        pairs: dict[str, list[tuple[Tensor, Tensor]]] = {name: [] for name in layers}

        def see(name: str, x: Tensor, output: Tensor, into: dict[str, list[tuple[Tensor, Tensor]]] = pairs) -> None:
            into[name].append((x.detach(), output.detach()))

        with evaluating(model), private_draws(0), hooked(layers, see):
            try_model(model, batch, doing)
        yield pairs
