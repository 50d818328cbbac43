"""The studies after E. Çallı, 2017: what their cells compute, and what their reports say."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from frozen_cells import SMALL
from pandas import DataFrame
from torch import nn

from secateur import models, runtimes
from secateur.lab import Results, Store, run_study, write_report
from secateur.lab.plan.recipe import Json
from secateur.lab.show.figures import images
from secateur.lab.show.sections import pick
from secateur.studies import by_name
from secateur.studies.calli import mobile
from secateur.studies.calli.augment import CROP, Augmented, centred, cifar_form, standardised
from secateur.studies.calli.autoencoder import WAYS as AUTOENCODER_WAYS
from secateur.studies.calli.classifiers import CIFAR_WAYS, MNIST_WAYS
from secateur.studies.calli.common import Course, Way
from secateur.studies.calli.summation import MAIN, firing, positive, samples
from secateur.studies.calli.summation import WAYS as SUM_WAYS
from secateur.studies.kit.parts import Part
from secateur.studies.kit.published import published
from secateur.types import InputError

PLAIN: dict[str, Json] = {"images": 60, "epochs": 1, "cycles": 2, "settle": 1, "batch_size": 20}


def run(name: str, folder: Path, options: dict[str, Json]) -> Results:
    """Run a study whole and write its report."""
    store = Store(folder)
    summary = run_study(by_name(name), store, options, progress=False)
    assert summary.exit_code == 0, store.failures()
    assert write_report(by_name(name), store, options).is_file()
    return by_name(name).results(store, options)


@pytest.mark.parametrize("ways", [SUM_WAYS, AUTOENCODER_WAYS, MNIST_WAYS, CIFAR_WAYS])
def test_a_way_stands_whole_in_a_recipe(ways: dict[str, Way]) -> None:
    recipes = {name: way.recipe() for name, way in ways.items()}
    assert {name: Way.of(recipe) for name, recipe in recipes.items()} == dict(ways)


def test_the_ways_without_distortion_and_penalty_are_the_plain_ones() -> None:
    assert SUM_WAYS["vanilla"].penalties(torch.zeros(1, 2)) == []
    assert SUM_WAYS["vanilla"].options(epochs=1).momentum == 0.3
    assert SUM_WAYS["Adam"].options(epochs=1).optimizer == "adam"
    assert set(MAIN) < set(SUM_WAYS)


# The sum of two numbers


def sum_of(*nodes: tuple[float, float, float, float]) -> nn.Module:
    """A network of nodes (weights of both inputs, bias, outgoing weight)."""
    model = models.build("calli-sum", hidden=len(nodes))
    table = torch.tensor(nodes)
    with torch.no_grad():
        model.hidden.weight.copy_(table[:, :2])
        model.hidden.bias.copy_(table[:, 2])
        model.output.weight.copy_(table[:, 3:].T)
    return model


def test_nodes_fire_where_a_corner_of_the_square_is_positive() -> None:
    model = sum_of((1, 1, 0, 1), (-1, -1, 0, 1), (-1, -1, 0.5, 1), (1, -3, -0.5, 1), (1, 1, -2, 1))
    assert firing(model, 0.0) == 3
    assert firing(model, -1.0) == 4
    x, _ = samples(100_000, 0.0, seed=0)
    assert int((model.hidden(x) > 0).any(0).sum()) == 3


def test_samples_are_of_the_range_and_the_seed() -> None:
    x, y = samples(1000, -0.5, seed=3)
    assert -0.5 <= float(x.min()) < -0.49
    assert 0.99 < float(x.max()) <= 1
    assert torch.equal(y[:, 0], x[:, 0] + x[:, 1])
    assert torch.equal(x, samples(1000, -0.5, seed=3)[0])
    assert not torch.equal(x, samples(1000, -0.5, seed=4)[0])


def test_where_the_gradients_point() -> None:
    model = sum_of((1, 1, 0, 1), (-1, -1, 0, 1))
    x, y = samples(100, 0.0, seed=0)
    (model(x) + 5 - y).square().mean().backward()
    # Every output is too large: what lowers the loss is less of each weight of the node that fires.
    assert positive(model) == 1.0
    model.zero_grad()
    assert positive(model) != positive(model), "nothing moves"


def test_sum_end_to_end(tmp_path: Path) -> None:
    options: dict[str, Json] = {
        "seeds": 2,
        "ways": ["vanilla", "small weights", "distorted, added", "distorted + L1", "Adam + group lasso", "no biases"],
        "hidden": 60,
        "samples": 2000,
        "epochs": 4,
        "batch_size": 100,
        "cycles": 4,
        "settle": 4,
    }
    results = run("calli-sum", tmp_path, options)
    assert len(results.frame) == 2 * 2 + 4
    vanilla = results.frame[results.frame["way"] == "vanilla"]
    assert (vanilla["left"] < 60).all()
    steps = results.histories[results.histories["phase"] == "steps"]
    assert steps["nodes"].between(0, 60).all()
    assert (steps.groupby("id").size() == 60).all()
    assert steps["positive"].dropna().between(0, 1).all()
    cycles = results.histories[results.histories["phase"] == "cycles"].groupby("id")["nodes"]
    assert cycles.apply(lambda nodes: nodes.is_monotonic_decreasing).all()


# The auto-encoder and the classifiers


def test_the_published_figures_are_those_of_the_text() -> None:
    theirs = published("calli")
    assert theirs["autoencoder"]["pruned"] == [16, 64, 22]
    assert theirs["sum"]["first"] == 950
    assert theirs["sum"]["w2"] == -6.75151157


def test_pruned_and_unpruned_networks_train_as_long() -> None:
    passes: list[int] = []

    class Counted:
        def __len__(self) -> int:
            return 2

        def __iter__(self):  # type: ignore[no-untyped-def]
            passes.append(1)
            yield from [(torch.rand(8, 2), torch.rand(8, 1))] * 2

    pairs = torch.rand(8, 2), torch.rand(8, 1)
    course, way = Course(Counted(), pairs, 2, 3, 4, 8, "mse"), Way(lr=1e-4)
    counts = []
    for train in (course.plain, course.prune):
        passes.clear()
        train(way, models.build("calli-sum", hidden=9, seed=0), 0)
        counts.append(len(passes))
    # The passes besides are those that look at the data before a training: one for each call of fit.
    assert counts[0] - 2 == 2 * 3 + 4
    assert counts[1] >= 2 * 3 + 4


def test_autoencoder_end_to_end(tmp_path: Path) -> None:
    options = {**PLAIN, "seeds": 1, "data": "mnist-5k", "ways": ["outliers", "fires in at most 10 %", "combined"]}
    results = run("calli-autoencoder", tmp_path, options)
    frame = results.frame.set_index("way")
    assert list(frame.loc["unpruned", ["encoder1", "encoder2", "decoder1"]]) == [32, 64, 32]
    assert frame.loc["unpruned", "parameters"] == 37_827
    assert frame.loc["the text's widths from scratch", "total"] == 102
    assert (frame.loc[["outliers", "combined"], "macs"] <= frame.loc["unpruned", "macs"]).all()
    report = (tmp_path / "report" / "report.html").read_text(encoding="utf-8")
    assert "what each network makes of them" in report
    # Without the unpruned networks nothing can be said beside them.
    pruned = replace(results, frame=results.frame[results.frame["way"] != "unpruned"])
    report = by_name("calli-autoencoder").pages(pruned)
    assert any("(– beside unpruned)" in sentence for sentence in report.summary)
    assert "nan" not in " ".join(report.summary)


@pytest.mark.parametrize("name", ["calli-mnist", "calli-cifar"])
def test_classifiers_end_to_end(name: str, tmp_path: Path) -> None:
    options = {**PLAIN, "rated": 40, "data": "mnist-5k", "ways": ["unpruned", "activation", "outliers", "group lasso"]}
    results = run(name, tmp_path, options)
    frame = results.frame.set_index("way")
    assert frame.loc["unpruned", "parameters"] == frame.loc["unpruned", "parameters_before"]
    assert frame.loc["outliers", "macs"] <= frame.loc["outliers", "macs_before"]
    assert frame["accuracy"].between(0, 1).all()


# Images as table 2.3 has them


@pytest.mark.parametrize("options", [{"images": 50}, {"images": 3000, "data": "digits", "batch_size": 2000}])
def test_images_that_fill_no_batch_are_refused_up_front(options: dict[str, Json]) -> None:
    with pytest.raises(InputError, match=rf"images={options['images']} .*batch_size={options.get('batch_size', 100)}"):
        by_name("calli-cifar").planned(options)
    assert by_name("calli-cifar").planned({"images": 100}).cells
    assert by_name("calli-mnist").planned({"images": 10}).cells


def test_images_take_the_form_of_cifar() -> None:
    grey = torch.rand(3, 1, 28, 28)
    formed = cifar_form(grey)
    assert formed.shape == (3, 3, 32, 32)
    assert torch.equal(formed[:, 1, 2:30, 2:30], grey[:, 0])
    assert float(formed[:, :, :2].abs().max()) == 0
    whole = torch.rand(2, 3, 32, 32)
    assert torch.equal(cifar_form(whole), whole)


def test_each_image_is_standardised() -> None:
    out = standardised(torch.rand(4, 3, 5, 5) * 7 + 2)
    assert float(out.mean((1, 2, 3)).abs().max()) < 1e-5
    torch.testing.assert_close(out.std((1, 2, 3), correction=0), torch.ones(4))
    assert float(standardised(torch.ones(1, 3, 5, 5)).abs().max()) == 0


def test_augmented_images_are_crops_brighter_and_with_another_contrast() -> None:
    data = torch.rand(40, 3, 32, 32)
    augmented = Augmented(data, torch.arange(40), 8, seed=0)
    assert len(augmented) == 5
    first, second = list(augmented), list(augmented)
    labels = torch.cat([y for _, y in first])
    assert sorted(labels.tolist()) == list(range(40))
    assert not torch.equal(labels, torch.cat([y for _, y in second]))
    assert all(x.shape == (8, 3, CROP, CROP) for x, _ in first)
    again = Augmented(data, torch.arange(40), 8, seed=0)
    assert torch.equal(next(iter(again))[0], first[0][0])


def test_a_crop_is_a_part_of_its_image_up_to_shift_scale_and_flip() -> None:
    image = torch.zeros(1, 3, 32, 32)
    image[:, :, 14:18, 14:16] = 1.0  # in every crop
    ((out, _),) = Augmented(image, torch.zeros(1), 1, seed=1)
    assert int((out > 0).sum()) == 3 * 4 * 2
    assert centred(image).shape == (1, 3, CROP, CROP)


def test_strips_of_unequal_lengths_are_refused() -> None:
    with pytest.raises(InputError, match="as many of each"):
        images({"a": torch.zeros(2, 3, 3), "b": torch.zeros(1, 3, 3)})


# Smaller without cutting

TINY: dict[str, Json] = {
    "seeds": 2,
    "data": "digits",
    "epochs": 2,
    "validation": 300,
    "train_images": 300,
    "rated": 60,
    "few": 40,
}


def test_factorise_end_to_end(tmp_path: Path) -> None:
    options = {**TINY, "model_options": {"width": 0.25}, "ways": ["SVD", "SVD on data", "spatial"], "energies": [0.9]}
    frame = run("calli-factorise", tmp_path, {**options, "macs": [0.5], "ranks": [4]}).frame
    rows = frame[frame["kind"] == "smaller"]
    assert set(rows["setting"]) == {"", "MACs 0.5", "energy 0.9", "rank 4", "the bound"}
    assert (rows.loc[rows["setting"] == "MACs 0.5", "macs_left"] <= 0.5).all()
    assert (rows.loc[rows["setting"] == "the bound", "macs_left"] < 1).all()
    assert (rows.loc[rows["way"] == "unchanged", ["macs_left", "bytes_left"]] == 1).all(axis=None)


def test_share_end_to_end(tmp_path: Path) -> None:
    options = {**TINY, "model_options": {"input_size": 8}, "bits": [1, 4], "ways": ["linear", "exact"]}
    results = run("calli-share", tmp_path, options)
    rows = results.frame[results.frame["kind"] == "smaller"].set_index(["way", "setting"])
    assert rows.loc[("exact", "4 bits"), "bytes_left"].max() < 0.2
    assert rows.loc[("exact", "1 bit"), "bytes_left"].max() < rows.loc[("exact", "4 bits"), "bytes_left"].min()
    summary = by_name("calli-share").pages(results).summary
    assert any(sentence.startswith("Against linear, paired: exact, untrained: ") for sentence in summary)


def test_quantise_end_to_end(tmp_path: Path) -> None:
    options = {**TINY, "model_options": {"input_size": 8}, "bits": [2, 8], "ways": ["per tensor", "per channel"]}
    frame = run("calli-quantise", tmp_path, options).frame
    rows = frame[frame["kind"] == "smaller"].set_index(["way", "setting"])
    whole = rows.loc["unchanged", "accuracy"].to_numpy()
    assert abs(rows.loc[("per channel", "8 bits"), "accuracy"].to_numpy() - whole).max() < 0.05
    assert (rows.loc[("per tensor", "2 bits"), "bytes_left"] < 0.12).all()


def test_structures_end_to_end(tmp_path: Path) -> None:
    options = {**TINY, "model_options": {"width": 0.25}, "ways": ["separable", "bottleneck"]}
    results = run("calli-structures", tmp_path, {**options, "table_width": 0.0625, "table_size": 32})
    frame = results.frame
    rows = frame[frame["kind"] == "smaller"].set_index(["way", "setting"])
    imitated, plain = (rows.loc[("separable", name)] for name in ("imitated", "not trained"))
    assert (imitated["macs_left"].to_numpy() == plain["macs_left"].to_numpy()).all()
    assert (imitated["difference"].to_numpy() > 0).all()
    counted = results.histories[results.histories["phase"] == "formula"]
    assert len(counted) == 20
    assert (counted["formula"] == counted["macs"]).all(), "the formulas give what is counted"
    summary = by_name("calli-structures").pages(results).summary
    assert "By formula and counted: equal in 20 of 20 configurations." in summary
    assert summary[-1].startswith("Table 1.1: 34-layer ")


def test_the_parts_of_the_networks_of_the_table_add_up() -> None:
    from secateur.measure import macs, parameters
    from secateur.studies.calli.structures import _table

    rows = list(_table(0.125, 64))
    for title, name in (("34-layer", "resnet-34"), ("50-layer", "resnet-50")):
        model = models.build(name, seed=0, width=0.125, input_size=64)
        parts = [row for row in rows if row["structure"] == title]
        assert [row["layer"] for row in parts] == ["conv1", "conv2_x", "conv3_x", "conv4_x", "conv5_x", "fc"]
        assert sum(row["macs"] for row in parts) == macs(model, torch.zeros(1, 3, 64, 64))
        norm = parameters(model.bn1).total
        assert sum(row["parameters"] for row in parts) + norm == parameters(model).total


def test_mobile_end_to_end(tmp_path: Path) -> None:
    results = run("calli-mobile", tmp_path, {**SMALL["calli-mobile"], "runtimes": ["eager", "ncnn"], "repeats": 3})
    (row,) = pick(results.frame, kind="mobile", runtime="eager").to_dict("records")
    assert row["macs_ratio"] > 3
    assert row["kilobytes_before"] > 3 * row["kilobytes_after"]
    assert row["speedup"] > 0
    summary = by_name("calli-mobile").pages(results).summary
    assert "50% of the channels cut" in summary[0]
    assert "times as fast in eager" in summary[0]
    if not runtimes.is_installed("ncnn"):
        assert summary[-1] == "Not measured, as it is not installed here: ncnn."


def test_mobile_says_plainly_where_a_cut_is_not_faster() -> None:
    rows = [
        {
            "kind": "mobile",
            "id": name,
            "sparsity": 0.5,
            "runtime": name,
            "speedup": speedup,
            "faster": speedup > 1.05,
            "macs_ratio": 4.0,
        }
        for name, speedup in (("eager", 0.9), ("ncnn", 2.0))
    ]
    refused = {**rows[0], "runtime": "litert", "problem": "LiteRT has no way to compute aten.lu"}
    frame = DataFrame([*({**row, "problem": ""} for row in rows), refused])
    store = SimpleNamespace(get=lambda _id: SimpleNamespace(metrics=rows[0]))
    results = SimpleNamespace(options={"runtimes": ["eager", "openvino"]}, store=store)
    part = Part("digits", "conv-2", frame, frame, frame, results, None)  # type: ignore[arg-type]
    assert mobile._words(part) == [
        "50% of the channels cut, 4.00 times fewer MACs: times as fast in eager 0.90, ncnn 2.00.",
        "Pruning did NOT make it faster in eager.",
        "litert: LiteRT has no way to compute aten.lu.",
        "Not measured, as it is not installed here: openvino.",
    ]


def test_combine_end_to_end(tmp_path: Path) -> None:
    results = run("calli-combine", tmp_path, {**SMALL["calli-combine"], "seeds": 1, "drops": [0.05, 0.5]})
    rows = results.frame[results.frame["kind"] == "combined"]
    assert list(rows["asked"]) == [1, 2, 2, 3, 2, 3, 3, 4]
    assert (rows["done"] == rows["asked"]).all()
    by_steps = rows.set_index(["channels", "low_rank", "share"])["bytes_left"]
    assert by_steps[0.0, 0.0, 3] < 0.5 * by_steps[0.0, 0.0, 0]
    assert by_steps[0.5, 0.0, 3] < by_steps[0.0, 0.0, 3]
    report = by_name("calli-combine").pages(results)
    assert any("times smaller" in sentence for sentence in report.summary)
    tables = {block.name: block for section in report.sections for block in section.blocks if hasattr(block, "rows")}
    assert {"front-table", "smallest"} <= set(tables)
    sizes = [row[2] for row in tables["front-table"].rows]
    assert sizes == sorted(sizes)
