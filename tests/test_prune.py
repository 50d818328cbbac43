"""The whole line in one call: its numbers by hand, and its report."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from torch import nn

import secateur as sc
from secateur.criteria import CRITERIA, Magnitude, Random
from secateur.pruning import prune
from secateur.solvers import SparseGPT, ThiNet
from secateur.structure import channels, cut, weights
from secateur.testing.toys import TOYS, hand_mlp, same_state, snapshot
from secateur.types import InputError, Sites, UnknownNameError

X = torch.tensor([[1.0, 2.0]])


def run(**options: Any) -> Any:
    return prune(hand_mlp(), X, **{"latency": False, **options})


def test_channels_by_hand() -> None:
    """The L1 norms of the hidden units are 3, 2 and 4: the middle one goes."""
    result = run(criterion="l1", sparsity=1 / 3)
    assert result.keep["0"].tolist() == [True, False, True]
    assert result.model(X).tolist() == [[5, 13]]
    report = result.report
    assert (report.unit, report.criterion, report.scope, report.sparsity) == ("channels", "l1", "layer", 1 / 3)
    assert (report.units_removed, report.units) == (1, 3)
    # 2·3 + 3 + 3·2 + 2 = 17 numbers, of which two weights and three biases are zero; then 2·2 + 2 + 2·2 + 2 = 12.
    assert report.parameters == (17, 12)
    assert report.nonzero == (12, 8)
    # One multiply-accumulate a weight and sample: 6 + 6, then 4 + 4.
    assert report.macs == (12, 8)
    assert report.bytes[0] - report.bytes[1] > 0
    assert report.latency is None
    assert report.difference is not None
    assert report.difference < 1e-6
    assert [(s.name, s.units, s.kept) for s in report.sites] == [("0", 3, 2)]
    assert dict(report.frozen) == {"2": "the model's output"}


def test_weights_by_hand() -> None:
    """Of twelve weights four are the lowest: the two zeros, and the first two ones in the order of the sites."""
    result = run(criterion="l1", sparsity=4 / 12, unit="weights")
    assert result.keep["0.weight"].int().tolist() == [[0, 1], [0, 1], [1, 1]]
    assert result.keep["2.weight"].int().tolist() == [[1, 1, 0], [1, 0, 1]]
    assert result.model[0].weight.tolist() == [[0, 2], [0, 1], [3, -1]]
    assert result.report.parameters == (17, 17)
    assert result.report.nonzero == (12, 10)
    assert result.report.macs == (12, 12)
    assert result.report.difference is None
    assert (result.report.units_removed, result.report.units) == (4, 12)
    assert [edit.kind for edit in result.edits] == ["masked"]


@pytest.mark.parametrize("name", sorted(name for name, row in CRITERIA.items() if row.needs_data))
def test_criteria_of_data_by_name_remove_half(name: str) -> None:
    samples = torch.rand(8, 2, generator=torch.Generator().manual_seed(0)), torch.tensor([0, 1] * 4)
    model = nn.Sequential(nn.Linear(2, 4), nn.ReLU(), nn.Linear(4, 2))
    unit = "weights" if name == "obs" else "channels"
    result = prune(model, X, name, data=samples, unit=unit, latency=False)  # type: ignore[arg-type]
    assert result.report.criterion == name
    assert result.report.units_removed == result.report.units // 2
    rule = (0.5, {}) if unit == "weights" else (None, {"budget": {"macs": 0.5}})
    assert (result.report.sparsity, result.report.rule) == rule


def test_a_solver_decides_what_goes_and_what_its_readers_become() -> None:
    inputs = torch.rand(64, 2, generator=torch.Generator().manual_seed(0))
    thinet, labels = ThiNet((inputs, torch.zeros(64, dtype=torch.long))), torch.zeros(64, dtype=torch.long)
    result = run(solver=thinet, sparsity=1 / 3)
    sites = channels(hand_mlp(), X)
    solved = thinet.solve(hand_mlp(), sites, 1 / 3)
    assert torch.equal(result.model(X), cut(solved.apply(hand_mlp()), sites, solved.keep)(X))
    assert not torch.equal(result.model(X), cut(hand_mlp(), sites, solved.keep)(X))
    assert (result.report.criterion, result.report.scope) == (repr(thinet), "in its own scope")
    assert str(result.report).startswith("1 of 3 units removed (33.3%): channels by ThiNet(")
    sparse = run(solver=SparseGPT((inputs, labels)), unit="weights")
    assert (sparse.report.sparsity, sparse.report.units_removed) == (0.5, 6)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"criterion": "l1"}, "leave out criterion"),
        ({"scope": "layer"}, "leave out scope"),
        ({"budget": {"macs": 0.5}}, "leave out budget"),
        ({"repair": "bias"}, "leave out repair"),
        ({"round_to": 2}, "leave out round_to"),
        ({"solver": ThiNet}, "give one that is made"),
        ({"sparsity": 1.5}, r"must be a number in \[0, 1\]"),
    ],
)
def test_a_solver_goes_with_no_other_rule(options: Any, words: str) -> None:
    solver = ThiNet((torch.rand(8, 2), torch.zeros(8, dtype=torch.long)))
    model = hand_mlp()
    before = snapshot(model)
    with pytest.raises(InputError, match=words):
        prune(model, X, **{"solver": solver, **options})
    assert same_state(before, snapshot(model))


def test_it_is_the_line_of_its_parts() -> None:
    toy = TOYS["residual"]
    model = toy.build()
    result = prune(model, toy.inputs(), Magnitude(p=1), 0.4, latency=False)
    sites = channels(model, toy.inputs())
    by_hand = cut(model, sites, result.keep)
    assert all(torch.equal(a, b) for a, b in zip(result.model.parameters(), by_hand.parameters(), strict=True))
    assert result.report.criterion == "Magnitude(p=1, side='incoming', reduce='joint')"
    assert list(result.sites) == list(sites)


@pytest.mark.parametrize("unit", ["channels", "weights"])
@pytest.mark.parametrize("name", list(TOYS))
def test_the_model_is_left_as_it_is(name: str, unit: Any) -> None:
    toy = TOYS[name]
    model = toy.build().train()
    before = snapshot(model)
    prune(model, toy.inputs(), "random", 0.3, unit=unit)
    assert same_state(before, snapshot(model))


def test_sparsity_zero_removes_nothing() -> None:
    result = run(sparsity=0)
    assert result.report.parameters == (17, 17)
    assert result.report.units_removed == 0
    assert result.report.difference == 0


def test_a_mapping_of_sparsities() -> None:
    toy = TOYS["cnn"]
    result = prune(toy.build(), toy.inputs(), "l2", {"4": 0.4}, scope="layer", latency=False)
    assert [(s.name, s.kept) for s in result.report.sites] == [("0", 4), ("4", 3)]
    assert result.report.to_dict()["sparsity"] == {"4": 0.4}


def test_ignore_and_minimum() -> None:
    toy = TOYS["cnn"]
    result = prune(toy.build(), toy.inputs(), "l2", 0.4, ignore=["4"], minimum=2, latency=False)
    assert [s.name for s in result.report.sites] == ["0"]
    assert result.report.frozen["4"] == "ignored, as asked"
    with pytest.raises(InputError, match="keeps at least 3"):
        prune(toy.build(), toy.inputs(), "l2", 0.9, minimum=3, scope="global", latency=False)


def test_the_report_is_plain_json_and_comes_back() -> None:
    for options in ({}, {"unit": "weights"}, {"scope": "layer", "sparsity": {"0": 1 / 3}}, {"latency": True}):
        report = run(**options).report
        data = json.loads(json.dumps(report.to_dict(), allow_nan=False))
        assert data["parameters"] == list(report.parameters)
        assert data["sites"][0]["name"] == report.sites[0].name
        assert {"python", "torch"} <= set(data["versions"])


def test_the_report_reads_as_text() -> None:
    text = str(run(criterion="l1", sparsity=1 / 3).report)
    assert text.splitlines()[0] == "1 of 3 units removed (33.3%): channels by l1, layer"
    assert [line.split() for line in text.splitlines()[1:4]] == [
        ["parameters", "17", "→", "12", "(29.4%", "removed)"],
        ["non-zero", "12", "→", "8", "(33.3%", "removed)"],
        ["MACs", "12", "→", "8", "(33.3%", "removed)"],
    ]
    assert "verified" in text
    assert text.splitlines()[-1] == "left whole: 2 (the model's output)"
    assert "latency" not in text
    assert "speedup" in str(run(latency=True).report)


def test_the_report_says_that_zeros_give_no_speed() -> None:
    assert "neither smaller nor faster" in str(run(unit="weights").report)
    assert "neither smaller nor faster" not in str(run().report)


def test_the_report_names_a_few_layers_a_reason() -> None:
    model = nn.Sequential(*(nn.Linear(2, 2) for _ in range(8)))
    text = str(prune(model, X, ignore=["[0-5]"], latency=False).report)
    assert "left whole: 7 (the model's output); 0, 1, 2, 3 and 2 more (ignored, as asked)" in text


def test_latency_is_measured_when_asked() -> None:
    before, after = run(latency=True).report.latency
    assert 0 < before < 1
    assert 0 < after < 1


def test_the_same_seed_gives_the_same_model() -> None:
    first, again, other = (run(criterion=Random(seed=s), unit="weights").keep for s in (1, 1, 2))
    assert all(torch.equal(first[k], again[k]) for k in first)
    assert any(not torch.equal(first[k], other[k]) for k in first)


def test_unknown_names_are_refused() -> None:
    with pytest.raises(UnknownNameError, match="unknown unit 'channel'; did you mean 'channels'"):
        run(unit="channel")
    with pytest.raises(UnknownNameError, match="unknown criterion 'l3'"):
        run(criterion="l3")
    with pytest.raises(UnknownNameError, match="unknown scope 'local'"):
        run(scope="local")
    with pytest.raises(UnknownNameError, match="'9'"):
        run(ignore=["9"])


def test_a_criterion_that_is_none_is_refused() -> None:
    for criterion in (3, Magnitude, ("l1",)):
        with pytest.raises(InputError, match="criterion"):
            run(criterion=criterion)


def twice() -> nn.Module:
    return nn.Sequential(nn.Linear(2, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 2))


def first_alone(model: nn.Module, sites: Sites) -> dict[str, torch.Tensor]:
    return {"0": torch.arange(8.0)}


def broken(model: nn.Module, sites: Sites) -> dict[str, torch.Tensor]:
    return {"0": {}["missing"]}


def test_a_criterion_that_scores_some_of_the_sites_leaves_the_others_whole_and_that_is_said() -> None:
    result = prune(twice(), X, first_alone, 0.5, latency=False)
    assert "WARNING: first_alone scored 1 of 2 sites; left whole without a score: 2" in str(result.report)
    assert (result.report.units_removed, result.report.units) == (4, 16)
    assert "12 of 16 channels kept" in repr(result)
    assert result.model[2].out_features == 8  # type: ignore[index, union-attr]
    assert not prune(twice(), X, "l2", 0.5, latency=False).report.warnings


@pytest.mark.parametrize("doing", ["prune", "compress", "Iterative", "sensitivity"])
def test_what_a_criterion_of_one_s_own_raises_names_it(doing: str) -> None:
    model, data = twice(), (torch.ones(4, 2), torch.tensor([0, 1, 0, 1]))
    calls: dict[str, Any] = {
        "prune": lambda: prune(model, X, broken, 0.5),
        "compress": lambda: sc.compress(model, X, {"macs": 0.5}, data, data, criterion=broken, runtime="eager"),
        "Iterative": lambda: sc.schedules.Iterative(broken, 0.5)(model, sc.channels(model, X)),
        "sensitivity": lambda: sc.allocate.sensitivity(model, sc.channels(model, X), broken, [0.5], data=data),
    }
    with pytest.raises(
        InputError, match=rf"{doing}: the criterion broken raised KeyError: 'missing'.*\(model, sites\)"
    ) as caught:
        calls[doing]()
    assert isinstance(caught.value.__cause__, KeyError)


@pytest.mark.parametrize("sparsity", [-0.1, 1.5, float("nan"), "0.5", True])
def test_sparsities_out_of_range_are_refused(sparsity: Any) -> None:
    with pytest.raises(InputError, match="sparsity"):
        run(sparsity=sparsity)


def test_a_model_without_sites_is_refused_with_the_reasons() -> None:
    with pytest.raises(InputError, match=r"nothing of this model can be removed.*the model.s output"):
        prune(nn.Linear(2, 2), X, latency=False)


def test_a_shared_weight_counts_once() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 2))
    model[2].weight = model[0].weight
    result = prune(model, X, unit="weights", latency=False)
    assert result.report.units == 4
    assert result.report.parameters == (8, 8)
    assert list(result.sites) == list(weights(model))


@pytest.mark.filterwarnings("ignore:Complex modules are a new feature")
def test_what_no_file_can_hold_is_pruned_and_counted() -> None:
    model = nn.Sequential(nn.Linear(2, 4, bias=False), nn.Linear(4, 1, bias=False)).to(torch.complex128)
    result = prune(model, X.to(torch.complex128), sparsity=0.5, latency=False)
    assert result.report.bytes == (16 * 12, 16 * 6)


def test_complex_scores_rank_nothing() -> None:
    sites = channels(hand_mlp(), X)
    with pytest.raises(InputError, match=r"the scores of '0' are torch\.complex64, which rank nothing"):
        sc.select({"0": torch.ones(3, dtype=torch.complex64)}, 0.3, sites=sites)
