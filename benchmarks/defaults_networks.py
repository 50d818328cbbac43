"""The trained networks that the defaults of `prune` are judged on, each with its images and what it is rated by."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn.functional import interpolate, one_hot, pad

import secateur as sc
from published import crepe, folder, onet

__all__ = ["Network", "networks", "on_fashion"]

TESTED, FEW = 2000, 500
"""How many samples networks are rated by, and how many the calls with data get."""

TONES = 500
"""How many tones CREPE is rated by, each of which takes it thirty million multiply-accumulates."""


@dataclass(frozen=True)
class Network:
    """A trained network.

    Attributes:
        name, seed: which one.
        model: in eval mode.
        samples: inputs and targets to rate by.
        few: inputs and targets for the calls with data; no samples that the network is rated by.
        right: the share of right answers, of (outputs, targets).
        data_options: what `prune` must be told beside the data, such as their loss.
    """

    name: str
    seed: int
    model: nn.Module
    samples: tuple[Tensor, Tensor]
    few: tuple[Tensor, Tensor]
    right: Callable[[Any, Tensor], float]
    data_options: Mapping[str, Any]

    def example(self, batch: int = 1) -> Tensor:
        """Return the first inputs."""
        return self.samples[0][:batch]

    def rate(self, model: nn.Module) -> float:
        """Return the share of right answers of a model on the samples."""
        inputs, targets = self.samples
        with torch.no_grad():
            outputs = [model.eval()(part) for part in inputs.split(250)]
        whole = outputs[0] if len(outputs) == 1 else _joined(outputs)
        return self.right(whole, targets)


def networks(cache: Path, seeds: int, names: list[str]) -> Iterator[Network]:
    """Yield the networks, trained first where the folder does not hold their weights."""
    for name in names:
        if name in ARCHITECTURES:
            for seed in range(min(seeds, ARCHITECTURES[name].seeds)):
                yield on_fashion(name, seed, cache)
        else:
            yield {"crepe-tiny": partial(_crepe, "tiny"), "onet": _onet}[name]()


@dataclass(frozen=True)
class Training:
    """How a network is trained on Fashion-MNIST."""

    architecture: str
    options: Mapping[str, Any]
    images: int
    epochs: int
    lr: float
    seeds: int
    size: int = 28


ARCHITECTURES = {
    "lenet-300-100": Training("lenet-300-100", {}, 20_000, 5, 1e-3, 5),
    "cnn-4": Training("cnn-4", {}, 6000, 3, 2e-3, 5),
    "vgg-16": Training("vgg-16", {"width": 0.25, "batch_norm": True, "dropout": 0.0}, 6000, 10, 1e-3, 3, 32),
    "resnet18": Training("resnet-18", {"width": 0.25}, 20_000, 8, 1e-3, 3),
}


def on_fashion(name: str, seed: int, cache: Path) -> Network:
    """Return a network of the table; of a fixed shuffle the first 10,000 images are kept from training."""
    training = ARCHITECTURES[name]
    train, test = sc.data.load("fashion-mnist"), sc.data.load("fashion-mnist", "test")
    order = torch.randperm(len(train.labels), generator=torch.Generator().manual_seed(100))
    model = sc.models.build(
        training.architecture, input_size=training.size, in_channels=1, classes=10, seed=seed, **training.options
    )
    path = cache / f"{name}-seed{seed}.safetensors"
    if path.exists():
        model.load_state_dict(load_file(str(path)))
    else:
        chosen = order[10_000 : 10_000 + training.images]
        pair = _sized(train.images[chosen], training.size), train.labels[chosen]
        sc.fit(model, pair, epochs=training.epochs, lr=training.lr, optimizer="adam", schedule="cosine", seed=seed)
        save_file(model.state_dict(), str(path))
    few = order[:FEW]
    samples = _sized(test.images[:TESTED], training.size), test.labels[:TESTED]
    return Network(
        name, seed, model.eval(), samples, (_sized(train.images[few], training.size), train.labels[few]), _accuracy, {}
    )


def _sized(images: Tensor, size: int) -> Tensor:
    margin = (size - images.shape[-1]) // 2
    return pad(images, (margin,) * 4, value=float(images.min()))


def _accuracy(outputs: Tensor, labels: Tensor) -> float:
    return float((outputs.argmax(1) == labels).float().mean())


RATE, LENGTH, FIRST_BIN, CENTS_A_BIN = 16_000, 1024, 1997.3794084376191, 20
"""CREPE: samples a second, samples a frame, and where its bins of pitch lie."""


def _crepe(capacity: str) -> Network:
    """The pitch estimator of Kim et al. (2018), on tones: fifty cents beside the pitch are right."""
    model = crepe(capacity)
    (frames, cents), (few, few_cents) = _tones(TONES, 1), _tones(FEW, 2)
    bins = one_hot(((few_cents - FIRST_BIN) / CENTS_A_BIN).round().long(), 360).float()
    return Network(
        f"crepe-{capacity}", 0, model, (frames, cents), (few, bins), _in_tune, {"loss": _cross_entropy_of_bins}
    )


def _tones(count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Frames of harmonic tones in some noise, as CREPE wants them, and their pitch in cents above 10 Hz."""
    generator = torch.Generator().manual_seed(seed)
    hertz = 60 * 2 ** (4 * torch.rand(count, 1, generator=generator))
    frames = torch.zeros(count, LENGTH)
    seconds = torch.arange(LENGTH) / RATE
    for harmonic in range(1, 7):
        phase = 6.283 * torch.rand(count, 1, generator=generator)
        loudness = torch.rand(count, 1, generator=generator) / harmonic * (hertz * harmonic < RATE / 2)
        frames += loudness * torch.sin(6.2831853 * harmonic * hertz * seconds + phase)
    frames += 0.05 * torch.randn(count, LENGTH, generator=generator)
    frames = (frames - frames.mean(1, keepdim=True)) / frames.std(1, keepdim=True)
    return frames, 1200 * torch.log2(hertz[:, 0] / 10)


def _in_tune(outputs: Tensor, cents: Tensor) -> float:
    return float(((FIRST_BIN + CENTS_A_BIN * outputs.argmax(1) - cents).abs() < 50).float().mean())


def _cross_entropy_of_bins(outputs: Tensor, bins: Tensor) -> Tensor:
    return nn.functional.binary_cross_entropy(outputs.clamp(1e-7, 1 - 1e-7), bins)


def _onet() -> Network:
    """MTCNN's last network (Zhang et al., 2016), on faces and other pictures: is it a face?"""
    grey = torch.from_numpy(np.load(folder("skimage") / "data" / "lfw_subset.npy")).float()
    colour = interpolate(grey[:, None], (48, 48), mode="bilinear", align_corners=False).expand(-1, 3, -1, -1)
    inputs, labels = torch.cat([colour, colour.flip(3)]) * 2 - 1, (torch.arange(400) % 200 < 100).long()
    few = torch.arange(400) % 4 == 0
    return Network(
        "onet",
        0,
        onet(),
        (inputs[~few], labels[~few]),
        (inputs[few], labels[few]),
        _faces,
        {"loss": _loss_of_faces},
    )


def _faces(outputs: tuple[Tensor, ...], labels: Tensor) -> float:
    return _accuracy(outputs[2], labels)


def _loss_of_faces(outputs: Tensor, labels: Tensor) -> Tensor:
    """Criteria see several outputs side by side: four of the box, ten of the landmarks, and no face and face."""
    return nn.functional.nll_loss(outputs[:, 14:].clamp_min(1e-7).log(), labels)


def _joined(outputs: list[Any]) -> Any:
    if isinstance(outputs[0], Tensor):
        return torch.cat(outputs)
    return tuple(torch.cat(parts) for parts in zip(*outputs, strict=True))
