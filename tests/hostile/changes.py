"""What disks, editors, copies and attackers do to files, and kinds of files with all that reads them."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from secateur.types import SecateurError

# What writers of files put where something else is expected.
HOSTILE: list[Any] = [
    None, True, -1, 0, 10**30, 1e308, float("nan"), float("inf"), "", "x" * 3000, "\ud800", "\x00", "../../etc", [], {},
    [[]], {"": None}, [None], [1, [2]], {"a": {"b": []}},
]  # fmt: skip
BRACKETS = [
    "[" * 50_000 + "]" * 50_000,
    '{"a":' * 5_000 + "1" + "}" * 5_000,
    "[" * 900 + "]" * 900,
    "9" * 6_000,
    "",
    "null",
    "[",
]


Answers = list[str | None]


def each(*reads: Callable[[], Any]) -> Answers:
    """What each way of reading says; only errors of ours are a refusal."""
    answers: Answers = []
    for read in reads:
        try:
            answers.append(repr(read()))
        except SecateurError:
            answers.append(None)
    return answers


@dataclass(frozen=True)
class Kind:
    """Files of one kind.

    Attributes:
        make: writes them to a folder.
        read: reads all that they say, in several ways, each as text; None where one is refused.
        change: changes the folder; says whether it left the content what it was meant to be, so that another answer
            than the first is no silent difference.
    """

    make: Callable[[Path], None]
    read: Callable[[Path], Answers]
    change: Callable[[Path, random.Random], bool]


# Changes of bytes and of JSON


def in_bytes(file: Path, chance: random.Random) -> None:
    """Flip, cut, double, fill, insert or mix: what disks, editors and copies do."""
    data = bytearray(file.read_bytes())
    start = chance.randrange(len(data) or 1)
    stop = min(len(data), start + chance.choice([1, 8, 64, 512]))
    how = chance.randrange(6)
    if how == 0 and data:
        data[start] ^= 1 << chance.randrange(8)
    elif how == 1:
        del data[start:]
    elif how == 2:
        data[start:start] = data[start:stop]
    elif how == 3:
        data[start:stop] = bytes(stop - start)
    elif how == 4:
        data[start:start] = chance.choice([b"\xff\xfe", b"[" * 2000, b"\x00", "é€".encode(), b'"', b"=", b"\n"])
    else:
        part = data[start:stop]
        chance.shuffle(part)
        data[start:stop] = part
    file.write_bytes(data)


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The paths of all parts of plain data."""
    yield path
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, part in inner:
        yield from places(part, (*path, key))


def in_plain(value: Any, chance: random.Random) -> Any:
    """Put something hostile in the place of one part, take a part away, or give it another name."""
    whole = {"": value}
    *way, last = chance.choice([("", *place) for place in places(value)])
    holder: Any = whole
    for key in way:
        holder = holder[key]
    how = chance.randrange(4)
    if how == 0 and way:
        del holder[last]
    elif how == 1 and isinstance(last, str) and way:
        holder[chance.choice(["", "seed", "\x00", "é", "study"])] = holder.pop(last)
    else:
        holder[last] = chance.choice(HOSTILE)
    return whole[""]


def in_json(text: str, chance: random.Random) -> str:
    return chance.choice(BRACKETS) if chance.random() < 0.2 else json.dumps(in_plain(json.loads(text), chance))


def mutate(kind: Kind, whole: Path, truth: Answers, seed: int, place: Path) -> str:
    """Change a copy and read it: ``same``, ``refused`` in a way or more, or ``other``, where the text says another thing.

    Raises:
        AssertionError: what was read is silently another thing.
        Exception: an error that is not ours.
    """
    shutil.rmtree(place, ignore_errors=True)
    shutil.copytree(whole, place)
    meant = kind.change(place, random.Random(seed))
    answers = kind.read(place)
    differing = [at for at, (now, then) in enumerate(zip(answers, truth, strict=True)) if now not in (None, then)]
    assert meant or not differing, f"ways {differing} read another thing in silence"
    return "refused" if None in answers else "other" if differing else "same"


def in_files(folder: Path, chance: random.Random) -> None:
    """Of the bytes, or of the header of the file, which names, places and types the tensors."""
    file = chance.choice([f for f in sorted(folder.rglob("*")) if f.is_file()])
    if file.suffix == ".json" and chance.random() < 0.6:
        file.write_text(in_json(file.read_text(), chance), encoding="utf-8", errors="replace")
    elif file.suffix == ".safetensors" and chance.random() < 0.6:
        data = file.read_bytes()
        stop = 8 + int.from_bytes(data[:8], "little")
        text = in_json(data[8:stop].decode(), chance).encode("utf-8", "replace")
        file.write_bytes(len(text).to_bytes(8, "little") + text + data[stop:])
    else:
        in_bytes(file, chance)
