"""A model that came back as a graph is saved as one: to the bit in another process, and refused where it cannot be."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load as parse_tensors
from safetensors.torch import save as dump_tensors
from test_saving import EDITS, MANIFEST, forge
from torch import Tensor, nn
from torch.fx import GraphModule

from saved_folders import reseal
from secateur.edits.inputs import describe, restore
from secateur.pruning import prune
from secateur.result import Result
from secateur.saving import load, save
from secateur.saving.records import joined, parted
from secateur.testing.toys import TOYS, same_state, snapshot
from secateur.types import FileError, InputError


class Literal(nn.Module):
    """A size stands in the code as a number: no module of this class can have another."""

    def __init__(self) -> None:
        super().__init__()
        self.fc, self.out = nn.Linear(2, 4), nn.Linear(4, 1)
        self.table: Tensor
        self.register_buffer("table", torch.arange(4.0) + 1, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        h = (self.fc(x) * self.table).view(-1, 2, 2)
        made: Tensor = self.out(torch.cat([h[:, 0], torch.sigmoid(h[:, 1])], 1))
        return made


class Otherwise(Literal):
    """The same tensors, another forward pass."""

    def forward(self, x: Tensor) -> Tensor:
        h = (self.fc(x) * self.table).view(-1, 2, 2)
        made: Tensor = self.out(torch.cat([h[:, 0], torch.tanh(h[:, 1])], 1))
        return made


class Chosen(nn.Module):
    """Takes tokens, a flag and a list by name; a token of 5 is the highest there is."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.fc, self.out = nn.Embedding(6, 4), nn.Linear(4, 4), nn.Linear(4, 2)

    def forward(self, tokens: Tensor, extra: list[Tensor], scale: float = 1.0, flag: bool = False) -> dict[str, Tensor]:
        h = self.fc(self.table(tokens).mean(1)).view(-1, 2, 2)
        h = torch.cat([h[:, 0], torch.sigmoid(h[:, 1])], 1) * scale
        return {"out": self.out(h) + (extra[0] if flag else 0)}


def pruned(model: nn.Module, inputs: Any) -> Result:
    torch.manual_seed(3)
    return prune(model, inputs, "l2", 0.5, scope="layer", form="graph", latency=False)


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    torch.manual_seed(1)
    return pruned(Literal(), torch.randn(3, 2)).save(tmp_path / "small")


def test_the_form_is_told() -> None:
    result = pruned(Literal(), torch.randn(3, 2))
    assert isinstance(result.model, GraphModule)
    assert result.report.form == "graph"
    assert "form: a graph (torch.fx.GraphModule)" in str(result.report)
    whole = prune(TOYS["mlp"].build(), TOYS["mlp"].inputs(), latency=False).report
    assert whole.form == "module"
    assert "graph" not in str(whole)


def test_a_module_that_is_a_graph_module_already_is_cut_as_one(tmp_path: Path) -> None:
    model = torch.fx.symbolic_trace(TOYS["mlp"].build())
    result = prune(model, TOYS["mlp"].inputs(), latency=False)
    assert result.report.form == "module"
    again = load(result.save(tmp_path / "small"), model)
    with torch.no_grad():
        assert torch.equal(again(TOYS["mlp"].inputs()), result.model(TOYS["mlp"].inputs()))


def test_a_round_trip_is_exact_and_leaves_the_model_alone(tmp_path: Path) -> None:
    model, x = Literal(), torch.randn(3, 2)
    result = pruned(model, x)
    folder = result.save(tmp_path / "small")
    other = Literal().train()
    before = snapshot(other)
    again = load(folder, other)
    assert same_state(before, snapshot(other))
    assert other.training
    assert isinstance(again, GraphModule)
    assert list(again.state_dict()) == list(result.model.state_dict())
    assert again.get_parameter("fc.weight").shape == (2, 2)
    with torch.no_grad():
        assert torch.equal(again(x), result.model(x))
    assert Result.read_report(folder)["form"] == "graph"


CODE = """
import json, sys, torch
sys.path.insert(0, sys.argv[2])
from test_saving_graph import Literal
from secateur.saving import load
torch.set_num_threads(1)
torch.manual_seed(99)
with torch.no_grad():
    print(load(sys.argv[1], Literal())(torch.tensor(json.loads(sys.argv[3]))).view(torch.int32).tolist())
"""


def test_a_round_trip_in_a_new_process_is_exact(tmp_path: Path) -> None:
    x = torch.tensor([[0.5, -1.0], [2.0, 0.25], [1.5, 3.0]])
    result = pruned(Literal(), x)
    folder = result.save(tmp_path / "small")
    run = subprocess.run(
        [sys.executable, "-c", CODE, str(folder), str(Path(__file__).parent), json.dumps(x.tolist())],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    with torch.no_grad():
        assert json.loads(run.stdout) == result.model(x).view(torch.int32).tolist()


def test_inputs_of_every_kind_come_back(tmp_path: Path) -> None:
    inputs = {"tokens": torch.tensor([[5, 0, 3]]), "extra": [torch.randn(1, 2)], "scale": 0.5, "flag": True}
    model = Chosen()
    result = pruned(model, inputs)
    folder = result.save(tmp_path / "small")
    again = load(folder, Chosen())
    with torch.no_grad():
        assert torch.equal(again(**inputs)["out"], result.model(**inputs)["out"])
    described = json.loads((folder / MANIFEST).read_text())["edits"][0]["inputs"]["dict"]
    assert described["tokens"]["tensor"] == [1, 3]
    assert described["tokens"]["dtype"] == "int64"
    assert described["scale"] == {"value": 0.5}


def test_floats_are_not_kept_and_come_back_as_ones() -> None:
    x = (torch.randn(2, 3), torch.tensor([True, False]), {"a": [None, "text", 3]})
    tensors: dict[str, Tensor] = {}
    plain = json.loads(json.dumps(parted(describe(x), tensors)))
    first, second, third = restore(joined(plain, tensors), torch.device("cpu"))
    assert first.tolist() == [[1, 1, 1], [1, 1, 1]]
    assert second.tolist() == [True, False]
    assert third == {"a": [None, "text", 3]}
    assert list(tensors) == ["0"]


@pytest.mark.parametrize(
    "value",
    [object(), {1: 2}, float("nan"), torch.float32, torch.Size([2]), torch.eye(2).to_sparse()],
    ids=lambda value: type(value).__name__,
)
def test_inputs_that_json_cannot_hold_are_refused(value: Any) -> None:
    with pytest.raises(FileError, match=r"torch\.export\.save"):
        describe((torch.ones(1), value))


def test_they_are_refused_before_anything_is_written(tmp_path: Path) -> None:
    result = pruned(Literal(), torch.randn(3, 2))
    object.__setattr__(result.edits[0], "inputs", {"x": object()})
    with pytest.raises(FileError, match="cannot keep"):
        result.save(tmp_path / "small")
    assert not list(tmp_path.iterdir())


def test_a_model_that_computes_something_else_is_refused(saved: Path) -> None:
    with pytest.raises(FileError, match=r"small.*answers otherwise"):
        load(saved, Otherwise())


@pytest.mark.parametrize("model", [nn.Linear(2, 2), TOYS["cnn"].build()], ids=lambda m: type(m).__name__)
def test_another_architecture_is_refused(saved: Path, model: nn.Module) -> None:
    with pytest.raises(FileError, match=f"does not fit this {type(model).__name__}"):
        load(saved, model)


@pytest.mark.parametrize(
    ("name", "mask"),
    [
        ("fc", torch.ones(3, dtype=torch.bool)),
        ("fc", torch.zeros(4, dtype=torch.bool)),
        ("fc", torch.ones(4)),
        ("fc", "text"),
        ("nowhere", torch.ones(4, dtype=torch.bool)),
        ("fc", torch.ones(4, dtype=torch.bool)),  # fits the model, not the weights
    ],
)
def test_sealed_masks_that_do_not_fit_are_refused(saved: Path, name: str, mask: Any) -> None:
    forge(saved, lambda edit: edit["keep"].update({name: mask}))
    with pytest.raises(FileError, match=r"small.*does not fit"):
        load(saved, Literal())


@pytest.mark.parametrize("outputs", [[torch.zeros(3, 1)], [torch.zeros(7)], [], [torch.zeros(3, 1)] * 2, "text"])
def test_sealed_answers_that_do_not_fit_are_refused(saved: Path, outputs: Any) -> None:
    tensors = parse_tensors((saved / EDITS).read_bytes())
    plain = parted(outputs, numbered := dict(tensors))
    (saved / EDITS).write_bytes(dump_tensors(numbered))
    reseal(saved, lambda m: m["answers"].update(outputs=plain))
    with pytest.raises(FileError, match=r"small.*does not fit"):
        load(saved, Literal())


@pytest.mark.parametrize(
    "inputs",
    [
        None,
        {},
        {"tuple": 3},
        {"tuple": [7]},
        {"tuple": [{"tensor": [3, 5], "dtype": "float32"}]},
        {"tuple": [{"tensor": [-1], "dtype": "float32"}]},
        {"tuple": [{"tensor": [10**15], "dtype": "float32"}]},
        {"tuple": [{"tensor": [3, 2], "dtype": "os.system"}]},
        {"tuple": [{"tensor": [3, 2], "dtype": "int64", "values": "text"}]},
        {"dict": {"y": {"tensor": [3, 2], "dtype": "float32"}}},
    ],
)
def test_sealed_inputs_that_do_not_fit_are_refused(saved: Path, inputs: Any) -> None:
    forge(saved, lambda edit: edit.update(inputs=inputs))
    with pytest.raises(FileError, match="small"):
        load(saved, Literal())


def test_a_graph_that_is_called_a_module_is_refused(saved: Path) -> None:
    forge(saved, lambda edit: edit.update(kind="cut"))
    with pytest.raises(FileError, match="small"):
        load(saved, Literal())


def test_tied_and_transposed_weights_are_told_apart(tmp_path: Path) -> None:
    """A square matrix and its transpose lie at one place in memory, and are not one tensor."""
    model = nn.Module()
    model.register_buffer("a", torch.tensor([[1.0, 2.0], [3.0, 4.0]]))
    model.register_buffer("b", model.get_buffer("a").T)
    save(tmp_path / "small", model, [], {})
    other = nn.Module()
    other.register_buffer("a", torch.zeros(2, 2))
    other.register_buffer("b", torch.zeros(2, 2))
    assert load(tmp_path / "small", other).get_buffer("b").tolist() == [[1, 3], [2, 4]]


def test_what_is_no_model_is_refused(saved: Path) -> None:
    with pytest.raises(InputError, match="load: the model is a str"):
        load(saved, "model")  # type: ignore[arg-type]
