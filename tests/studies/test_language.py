"""The study of a language model: its text, its grid, its figures worked out again, and its report."""

from __future__ import annotations

from importlib.util import find_spec
from math import log
from pathlib import Path
from typing import Any

import pytest
import torch

from secateur.lab import Picture, Report, Results, Store, Table, run_study
from secateur.measure import perplexity
from secateur.stream import CutUnits, drop_blocks, walk
from secateur.studies import by_name
from secateur.studies.language.subjects import DECODER, TOPICS, characters, load, made, texts, weights_digest
from secateur.types import InputError, UnknownNameError

STUDY = by_name("language-model")
SIZES = {"blocks": 3, "width": 32, "neurons": 48}
TINY: dict[str, Any] = {
    "seeds": 2,
    "epochs": 1,
    "batch_size": 64,
    "model_options": SIZES,
    "calibration": 320,
    "untouched": 320,
    "criteria": ["output-norm", "random"],
    "sparsities": [0.25],
    "repairs": ["none", "stream"],
    "blocks": [0, 1],
    "weight_methods": ["wanda"],
}


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Little text, so that training takes no time."""
    file = tmp_path_factory.mktemp("text") / "text.txt"
    file.write_text("".join(f"{number} and {number + 1} make {2 * number + 1}.\n" for number in range(3000)), "utf-8")
    return file


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory, text: Path) -> Results:
    store, options = Store(tmp_path_factory.mktemp("runs") / "language"), {**TINY, "data": str(text)}
    summary = run_study(STUDY, store, options, progress=False, executor="serial")
    assert not summary.failed
    return STUDY.results(store, options)


@pytest.fixture(scope="module")
def report(results: Results) -> Report:
    return STUDY.pages(results)


def row(results: Results, **where: Any) -> Any:
    frame = results.frame
    for column, value in where.items():
        frame = frame[frame[column] == value]
    assert len(frame) == 1
    return frame.iloc[0]


# Text


def test_characters_are_tokens() -> None:
    assert characters("ab \n~é").tolist() == [65, 66, 0, 95, 94, 31]  # what is not ASCII is written as ?


def test_no_sequence_is_both_untouched_and_looked_at(text: Path) -> None:
    parts = texts(str(text), DECODER, 0, 16, 160, 320)
    assert (len(parts.untouched), len(parts.calibration)) == (10, 20)
    rows = {tuple(row) for row in parts.untouched.tolist()}
    assert not rows & {tuple(row) for row in parts.calibration.tolist()}
    assert not rows & {tuple(row) for row in parts.training.tolist()}
    assert {tuple(row) for row in parts.calibration.tolist()} <= {tuple(row) for row in parts.training.tolist()}


def test_seeds_draw_other_text_and_every_python_has_some() -> None:
    first, again, other = (texts(TOPICS, DECODER, seed, 64, 640).untouched for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"length": 65}, "at most 64"),
        ({"criteria": ["l3"]}, "l3"),
        ({"repairs": []}, "repairs"),
        ({"sparsities": [1.0]}, "sparsities"),
    ],
)
def test_wrong_options_are_refused_before_anything_runs(options: dict[str, Any], words: str) -> None:
    with pytest.raises((InputError, UnknownNameError), match=words):
        STUDY.plan(options)


def test_missing_text_and_models_are_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="give 'python-topics'"):
        texts(str(tmp_path), DECODER, 0, 16, 160)
    with pytest.raises(InputError, match="too many in sequences of 16"):
        texts(TOPICS, DECODER, 0, 16, 10**7)
    with pytest.raises(InputError, match="make no decoder"):
        made({"depth": 3}, 0)


# The grid


def test_the_grid_goes_seed_by_seed_and_grows_without_losing_cells() -> None:
    plan = STUDY.plan()
    seeds = [cell.recipe.seed for cell in plan]
    assert seeds == sorted(seeds)
    # a decoder; two depths, at one of them two ways; four criteria at two widths with three repairs; three of weights
    assert len(plan) == 3 * (1 + 2 + 2 * 4 * 2 * 3 + 3)
    few = {cell.id for cell in STUDY.plan({"seeds": 2, "criteria": ["l2"], "sparsities": [0.5], "blocks": [1]})}
    assert few <= {cell.id for cell in plan}


# Figures


def test_figures_are_those_of_the_walk(results: Results, text: Path) -> None:
    base = row(results, kind="train", seed=0)
    model = made(SIZES, 0)
    model.load_state_dict(results.store.artefact(base["id"]))
    parts = texts(str(text), DECODER, 0, 64, 320, 320)
    assert perplexity(model, parts.untouched) == pytest.approx(base["perplexity"], rel=1e-5)
    assert weights_digest(model) == base["weights"]
    by_hand = perplexity(
        walk(model, parts.calibration, CutUnits(0.25, repair="stream")).model, parts.untouched, batch_size=8
    )
    cell = row(results, kind="prune", seed=0, method="output-norm", repair="stream", blocks=0)
    assert cell["perplexity"] == pytest.approx(by_hand, rel=1e-5)
    assert cell["loss"] == pytest.approx(log(by_hand), rel=1e-4)
    assert cell["dense_perplexity"] == base["perplexity"]
    # 12 of 48 neurons in each of 3 blocks, with 3 × 32 weights each
    assert base["parameters"] - cell["parameters"] == 3 * 12 * 3 * 32


def test_cuts_behind_blocks_that_are_gone_begin_with_what_is_left(results: Results, text: Path) -> None:
    base, dropped = row(results, kind="train", seed=1), row(results, kind="drop", seed=1, by="influence")
    model = made(SIZES, 1)
    model.load_state_dict(results.store.artefact(base["id"]))
    parts = texts(str(text), DECODER, 1, 64, 320, 320)
    shallower = drop_blocks(model, parts.calibration, 1, "influence")
    assert list(shallower.history.removed) == dropped["removed"]
    small = walk(shallower.model, parts.calibration, CutUnits(0.25)).model
    cell = row(results, kind="prune", seed=1, method="output-norm", repair="none", blocks=1)
    assert cell["perplexity"] == pytest.approx(perplexity(small, parts.untouched, batch_size=8), rel=1e-5)


# The report


def test_the_report_shows_every_choice(report: Report) -> None:
    blocks = {b.name: b for section in report.sections for b in section.blocks if isinstance(b, Table | Picture)}
    assert {"perplexity", "cuts", "repairs", "blocks", "weights", "missing", "dense"} <= set(blocks)
    cuts = blocks["cuts"]
    assert isinstance(cuts, Table)
    assert len(cuts.rows) == 2 * 2 * 2
    assert [column.heading for column in cuts.columns][:4] == ["blocks gone", "of MLPs cut", "criterion", "repair"]
    assert report.lead == "perplexity"
    assert len(report.summary) == 1
    assert "25 % of every MLP cut" in report.summary[0]


def test_repairs_are_paired_by_seed(results: Results, report: Report) -> None:
    table = next(b for s in report.sections for b in s.blocks if isinstance(b, Table) and b.name == "repairs")
    shown = next(line for line in table.rows if list(line[:4]) == [0.25, 0, "output-norm", "stream"])
    where = {"kind": "prune", "method": "output-norm", "blocks": 0}
    ratios = [
        row(results, **where, seed=seed, repair="stream")["perplexity"]
        / row(results, **where, seed=seed, repair="none")["perplexity"]
        for seed in (0, 1)
    ]
    assert shown[4] == pytest.approx(sum(ratios) / 2)


def test_a_report_of_nothing_says_so(tmp_path: Path) -> None:
    empty = STUDY.pages(STUDY.results(Store(tmp_path / "none"), TINY))
    assert empty.summary == ["Nothing has been computed yet."]


# A model of transformers


@pytest.mark.skipif(find_spec("transformers") is None, reason="transformers is not installed")
@pytest.mark.filterwarnings("ignore")
def test_a_folder_that_transformers_loads_is_cut_alike(tmp_path: Path) -> None:
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    folder, words = tmp_path / "model", ["[UNK]", *"0123456789", "and", "make", "."]
    tokenizer = Tokenizer(models.WordLevel({word: number for number, word in enumerate(words)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="[UNK]").save_pretrained(folder)
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_attention_heads": 4, "num_key_value_heads": 2}
    LlamaForCausalLM(LlamaConfig(**sizes, num_hidden_layers=2, vocab_size=len(words))).save_pretrained(folder)
    (tmp_path / "text.txt").write_text("".join(f"{n % 10} and {n % 7} make {n % 3}.\n" for n in range(500)), "utf-8")
    options = {
        **{name: TINY[name] for name in ("criteria", "sparsities", "repairs", "weight_methods")},
        "seeds": 1,
        "model": str(folder),
        "data": str(tmp_path),
        "length": 16,
        "blocks": [1],
        "calibration": 320,
        "untouched": 160,
    }
    store = Store(tmp_path / "runs")
    assert not run_study(STUDY, store, options, progress=False, executor="serial").failed
    results = STUDY.results(store, options)
    assert set(results.frame["kind"]) == {"load", "drop", "prune", "sparsify"}
    assert row(results, kind="load")["weights"] == weights_digest(load(str(folder)))
    assert STUDY.pages(results).summary[0].startswith("Uncut, the model has a perplexity of")
