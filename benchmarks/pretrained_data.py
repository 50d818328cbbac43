"""What the pretrained networks of `pretrained` are compressed and rated on: tones, speech and pictures, made by seeds."""

from __future__ import annotations

from math import log, pi

import numpy as np
import torch
from PIL import Image
from torch import Generator, Tensor
from torch.nn import functional as F

from published import folder

__all__ = ["OTHER", "TRAINED", "faces", "speech", "tones"]

RATE = 16_000
TRAINED = ("falling", "formants", "sine")
OTHER = ("odd", "square", "missing")
"""Timbres: tones to train on, and tones to test on."""


def _uniform(generator: Generator, low: float, high: float, *shape: int) -> Tensor:
    return low + (high - low) * torch.rand(shape, generator=generator)


def tones(count: int, seed: int, timbres: tuple[str, ...]) -> tuple[Tensor, Tensor]:
    """Return frames of 1,024 samples as CREPE takes them, mean 0 and spread 1, and their pitches in cents above 10 Hz.

    A tone has up to 24 harmonics at random phases, a pitch of 45 to 1,800 Hz (even in cents) that drifts by up to 15
    cents, a swell or decay, and white noise 5 to 40 dB below it.
    """
    generator = torch.Generator().manual_seed(seed)
    pitch = torch.exp(_uniform(generator, log(45), log(1800), count, 1))
    seconds = (torch.arange(1024) - 511.5) / RATE
    drift = _uniform(generator, -15, 15, count, 1) / 1200 * log(2) / 0.032
    # The phase of a frequency f e^{d t} is 2π f (e^{d t} − 1) / d.
    phase = 2 * pi * pitch * (torch.expm1(drift * seconds) / drift)
    numbers = torch.arange(1, 25.0)
    which = torch.randint(len(timbres), (count,), generator=generator)
    strength = torch.stack([_strength(timbre, pitch, numbers, generator) for timbre in timbres])[
        which, torch.arange(count)
    ]
    strength = strength * (pitch * numbers < 0.48 * RATE)
    starts = _uniform(generator, 0, 2 * pi, count, 24)
    sound = torch.zeros(count, 1024)
    for harmonic in range(24):
        sound += strength[:, harmonic, None] * torch.cos((harmonic + 1) * phase + starts[:, harmonic, None])
    sound *= torch.exp(_uniform(generator, -12, 12, count, 1) * seconds)
    level = sound.std(1, keepdim=True) * 10 ** (-_uniform(generator, 5, 40, count, 1) / 20)
    sound += level * torch.randn(count, 1024, generator=generator)
    frames = (sound - sound.mean(1, keepdim=True)) / sound.std(1, keepdim=True)
    return frames, 1200 * torch.log2(pitch.flatten() / 10)


def _strength(timbre: str, pitch: Tensor, numbers: Tensor, generator: Generator) -> Tensor:
    """How loud each harmonic of each tone is."""
    count = len(pitch)
    if timbre == "falling":
        return numbers ** -_uniform(generator, 0.5, 2.5, count, 1) * _uniform(generator, 0.3, 1, count, 24)
    if timbre == "sine":
        return (numbers == 1) + 0.05 * _uniform(generator, 0, 1, count, 24)
    if timbre == "formants":
        peaks = torch.exp(_uniform(generator, log(200), log(3500), count, 3, 1))
        near = torch.exp(-((pitch * numbers).unsqueeze(1).div(peaks).log2() ** 2) / 0.3).sum(1)
        return (0.05 + near) / numbers.sqrt()
    if timbre == "odd":
        return torch.where(numbers % 2 == 1, 1.0, 0.08) * numbers ** -_uniform(generator, 0.8, 1.6, count, 1)
    if timbre == "square":
        width = _uniform(generator, 0.1, 0.5, count, 1)
        return torch.sin(pi * width * numbers).abs() / numbers
    if timbre == "missing":
        weak = torch.where(numbers == 1, _uniform(generator, 0.05, 0.3, count, 1), 1.0)
        return weak * numbers ** -_uniform(generator, 0.3, 1.2, count, 1)
    raise ValueError(f"no timbre {timbre!r}")


def faces(part: str, count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Return pictures of 48 × 48 pixels as ONet takes them, and whether each is a face.

    Half are faces of the 100 of scikit-image (of Labeled Faces in the Wild): 60 to train, 20 to validate and 20 to test
    with, moved, resized, mirrored, tinted, and lit anew; half are cut out of photographs without people, of other ones
    for each part, and out of the 100 pictures without a face of the same set.
    """
    generator = torch.Generator().manual_seed(seed)
    small = torch.from_numpy(np.load(folder("skimage") / "data" / "lfw_subset.npy")).float()
    first, last = {"train": (0, 60), "validation": (60, 80), "test": (80, 100)}[part]
    people, others = (
        small[first:last, None].expand(-1, 3, -1, -1),
        small[100 + first : 100 + last, None].expand(-1, 3, -1, -1),
    )
    scenes = [_picture(name) for name in SCENES[part]]
    labels = (torch.rand(count, generator=generator) < 0.5).float()
    pictures = torch.stack([_cut(people if label else others, scenes, bool(label), generator) for label in labels])
    return (pictures * 255 - 127.5) / 128, labels


SCENES = {
    "train": ("coffee.png", "chelsea.png", "brick.png", "motorcycle_left.png", "page.png"),
    "validation": ("rocket.jpg", "grass.png", "coins.png"),
    "test": ("gravel.png", "hubble_deep_field.jpg", "retina.jpg", "text.png"),
}


def _picture(name: str) -> Tensor:
    picture = Image.open(folder("skimage") / "data" / name).convert("RGB")
    picture.thumbnail((400, 400))
    values = torch.from_numpy(np.array(picture))
    return values.permute(2, 0, 1).float() / 255


def _cut(choices: Tensor, scenes: list[Tensor], face: bool, generator: Generator) -> Tensor:
    """One picture: a window about a face, or any window of a scene, lit and tinted at random."""
    picture = choices[int(torch.randint(len(choices), (), generator=generator))]
    if not face and torch.rand((), generator=generator) < 0.7:
        picture = scenes[int(torch.randint(len(scenes), (), generator=generator))]
    height, width = picture.shape[-2:]
    share = float(_uniform(generator, 0.8, 1.0) if min(height, width) <= 25 else _uniform(generator, 0.1, 0.6))
    size = max(int(share * min(height, width)), 16)
    top, left = (int(torch.randint(length - size + 1, (), generator=generator)) for length in (height, width))
    window = picture[None, :, top : top + size, left : left + size]
    window = F.interpolate(window, (48, 48), mode="bilinear", antialias=True, align_corners=False)[0]
    window = window.flip(-1) if torch.rand((), generator=generator) < 0.5 else window
    tint = _uniform(generator, 0.85, 1.15, 3, 1, 1) * _uniform(generator, 0.7, 1.2, 1, 1, 1)
    noise = 0.02 * torch.randn(3, 48, 48, generator=generator)
    return (window * tint + _uniform(generator, -0.1, 0.1, 1, 1, 1) + noise).clamp(0, 1)


def speech(count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Return mel energies ``(count, 160, 40)`` of speech-like sound, 1.6 s each, and the number of the speaker.

    Ten utterances a speaker, who has a pitch, a length of the vocal tract, a tilt of the spectrum and a breathiness; an
    utterance moves between random vowels and pauses.
    """
    generator = torch.Generator().manual_seed(seed)
    speakers = torch.arange(count) // 10
    voices = _uniform(generator, 0, 1, int(speakers.max()) + 1, 4)[speakers]
    return torch.cat([_mel(_voiced(some, generator)) for some in voices.split(50)]), speakers.float()


def _smooth(values: Tensor, length: int) -> Tensor:
    """Values at a few moments, joined by lines."""
    return F.interpolate(values, length, mode="linear", align_corners=True)


def _voiced(voices: Tensor, generator: Generator) -> Tensor:
    """Sound of 1.6 s: a source of harmonics and noise through formants that move."""
    count, frames, length = len(voices), 160, 25600
    height, tract, tilt, breath = (voices[:, column, None, None] for column in range(4))
    pitch = 80 * 2 ** (1.6 * height + _uniform(generator, -0.25, 0.25, count, 1, 6))
    phase = torch.cumsum(_smooth(pitch, length), -1) * 2 * pi / RATE
    vowels = torch.stack([_uniform(generator, *bounds, count, 8) for bounds in FORMANTS], 1) * (0.85 + 0.35 * tract)
    formants = _smooth(vowels, frames)
    loud = _smooth(_uniform(generator, -0.3, 1, count, 1, 10).clamp(min=0), frames)
    slow_pitch, sound = _smooth(pitch, frames), torch.zeros(count, 1, length)
    first, wave = torch.polar(torch.ones(()), phase), torch.ones(())
    for number in range(1, 25):
        frequency, wave = slow_pitch * number, wave * first
        gain = _through(frequency, formants) * number ** -(0.6 + 0.8 * tilt) * (frequency < 7000) * loud
        sound += _smooth(gain, length) * wave.real
    hiss = _smooth(loud, length) * torch.randn(count, 1, length, generator=generator)
    sound = sound + (0.02 + 0.1 * breath) * hiss + 1e-3 * torch.randn(count, 1, length, generator=generator)
    level = sound.square().mean(-1, keepdim=True).sqrt()
    # The encoder's own preparation brings sound to −30 dB.
    return (sound / level * 10 ** (-30 / 20)).squeeze(1)


FORMANTS = ((250, 850), (800, 2500), (2300, 3300))


def _through(frequency: Tensor, formants: Tensor) -> Tensor:
    """How much of a frequency passes the formants, which are 120 Hz wide."""
    return (1 / (1 + ((frequency - formants) / 120) ** 2)).sum(1, keepdim=True) + 0.03


def _mel(sound: Tensor) -> Tensor:
    """Energies of 40 mel bands in windows of 25 ms every 10 ms, as librosa computes them."""
    spectrum = torch.stft(sound, 400, 160, window=torch.hann_window(400), pad_mode="constant", return_complex=True)
    return (spectrum.abs().square().mT @ _bands())[:, :160]


def _bands() -> Tensor:
    """Slaney's triangles of equal area, ``(201, 40)``: linear up to 1,000 Hz, logarithmic from there."""
    top = 15 + log(8) / (log(6.4) / 27)
    mels = torch.linspace(0, top, 42)
    edges = torch.where(mels < 15, mels * 200 / 3, 1000 * torch.exp((mels - 15) * log(6.4) / 27))
    bins = torch.linspace(0, RATE / 2, 201)[:, None]
    rising = (bins - edges[:-2]) / (edges[1:-1] - edges[:-2])
    falling = (edges[2:] - bins) / (edges[2:] - edges[1:-1])
    return torch.minimum(rising, falling).clamp(min=0) * 2 / (edges[2:] - edges[:-2])
