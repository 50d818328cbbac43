"""What the options that name a machine do to training cells, and what they leave alone."""

from __future__ import annotations

import pytest

from secateur.lab import Context, Resources
from secateur.studies import by_name
from secateur.studies.kit.networks import device_of
from secateur.types import InputError, UnknownNameError


def test_what_a_training_asks_for_reaches_its_cell() -> None:
    plain, asked = (by_name("demo").plan(options) for options in ({}, {"gpus": 1, "device": "cuda", "workers": 5}))
    assert [cell.id for cell in plain] == [cell.id for cell in asked], "a machine changes no recipe"
    resources = {cell.recipe.kind: cell.resources for cell in asked}
    assert resources.pop("train") == Resources(gpus=1)
    assert set(resources.values()) == {Resources()}


def test_what_changes_the_numbers_is_in_the_recipe() -> None:
    first = by_name("demo").plan({"amp": True, "augment": ["flip"]})[0].recipe
    assert first.parameters["fit"] == {"amp": True}
    assert first.parameters["augment"] == ["flip"]
    assert first.id != by_name("demo").plan()[0].id
    with pytest.raises(UnknownNameError, match="augment"):
        by_name("demo").plan({"augment": ["flop"]})
    with pytest.raises(InputError, match="gpus is -1"):
        by_name("demo").plan({"gpus": -1})


def test_a_device_that_is_not_there_is_said() -> None:
    recipe = by_name("demo").plan()[0].recipe
    assert device_of(Context(recipe, None)).type == "cpu"  # type: ignore[arg-type]
    with pytest.raises(InputError, match="device is 'nonsense', which torch cannot use here"):
        device_of(Context(recipe, None, {"device": "nonsense"}))  # type: ignore[arg-type]
