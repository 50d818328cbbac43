"""Example inputs as the command line gives them."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from secateur.cli.inputs import example_inputs
from secateur.types import InputError, UnknownNameError


def test_whole_numbers_stay_below_their_limit_and_are_the_same_each_time() -> None:
    (ids,) = example_inputs(["int64[2,128]<50257"])
    assert (tuple(ids.shape), ids.dtype) == ((2, 128), torch.int64)
    assert 1000 < int(ids.max()) < 50257
    assert torch.equal(ids, example_inputs(["int64[2,128]<50257"])[0])


def test_inputs_with_names_are_keywords_and_those_without_are_in_order() -> None:
    named = example_inputs(["x=[1,3,4,4]", "mask = bool[1, 4]", "half=bfloat16[2]"])
    assert {name: x.dtype for name, x in named.items()} == {
        "x": torch.float32,
        "mask": torch.bool,
        "half": torch.bfloat16,
    }
    assert [tuple(x.shape) for x in example_inputs(["[1,3]", "int32[2]<5"])] == [(1, 3), (2,)]


@pytest.mark.parametrize(("names", "positional"), [(("0", "1"), True), (("ids", "mask"), False)])
def test_a_file_gives_its_tensors(tmp_path: Path, names: tuple[str, str], positional: bool) -> None:
    tensors = dict(zip(names, (torch.ones(2), torch.zeros(3)), strict=True))
    save_file(tensors, tmp_path / "x.safetensors")
    inputs = example_inputs([str(tmp_path / "x.safetensors")])
    assert isinstance(inputs, tuple) is positional
    values = list(inputs) if positional else [inputs[name] for name in names]
    assert [tuple(x.shape) for x in values] == [(2,), (3,)]


@pytest.mark.parametrize(
    ("texts", "error", "words"),
    [
        (["x=[1]", "[2]"], InputError, "all inputs by name"),
        (["float32[2]<5"], InputError, "whole numbers"),
        (["1,3,224,224"], InputError, "ids=int64"),
        (["x=floot[2]"], UnknownNameError, "floot"),
    ],
)
def test_what_is_no_input_is_refused_with_an_example(texts: list[str], error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        example_inputs(texts)
