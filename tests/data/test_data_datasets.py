"""Images of Hugging Face's `datasets`, by the real library: written to disk as arrow files, and streamed from there."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import secateur as sc
from secateur.criteria import Taylor
from secateur.data import info, stream
from secateur.lab import Store, run_study
from secateur.studies import by_name
from secateur.types import DataError

datasets: Any = pytest.importorskip("datasets", reason="needs Hugging Face's library: pip install 'secateur[datasets]'")
# The library's threads and files are its own affair.
pytestmark = pytest.mark.filterwarnings("default")

SIZE = 16
COUNTS = {"train": 60, "validation": 12, "test": 20}


def written(count: int, seed: int) -> Any:
    """Pictures of two classes; those of the second are brighter on the right."""
    pillow = pytest.importorskip("PIL.Image")
    generator = torch.Generator().manual_seed(seed)
    pictures = torch.randint(0, 128, (count, 18, 20, 3), generator=generator, dtype=torch.uint8)
    labels = [number % 2 for number in range(count)]
    pictures[1::2, :, 10:] += 100
    rows = {"picture": [pillow.fromarray(picture.numpy()) for picture in pictures], "kind": labels}
    features = datasets.Features({"picture": datasets.Image(), "kind": datasets.ClassLabel(names=["dark", "bright"])})
    return datasets.Dataset.from_dict(rows, features=features)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("arrow") / "pictures"
    splits = {name: written(count, seed) for seed, (name, count) in enumerate(COUNTS.items())}
    datasets.DatasetDict(splits).save_to_disk(str(folder))
    return folder


def net() -> nn.Sequential:
    torch.manual_seed(0)
    layers = (nn.Conv2d(3, 4, 3, stride=2), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(16, 2))
    return nn.Sequential(*layers)


def test_what_was_written_is_streamed_by_name(place: Path) -> None:
    assert list(place.rglob("*.arrow")), "it lies on disk in the library's own form"
    for split, count in COUNTS.items():
        streamed = stream(f"datasets:{place}:{SIZE}", split, workers=2)
        assert len(streamed) == count
        assert streamed.classes == ("dark", "bright")
        images, labels = next(streamed.one_pass(count))
        assert images.shape == (count, 3, SIZE, SIZE)
        assert labels.tolist() == [number % 2 for number in range(count)]
        assert torch.equal(sc.data.load(f"datasets:{place}:{SIZE}", split).images, images)
    assert info(f"datasets:{place}:{SIZE}").shape == (3, SIZE, SIZE)
    assert info(f"datasets:{place}").classes == ("dark", "bright")


def test_a_split_of_the_library_is_streamed_as_it_is(place: Path) -> None:
    split = datasets.load_from_disk(str(place))["train"]
    assert split.cache_files, "the arrow files are mapped where they lie"
    images, labels = next(stream(split, size=SIZE).one_pass(60))
    by_path, theirs = next(stream(f"datasets:{place}:{SIZE}").one_pass(60))
    assert torch.equal(images, by_path)
    assert torch.equal(labels, theirs)
    # Its own way of choosing rows goes along.
    bright = split.filter(lambda row: row["kind"] == 1).shuffle(seed=0)
    assert set(next(stream(bright, size=SIZE).one_pass(30))[1].tolist()) == {1}


def test_training_criteria_and_measures_take_it(place: Path) -> None:
    streamed = [stream(f"datasets:{place}:{SIZE}", split, workers=2) for split in ("train", "validation", "test")]
    ends = []
    for train, validation, test in (streamed, [split.read() for split in streamed]):
        model = net()
        history = sc.train.fit(model, train, validation, epochs=3, batch_size=20, lr=0.01)
        scores = Taylor(train)(model, sc.channels(model, test.head(1)))
        ends.append(([epoch.train_loss for epoch in history], sc.evaluate(model, test), scores))
    (losses, rated, scores), (losses_read, rated_read, scores_read) = ends
    assert losses == losses_read
    assert rated.loss == rated_read.loss
    assert all(torch.allclose(scores[name], scores_read[name]) for name in scores)


def test_augmented_training_is_the_same_with_any_number_of_workers(place: Path) -> None:
    weights = []
    for workers in (0, 3):
        model = net()
        train = stream(f"datasets:{place}:{SIZE}", augment=("flip", "crop"), workers=workers)
        sc.train.fit(model, train, epochs=2, batch_size=20)
        weights.append(torch.cat([parameter.flatten() for parameter in model.parameters()]))
    assert torch.equal(*weights)


@pytest.mark.parametrize("executor", ["serial", "processes"])
def test_a_study_runs_on_it(place: Path, tmp_path: Path, executor: str) -> None:
    store, options = Store(tmp_path / "store"), {"data": f"datasets:{place}:{SIZE}", "model": "conv-2", "seeds": 1}
    options |= {"epochs": 2, "validation": 0.2, "batch_size": 16, "augment": ["flip"], "methods": ["neuron"]}
    options |= {"sparsities": [0.5], "model_options": {}}
    summary = run_study(by_name("demo"), store, options, executor=executor, progress=False)
    assert not summary.failed, summary.failed
    record = next(record for record in store.records() if record.recipe.kind == "train")
    assert record.metrics["accuracy"] > 0.5
    assert len(record.metrics["class_accuracy"]) == 2


def test_what_is_all_train_has_a_part_held_out(tmp_path: Path) -> None:
    place = tmp_path / "single"
    written(20, 0).save_to_disk(str(place))
    name = f"datasets:{place}:{SIZE}"
    assert len(stream(name, validation=0.25)) == 15
    assert len(stream(name, "validation", validation=0.25)) == 5
    with pytest.raises(DataError, match="holds no test split but train; save it beside the others"):
        stream(name, "test")
    with pytest.raises(DataError, match="holds no validation split but train; pass validation="):
        stream(name, "validation")


def test_what_the_library_did_not_write_is_refused(tmp_path: Path) -> None:
    (tmp_path / "dataset_info.json").write_text("{")
    (tmp_path / "state.json").write_text("{")
    for place in (tmp_path, tmp_path / "nothing"):
        with pytest.raises(DataError, match="is not what datasets' save_to_disk writes"):
            stream(f"datasets:{place}")


def test_rows_of_text_train_as_batches(tmp_path: Path) -> None:
    rows = {"input_ids": [[n % 7, 1, 2, 3] for n in range(24)], "labels": [int(n % 7 > 3) for n in range(24)]}
    datasets.Dataset.from_dict(rows).save_to_disk(str(tmp_path / "text"))
    split = datasets.load_from_disk(str(tmp_path / "text")).with_format("torch")
    loader: Any = torch.utils.data.DataLoader(split, batch_size=8)

    class Bag(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embedding, self.head = nn.Embedding(8, 6), nn.Linear(6, 2)

        def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
            answer: torch.Tensor = self.head(self.embedding(input_ids).mean(1))
            return answer

    model = Bag()
    history = sc.train.fit(model, loader, epochs=20, lr=0.05)
    assert history[-1].train_loss < history[0].train_loss
    assert sc.evaluate(model, loader).count == 24
