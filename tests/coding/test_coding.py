"""Packed and coded symbols come back as they were, or there is one clear error."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from secateur.coding import (
    CODERS,
    Codebook,
    Codec,
    Grid,
    as_integers,
    decode_symbols,
    decode_tensor,
    encode_symbols,
    from_grid,
    pack,
    unpack,
)
from secateur.coding import coders as coders_module
from secateur.types import FileError, InputError, MissingLibraryError

INSTALLED = [name for name in CODERS if name != "constriction" or coders_module.find_spec("constriction")]


def same_bits(a: Tensor, b: Tensor) -> bool:
    return a.shape == b.shape and a.dtype == b.dtype and torch.equal(as_integers(a), as_integers(b))


@given(bits=st.integers(1, 16), data=st.data())
def test_packing_takes_n_bits_and_comes_back(bits: int, data: st.DataObject) -> None:
    numbers = np.array(data.draw(st.lists(st.integers(0, 2**bits - 1), max_size=50)), np.uint16)
    octets = pack(numbers, bits)
    assert octets.size == -(-len(numbers) * bits // 8)
    assert np.array_equal(unpack(octets, bits, len(numbers)), numbers)


@pytest.mark.parametrize("bits", range(1, 17))
def test_packing_equals_the_plain_loop_over_bits(bits: int) -> None:
    numbers = np.random.default_rng(bits).integers(0, 2**bits, 37).astype(np.uint16)
    string = "".join(format(number, f"0{bits}b")[::-1] for number in numbers)
    octets = [int(string[start : start + 8].ljust(8, "0")[::-1], 2) for start in range(0, len(string), 8)]
    assert pack(numbers, bits).tolist() == octets


def test_packing_in_chunks_is_packing(monkeypatch: pytest.MonkeyPatch) -> None:
    numbers = np.random.default_rng(0).integers(0, 8, 45).astype(np.uint16)
    whole = pack(numbers, 3)
    monkeypatch.setattr("secateur.coding.packing.CHUNK", 8)
    assert np.array_equal(pack(numbers, 3), whole)
    assert np.array_equal(unpack(whole, 3, 45), numbers)


def test_what_does_not_fit_in_the_bits_is_refused() -> None:
    with pytest.raises(InputError, match="8 takes more than 3 bits"):
        pack(np.array([8], np.uint16), 3)


@pytest.mark.parametrize(("octets", "count"), [([57], 5), ([57, 0], 3), ([], 1), ([57 | 64], 3)])
def test_packed_bytes_of_another_size_are_refused(octets: list[int], count: int) -> None:
    with pytest.raises(FileError, match="bits"):
        unpack(np.array(octets, np.uint8), 2, count)


@pytest.mark.parametrize("coder", INSTALLED)
@given(data=st.data())
def test_every_coder_gives_symbols_back(coder: str, data: st.DataObject) -> None:
    alphabet = data.draw(st.sampled_from([1, 2, 3, 31, 256, 257, 65536]))
    symbols = np.array(data.draw(st.lists(st.integers(0, alphabet - 1), min_size=1, max_size=40)), np.uint16)
    record = encode_symbols(symbols, alphabet, coder)
    assert np.array_equal(decode_symbols(record, len(symbols)), symbols)


def skewed(count: int = 4000) -> Any:
    return np.random.default_rng(0).choice(16, count, p=[0.85, *[0.01] * 15]).astype(np.uint16)


@pytest.mark.parametrize("coder", INSTALLED)
def test_any_flipped_bit_and_any_truncation_is_one_clear_error(coder: str) -> None:
    symbols = skewed(300)
    record = encode_symbols(symbols, 16, coder)
    stream = record["stream"]
    for place in range(0, 8 * len(stream), 7):
        flipped = stream.clone()
        flipped[place // 8] ^= 1 << place % 8
        try:
            decoded = decode_symbols({**record, "stream": flipped}, len(symbols))
        except FileError:
            continue
        assert np.array_equal(decoded, symbols)  # a bit that says nothing, as in a header
    for size in range(len(stream)):
        with pytest.raises(FileError):
            decode_symbols({**record, "stream": stream[:size].clone()}, len(symbols))


def test_the_entropy_coder_comes_within_a_percent_of_the_entropy() -> None:
    pytest.importorskip("constriction")
    symbols = skewed(100_000)
    shares = np.bincount(symbols) / len(symbols)
    entropy = -(shares * np.log2(shares)).sum() * len(symbols) / 8
    assert entropy < len(encode_symbols(symbols, 16, "constriction")["stream"]) < 1.01 * entropy


def test_without_the_library_the_standard_library_codes_and_its_name_stands_in_the_record(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(coders_module, "find_spec", lambda name: None)
    record = encode_symbols(skewed(), 16)
    assert record["coder"] in ("lzma", "zlib")
    assert len(record["stream"]) < 0.5 * len(encode_symbols(skewed(), 16, "packed")["stream"])


def test_symbols_of_a_coder_that_is_not_installed_name_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(module: str, extra: str) -> Any:
        raise MissingLibraryError(f"pip install 'secateur[{extra}]'")

    monkeypatch.setattr(coders_module, "require", missing)
    record = {"coder": "constriction", "alphabet": 2, "crc32": 0, "stream": torch.zeros(16).byte()}
    with pytest.raises(MissingLibraryError, match=r"secateur\[coding\]"):
        decode_symbols(record, 4)


@pytest.mark.parametrize("coder", INSTALLED)
def test_a_small_stream_cannot_ask_for_much_memory(coder: str) -> None:
    record = encode_symbols(np.zeros(100_000, np.uint16), 2, coder)
    assert np.array_equal(decode_symbols(record, 100_000), np.zeros(100_000))
    with pytest.raises(FileError, match=r"too many|not .* bytes|add up|not 10"):
        decode_symbols(record, 10**12)


TENSORS = {
    "two dimensions": torch.tensor([[0.5, 0.0], [-0.0, float("inf")]]),
    "one value": torch.full((3, 5), -2.5),
    "half": torch.arange(12.0).reshape(3, 4).half(),
    "bfloat16": torch.arange(12.0).reshape(3, 4).bfloat16(),
    "double": torch.arange(12.0).reshape(3, 4).double() / 3,
    "transposed": torch.arange(12.0).reshape(3, 4).t(),
}


@pytest.mark.parametrize("name", TENSORS)
@pytest.mark.parametrize("coder", [*INSTALLED, "auto"])
def test_a_codebook_gives_tensors_back_to_the_bit(name: str, coder: str) -> None:
    record = Codebook(coder).encode(TENSORS[name])
    assert record is not None
    assert same_bits(decode_tensor(record), TENSORS[name])


def test_too_many_values_have_no_codebook() -> None:
    assert Codebook().encode(torch.arange(70_000.0)) is None


@pytest.mark.parametrize("bits", range(2, 9))
@pytest.mark.parametrize("channels", [1, 3])
def test_a_grid_gives_tensors_back_to_the_bit(bits: int, channels: int) -> None:
    scale, zero = torch.rand(channels) + 0.1, torch.randint(0, 1 << bits, (channels,)).float()
    tensor = from_grid(torch.randint(0, 1 << bits, (3, 7, 2)), scale, zero)
    record = Grid(bits, scale, zero, "packed").encode(tensor)
    assert record is not None
    assert record["codec"] == "grid"
    assert len(record["stream"]) == -(-42 * bits // 8)
    assert same_bits(decode_tensor(record), tensor)


def test_a_tensor_beside_its_grid_is_stored_as_a_codebook() -> None:
    codec: Codec = Grid(2, torch.tensor([0.5]), torch.tensor([2.0]))
    tensor = torch.tensor([[0.25, 0.5]])
    record = codec.encode(tensor)
    assert record is not None
    assert record["codec"] == "codebook"
    assert same_bits(decode_tensor(record), tensor)


GOOD = Codebook("packed").encode(torch.tensor([[0.5, 0.0], [0.0, 1.5]]))
assert GOOD is not None


@pytest.mark.parametrize(
    "change",
    [
        {"codec": "pickle"},
        {"coder": "pickle"},
        {"shape": [2, 3]},
        {"shape": [10**9, 10**9]},
        {"shape": [-2, -2]},
        {"shape": "2x2"},
        {"shape": [2.0, 2]},
        {"alphabet": 4},
        {"alphabet": 10**9},
        {"alphabet": 0},
        {"alphabet": None},
        {"values": torch.zeros(3, 3)},
        {"values": "text"},
        {"values": None},
        {"stream": torch.zeros(1)},
        {"stream": torch.zeros(1, 1).byte()},
        {"stream": [1]},
        {"crc32": 0},
        {"coder": ["packed"]},
    ],
    ids=str,
)
def test_forged_records_are_refused_with_a_file_error(change: dict[str, Any]) -> None:
    with pytest.raises(FileError):
        decode_tensor({**GOOD, **change})


@pytest.mark.parametrize("part", list(GOOD))
def test_records_without_a_part_are_refused(part: str) -> None:
    with pytest.raises(FileError):
        decode_tensor({name: value for name, value in GOOD.items() if name != part})
