"""The studies of filters after Janjić: what they prune, what they rate, and on which networks and data."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from secateur import models
from secateur.criteria import Energy
from secateur.lab import Results, Store, run_study, write_report
from secateur.lab.plan.recipe import Json
from secateur.lab.plan.study import Context
from secateur.measure import evaluate, parameters
from secateur.saving import save_weights
from secateur.selection import select
from secateur.structure import channels, cut, mask
from secateur.studies import by_name
from secateur.studies.janjic import filters
from secateur.studies.janjic.dropout import dropped, parts
from secateur.studies.janjic.energy_pages import ours
from secateur.studies.janjic.iterative import slices
from secateur.studies.kit.published import published
from secateur.types import FileError, InputError, UnknownNameError

NAMES = ("janjic-energy-vgg16", "janjic-energy-resnet101", "janjic-dropout", "janjic-iterative")
TINY: dict[str, Json] = {
    "data": "digits",
    "seeds": 2,
    "epochs": 1,
    "validation": 1400,
    "train_images": 64,
    "test_images": 40,
    "model_options": {"width": 0.0625},
}


def narrow(name: str = "vgg-16", **options: Any) -> nn.Module:
    return models.build(name, seed=0, in_channels=1, classes=10, input_size=32, width=0.0625, **options)


IMAGE = torch.zeros(1, 1, 32, 32)


def run(name: str, folder: Path, options: dict[str, Json]) -> Results:
    """Run a study whole and write its report."""
    store = Store(folder)
    summary = run_study(by_name(name), store, options, progress=False)
    assert summary.exit_code == 0, store.failures()
    assert write_report(by_name(name), store, options).is_file()
    return by_name(name).results(store, options)


# What the text says


def test_the_published_figures_are_those_of_the_text() -> None:
    vgg = {claim["words"]: claim["theirs"] for claim in published("janjic")["vgg16"]}
    assert vgg["1 %: filters removed (%), mean of the layers"] == 9.83
    assert vgg["10 %: accuracy lost (points)"] == 16.88
    resnet = {claim["words"]: claim["theirs"] for claim in published("janjic")["resnet101"]}
    assert resnet["50 %: filters removed in these (%)"] == 87.94
    assert resnet["1 %, layer 18: accuracy (%)"] == 80.32
    assert published("janjic")["dropout"][0.9] == [4.998, 31.45]
    assert len(published("janjic")["dropout"]) == 10


def test_the_grids_are_those_of_the_text() -> None:
    train, *layers = by_name("janjic-energy-vgg16").plan({"seeds": 1})
    assert train.recipe.parameters["model_options"] == {
        "classes": 10,
        "in_channels": 1,
        "input_size": 32,
        "width": 0.125,
    }
    found = {(cell.recipe.parameters["method"], cell.recipe.parameters["threshold"]) for cell in layers}
    assert found == {(m, t) for m in ("energy", "random", "l1", "l2") for t in (0.01, 0.02, 0.05, 0.1, 0.2, 0.5)}
    resnet = by_name("janjic-energy-resnet101").plan()
    assert {cell.recipe.parameters.get("layers") for cell in resnet} == {None, "layer*"}
    dropout = by_name("janjic-dropout").plan({"seeds": 1})
    assert [cell.recipe.parameters["threshold"] for cell in dropout[1:]] == [0.0, 0.01, 0.1]
    modes = [cell.recipe.parameters.get("mode") for cell in by_name("janjic-iterative").plan({"seeds": 1})]
    assert modes[:8] == [None, None, "none", "each", "end", "norms", "bias", "least-squares"]
    assert modes[8:12] == ["none", "end", "none", "end"], "random and L2"


PINNED: dict[str, dict[int, str]] = {
    "janjic-energy-vgg16": {
        0: "04ffa5699bdb8268",
        1: "27efb9a5d524f7ad",
        5: "d1882c5d0debe545",
        74: "58f6ed16f4b8adcd",
    },
    "janjic-energy-resnet101": {
        0: "8ccbb6298b1a15bf",
        1: "4f847b10ca06bf15",
        5: "7701abcb0ac0e69f",
        37: "5f1f43cf1e1adb1a",
    },
    "janjic-dropout": {0: "500f38906f228da8", 1: "ce1f44b884f98eb9", 5: "05cd6f7a1d4996d7", 11: "169afb9276ac4c63"},
    "janjic-iterative": {0: "a5a9079ea2043239", 1: "eb98747f79a29f20", 5: "5a2fce15e23ad8db", 68: "f6e89620696439c6"},
}


@pytest.mark.parametrize("name", PINNED)
def test_recipes_keep_their_ids(name: str) -> None:
    """A changed id loses every result that people have: give a new option a default instead."""
    plan = [cell.id for cell in by_name(name).plan()]
    assert {at: plan[at] for at in PINNED[name]} == PINNED[name]


# Which filters


def test_each_convolution_of_vgg_is_a_layer() -> None:
    sites = filters.filters(narrow(), IMAGE)
    assert list(sites) == [f"features.{at}" for at in (0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28)]
    followed = [filters.before_convolution(site) for site in sites.values()]
    assert followed == [True] * 12 + [False], "the text prunes 12; the classifier reads the last one"


def test_the_two_inner_convolutions_of_each_module_of_resnet_101_are_layers() -> None:
    model = models.build("resnet-101", seed=0, in_channels=1, classes=10, input_size=32, width=1 / 32)
    sites = filters.filters(model, IMAGE, "layer*")
    modules = [f"layer{stage}.{at}" for stage, depth in enumerate((3, 4, 23, 3), 1) for at in range(depth)]
    assert list(sites) == [f"{name}.conv{at}" for name in modules for at in (1, 2)]
    assert len(sites) == 66, "as in section 5.2.2"
    assert all(map(filters.before_convolution, sites.values()))


def test_a_pattern_of_no_layer_and_a_network_without_convolutions_are_refused() -> None:
    with pytest.raises(UnknownNameError, match=r"unknown convolution 'features.1'"):
        filters.filters(narrow(), IMAGE, ["features.0", "features.1"])
    with pytest.raises(InputError, match="Sequential has no convolution whose filters can be cut"):
        filters.filters(nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 2)), torch.zeros(1, 4))


def test_controls_remove_as_many_of_each_layer_as_energy() -> None:
    model = narrow()
    sites = filters.filters(model, IMAGE)
    energy = filters.choose(model, sites, 0.2)
    wanted = select(Energy()(model, sites), cumulative=0.2)
    assert all(torch.equal(energy[name], wanted[name]) for name in sites)
    assert sum(int((~kept).sum()) for kept in energy.values()) > 20
    for method in ("random", "l1", "l2"):
        control = filters.choose(model, sites, 0.2, method, seed=3)
        assert [int(kept.sum()) for kept in control.values()] == [int(kept.sum()) for kept in energy.values()]
    with pytest.raises(UnknownNameError, match="did you mean 'l2'"):
        filters.choose(model, sites, 0.2, "l22")


@pytest.mark.parametrize("layer", ["features.7", "features.28"])
def test_the_parameters_that_go_are_those_that_a_cut_removes(layer: str) -> None:
    model = narrow()
    site = filters.filters(model, IMAGE)[layer]
    kept = torch.arange(site.size) % 3 > 0
    small = cut(model, channels(model, IMAGE), {layer: kept})
    assert filters.parameters_of(site, kept) == parameters(model).total - parameters(small).total


# Energy, end to end


@pytest.fixture(scope="module")
def energy(tmp_path_factory: pytest.TempPathFactory) -> Results:
    options = {**TINY, "thresholds": [0.1, 0.5], "methods": ["energy", "l2"], "layers": ["features.0", "features.2*"]}
    return run("janjic-energy-vgg16", tmp_path_factory.mktemp("runs") / "energy", options)


def layers_of(results: Results, **wanted: Any) -> list[dict[str, Any]]:
    rows = [dict(row) for _, row in results.histories.iterrows()]
    return [row for row in rows if row["kind"] == "layers" and all(row[key] == value for key, value in wanted.items())]


def test_every_layer_alone_is_rated_as_the_cut_network_is(energy: Results) -> None:
    from secateur import data

    row = energy.frame[energy.frame["kind"] == "train"].iloc[0]
    model = narrow()
    model.load_state_dict(energy.store.artefact(row["id"]))
    test = data.load("digits", "test", size=32).subset(range(40))
    sites = filters.filters(model, IMAGE)
    keep = filters.choose(model, sites, 0.5)
    for found in layers_of(energy, seed=0, threshold=0.5, method="energy"):
        name = found["layer"]
        small = cut(model, sites, {name: keep[name]})
        assert found["loss"] == pytest.approx(evaluate(small, test).loss, abs=1e-5)
        masked = evaluate(mask(model, sites, {name: keep[name]}), test)
        assert (found["accuracy"], found["removed"]) == (masked.accuracy, int((~keep[name]).sum()))
        assert found["fitness"] == pytest.approx(found["points"] + found["compression"])


def test_means_leave_out_the_layer_that_no_convolution_follows(energy: Results) -> None:
    runs = energy.frame[(energy.frame["kind"] == "layers") & (energy.frame["seed"] == 1)]
    assert set(runs["layers_pruned"]) == {5}
    one = runs[(runs["method"] == "l2") & (runs["threshold"] == 0.5)].iloc[0]
    rows = layers_of(energy, seed=1, method="l2", threshold=0.5)
    assert [row["layer"] for row in rows if not row["counted"]] == ["features.28"]
    counted = [row["compression"] for row in rows if row["counted"]]
    assert one["compression"] == pytest.approx(sum(counted) / 5)
    assert len(one["class_accuracy"]) == 10


def test_the_report_on_energy_has_its_tables(energy: Results) -> None:
    report = by_name("janjic-energy-vgg16").pages(energy)
    names = {block.name for block in report.blocks() if not isinstance(block, str)}
    assert {"overview", "layers", "layers-map", "fitness", "published", "controls", "wins", "classes"} <= names
    assert "sawtooth" not in names, "these layers do not come in pairs"


def test_the_claims_are_computed_from_the_layers() -> None:
    import pandas

    rows = [
        {"threshold": 0.01, "step": step, "counted": step < 5, "seed": seed, "accuracy": 0.8, "loss": 1.0}
        | {"compression": 0.1 * step, "points": -float(step) - seed}
        for step in (1, 4, 5)
        for seed in (0, 1)
    ]
    energy, runs = pandas.DataFrame(rows), pandas.DataFrame({"seed": [0], "base_accuracy": [0.9], "base_loss": [0.4]})
    numbers = {claim["words"]: ours(claim, energy, runs) for claim in published("janjic")["vgg16"]}
    assert numbers["unpruned: accuracy (%)"] == 90
    assert numbers["1 %: filters removed (%), mean of the layers"] == pytest.approx(25)  # of layers 1 and 4
    assert numbers["1 %: accuracy lost (points)"] == pytest.approx(3)
    assert numbers["1 %: the same without the 4th convolution (the text's layer 8)"] == pytest.approx(1.5)
    assert numbers["10 %: accuracy lost (points)"] != numbers["10 %: accuracy lost (points)"], "nan: nothing was run"
    assert ours({"value": "lost", "threshold": 0.01, "only": 4}, energy, runs) == pytest.approx(4.5)
    assert ours({"value": "lost", "threshold": 0.01, "least": True}, energy, runs) == pytest.approx(1.5)
    assert ours({"value": "layers", "threshold": 0.01, "cheap": True}, energy.assign(points=-10.0), runs) == 0


# Dropout


def test_dropout_of_nothing_is_the_network_itself() -> None:
    model, images = narrow().eval(), torch.randn(5, 1, 32, 32)
    before, after = parts(model)
    with torch.no_grad():
        assert torch.allclose(dropped(after, before(images), 0.0, seed=0), model(images))


def test_dropout_leaves_everything_as_it_was_and_repeats_itself() -> None:
    _, after = parts(narrow())
    inputs, state = torch.randn(64, 32), torch.get_rng_state()
    once, again, other = (dropped(after, inputs, 0.5, seed) for seed in (1, 1, 2))
    assert torch.equal(once, again)
    assert not torch.equal(once, other)
    assert torch.equal(torch.get_rng_state(), state)
    assert {one.p for one in after.modules() if isinstance(one, nn.Dropout)} == {0.5}
    assert after.training


def test_a_network_without_dropout_is_refused() -> None:
    with pytest.raises(InputError, match="ResNet is not of VGG's form"):
        parts(narrow("resnet-18"))


def test_dropout_end_to_end(tmp_path: Path) -> None:
    options = {**TINY, "rates": [0, 0.5], "draws": 2, "thresholds": [0.1], "layers": ["features.0", "features.28"]}
    results = run("janjic-dropout", tmp_path, options)
    runs = results.frame[results.frame["kind"] == "dropout"]
    assert sorted(runs["threshold"]) == [0, 0, 0.1, 0.1]
    rows = results.histories[results.histories["kind"] == "dropout"]
    assert len(rows) == 2 * (2 + 2 * 2), "two rates unpruned, and with each layer pruned"
    assert (rows[rows["rate"] == 0]["least"] == rows[rows["rate"] == 0]["most"]).all()


# Layer after layer


def test_each_and_end_see_the_same_images() -> None:
    each = torch.cat([slices(100, 8, place, place) for place in (1, 2, 3)])
    assert torch.equal(each, slices(100, 8, 1, 3))


def test_iterative_end_to_end(tmp_path: Path) -> None:
    options = {
        **TINY,
        "model_options": {"width": 0.0625, "batch_norm": True},
        "thresholds": [0.5],
        "methods": ["energy", "l2"],
        "modes": ["none", "each", "end", "least-squares"],
        "tolerance": 100,
        "layers": ["features.7", "features.34"],
        "retrain_images": 32,
        "calibration": 32,
        "seeds": 1,
    }
    results = run("janjic-iterative", tmp_path, options)
    runs = results.frame[results.frame["kind"] == "iterate"]
    assert set(zip(runs["method"], runs["mode"], strict=True)) == {
        *(("energy", mode) for mode in ("none", "each", "end", "least-squares")),
        *(("l2", mode) for mode in ("none", "end")),
    }
    assert runs["parameters"].nunique() == 1, "all lose as many filters"
    assert (runs["parameters"] < results.frame[results.frame["kind"] == "train"]["parameters"].iloc[0]).all()
    rows = results.histories[results.histories["kind"] == "iterate"]
    plain = rows[(rows["method"] == "energy") & (rows["mode"] == "none")]
    assert list(plain["layer"]) == ["none", "features.7", "features.34"]
    assert list(rows[(rows["method"] == "energy") & (rows["mode"] == "end")]["layer"])[-1] == "retrained"


# Weights and images of one's own


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """A tiny ImageNet: two classes, each a folder of four pictures."""
    from PIL import Image

    generator = torch.Generator().manual_seed(0)
    for split in ("train", "val"):
        for name in ("cat", "dog"):
            folder = tmp_path / "images" / split / name
            folder.mkdir(parents=True)
            for number in range(4):
                pixels = torch.randint(0, 256, (40, 36, 3), dtype=torch.uint8, generator=generator)
                Image.fromarray(pixels.numpy()).save(folder / f"{number}.png")
    return tmp_path / "images"


@pytest.mark.parametrize(
    ("study", "model", "options", "layers", "suffix"),
    [
        ("janjic-energy-vgg16", "vgg-16", {"classes": 1000, "hidden": 4096}, ["features.2"], ".pth"),
        ("janjic-energy-resnet101", "resnet-101", {}, ["layer1.0.conv*"], ".safetensors"),
    ],
)
def test_weights_and_a_folder_of_images_run_through_the_same_study(
    study: str, model: str, options: dict[str, Any], layers: list[str], suffix: str, images: Path, tmp_path: Path
) -> None:
    """Narrow networks with torchvision's names; the true sizes are in the slow tests."""
    given = {**options, "width": 1 / 32}
    other = models.build(model, seed=7, input_size=64, **given)
    path = tmp_path / f"own{suffix}"
    if suffix == ".pth":
        torch.save(other.state_dict(), path)
    else:
        save_weights(path, other)
    chosen: dict[str, Json] = {"data": "folder", "data_dir": str(images), "size": 64, "weights": str(path)}
    chosen |= {"model_options": given, "layers": layers, "thresholds": [0.5], "methods": ["energy", "random"]}
    results = run(study, tmp_path / "runs", chosen)
    (load,) = results.frame[results.frame["kind"] == "load"]["id"]
    assert all(torch.equal(tensor, other.state_dict()[name]) for name, tensor in results.store.artefact(load).items())
    assert list(results.frame["kind"]) == ["load", "layers", "layers"]
    sites = filters.filters(other, torch.zeros(1, 3, 64, 64), layers)
    keep = filters.choose(other, sites, 0.5)
    rows = layers_of(results, method="energy")
    assert {row["layer"]: row["removed"] for row in rows} == {n: int((~k).sum()) for n, k in keep.items()}


def test_weights_are_known_by_their_content(tmp_path: Path) -> None:
    study = by_name("janjic-energy-vgg16")
    one, same, other = (tmp_path / f"{name}.safetensors" for name in ("one", "same", "other"))
    for path, seed in ((one, 0), (other, 1)):
        save_weights(path, models.build("vgg-16", seed=seed, input_size=32, width=1 / 32))
    shutil.copy(one, same)
    first, again, third = ([c.id for c in study.plan({"weights": str(path)})] for path in (one, same, other))
    assert first == again
    assert not set(first) & set(third)
    with pytest.raises(FileError, match=r"nowhere\.pth cannot be read"):
        study.plan({"weights": str(tmp_path / "nowhere.pth")})
    cell = study.plan({"weights": str(one)})[0]
    with pytest.raises(FileError, match="another file than when the study was planned"):
        cell.run(Context(cell.recipe, Store(tmp_path / "runs"), {"weights": str(other)}))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("study", "model", "layers"),
    [("janjic-energy-vgg16", "vgg-16", "features.26"), ("janjic-energy-resnet101", "resnet-101", "layer4.2.conv1")],
)
def test_weights_of_true_size_run_through_the_same_study(
    study: str, model: str, layers: str, images: Path, tmp_path: Path
) -> None:
    """138 and 45 million weights under torchvision's names (tests/models compares these), at 224×224."""
    path = tmp_path / "true.pth"
    torch.save(models.build(model, seed=0).state_dict(), path)
    chosen: dict[str, Json] = {"data": "folder", "data_dir": str(images), "size": 224, "weights": str(path)}
    chosen |= {"model_options": {}, "layers": layers, "thresholds": [0.5], "methods": ["energy"], "test_images": 4}
    results = run(study, tmp_path / "runs", chosen)
    (row,) = layers_of(results)
    assert row["filters"] == 512
    assert 0 < row["removed"] < 512
