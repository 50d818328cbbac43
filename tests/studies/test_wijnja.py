"""The studies of initialisation and pruning in rounds: end to end, and what each part of a block is."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pandas
import pytest
import torch
from tests.studies.frozen_cells import SMALL
from torch import nn

from secateur import data, models
from secateur.lab import Results, Store, run_study, write_report
from secateur.lab.plan.recipe import Json
from secateur.schedules.tickets import Ticket
from secateur.structure import weights
from secateur.studies import by_name
from secateur.studies.wijnja.flow import movement
from secateur.studies.wijnja.pages import _best_words, falls_at, leaders
from secateur.studies.wijnja.ticket_pages import _gap
from secateur.studies.wijnja.tickets import removed
from secateur.studies.wijnja.training import CONTROLS, SeedBlock
from secateur.types import UnknownNameError


def run(name: str, folder: Path, options: dict[str, Json]) -> Results:
    """Run a study whole and write its report."""
    store = Store(folder)
    summary = run_study(by_name(name), store, options, progress=False)
    assert summary.exit_code == 0, store.failures()
    assert write_report(by_name(name), store, options).is_file()
    return by_name(name).results(store, options)


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return run("wijnja", tmp_path_factory.mktemp("wijnja"), SMALL["wijnja"])


def test_every_network_of_a_block_has_a_cell_of_its_own(results: Any) -> None:
    frame = results.frame
    counts = frame["kind"].value_counts()
    assert counts["ticket"] == 2 * 2 * 4 + 2 * len(CONTROLS)
    assert counts["long"] == 2 * (2 + len(CONTROLS))
    assert counts["other"] == 2 * 2 * 2
    tickets = frame[(frame["kind"] == "ticket") & (frame["treatment"] == "ticket")]
    assert tickets["accuracy"].between(0, 1).all()
    assert tickets.groupby(["scheme", "seed"])["accuracy"].nunique().gt(1).all()


def test_a_round_takes_a_fifth_and_half_as_much_of_the_output(results: Any) -> None:
    frame = results.frame
    row = frame[(frame["kind"] == "ticket") & (frame["round"] == 3) & (frame["treatment"] == "ticket")].iloc[0]
    *hidden, output = row["layer_densities"]
    assert hidden == pytest.approx([0.8**3] * 2, abs=1e-3)
    assert output == pytest.approx(0.9**3, abs=2e-3)
    assert row["sparsity"] == removed(0.2, 3)


def test_controls_are_as_sparse_as_their_ticket(results: Any) -> None:
    frame = results.frame
    rows = frame[(frame["kind"] == "ticket") & (frame["round"] == 2) & (frame["scheme"] == "xavier-normal")]
    density = rows.groupby("treatment")["density"].mean()
    for control in ("reinitialised", "shuffled", "random mask"):
        assert density[control] == pytest.approx(density["ticket"], abs=1e-4)
    assert 0.5 * density["ticket"] < density["small"] <= 1.05 * density["ticket"]
    layers = rows.set_index("treatment")["layer_densities"]
    assert layers["shuffled"].iloc[0] == pytest.approx(layers["ticket"].iloc[0])
    assert layers["random mask"].iloc[0] != pytest.approx(layers["ticket"].iloc[0], abs=1e-3)


def test_the_report_writes_its_conclusions_from_the_numbers(results: Any, tmp_path: Path) -> None:
    report = by_name("wijnja").pages(results)
    tickets = results.frame[(results.frame["kind"] == "ticket") & (results.frame["treatment"] == "ticket")]
    best = tickets.groupby("scheme")["accuracy"].mean().idxmax()
    assert report.summary[0].startswith(f"Over all rounds {best} has the highest mean test accuracy")
    page = report.write(tmp_path).read_text(encoding="utf-8")
    for words in ("Do tickets win?", "Longer training", "Other ways to prune", "Why"):
        assert words in page


def test_convolutional_networks_take_grey_images_in_colour(tmp_path: Path) -> None:
    options = {**SMALL["wijnja-conv"], "schemes": ["kaiming-normal"], "rounds": 1}
    frame = run("wijnja-conv", tmp_path, options).frame
    assert set(frame.loc[frame["kind"] == "ticket", "sparsity"]) == {0.0, 0.4}


# The parts


def _block(treatment: str, mask: torch.Tensor) -> SeedBlock:
    recipe = {
        "scheme": "xavier-normal",
        "seeds": [0],
        "model": "lenet-300-100",
        "model_options": {"input_size": 8},
        "treatment": treatment,
        "round": 1,
    }
    split = data.load("digits", "test", limit=20)
    needed = {f"mask {name}": mask for name in ("fc1.weight", "fc2.weight", "fc3.weight")}
    return SeedBlock(recipe, {"test": split, "train": split}, needed, goes_on=False)


def test_a_ticket_begins_with_its_own_first_weights_and_a_reinitialised_one_with_others() -> None:
    masks = torch.full((1, 4000), 0b10101010, dtype=torch.uint8)
    begun = models.build("lenet-300-100", seed=0, init="xavier-normal", input_size=8)
    ticket, other = (_block(name, masks)._ticket(0) for name in ("ticket", "reinitialised"))
    assert isinstance(ticket, Ticket)
    assert isinstance(other, Ticket)
    assert torch.equal(ticket.start["fc1.weight"], begun.state_dict()["fc1.weight"])
    assert ticket.sparsity == other.sparsity == 0.5
    assert torch.equal(ticket.keep["fc2.weight"], other.keep["fc2.weight"])
    assert not torch.equal(ticket.start["fc1.weight"], other.start["fc1.weight"])


def test_movement_counts_what_is_left_alone() -> None:
    start, end = nn.Linear(2, 1, bias=False), nn.Linear(2, 1, bias=False)
    start.weight.data, end.weight.data = torch.tensor([[3.0, 7.0]]), torch.tensor([[-3.0, 0.0]])
    images = data.Split(torch.zeros(1, 1, 1, 2), torch.zeros(1, dtype=torch.long), ("a",), "toy", "train")
    start, end = nn.Sequential(nn.Flatten(), start), nn.Sequential(nn.Flatten(), end)
    told = movement(start, end, {"1.weight": torch.tensor([[True, False]])}, images)
    assert told["moved"] == pytest.approx(2.0)
    assert told["flipped"] == 1.0
    assert told["layer_densities"] == [0.5]
    assert set(weights(start)) == {"1.weight"}


def test_accuracy_falls_for_good_where_the_line_crosses_a_point_below() -> None:
    runs = pandas.DataFrame({"sparsity": [0.0, 0.2, 0.4, 0.6, 0.8], "accuracy": [0.90, 0.88, 0.91, 0.90, 0.88]})
    assert falls_at(runs) == pytest.approx(0.7)
    assert math.isnan(falls_at(runs[:4]))


def test_leaders_are_compared_in_pairs_of_a_seed() -> None:
    rows = [(0.5, seed, scheme, value + seed / 10) for seed in range(5) for scheme, value in (("a", 0.3), ("b", 0.2))]
    rows = [(s, seed, scheme, accuracy + 0.001 * (seed % 2) * (scheme == "a")) for s, seed, scheme, accuracy in rows]
    frame = pandas.DataFrame(rows, columns=["sparsity", "seed", "scheme", "accuracy"])
    ((sparsity, first, second, lead, _, p, verdict),) = leaders(frame)
    assert (sparsity, first, second, verdict) == (0.5, "a", "b", "better")
    assert lead == pytest.approx(10.04)
    assert p < 1e-4


def test_equal_differences_have_no_interval() -> None:
    rows = [(0.5, seed, scheme, value) for seed in range(2) for scheme, value in (("a", 0.75), ("b", 0.5))]
    frame = pandas.DataFrame(rows, columns=["sparsity", "seed", "scheme", "accuracy"])
    ((*_, lead, interval, p, verdict),) = leaders(frame)
    assert (lead, interval, verdict) == (25.0, "–", "not tested")
    assert math.isnan(p)
    assert _best_words(frame).endswith("75.00 %; beside it b −25.00 points (not tested).")
    assert _gap(frame["accuracy"][:0]) == "–"


def test_unknown_options_name_the_networks_that_lack_them() -> None:
    with pytest.raises(UnknownNameError, match=r"unknown option of lenet-300-100: 'width'\. Known: classes"):
        by_name("wijnja").planned({"model_options": {"width": 0.5}})
    assert by_name("wijnja").planned({"model_options": {"dropout": 0.2}}).cells
    assert by_name("wijnja-conv").planned({"model_options": {"width": 0.5}}).cells
