"""The networks that are known by name, one line each, and building any model by name or by import path."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import nn

from secateur.calls import looking
from secateur.checks import check_name, check_whole, imported, is_whole, within
from secateur.models import cnn, inception, mlp, resnet, vgg
from secateur.models.initialisation import SCHEMES, initialise
from secateur.randomness import private_draws
from secateur.types import InputError, unknown_name

__all__ = ["REGISTRY", "build", "describe", "fitting", "input_shape", "names"]

Factory = Callable[..., nn.Module]

_MOVED = {"secateur.studies.charpentier_vgg": "secateur.studies.charpentier.vgg"}
"""Modules by the names under which stored recipes know their networks; an id never changes."""

REGISTRY: dict[str, Factory] = {
    "ann-128": mlp.ann_128,
    "mlp-3": mlp.mlp_3,
    "cnn-4": cnn.cnn_4,
    "fathollahi-5": mlp.fathollahi_5,
    "lenet-300-100": mlp.lenet_300_100,
    "conv-2": cnn.conv_2,
    "conv-4": cnn.conv_4,
    "conv-6": cnn.conv_6,
    "calli-sum": mlp.calli_sum,
    "calli-autoencoder": cnn.calli_autoencoder,
    "calli-mnist": cnn.calli_mnist,
    "calli-cifar": cnn.calli_cifar,
    "janjic-mlp": mlp.janjic_mlp,
    "janjic-cnn": cnn.janjic_cnn,
    "vgg-16": vgg.vgg_16,
    "resnet-18": resnet.resnet_18,
    "resnet-34": resnet.resnet_34,
    "resnet-50": resnet.resnet_50,
    "resnet-101": resnet.resnet_101,
    "resnet-152": resnet.resnet_152,
    "inception": inception.inception,
}


def names() -> list[str]:
    """Return the names of the networks that `build` takes.

    >>> names()[:3]
    ['ann-128', 'mlp-3', 'cnn-4']
    """
    return list(REGISTRY)


def describe(name: str) -> str:
    """Return one line about a network: what it is, and the text that it comes from.

    >>> describe("ann-128")
    'One hidden layer: 784-128-10 with ReLU (charpentier, L. Charpentier, 2020, section 3.1).'
    """
    return (inspect.getdoc(_named(name)) or "").partition("\n")[0]


@looking
def input_shape(name: str, **options: Any) -> tuple[int, ...]:
    """Return the shape of one input of a network: ``(C, H, W)``, or ``(inputs,)`` where it takes no images.

    Args:
        name: one of `names()`.
        options: the options that `build` would be given.

    Raises:
        UnknownNameError: there is no such network or option.
        InputError: an option is out of range, or `name` is an import path.

    >>> input_shape("conv-2"), input_shape("ann-128", input_size=8), input_shape("calli-sum")
    ((3, 32, 32), (1, 8, 8), (2,))
    """
    if ":" in name:
        raise InputError(f"input_shape: the inputs of {name!r} are not known; pass example inputs")
    factory = _named(name)
    options = {key: value for key, value in options.items() if key not in ("seed", "init")}
    _check_options(name, factory, options)
    parameters = inspect.signature(factory).parameters
    settings = {key: parameter.default for key, parameter in parameters.items()} | options
    if "inputs" in settings:
        return (settings["inputs"],)
    return settings["in_channels"], settings["input_size"], settings["input_size"]


def fitting(name: str, shape: Sequence[int], classes: int) -> dict[str, int]:
    """Return the options that make a network fit data, those that its defaults already fulfil left out.

    Args:
        name: one of `names()`; of an import path nothing is known, so there are none.
        shape: ``(C, H, W)`` of the images; zeros where it is not known.
        classes: how many there are; 0 where it is not known.

    >>> fitting("lenet-300-100", (1, 8, 8), 10)
    {'input_size': 8}
    """
    if name not in REGISTRY:
        return {}
    takes = inspect.signature(REGISTRY[name]).parameters
    decided = {"in_channels": shape[0], "input_size": shape[1], "classes": classes}
    return {key: value for key, value in decided.items() if value and key in takes and takes[key].default != value}


def build(name: str, *, seed: int | None = None, init: str | None = None, **options: Any) -> nn.Module:
    """Return a network, by name or by import path.

    Args:
        name: one of `names()`, or ``"package.module:factory"``, called with `options`, that returns a module.
        seed: makes the weights the same each time, in any thread; the global random state is neither read nor
            moved. None draws them from the global random state, as torch does.
        init: how weights begin, in place of the network's own way: one of the schemes of `initialise` that look at no
            data, such as ``kaiming-normal``; biases begin at zero.
        options: the network's own; most take ``classes``, ``in_channels`` and ``input_size``, larger ones
            ``width``, ``batch_norm`` and ``dropout``.

    Raises:
        UnknownNameError: there is no such network, option, module, attribute or initialisation.
        InputError: an option is out of range, or what the import path names does not give a module.

    >>> build("ann-128", classes=3, seed=0).output
    Linear(in_features=128, out_features=3, bias=True)
    >>> build("torch.nn:Linear", in_features=2, out_features=3)
    Linear(in_features=2, out_features=3, bias=True)
    """
    if not isinstance(name, str):
        raise InputError(
            f"build: the name is a {type(name).__name__}; give a network's name, or 'package.module:factory'"
        )
    check_name("initialisation", init, SCHEMES, or_none=True)
    factory = _imported(name) if ":" in str(name) else _named(name)
    _check_options(name, factory, options)
    if seed is None:
        return _made(name, factory, init, options)
    check_whole(f"build({name!r})", 0, or_none=True, seed=seed)
    with private_draws(seed):
        return _made(name, factory, init, options)


def _made(name: str, factory: Factory, init: str | None, options: Mapping[str, Any]) -> nn.Module:
    model: object = factory(**options)
    if not isinstance(model, nn.Module):
        raise InputError(f"build({name!r}): gave a {type(model).__name__}; it must return a torch.nn.Module")
    return model if init is None else initialise(model, init)


def _named(name: str) -> Factory:
    try:
        return REGISTRY[name]
    except (KeyError, TypeError):
        raise unknown_name("model", name, REGISTRY) from None


def _imported(path: str) -> Factory:
    module_name, _, attribute = path.partition(":")
    return imported(f"{_MOVED.get(module_name, module_name)}:{attribute}", f"build({path!r})", "factory")


def _check_options(name: str, factory: Factory, options: Mapping[str, Any]) -> None:
    """Raise one clear error for an option that the factory does not take, or that is out of range."""
    try:
        signature = inspect.signature(factory)
    except ValueError:
        return  # a builtin that does not say what it takes
    kinds = {parameter.kind for parameter in signature.parameters.values()}
    unknown = [key for key in options if key not in signature.parameters]
    if unknown and inspect.Parameter.VAR_KEYWORD not in kinds:
        raise unknown_name(f"option of {name}", unknown[0], signature.parameters)
    try:
        signature.bind(**options)
    except TypeError as error:
        raise InputError(f"build({name!r}): {error}; pass it as an option") from None
    if ":" in name:
        return  # what another package's options mean is its own affair
    for key, value in options.items():
        declared = signature.parameters.get(key)
        wish = _wish(key, value, isinstance(declared.default, tuple) if declared else False)
        if wish:
            raise InputError(f"build({name!r}): {key} is {value!r}; give {wish}")


def _wish(option: str, value: Any, several: bool) -> str:
    """Return what the option should be, or nothing when it is right."""
    if option == "width":
        return "" if within(value, "(0, inf)") else "a number above 0"
    if option == "dropout":
        return "" if within(value, "[0, 1)") else "a probability from 0 to below 1"
    if option in ("batch_norm", "bias", "factorised", "one_dimensional", "residual"):
        return "" if isinstance(value, bool) else "True or False"
    if several:
        right = isinstance(value, (list, tuple)) and value and all(is_whole(size, 1) for size in value)
        return "" if right else "a tuple of whole numbers of at least 1"
    return "" if is_whole(value, 1) else "a whole number of at least 1"
