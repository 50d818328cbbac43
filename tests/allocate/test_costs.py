"""Cost tables against real cuts, and plans against every choice there is."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from secateur.allocate import CostTable, Sensitivity, SiteCosts, budget, cost_table, measured_losses, plan, plan_jointly
from secateur.criteria import JointLossChange, JointWorth, LossChange, Magnitude
from secateur.criteria.joint_loss_change import joint_worth
from secateur.criteria.quadratic import Quadratic
from secateur.measure import file_bytes, macs, parameters, rate
from secateur.structure import channels, cut, weights
from secateur.testing.toys import TOYS, same_state, snapshot
from secateur.types import FileError, InputError, Keep, Sites, UnknownNameError
from zoo import build


def chain_table(seed: int, sites: int = 4, shared: bool = True) -> CostTable:
    """A chain of layers, each between two sites: its cost is in proportion to what is kept of both."""
    drawn, names = np.random.default_rng(seed), [f"s{number}" for number in range(sites)]
    layers = drawn.uniform(50, 200, size=sites + 1)
    entries = {}
    for number, name in enumerate(names):
        kept = (8, 6, 4, 2)
        costs = tuple(float(layers.sum() - (1 - k / 8) * layers[number : number + 2].sum()) for k in kept)
        rises = np.cumsum(np.r_[0, drawn.exponential(size=3)])
        entries[name] = SiteCosts(8, kept, {"macs": costs}, tuple(rises.tolist()))
    between = {names[number]: {names[number + 1]: float(layers[number + 1])} for number in range(sites - 1)}
    return CostTable({"macs": float(layers.sum())}, entries, {"macs": between} if shared else {})


def best_loss(table: CostTable, limit: float) -> float:
    """The least loss of all widths within the limit."""
    every = product(*(site.kept for site in table.sites.values()))
    plans = [dict(zip(table.sites, kept, strict=True)) for kept in every]
    return min(table.rise(kept) for kept in plans if table.foretell(kept)["macs"] <= limit * (1 + 1e-9))


@pytest.mark.parametrize("share", [0.3, 0.5, 0.7])
@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("seed", range(8))
def test_a_plan_is_the_best_of_all_widths(seed: int, shared: bool, share: float) -> None:
    table = chain_table(seed, shared=shared)
    planned = plan(table, {"macs": share})
    assert planned.costs["macs"] <= share * table.whole["macs"] * (1 + 1e-9)
    assert planned.loss == pytest.approx(best_loss(table, share * table.whole["macs"]))
    assert planned.loss == pytest.approx(table.rise(planned.kept))


def test_a_goal_below_the_narrowest_widths_is_refused_with_what_can_be_had() -> None:
    table = chain_table(0)
    with pytest.raises(InputError, match=r"macs cannot come down to .* are left \(17\.77%\)"):
        plan(table, {"macs": 0.01})
    for goal in ({}, {"macs": 0.5, "parameters": 0.5}, {"macs": 1.5}, {"macs": "fast"}):
        with pytest.raises(InputError, match="macs"):
            plan(table, goal)
    with pytest.raises(UnknownNameError, match="latency"):
        plan(table, {"latency": 0.5})


def test_units_that_hurt_go_though_nothing_must() -> None:
    site = SiteCosts(4, (4, 3, 2), {"macs": (4.0, 3.0, 2.0)}, (0.0, -0.5, 0.1))
    assert plan(CostTable({"macs": 4.0}, {"a": site}), {"macs": 1.0}).kept == {"a": 3}


def first_units(sites: Sites, kept: dict[str, int]) -> Keep:
    return {name: torch.arange(sites[name].size) < count for name, count in kept.items()}


@pytest.mark.parametrize("name", ["mlp", "cnn", "residual"])
def test_what_is_foretold_is_what_a_cut_leaves(name: str) -> None:
    toy = TOYS[name]
    model, x = toy.build(), toy.inputs()
    before, sites = snapshot(model), channels(model, x)
    table = cost_table(model, sites, widths=3, least=0.0)
    drawn = np.random.default_rng(0)
    for _ in range(4):
        kept = {name: int(drawn.integers(1, site.size + 1)) for name, site in sites.items()}
        small = cut(model, sites, first_units(sites, kept))
        foretold = table.foretell(kept)
        assert foretold["macs"] == pytest.approx(macs(small, x))
        assert foretold["parameters"] == pytest.approx(parameters(small).total)
        assert foretold["bytes"] == pytest.approx(file_bytes(small), abs=300)  # the header is shorter
    assert same_state(before, snapshot(model))


def test_a_recurrent_network_is_cut_to_be_counted() -> None:
    model, x = build("lstm")
    sites = channels(model, x)
    table = cost_table(model, sites, measures=["macs"], widths=2, least=0.5)
    half = {name: site.kept[-1] for name, site in table.sites.items()}
    small = cut(model, sites, first_units(sites, half))
    assert table.foretell(half)["macs"] == pytest.approx(macs(small, x), rel=0.15)


def test_widths() -> None:
    model = nn.Sequential(nn.Linear(4, 40), nn.ReLU(), nn.Linear(40, 2))
    sites = channels(model, torch.zeros(1, 4))

    def kept(**options: Any) -> tuple[int, ...]:
        return cost_table(model, sites, measures=["macs"], **options).sites["0"].kept

    assert kept(widths=4) == (40, 28, 16, 4)
    assert kept(widths=4, round_to=8) == (40, 32, 16, 8)
    assert kept(widths=3, least=0.0, minimum=10) == (40, 25, 10)
    assert kept(widths={"0": [10, 20]}) == (40, 20, 10)
    assert kept(widths={}) == (40,)
    for wrong in ({"widths": 0}, {"widths": {"0": [50]}}, {"least": 2.0}, {"widths": {"0": [0]}}):
        with pytest.raises(InputError, match="cost_table"):
            kept(**wrong)
    with pytest.raises(UnknownNameError, match="flops"):
        cost_table(model, sites, measures=["flops"])
    with pytest.raises(InputError, match="channels"):
        cost_table(model, weights(model))


# ---- latency ----


def timer_of_parameters(model: nn.Module, example: Any) -> float:
    """Seconds that are known: so many for each parameter, and a start."""
    return 1e-3 + 1e-6 * sum(parameter.numel() for parameter in model.parameters())


def wide_mlp() -> tuple[nn.Module, Tensor, Sites]:
    model = nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 4))
    x = torch.zeros(1, 16)
    return model, x, channels(model, x)


def test_latency_is_measured_by_a_timer_and_foretold_with_what_layers_share() -> None:
    model, x, sites = wide_mlp()
    table = cost_table(model, sites, measures=["latency"], widths=4, runtime=timer_of_parameters)
    assert table.whole["latency"] == pytest.approx(timer_of_parameters(model, x))
    half = {"0": 16, "2": 16}
    small = cut(model, sites, first_units(sites, half))
    truth, added_up = timer_of_parameters(small, x), replace(table, shared={}).foretell(half)["latency"]
    assert table.foretell(half)["latency"] == pytest.approx(truth, rel=0.03)
    assert abs(added_up - truth) > 3 * abs(table.foretell(half)["latency"] - truth)
    assert "timer_of_parameters" in table.about["latency"]


def test_what_sites_do_not_share_adds_up() -> None:
    """Where each neuron takes its own time, whatever it reads, as a memory-bound activation does."""
    model, x, sites = wide_mlp()

    def timer(model: nn.Module, example: Any) -> float:
        return 1e-3 + 1e-5 * sum(layer.out_features for layer in model.modules() if isinstance(layer, nn.Linear))

    table = cost_table(model, sites, measures=["latency", "macs"], widths=4, runtime=timer)
    counts = {"0": 16, "2": 5}
    small = cut(model, sites, first_units(sites, counts))
    assert table.foretell(counts)["latency"] == pytest.approx(timer(small, x))
    assert table.foretell(counts)["macs"] == pytest.approx(macs(small, x))


def test_a_scale_is_learnt_from_one_measurement_and_holds_for_other_goals() -> None:
    model, _, sites = wide_mlp()
    table = cost_table(model, sites, measures=["macs", "parameters"], widths=16, least=0.0)
    # As though savings had been measured at half their size.
    saved_half = {
        name: replace(
            site, costs={"parameters": tuple((c + table.whole["parameters"]) / 2 for c in site.costs["parameters"])}
        )
        for name, site in table.sites.items()
    }
    shared = {a: {b: both / 2 for b, both in others.items()} for a, others in table.shared["parameters"].items()}
    wrong = CostTable({"parameters": table.whole["parameters"]}, saved_half, {"parameters": shared})
    kept = {"0": 16, "2": 16}
    right = wrong.corrected("parameters", kept, table.foretell(kept)["parameters"])
    assert right.scale == pytest.approx({"parameters": 2.0})
    other = {"0": 10, "2": 30}
    assert right.foretell(other)["parameters"] == pytest.approx(table.foretell(other)["parameters"])
    assert plan(right, {"parameters": 0.4}).kept == plan(table, {"parameters": 0.4}).kept
    with pytest.raises(InputError, match="tells no scale"):
        wrong.corrected("parameters", {}, 10.0)
    with pytest.raises(InputError, match="tells no scale"):
        wrong.corrected("parameters", kept, 1e9)


# ---- plans with pairs ----


def chain_case(seed: int, sites: int = 3, units: int = 4) -> tuple[JointWorth, CostTable]:
    """A model of the loss with pairs, and the costs of a chain."""
    drawn, names = np.random.default_rng(seed), [f"s{number}" for number in range(sites)]
    roots = drawn.normal(size=(6, sites * units))
    model = Quadratic(dict.fromkeys(names, units), drawn.exponential(size=sites * units) * 0.1, roots.T @ roots / 6)
    layers = drawn.uniform(50, 200, size=sites + 1)
    entries = {}
    for number, name in enumerate(names):
        kept = tuple(range(units, 0, -1))
        costs = tuple(float(layers.sum() - (1 - k / units) * layers[number : number + 2].sum()) for k in kept)
        entries[name] = SiteCosts(units, kept, {"macs": costs}, (0.0,) * units)
    between = {names[number]: {names[number + 1]: float(layers[number + 1])} for number in range(sites - 1)}
    return joint_worth(model, "global", 1, samples=1), CostTable(
        {"macs": float(layers.sum())}, entries, {"macs": between}
    )


@pytest.mark.parametrize("share", [0.4, 0.6, 0.8])
def test_joint_plans_are_near_the_best_of_all_masks(share: float) -> None:
    """Against every mask there is; plans of single sites' losses are further from it."""
    over, over_added_up = [], []
    for seed in range(6):
        worth, costs = chain_case(seed)
        limit = share * costs.whole["macs"]
        planned = plan_jointly(worth, costs, {"macs": share})
        assert planned.costs["macs"] <= limit * (1 + 1e-9)
        assert planned.kept == {name: int(mask.sum()) for name, mask in planned.keep.items()}
        assert planned.loss == pytest.approx(worth.foretell(planned.keep))
        best = min(
            loss
            for kept, loss in every_mask(worth)
            if costs.foretell(dict(zip(costs.sites, kept, strict=True)))["macs"] <= limit
        )
        added_up = plan(costs.with_losses(worth.losses()), {"macs": share})
        over.append(planned.loss - best)
        over_added_up.append(worth.foretell(worth.choose(added_up.kept)) - best)
        assert planned.loss >= best - 1e-9
    assert sum(over) < 0.6 * sum(over_added_up)


def every_mask(worth: JointWorth) -> list[tuple[tuple[int, ...], float]]:
    """The units kept by site, and the foretold loss, of every mask that empties no site."""
    gone = 1.0 - np.array(list(product([0, 1], repeat=len(worth.model.slopes))))
    losses = gone @ worth.model.slopes + np.einsum("mi,ij,mj->m", gone, worth.model.pairs, gone) / 2
    kept = np.stack([(1 - gone[:, span]).sum(1) for span in worth.model.spans.values()], 1).astype(int)
    return [(tuple(row), float(loss)) for row, loss in zip(kept.tolist(), losses, strict=True) if min(row) > 0]


def test_a_width_that_saves_nothing_is_passed_over() -> None:
    """As in a runtime that is slower at 3 units than at 4, and fast at 2."""
    worth, costs = chain_case(0, sites=1)
    slow = SiteCosts(4, (4, 3, 2, 1), {"macs": (10.0, 11.0, 5.0, 4.0)}, (0.0,) * 4)
    planned = plan_jointly(worth, CostTable({"macs": 10.0}, {"s0": slow}), {"macs": 0.6})
    assert planned.kept == {"s0": 2}
    assert costs.sites["s0"].units == 4


def test_a_table_that_does_not_fit_the_units_is_refused() -> None:
    worth, costs = chain_case(0)
    with pytest.raises(InputError, match=r"'s0' has 4 units, and the table's widest width is 3; pass costs\.within"):
        plan_jointly(worth, costs.within({"s0": 3}), {"macs": 0.5})
    with pytest.raises(UnknownNameError, match="site of the cost table 's0'"):
        plan_jointly(worth, CostTable(costs.whole, {}), {"macs": 1.0})
    more = CostTable(costs.whole, {**costs.sites, "other": costs.sites["s0"]})
    with pytest.raises(UnknownNameError, match="site of the model that was scored 'other'"):
        plan_jointly(worth, more, {"macs": 1.0})


# ---- a value to keep ----


def test_a_table_is_saved_and_loaded(tmp_path: Path) -> None:
    table = replace(chain_table(1).corrected("macs", {"s0": 2}, 500.0), about={"latency": "a forward pass in eager"})
    table.save(tmp_path / "costs.json")
    assert CostTable.load(tmp_path / "costs.json") == table


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"format": "another"}', '{"format": "secateur cost table 1"}'])
def test_other_files_are_refused(tmp_path: Path, content: str) -> None:
    file = tmp_path / "costs.json"
    file.write_text(content)
    with pytest.raises(FileError, match=r"costs\.json cannot be read"):
        CostTable.load(file)
    with pytest.raises(FileError, match=r"no\.json"):
        CostTable.load(tmp_path / "no.json")


def test_a_file_of_unknown_fields_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "costs.json"
    chain_table(0).save(file)
    file.write_text(json.dumps(json.loads(file.read_text()) | {"more": 1}))
    with pytest.raises(FileError, match="cannot be read"):
        CostTable.load(file)


def test_losses_are_replaced_and_widths_without_one_go() -> None:
    table = chain_table(0, sites=2)
    fresh = table.with_losses({"s0": [0.0, 1.0, 2.0, 3.0, 4.0], "s1": range(9)})
    assert fresh.sites["s0"].kept == (8, 6, 4)
    assert fresh.sites["s0"].losses == (0.0, 2.0, 4.0)
    assert fresh.sites["s1"].losses == (0.0, 2.0, 4.0, 6.0)
    assert fresh.sites["s0"].costs["macs"] == table.sites["s0"].costs["macs"][:3]
    for wrong in ({"s0": [0.0]}, {"s0": [0.0, float("nan"), float("nan")], "s1": [0.0]}):
        with pytest.raises(InputError, match="cost table"):
            table.with_losses(wrong)


def test_a_model_that_is_cut_already_goes_on_from_its_widths() -> None:
    table = chain_table(0)
    first = plan(table, {"macs": 0.7})
    on = table.within(first.kept)
    assert plan(on, {"macs": 0.7}).kept == first.kept
    second = plan(on, {"macs": 0.4})
    assert all(second.kept[name] <= first.kept[name] for name in table.sites)
    assert second.costs["macs"] <= 0.4 * table.whole["macs"]
    with pytest.raises(UnknownNameError, match="nowhere"):
        table.within({"nowhere": 1})


# ---- losses, and budgets ----


def test_measured_losses_are_those_of_the_masked_model() -> None:
    toy = TOYS["cnn"]
    model, (x, y) = toy.build(), toy.batches()[0]
    sites = channels(model, x)
    scores = LossChange((x, y))(model, sites)
    losses = measured_losses(model, sites, scores, (x, y), widths=3, least=0.0)
    for name, site in sites.items():
        assert len(losses[name]) == site.size  # one unit stays
        lowest = scores[name].argsort()[: site.size - 1]
        keep = torch.ones(site.size, dtype=torch.bool).index_fill(0, lowest, False)
        whole, without = rate(model, sites, [{}, {name: keep}], (x, y)).losses.tolist()
        assert losses[name][-1] == pytest.approx(without - whole)


@pytest.mark.parametrize("pairs", [True, False])
@pytest.mark.parametrize("measure", ["macs", "parameters", "bytes"])
def test_a_budget_is_met_with_the_table_s_widths(measure: str, pairs: bool) -> None:
    toy = TOYS["residual"]
    model, (x, y) = toy.build(), toy.batches()[0]
    sites = channels(model, x)
    worth = JointLossChange((x, y))(model, sites)
    scores = worth if pairs else dict(worth)
    table = cost_table(model, sites, worth.losses(), widths=64, least=0.0)
    wanted: Any = {measure: 0.6}
    keep = budget(model, sites, scores, costs=table, **wanted)
    sizes = {"macs": macs, "parameters": lambda m, x: parameters(m).total, "bytes": lambda m, x: file_bytes(m)}
    assert sizes[measure](cut(model, sites, keep), x) <= 0.6 * sizes[measure](model, x)
    with pytest.raises(UnknownNameError, match="site of the cost table"):
        budget(model, sites, scores, costs=CostTable(table.whole, {}), **wanted)
    with pytest.raises(UnknownNameError, match="measure of the cost table"):
        budget(model, sites, scores, costs=replace(table, whole={}), **wanted)


def test_a_time_is_met_with_the_table_s_widths_and_few_cuts_are_timed() -> None:
    model, x, sites = wide_mlp()
    calls = []

    def timer(model: nn.Module, example: Any) -> float:
        calls.append(model)
        return timer_of_parameters(model, example)

    worth = JointLossChange((torch.randn(40, 16), torch.arange(40) % 4))(model, sites)
    table = cost_table(model, sites, measures=["latency"], widths=32, least=0.0, runtime=timer)
    calls.clear()
    keep = budget(model, sites, worth, latency=0.7, costs=table, runtime=timer)
    small = cut(model, sites, keep)
    assert timer_of_parameters(small, x) / timer_of_parameters(model, x) == pytest.approx(0.7, rel=0.05)
    assert len(calls) <= 5  # the unpruned one, and the first guess or two


def test_both_a_table_and_a_scan_are_refused() -> None:
    model, _, sites = wide_mlp()
    table = cost_table(model, sites)
    with pytest.raises(InputError, match="costs or sensitivity"):
        budget(model, sites, Magnitude()(model, sites), macs=0.5, costs=table, sensitivity=Sensitivity({}, ()))
