"""Images that are read as they are needed: the same numbers as in memory, shuffled and augmented alike each time."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Generator, Tensor, nn

import secateur as sc
from secateur.criteria import Taylor
from secateur.data import Split, Stream, stream
from secateur.lab import Store, run_study
from secateur.labelled import batches, count_batches, unlabelled
from secateur.measure import evaluate, predict
from secateur.structure import channels
from secateur.studies import by_name
from secateur.train import fit
from secateur.types import DataError, InputError, UnknownNameError

SIZE = 16


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two classes of 30 and 20 images; those of the second are brighter on the right."""
    pillow = pytest.importorskip("PIL.Image")
    folder = tmp_path_factory.mktemp("tree")
    generator = torch.Generator().manual_seed(0)
    for label, (name, count) in enumerate((("cats", 30), ("dogs", 20))):
        for split, part in (("train", count), ("val", count // 5)):
            (folder / split / name).mkdir(parents=True)
            for number in range(part):
                pixels = torch.randint(0, 128, (18, 20, 3), generator=generator, dtype=torch.uint8)
                pixels[:, 10:] += 100 * label
                pillow.fromarray(pixels.numpy()).save(folder / split / name / f"{number:03}.png")
    return folder


def net() -> nn.Sequential:
    torch.manual_seed(0)
    layers = (nn.Conv2d(3, 4, 3, stride=2), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(16, 2))
    return nn.Sequential(*layers)


def both(tree: Path, split: str = "train", **options: Any) -> tuple[Split, Stream]:
    name = f"folder:{tree}:{SIZE}"
    return sc.data.load(name, split), stream(name, split, **options)


@pytest.mark.parametrize("workers", [0, 3])
@pytest.mark.parametrize("split", ["train", "test"])
def test_a_stream_reads_what_load_reads(tree: Path, split: str, workers: int) -> None:
    whole, streamed = both(tree, split, workers=workers)
    assert len(streamed) == len(whole)
    assert streamed.classes == whole.classes == ("cats", "dogs")
    parts = list(streamed.one_pass(7))
    assert torch.equal(torch.cat([images for images, _ in parts]), whole.images)
    assert torch.equal(torch.cat([labels for _, labels in parts]), whole.labels)
    assert torch.equal(streamed.head(3), whole.head(3))
    assert torch.equal(streamed.read().images, whole.images)
    mask = whole.labels == 1
    assert torch.equal(streamed.subset(mask).read().images, whole.subset(mask).images)
    with pytest.raises(InputError, match="out of range"):
        streamed.subset([len(whole)])


def test_held_out_images_are_those_of_load(tree: Path) -> None:
    name = f"folder:{tree}:{SIZE}"
    for split in ("train", "validation"):
        whole = sc.data.load(name, split, validation=0.2)
        assert torch.equal(stream(name, split, validation=0.2).read().images, whole.images)
    assert len(stream(name, "validation")) == 10, "the folder's own"


def test_training_on_a_stream_is_training_in_memory(tree: Path) -> None:
    results = []
    for data in both(tree, workers=2):
        model = net()
        history = fit(model, data, data, epochs=2, batch_size=8, seed=1, lr=0.01)
        results.append(([epoch.train_loss for epoch in history], model.state_dict(), history.best_epoch))
    (losses, weights, best), (others, theirs, their_best) = results
    assert losses == others
    assert best == their_best
    assert all(torch.equal(weights[name], theirs[name]) for name in weights)


@pytest.mark.parametrize("augment", [(), ("flip", "crop")])
def test_a_killed_training_on_a_stream_ends_as_another(tree: Path, tmp_path: Path, augment: tuple[str, ...]) -> None:
    class Stop(Exception):
        pass

    class Killed(sc.train.Callback):
        def on_begin(self, run: sc.train.Run) -> None:
            if len(run.records) == 2:
                raise Stop

    def train(workers: int, *callbacks: sc.train.Callback, checkpoint: Path | None) -> list[Tensor]:
        model, data = net(), both(tree, augment=augment, workers=workers)[1]
        fit(model, data, epochs=4, batch_size=8, checkpoint=checkpoint, callbacks=callbacks, seed=5)
        return list(model.state_dict().values())

    undisturbed, file = train(0, checkpoint=None), tmp_path / "file"
    with pytest.raises(Stop):
        train(0, Killed(), checkpoint=file)
    resumed = train(3, checkpoint=file)
    assert all(torch.equal(a, b) for a, b in zip(undisturbed, resumed, strict=True))


def test_augmentation_is_for_training_alone(tree: Path) -> None:
    whole, streamed = both(tree, augment=("flip", lambda image, generator: image + torch.rand((), generator=generator)))
    assert torch.equal(next(streamed.one_pass(50))[0], whole.images)
    first, again, other = (next(streamed.one_pass(50, Generator().manual_seed(seed)))[0] for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_flips_and_crops_are_of_the_image() -> None:
    class Single:
        def __len__(self) -> int:
            return 64

        def __call__(self, position: int) -> tuple[Tensor, int]:
            return torch.arange(1.0, 65.0).view(1, 8, 8), 0

    image = Single()(0)[0]
    flipped, _ = next(Stream(Single(), torch.arange(64), augment=("flip",)).one_pass(64, Generator()))
    ways = [any(torch.equal(row, way) for row in flipped) for way in (image, image.flip(-1))]
    assert ways == [True, True]
    cropped, _ = next(Stream(Single(), torch.arange(64), augment=("crop",)).one_pass(64, Generator()))
    assert cropped.shape == flipped.shape
    # The middle pixel moves by at most one each way.
    places = {int(row[0, 3, 3]) for row in cropped}
    assert places <= {28 + down + right for down in (-8, 0, 8) for right in (-1, 0, 1)}
    assert len(places) > 4


def test_criteria_and_measures_take_streams(tree: Path) -> None:
    whole, streamed = both(tree, workers=1)
    model = net()
    sites = channels(model, whole.head(1))
    first, second = (Taylor(data)(model, sites) for data in (whole, streamed))
    assert all(torch.allclose(first[name], second[name]) for name in first)
    assert evaluate(model, streamed, batch_size=50).loss == evaluate(model, whole, batch_size=50).loss
    assert torch.equal(predict(model, streamed, batch_size=50), predict(model, whole, batch_size=50))
    assert [len(batch) for batch in batches(unlabelled(streamed), 20, "data")] == [20, 20, 10]
    assert count_batches(streamed, 20) == count_batches(whole, 20) == 3


def test_items_are_read_like_files(tree: Path) -> None:
    pillow = pytest.importorskip("PIL.Image")
    whole, _ = both(tree)
    files = sorted((tree / "train").rglob("*.png"))

    class Names:
        names = ("cats", "dogs")

    class Dataset:
        """As `datasets.Dataset`: no list, and each item a mapping."""

        def __init__(self, kind: type) -> None:
            self.kind, self.features = kind, {"kind": Names()}

        def __len__(self) -> int:
            return len(files)

        def __getitem__(self, position: int) -> dict[str, Any]:
            value = pillow.open(files[position]) if self.kind is object else str(files[position])
            return {"picture": value, "kind": int(files[position].parent.name == "dogs")}

    for kind in (object, str):
        streamed = stream(Dataset(kind), size=SIZE, image="picture", label="kind")
        assert streamed.classes == ("cats", "dogs")
        images, labels = next(streamed.one_pass(50))
        order = labels.argsort(stable=True)
        expected = torch.cat([whole.images[whole.labels == label] for label in (0, 1)])
        assert torch.equal(images[order], expected)
    assert len(stream(Dataset(object), "validation", validation=10)) == 10
    with pytest.raises(DataError, match="item 0 has no 'image' but picture, kind; pass image= and label="):
        stream(Dataset(str)).head(1)


def test_what_cannot_be_streamed_is_refused(tree: Path) -> None:
    with pytest.raises(InputError, match="only folder:PATH, datasets:PATH and items are streamed"):
        stream("digits")
    with pytest.raises(UnknownNameError, match="unknown augmentation 'flop'"):
        both(tree, augment=("flop",))
    with pytest.raises(InputError, match="workers=-1"):
        both(tree, workers=-1)
    with pytest.raises(DataError, match="float64"):
        stream([{"image": torch.rand(4, 4).double().numpy(), "label": 0}]).head(1)


def test_a_broken_file_is_named_from_any_worker(tree: Path, tmp_path: Path) -> None:
    for name in ("cats", "dogs"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "a.png").write_bytes(b"no image")
    with pytest.raises(DataError, match=r"cannot read .*a\.png"):
        list(stream(f"folder:{tmp_path}", workers=2).one_pass(2))


def test_a_study_runs_on_a_folder(tree: Path, tmp_path: Path) -> None:
    store, options = Store(tmp_path / "store"), {"data": f"folder:{tree}:{SIZE}", "model": "conv-2", "seeds": 1}
    options |= {"epochs": 1, "validation": 0.2, "batch_size": 16, "augment": ["flip"], "methods": ["neuron"]}
    options |= {"sparsities": [0.5], "model_options": {}}
    summary = run_study(by_name("demo"), store, options, executor="serial", progress=False)
    assert not summary.failed, summary.failed
    record = next(record for record in store.records() if record.recipe.kind == "train")
    assert record.recipe.parameters["augment"] == ["flip"]
    assert len(record.metrics["class_accuracy"]) == 2
