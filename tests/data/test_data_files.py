"""Data sets that are files: where they are found, how they are checked, and how they are fetched.

The files are tiny ones in the true form; the registry is told their sizes and checksums.
"""

from __future__ import annotations

import dataclasses
import gzip
import hashlib
import io
import tarfile
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest

from secateur import data
from secateur.data import Download, File, Info
from secateur.data.local import content, find, places
from secateur.data.registry import REGISTRY
from secateur.types import DataError

NAMES = (
    "train-images-idx3-ubyte",
    "train-labels-idx1-ubyte",
    "t10k-images-idx3-ubyte",
    "t10k-labels-idx1-ubyte",
)


def idx(array: np.ndarray) -> bytes:
    head = bytes([0, 0, 8, array.ndim]) + b"".join(size.to_bytes(4, "big") for size in array.shape)
    return head + array.astype(np.uint8).tobytes()


def described(name: str, split: str, body: bytes) -> File:
    return File(name, split, len(body), hashlib.sha256(body).hexdigest())


def tiny_idx() -> dict[str, bytes]:
    """Three training and two test images of 4×4 whose pixels are their number."""
    pixels = np.arange(5)[:, None, None] * np.ones((1, 4, 4))
    labels = np.array([3, 1, 2, 0, 9])
    return dict(zip(NAMES, map(idx, (pixels[:3], labels[:3], pixels[3:], labels[3:])), strict=True))


def tiny_cifar() -> dict[str, bytes]:
    """Two records of 3×2×2 in each of the six files; the labels are the file's number."""
    names = [f"data_batch_{number}.bin" for number in range(1, 6)] + ["test_batch.bin"]
    return {name: bytes([position, *range(12)]) * 2 for position, name in enumerate(names)}


@pytest.fixture(autouse=True)
def lonely(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No data but what a test puts there: the cache is empty, no variable is set."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("SECATEUR_DATA", raising=False)


@pytest.fixture
def fashion(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, bytes]:
    bodies = tiny_idx()
    files = tuple(
        described(name, "train" if name.startswith("train") else "test", body) for name, body in bodies.items()
    )
    known = dataclasses.replace(
        REGISTRY["fashion-mnist"], shape=(1, 4, 4), files=files, system=(str(tmp_path / "system"),)
    )
    monkeypatch.setitem(REGISTRY, "fashion-mnist", known)
    return bodies


@pytest.fixture
def cifar(monkeypatch: pytest.MonkeyPatch) -> dict[str, bytes]:
    bodies = tiny_cifar()
    files = tuple(
        described(name, "test" if name.startswith("test") else "train", body) for name, body in bodies.items()
    )
    monkeypatch.setitem(REGISTRY, "cifar-10", dataclasses.replace(REGISTRY["cifar-10"], shape=(3, 2, 2), files=files))
    return bodies


def write(folder: Path, bodies: dict[str, bytes], packed: bool = True) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, body in bodies.items():
        if packed:
            (folder / f"{name}.gz").write_bytes(gzip.compress(body))
        else:
            (folder / name).write_bytes(body)
    return folder


def archive(path: Path, bodies: dict[str, bytes]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w:gz") as tar:
        for name, body in bodies.items():
            member = tarfile.TarInfo(f"cifar-10-batches-bin/{name}")
            member.size = len(body)
            tar.addfile(member, io.BytesIO(body))


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("below", ["", "raw", "fashion-mnist", "FashionMNIST/raw"])
def test_idx_files_in_the_usual_layouts(tmp_path: Path, fashion: dict[str, bytes], below: str, packed: bool) -> None:
    write(tmp_path / "data" / below, fashion, packed)
    train = data.load("fashion-mnist", root=tmp_path / "data", normalise=False, download=False)
    assert train.images.shape == (3, 1, 4, 4)
    assert (train.images[:, 0, 0, 0] * 255).tolist() == [0.0, 1.0, 2.0]
    assert train.labels.tolist() == [3, 1, 2]
    assert data.load("fashion-mnist", "test", root=tmp_path / "data").labels.tolist() == [0, 9]


def test_places_are_searched_in_the_stated_order(
    tmp_path: Path, fashion: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SECATEUR_DATA", str(tmp_path / "variable"))
    order = [
        tmp_path / "cache" / "secateur" / "fashion-mnist",
        tmp_path / "system",
        tmp_path / "variable" / "FashionMNIST" / "raw",
        tmp_path / "root" / "fashion-mnist",
    ]
    entry = data.info("fashion-mnist")
    for folder in order:  # each one comes before those that were written earlier
        write(folder, fashion)
        found = find(entry, entry.files[0], tmp_path / "root")
        assert found is not None
        assert found.path.parent == folder
    assert [place for place in places(entry, tmp_path / "root") if place in order] == order[::-1]


def test_normalisation_is_the_registrys(tmp_path: Path, fashion: dict[str, bytes]) -> None:
    train = data.load("fashion-mnist", root=write(tmp_path / "data", fashion))
    assert train.images[1, 0, 0, 0].item() == pytest.approx((1 / 255 - 0.2860) / 0.3530)
    assert (train.mean, train.std) == ((0.2860,), (0.3530,))


def test_cifar_from_its_folder(tmp_path: Path, cifar: dict[str, bytes]) -> None:
    write(tmp_path / "cifar-10-batches-bin", cifar, packed=False)
    train = data.load("cifar-10", root=tmp_path, normalise=False)
    assert train.labels.tolist() == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4]
    assert (train.images[0] * 255).round().flatten().tolist() == list(range(12))
    assert data.load("cifar-10", "test", root=tmp_path).labels.tolist() == [5, 5]
    assert data.load("cifar-10", root=tmp_path).images[0, 2, 0, 0].item() == pytest.approx(
        (8 / 255 - 0.4465) / 0.2616, rel=1e-5
    )


def test_cifar_from_its_archive(tmp_path: Path, cifar: dict[str, bytes]) -> None:
    archive(tmp_path / "cifar-10-binary.tar.gz", cifar)
    assert data.load("cifar-10", root=tmp_path).labels.tolist() == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cifar-10-binary.tar.gz"]


def test_cifar_archive_without_a_file_is_refused(tmp_path: Path, cifar: dict[str, bytes]) -> None:
    archive(tmp_path / "cifar-10-binary.tar.gz", {"data_batch_1.bin": cifar["data_batch_1.bin"]})
    with pytest.raises(DataError, match=r"cannot read .*no data_batch_2.bin in the archive"):
        data.load("cifar-10", root=tmp_path)


def test_cifars_pickled_version_is_not_read(tmp_path: Path, cifar: dict[str, bytes]) -> None:
    write(tmp_path / "cifar-10-batches-py", {"data_batch_1": b"\x80\x04."}, packed=False)
    with pytest.raises(DataError, match=r"cifar-10-binary\.tar\.gz"):
        data.load("cifar-10", root=tmp_path, download=False)


TRUNCATED, WRONG, OTHER = "is truncated: it holds", "is not the known file", "is a file of 'mnist'"


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda body: gzip.compress(body)[:-9], "cannot read"),
        (lambda body: gzip.compress(body[:-1]), TRUNCATED),
        (lambda body: gzip.compress(body[:-1] + b"\xff"), WRONG),
        (lambda body: gzip.compress(body + b"\0"), WRONG),
        (lambda body: gzip.compress(body + bytes(50_000_000)), WRONG),
        (lambda body: body, "cannot read"),
        (lambda body: b"", TRUNCATED),
    ],
    ids=["gzip cut", "content cut", "one byte", "one more", "bomb", "not gzip", "empty"],
)
def test_a_damaged_copy_is_named_with_the_remedy(
    tmp_path: Path, fashion: dict[str, bytes], damage: object, message: str
) -> None:
    write(tmp_path, fashion)
    broken = tmp_path / f"{NAMES[0]}.gz"
    assert callable(damage)
    broken.write_bytes(damage(fashion[NAMES[0]]))
    with pytest.raises(DataError, match=message) as caught:
        data.load("fashion-mnist", root=tmp_path)
    assert str(broken) in str(caught.value)
    assert "delete it, then load again" in str(caught.value)


def test_another_sets_file_of_the_same_name_is_recognised(
    tmp_path: Path, fashion: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    other = {name: body[:-1] + b"\x07" for name, body in fashion.items()}
    files = tuple(described(name, "train", body) for name, body in other.items())
    monkeypatch.setitem(REGISTRY, "mnist", dataclasses.replace(REGISTRY["mnist"], files=files))
    write(tmp_path, other)
    with pytest.raises(DataError, match=OTHER):
        data.load("fashion-mnist", root=tmp_path)


def test_a_true_checksum_over_a_false_shape_is_refused(
    tmp_path: Path, fashion: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    known = data.info("fashion-mnist")
    monkeypatch.setitem(REGISTRY, "fashion-mnist", dataclasses.replace(known, shape=(1, 2, 8)))
    with pytest.raises(DataError, match="not images of 2×8"):
        data.load("fashion-mnist", root=write(tmp_path, fashion))


def test_missing_files_get_one_error_that_says_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECATEUR_DATA", str(tmp_path / "nothing"))
    with pytest.raises(DataError) as caught:
        data.load("mnist", root=tmp_path, download=False)
    message = str(caught.value)
    for part in (
        "train-images-idx3-ubyte, train-labels-idx1-ubyte not found",
        "https://ossci-datasets.s3.amazonaws.com/mnist/train-images-idx3-ubyte.gz",
        "SECATEUR_DATA=DATA",
        str(tmp_path / "MNIST" / "raw"),
        str(tmp_path / "nothing" / "mnist"),
        str(tmp_path / "cache" / "secateur" / "mnist"),
    ):
        assert part in message


@pytest.mark.skipif(
    not Path("/usr/share/datasets/fashion-mnist").is_dir(), reason="the Debian package is not installed"
)
def test_the_systems_fashion_mnist_is_the_true_one() -> None:
    entry = data.info("fashion-mnist")
    for split in ("train", "test"):
        part = data.load("fashion-mnist", split, download=False)
        assert len(part) == entry.counts[split]
        assert part.labels.bincount().tolist() == [entry.counts[split] // 10] * 10
        if split == "train":
            assert part.images.mean().abs() < 1e-3
            assert (part.images.std() - 1).abs() < 1e-3


# Downloads, from a server on this machine.


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def server(tmp_path: Path) -> Iterator[tuple[str, Path]]:
    folder = tmp_path / "server"
    folder.mkdir()
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder))) as running:
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"http://127.0.0.1:{running.server_port}", folder
        running.shutdown()
        thread.join()


def offered(url: str, folder: Path, *mirrors: str) -> Info:
    """The tiny Fashion-MNIST with its files offered at `url`, and at other mirrors before it."""
    downloads = tuple(
        Download(
            f"{name}.gz",
            f"md5:{hashlib.md5((folder / f'{name}.gz').read_bytes()).hexdigest()}",
            tuple(f"{mirror}/{name}.gz" for mirror in (*mirrors, url)),
            (name,),
        )
        for name in NAMES
    )
    return dataclasses.replace(data.info("fashion-mnist"), downloads=downloads)


def test_missing_files_are_downloaded_once(
    tmp_path: Path, fashion: dict[str, bytes], server: tuple[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    url, folder = server
    write(folder, fashion)
    monkeypatch.setitem(REGISTRY, "fashion-mnist", offered(url, folder))
    assert data.load("fashion-mnist").labels.tolist() == [3, 1, 2]
    cache = tmp_path / "cache" / "secateur" / "fashion-mnist"
    # Only what this split needs, whole, and nothing half-written beside it.
    assert sorted(path.name for path in cache.iterdir()) == [f"{name}.gz" for name in NAMES[:2]]
    for path in folder.iterdir():
        path.unlink()
    assert data.load("fashion-mnist").labels.tolist() == [3, 1, 2]


def test_downloads_go_to_the_root_and_over_to_the_next_mirror(
    tmp_path: Path, fashion: dict[str, bytes], server: tuple[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    url, folder = server
    write(folder, fashion)
    monkeypatch.setitem(REGISTRY, "fashion-mnist", offered(url, folder, f"{url}/gone"))
    (tmp_path / "mine").mkdir()
    assert data.load("fashion-mnist", "test", root=tmp_path / "mine").labels.tolist() == [0, 9]
    assert (tmp_path / "mine" / "fashion-mnist" / f"{NAMES[2]}.gz").is_file()


def test_a_false_download_is_refused_and_not_kept(
    tmp_path: Path, fashion: dict[str, bytes], server: tuple[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    url, folder = server
    write(folder, fashion)
    entry = offered(url, folder)
    (folder / f"{NAMES[0]}.gz").write_bytes(b"not the file")
    monkeypatch.setitem(REGISTRY, "fashion-mnist", entry)
    with pytest.raises(DataError, match=r"could not be downloaded .*does not match the known hash") as caught:
        data.load("fashion-mnist")
    assert f"{url}/{NAMES[0]}.gz" in str(caught.value)
    assert not list((tmp_path / "cache").rglob(f"{NAMES[0]}*"))


def test_no_server_is_one_clear_error(fashion: dict[str, bytes], monkeypatch: pytest.MonkeyPatch) -> None:
    nowhere = (Download(f"{NAMES[0]}.gz", "md5:0", ("http://127.0.0.1:9/file.gz",), NAMES),)
    monkeypatch.setitem(REGISTRY, "fashion-mnist", dataclasses.replace(data.info("fashion-mnist"), downloads=nowhere))
    with pytest.raises(DataError, match=r"(?s)could not be downloaded .*127\.0\.0\.1.*Put them into a folder"):
        data.load("fashion-mnist")


def test_the_archive_is_downloaded_and_read(
    cifar: dict[str, bytes], server: tuple[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    url, folder = server
    archive(folder / "cifar-10-binary.tar.gz", cifar)
    code = hashlib.sha256((folder / "cifar-10-binary.tar.gz").read_bytes()).hexdigest()
    download = Download("cifar-10-binary.tar.gz", f"sha256:{code}", (f"{url}/cifar-10-binary.tar.gz",), tuple(cifar))
    monkeypatch.setitem(REGISTRY, "cifar-10", dataclasses.replace(data.info("cifar-10"), downloads=(download,)))
    assert data.load("cifar-10", "test").labels.tolist() == [5, 5]


def test_content_gives_the_checked_bytes(tmp_path: Path, fashion: dict[str, bytes]) -> None:
    entry = data.info("fashion-mnist")
    write(tmp_path, fashion)
    found = find(entry, entry.files[1], tmp_path)
    assert found is not None
    assert content(entry, entry.files[1], found) == fashion[NAMES[1]]
