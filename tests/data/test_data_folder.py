"""A folder of images, one sub-folder a class."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from PIL import Image

from secateur import data
from secateur.data.folder import read_image
from secateur.types import DataError, InputError


def paint(path: Path, colour: tuple[int, int, int], size: tuple[int, int] = (10, 8), mode: str = "RGB") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, colour).convert(mode).save(path)


@pytest.fixture
def flat(tmp_path: Path) -> Path:
    paint(tmp_path / "b" / "2.png", (0, 0, 255))
    paint(tmp_path / "b" / "1.png", (0, 255, 0))
    paint(tmp_path / "a" / "x.png", (255, 0, 0))
    paint(tmp_path / "a" / "deep" / "y.PNG", (255, 255, 255))
    paint(tmp_path / "b" / "3.png", (0, 0, 0))
    (tmp_path / "b" / "notes.txt").write_text("not an image")
    (tmp_path / "b" / ".hidden.png").write_text("nor this")
    (tmp_path / ".cache").mkdir()
    return tmp_path


def test_classes_are_sorted_and_take_turns(flat: Path) -> None:
    split = data.load("folder", root=flat, size=4, normalise=False)
    assert split.classes == ("a", "b")
    assert split.labels.tolist() == [0, 1, 0, 1, 1]
    assert split.images.shape == (5, 3, 4, 4)
    # a/deep/y before a/x; b/1, b/2, b/3.
    assert split.images[:, :, 0, 0].tolist() == [[1, 1, 1], [0, 1, 0], [1, 0, 0], [0, 0, 1], [0, 0, 0]]


def test_normalisation_is_imagenets(flat: Path) -> None:
    split = data.load("folder", root=flat, size=4, limit=1)
    expected = torch.tensor([(1 - 0.485) / 0.229, (1 - 0.456) / 0.224, (1 - 0.406) / 0.225])
    torch.testing.assert_close(split.images[0, :, 2, 2], expected)


def test_the_usual_size_is_224(flat: Path) -> None:
    assert data.load("folder", root=flat, limit=1).images.shape == (1, 3, 224, 224)


def test_validation_can_be_carved(flat: Path) -> None:
    rest = data.load("folder", root=flat, size=4, validation=2, seed=None)
    held = data.load("folder", "validation", root=flat, size=4, validation=2, seed=None)
    assert (rest.labels.tolist(), held.labels.tolist()) == ([0, 1, 0], [1, 1])


def test_split_folders(tmp_path: Path) -> None:
    for split, count in (("train", 3), ("val", 2), ("test", 1)):
        for number in range(count):
            paint(tmp_path / split / "cat" / f"{number}.jpg", (9, 9, 9))
            if split != "test":
                paint(tmp_path / split / "dog" / f"{number}.jpg", (9, 9, 9))
    loaded = {split: data.load("folder", split, root=tmp_path, size=4) for split in ("train", "validation", "test")}
    assert {split: len(part) for split, part in loaded.items()} == {"train": 6, "validation": 4, "test": 1}
    assert all(part.classes == ("cat", "dog") for part in loaded.values())


def test_val_stands_in_for_test(tmp_path: Path) -> None:
    paint(tmp_path / "train" / "cat" / "0.png", (9, 9, 9))
    paint(tmp_path / "val" / "cat" / "0.png", (9, 9, 9))
    assert len(data.load("folder", "test", root=tmp_path, size=4)) == 1


def test_a_class_called_train_is_a_class(tmp_path: Path) -> None:
    paint(tmp_path / "train" / "steam.png", (9, 9, 9))
    paint(tmp_path / "bus" / "red.png", (9, 9, 9))
    assert data.load("folder", root=tmp_path, size=4).classes == ("bus", "train")


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "CMYK", "1"])
def test_every_mode_becomes_rgb(tmp_path: Path, mode: str) -> None:
    path = tmp_path / ("x.tiff" if mode == "CMYK" else "x.png")
    paint(path, (255, 255, 255), mode=mode)
    assert torch.equal(read_image(path, 4), torch.ones(3, 4, 4))


def test_short_side_is_resized_and_the_centre_kept(tmp_path: Path) -> None:
    # 14×8: short side 8 = 7 · 256 / 224, so nothing is resized, and columns 3…9, rows 0…6 are kept.
    image = Image.new("RGB", (14, 8))
    for column in range(14):
        for row in range(8):
            image.putpixel((column, row), (column * 10, row * 10, 0))
    image.save(tmp_path / "x.png")
    pixels = (read_image(tmp_path / "x.png", 7) * 255).round().int()
    assert pixels[0, 0].tolist() == [30, 40, 50, 60, 70, 80, 90]
    assert pixels[1, :, 0].tolist() == [0, 10, 20, 30, 40, 50, 60]


@pytest.mark.parametrize("size", [(1, 1), (1, 500), (500, 1), (3, 7)])
def test_any_shape_of_image_fits(tmp_path: Path, size: tuple[int, int]) -> None:
    paint(tmp_path / "x.png", (255, 0, 0), size)
    assert read_image(tmp_path / "x.png", 5).shape == (3, 5, 5)


@pytest.mark.parametrize("body", ["text", "cut", "empty", "cut jpeg"])
def test_a_broken_image_is_named(flat: Path, body: str) -> None:
    broken = flat / "b" / ("2.png" if body != "cut jpeg" else "2b.jpg")
    if body == "cut jpeg":
        Image.effect_noise((64, 64), 50).save(broken)
    whole = broken.read_bytes()
    broken.write_bytes({"text": b"hello", "empty": b""}.get(body, whole[: len(whole) // 2]))
    with pytest.raises(DataError, match="mend or remove the file") as caught:
        data.load("folder", root=flat, size=4)
    assert str(broken) in str(caught.value)


def test_a_link_to_nowhere_is_named(flat: Path) -> None:
    (flat / "a" / "gone.png").symlink_to(flat / "nowhere.png")
    with pytest.raises(DataError, match=r"cannot read .*gone\.png"):
        data.load("folder", root=flat, size=4)


def test_what_is_missing_is_said(flat: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="pass root="):
        data.load("folder")
    with pytest.raises(DataError, match="there is no folder"):
        data.load("folder", root=tmp_path / "none")
    with pytest.raises(DataError, match="has no folder test/"):
        data.load("folder", "test", root=flat)
    with pytest.raises(DataError, match="has no folder val/ with classes; pass validation="):
        data.load("folder", "validation", root=flat)
    (flat / "c").mkdir()
    with pytest.raises(DataError, match=r"c holds no images"):
        data.load("folder", root=flat)


def test_a_folder_without_classes_is_refused(tmp_path: Path) -> None:
    paint(tmp_path / "x.png", (1, 2, 3))
    with pytest.raises(DataError, match="has no sub-folders"):
        data.load("folder", root=tmp_path)


def test_a_class_that_train_lacks_is_refused(tmp_path: Path) -> None:
    paint(tmp_path / "train" / "cat" / "0.png", (9, 9, 9))
    paint(tmp_path / "val" / "dog" / "0.png", (9, 9, 9))
    with pytest.raises(DataError, match="is not a class of train"):
        data.load("folder", "validation", root=tmp_path)


def test_more_than_memory_holds_says_limit(flat: Path) -> None:
    with pytest.raises(InputError, match="pass limit="):
        data.load("folder", root=flat, size=2**17)
