"""A copy of a model is what `copy.deepcopy` gives, whatever hangs on its modules and however they hold each other."""

from __future__ import annotations

import copy
import gc
import weakref
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

from secateur.copies import copied
from secateur.testing import TOYS
from secateur.types import InputError


class Holder(nn.Module):
    """Holds a list twice, itself in a list, a bound method, a module that is no child, and an empty dict twice."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(2, 2)
        self.numbers = self.numbers_again = [1, 2]
        self.cache = self.cache_again = {}
        self.parents, self.call, self.others = (
            [self],
            self.layer.forward,
            {"one": [nn.Linear(2, 1)], "same": self.layer},
        )
        self.layer.weight_again = self.layer.weight


class Stateful(nn.Module):
    """Leaves a part of its state out and makes it anew, from what its child holds."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(2, 3)
        self.width = 3

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self.width = self.layer.weight.shape[0]


class Own(nn.Module):
    """Copies itself."""

    def __deepcopy__(self, memo: dict[int, Any]) -> Own:
        other = Own()
        other.copies = 1
        return other


def test_what_is_held_twice_is_held_twice() -> None:
    other = copied(model := Holder())
    assert other.numbers is other.numbers_again is not model.numbers
    assert other.cache is other.cache_again is not model.cache
    assert other.parents == [other]
    assert other.call.__self__ is other.layer is other.others["same"]
    assert other.others["one"][0] is not model.others["one"][0]
    assert other.layer.weight_again is other.layer.weight is not model.layer.weight


def test_hooks_of_a_copy_are_its_own() -> None:
    other = copied(model := nn.Sequential(nn.Linear(1, 1), nn.Linear(1, 1)))
    other[0].register_forward_hook(lambda *_: None)
    assert not any(module._forward_hooks for module in (*model, other[1]))


def test_modules_that_copy_themselves_do_so() -> None:
    shared = nn.Linear(2, 3)
    other = copied(nn.Sequential(Own(), Stateful(), shared, shared, nn.LSTM(2, 2)))
    assert other[0].copies == 1
    assert other[1].width == 3
    assert other[2] is other[3]
    assert other[4]._flat_weights[0] is other[4].weight_ih_l0


def test_a_copy_takes_what_is_there_for_the_modules_that_it_leaves_out() -> None:
    class Uncopied(nn.Module):
        def __deepcopy__(self, memo: dict[int, Any]) -> Uncopied:
            raise AssertionError

    model = nn.Sequential(nn.Sequential(Uncopied()), nn.ReLU())
    stand_in = nn.Identity()
    assert copied(model, {id(model[0]): stand_in})[0] is stand_in


MODELS: dict[str, Callable[[], nn.Module]] = {
    "parametrized": lambda: nn.Sequential(spectral_norm(nn.Linear(4, 4))),
    "fx": lambda: torch.fx.symbolic_trace(nn.Sequential(nn.Linear(4, 4), nn.ReLU())),
    "transformer": lambda: nn.TransformerEncoder(nn.TransformerEncoderLayer(4, 2, 8, batch_first=True), 2),
}


@pytest.mark.parametrize("build", [*MODELS.values(), *(t.build for t in TOYS.values())], ids=[*MODELS, *TOYS])
def test_a_copy_is_what_deepcopy_gives(build: Callable[[], nn.Module]) -> None:
    model = build()
    ours, theirs = copied(model), copy.deepcopy(model)
    assert repr(ours) == repr(theirs)
    assert _tensors(ours).keys() == _tensors(theirs).keys()
    for name, tensor in _tensors(ours).items():
        assert type(tensor) is type(_tensors(theirs)[name])
        assert tensor.equal(_tensors(model)[name])
        assert tensor.data_ptr() != _tensors(model)[name].data_ptr() or not tensor.numel()
    for mine, other in zip(ours.modules(), theirs.modules(), strict=True):
        assert vars(mine).keys() == vars(other).keys()


def _tensors(model: nn.Module) -> dict[str, Tensor]:
    return {**dict(model.named_parameters(remove_duplicate=False)), **dict(model.named_buffers(remove_duplicate=False))}


class Reaching(nn.Module):
    """Reaches a layer by a function, a hook, a reference and a default."""

    def __init__(self, way: str) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(2, 2), nn.Linear(2, 2)
        self.way = {
            "function": lambda x: self.b(x),
            "default": lambda x, layer=self.b: layer(x),
            "weight": (lambda weight: lambda x: x @ weight)(self.b.weight),
            "method": self.b.forward,
            "wrapped": torch.no_grad()(self.b.forward),
            "reference": _Referring(self),
        }.get(way, nn.Identity())
        self.ways = [(lambda x: self.b(x),)] if way == "list" else [(nn.functional.relu,)]
        if way == "hook":
            self.a.register_forward_hook(lambda _m, _a, out: out + self.b(out))
        if way == "forward":
            run = self.a.forward
            self.a.forward = lambda x: self.b(run(x))
        if way == "compiled":
            self.b.forward = torch.compile(self.b.forward, backend="eager")
            self.way = self.b

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.ways[0][0](self.way(self.a(x)) + 9)
        return y


class _Referring(nn.Module):
    def __init__(self, owner: nn.Module) -> None:
        super().__init__()
        self.owner = weakref.ref(owner)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.owner().b(x)
        return y


WAYS = ("function", "list", "default", "weight", "method", "wrapped", "reference", "hook", "forward", "compiled")


@pytest.mark.parametrize("way", WAYS)
def test_a_copy_runs_its_own_parts_however_code_reaches_them(way: str) -> None:
    model = Reaching(way)
    x = torch.ones(1, 2)
    other, before = copied(model), model(x)
    assert torch.equal(other(x), before)
    with torch.no_grad():
        model.b.weight.add_(1)
    assert not torch.equal(model(x), before)
    assert torch.equal(other(x), before)
    with torch.no_grad():
        other.b.weight.add_(1)
    assert torch.equal(other(x), model(x))


@pytest.mark.parametrize("way", ["function", "default", "wrapped", "hook", "reference"])
def test_a_copy_does_not_keep_the_original(way: str) -> None:
    model = Reaching(way)
    other, original = copied(model), weakref.ref(model)
    del model
    gc.collect()
    assert original() is None
    assert other(torch.ones(1, 2)).shape == (1, 2)


def test_a_function_that_reads_the_model_by_name_reads_the_copy() -> None:
    names: dict[str, Any] = {"nn": nn}
    exec("model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))\nmodel.call = lambda x: model[1](x)", names)
    other = copied(names["model"])
    with torch.no_grad():
        names["model"][1].weight.zero_()
    assert other.call(torch.ones(1, 2)).equal(other[1](torch.ones(1, 2)))
    assert names["model"].call(torch.ones(1, 2)).equal(names["model"][1].bias.unsqueeze(0))


def test_what_is_no_part_of_the_model_is_shared() -> None:
    teacher, calls = nn.Linear(2, 2), []
    model = nn.Sequential(nn.Linear(2, 2))
    model.teach = lambda x: calls.append(teacher(x))
    assert copied(model).teach is model.teach


def test_a_module_that_is_its_own_copy_is_refused() -> None:
    class Same(nn.Linear):
        def __deepcopy__(self, memo: dict[int, Any]) -> Same:
            return self

    with pytest.raises(InputError, match=r"Same.__deepcopy__ returns the module itself"):
        copied(nn.Sequential(Same(1, 1)))


def test_slots_are_copied() -> None:
    class Slotted(nn.Module):
        __slots__ = ("factor",)

    model = Slotted()
    model.factor = 2.0
    assert copied(model).factor == 2.0
