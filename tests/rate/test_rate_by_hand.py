"""Parts of what rates models, by themselves: what may be run in a faster way, room in memory, skipped zeros, counts."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from secateur.labelled import SampleBatch
from secateur.rate.chain import engine as chain_engines
from secateur.rate.chain import rows
from secateur.rate.chain.engine import CHUNK, Block, chain_engine
from secateur.rate.chain.parse import ChainLayer, ChainOp, read_chain
from secateur.rate.chain.rows import Sparse, joined, whole
from secateur.rate.downdate import downdate
from secateur.rate.last import _check, wide_product
from secateur.rate.masks import Removals
from secateur.rate.memory import Budget, _available, _within_limit, free_memory
from secateur.rate.population import _check as check_samples
from secateur.rate.population import check_outputs
from secateur.rate.program import Instruction, Line, Program, Programs, Unfit, bytes_of
from secateur.rate.samples import SampleLoss
from secateur.rate.suffix import Suffix
from secateur.rate.tally import MaskTally, Tally, UnitTally, right_by_class
from secateur.rate.trying import try_model
from secateur.rate.units import GraphEngine, _after_reads
from secateur.structure import channels
from secateur.structure.flow import Flow
from secateur.structure.ops import product_of
from secateur.trees import Packing
from secateur.types import InputError, Sites


class Computes(nn.Module):
    """A function of a hidden layer, and of tensors of the model's own, before a last layer."""

    def __init__(
        self, function: Callable[[Any, Tensor], Tensor], hidden: nn.Module, last: nn.Module, **own: Tensor
    ) -> None:
        super().__init__()
        self.hidden, self.last, self.function = hidden, last, function
        for name, tensor in own.items():
            self.register_buffer(name, tensor)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.function(self, self.hidden(x)))  # type: ignore[no-any-return]


# ---- which models are chains ----

MAPS, ROWS, STEPS = torch.randn(2, 3, 6, 6), torch.randn(2, 6), torch.randn(2, 3, 6)
ONE, VARIED = torch.ones(5), torch.rand(5) + 0.5


def of_maps(function: Callable[[Any, Tensor], Tensor], inputs: int = 4, **own: Tensor) -> nn.Module:
    return Computes(function, nn.Conv2d(3, 4, 3), nn.Linear(inputs, 2), **own).eval()


def of_rows(function: Callable[[Any, Tensor], Tensor], inputs: int = 5, **own: Tensor) -> nn.Module:
    return Computes(function, nn.Linear(6, 5), nn.Linear(inputs, 2), **own).eval()


CHAINS: dict[str, tuple[nn.Module, Tensor, list[str]]] = {
    "mean of maps": (of_maps(lambda m, h: h.mean((2, 3))), MAPS, ["adaptive_avg_pool2d", "flatten"]),
    "mean from the end": (of_maps(lambda m, h: h.mean((-1, -2))), MAPS, ["adaptive_avg_pool2d", "flatten"]),
    "mean that stays maps": (
        of_maps(lambda m, h: h.mean((2, 3), keepdim=True).flatten(1)),
        MAPS,
        ["adaptive_avg_pool2d", "flatten"],
    ),
    "view as it was": (of_rows(lambda m, h: h.view(2, 5).tanh()), ROWS, ["tanh"]),
    "flattened": (of_maps(lambda m, h: h.flatten(1), 64), MAPS, ["flatten"]),
    "maximum before what rises": (
        of_maps(lambda m, h: F.max_pool2d(h.tanh(), 4).flatten(1)),
        MAPS,
        ["max_pool2d_with_indices", "tanh", "flatten"],
    ),
    "maximum after what bends": (
        of_maps(lambda m, h: F.max_pool2d(F.gelu(h), 4).flatten(1)),
        MAPS,
        ["gelu", "max_pool2d_with_indices", "flatten"],
    ),
    "mean of what rises": (
        of_maps(lambda m, h: F.avg_pool2d(h.tanh(), 4).flatten(1)),
        MAPS,
        ["tanh", "avg_pool2d", "flatten"],
    ),
    "padding in words": (
        of_maps(lambda m, h: F.conv2d(h, m.k, padding="same").flatten(1), 32, k=torch.randn(2, 4, 3, 3)),
        MAPS,
        [],
    ),
    "norm": (of_rows(lambda m, h: F.batch_norm(h, m.mu, m.var, m.w, eps=0.5), mu=VARIED, var=ONE, w=VARIED), ROWS, []),
}
NO_CHAINS: dict[str, tuple[nn.Module, Tensor]] = {
    "mean over channels": (of_maps(lambda m, h: h.mean((1, 2))), MAPS),
    "mean over columns": (of_maps(lambda m, h: h.mean(2).flatten(1), 16), MAPS),
    "samples mixed": (of_maps(lambda m, h: h.reshape(1, -1).expand(2, -1), 128), MAPS),
    "more dimensions": (of_rows(lambda m, h: h.view(2, 5, 1).tanh().view(2, 5)), ROWS),
    "groups": (of_maps(lambda m, h: F.conv2d(h, m.k, groups=2).flatten(1), 2, k=torch.randn(2, 2, 4, 4)), MAPS),
    "transposed": (of_maps(lambda m, h: F.conv_transpose2d(h, m.k).flatten(1), 25, k=torch.randn(4, 1, 2, 2)), MAPS),
    "signals": (Computes(lambda m, h: h.flatten(1), nn.Conv1d(3, 4, 3), nn.Linear(16, 2)).eval(), STEPS),
    "a sum of two": (of_rows(lambda m, h: h + m.b, b=VARIED), ROWS),
    "the other way round": (of_rows(lambda m, h: 2**h), ROWS),
    "a bias for each sample": (
        of_rows(lambda m, h: torch.addmm(m.b, h, m.w.t()), 5, b=torch.randn(2, 5), w=torch.randn(5, 5)),
        ROWS,
    ),
    "a weight that is computed": (of_rows(lambda m, h: F.linear(h, m.w.exp()), 5, w=torch.randn(5, 5)), ROWS),
    "a bias that is computed": (
        of_rows(lambda m, h: F.linear(h, m.w, m.b.exp()), 5, w=torch.randn(5, 5), b=VARIED),
        ROWS,
    ),
    "a norm that is computed": (
        of_rows(lambda m, h: F.batch_norm(h, m.mu, m.var.exp()), mu=VARIED, var=ONE),
        ROWS,
    ),
    "a norm whose scale is computed": (
        of_rows(lambda m, h: F.batch_norm(h, m.mu, m.var, m.w.exp()), mu=VARIED, var=ONE, w=VARIED),
        ROWS,
    ),
    "a norm of the batch": (of_rows(lambda m, h: F.batch_norm(h, None, None, training=True)), ROWS),
    "a way around": (of_rows(lambda m, h: h.tanh() + h), ROWS),
    "rows of rows": (Computes(lambda m, h: h, nn.Linear(6, 5), nn.Linear(5, 2)).eval(), STEPS),
}


@pytest.mark.parametrize("kind", CHAINS)
def test_a_chain_is_read_with_what_lies_between_its_layers(kind: str) -> None:
    model, x, between = CHAINS[kind]
    chain = read_chain(model, channels(model, x))
    assert chain is not None
    before, layers = chain
    assert not before
    names = [op.name for op in layers[0].post]
    assert [name.removesuffix("_with_indices") for name in names] == [n.removesuffix("_with_indices") for n in between]
    for layer in layers:
        x = layer.after(layer(x))
    torch.testing.assert_close(x, model(CHAINS[kind][1]), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", NO_CHAINS)
def test_what_is_anything_else_is_no_chain(kind: str) -> None:
    model, x = NO_CHAINS[kind]
    assert read_chain(model, channels(model, x)) is None


# ---- layers that are brought up to date ----

UPDATED = {
    "linear": (of_rows(lambda m, h: h.tanh()), ROWS, True),
    "linear on rows of rows": (NO_CHAINS["rows of rows"][0], STEPS, True),
    "convolution": (nn.Sequential(nn.Conv2d(3, 4, 3), nn.Tanh(), nn.Conv2d(4, 2, 2)), MAPS, True),
    "groups": (nn.Sequential(nn.Conv2d(3, 4, 3), nn.Tanh(), nn.Conv2d(4, 2, 2, groups=2)), MAPS, False),
    "transposed": (nn.Sequential(nn.Conv2d(3, 4, 3), nn.Tanh(), nn.ConvTranspose2d(4, 2, 2)), MAPS, False),
    "padding in words": (
        nn.Sequential(nn.Conv2d(3, 4, 3), nn.Tanh(), nn.Conv2d(4, 2, 2, padding="same")),
        MAPS,
        True,
    ),
    "a mean": (nn.Sequential(nn.Linear(6, 5), nn.Softmax(1)), ROWS, None),
}


@pytest.mark.parametrize("kind", UPDATED)
def test_a_layer_is_brought_up_to_date_where_it_adds_up_its_inputs(kind: str) -> None:
    model, x, is_updated = UPDATED[kind]
    model.eval()
    sites = channels(model, x)
    programs = Programs(model, sites)
    program = programs.at(SampleBatch(x))
    steps = {step.node: step for step in program.steps}
    reads = [read for site_reads in program.reads.values() for read in site_reads]
    assert bool(reads) == (is_updated is not None)
    values = programs.run(_whole_line(program), SampleBatch(x))
    for read in reads:
        step = steps[read.node]
        update = downdate(step, step.current[read.source], read)
        assert (update is not None) is is_updated
        if update is None:
            continue
        units = torch.tensor([2, 0])
        with torch.no_grad():
            new = update(values[read.node], values, units)
            for without, unit in zip(new, units.tolist(), strict=True):
                gate = torch.ones(len(read.index))
                gate[unit] = 0
                instead = {read.source: values[read.source] * read.spread(gate)}
                torch.testing.assert_close(without, step(values, instead), rtol=1e-4, atol=1e-5)


def _whole_line(program: Program) -> Line:
    return Line(program.steps, {node for step in program.steps for node in (*step.operands, step.node)})


def test_a_product_with_itself_is_run_again() -> None:
    model = Computes(lambda m, h: h @ h.mT, nn.Linear(6, 5), nn.Linear(2, 2))
    _, reads = Flow(model, channels(model, ROWS)).at(ROWS)
    for read in (read for site_reads in reads.values() for read in site_reads):
        product = product_of(read.node)
        if product is not None and product.kind in ("matmul", "mm"):
            current = {node: node for node in read.node.all_input_nodes}
            step = Instruction(read.node, lambda: None, current=current)
            assert downdate(step, read.source, read) is None


# ---- programs of several outputs ----


class Answers(nn.Module):
    """A layer, and what is made of it."""

    def __init__(self, make: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.layer, self.make = nn.Linear(6, 5), make

    def forward(self, x: Tensor) -> Any:
        return self.make(self.layer(x))


@pytest.mark.parametrize(
    ("make", "why"),
    [
        (lambda h: (h, h.sum(0)), "no row for each sample"),
        (lambda h: (h, h.sum()), "no row for each sample"),
    ],
)
def test_outputs_without_a_row_for_each_sample_are_not_run_in_parts(make: Callable[[Tensor], Any], why: str) -> None:
    model = Answers(make)
    with pytest.raises(Unfit, match=why):
        Programs(model, channels(model, ROWS)).at(SampleBatch(ROWS))


def test_several_outputs_lie_in_one_tensor_in_their_order() -> None:
    model = Answers(lambda h: {"logits": h[:, :2], "more": [h, h.tanh()[:, :1]]})
    program = Programs(model, Sites({}), lambda outputs: outputs).at(SampleBatch(ROWS))
    assert program.packing is not None
    packed = program.packing.pack(model(ROWS))
    assert packed.shape == (2, 2 + 5 + 1)
    back = program.packing.unpack(packed)
    torch.testing.assert_close(back, model(ROWS))


# ---- what vmap does not take ----


def test_a_suffix_that_vmap_does_not_take_is_run_one_by_one_and_tried_so_once(monkeypatch: pytest.MonkeyPatch) -> None:
    model = nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 2))
    programs = Programs(model, channels(model, ROWS))
    program = programs.at(SampleBatch(ROWS))
    middle = next(step.node for step in program.steps if "tanh" in str(step.node.target))
    suffix = Suffix(program, replaced=[middle])
    values = programs.flow.given(ROWS)
    _whole_line(program).run(values)
    stacked = torch.randn(3, 2, 5)
    with torch.no_grad():
        expected = suffix.stacked(values, [stacked])
        torch.testing.assert_close(expected, model[2](stacked))
        tried: list[int] = []

        def refuse(*args: Any) -> Any:
            tried.append(1)
            raise RuntimeError("no rule")

        monkeypatch.setattr(torch, "vmap", refuse)
        for _ in range(2):
            torch.testing.assert_close(suffix.stacked(values, [stacked]), expected)
        assert len(tried) == 1
        single = Suffix(program, replaced=[middle])
        single.stacked(values, [stacked[:1]])
        assert len(tried) == 1  # of one there is nothing to map


# ---- rows through the layers at the end ----


def linear_layers(after: list[str]) -> list[ChainLayer]:
    return [
        ChainLayer(torch.randn(200, 7), torch.randn(200), post=[ChainOp(name) for name in after]),
        ChainLayer(torch.randn(3, 200), torch.randn(3)),
    ]


@pytest.mark.parametrize("after", [["relu"], ["tanh"], []])
@pytest.mark.parametrize("on", [0, 1, 40, 64, 65, 100, 200])
def test_rows_go_through_layers_whose_shut_neurons_are_left_out(after: list[str], on: int) -> None:
    layers = linear_layers(after)
    sparse = Sparse(layers)
    parts = [-torch.rand(4, 200) - 0.01, -torch.rand(0, 200), -torch.rand(5, 200) - 0.01]
    parts[2][1, torch.randperm(200)[:on]] *= -1
    read = torch.cat(parts)
    for name in after:
        read = getattr(torch, name)(read)
    expected = F.linear(read, layers[1].weight, layers[1].bias)
    given = sparse.forward(0, [part.clone() for part in parts])
    torch.testing.assert_close(given, expected, rtol=1e-4, atol=1e-4)
    assert sparse.forward(0, [torch.zeros(0, 200)]).shape == (0, 3)


def test_a_row_without_a_neuron_is_what_the_layer_gives_without_it() -> None:
    layers = linear_layers(["relu"])
    read, sample, unit = torch.randn(4, 7), torch.tensor([0, 2, 2, 3]), torch.tensor([6, 0, 1, 6])
    before = F.linear(read, layers[0].weight, layers[0].bias)
    without = read[sample].clone()
    without[range(4), unit] = 0
    expected = F.linear(without, layers[0].weight, layers[0].bias)
    torch.testing.assert_close(
        Sparse(layers).enter(0, before, read.clone(), sample, unit), expected, rtol=1e-4, atol=1e-4
    )
    one = Sparse(layers).enter(0, before[:1], read[:1].clone(), sample[:1], unit[:1])
    torch.testing.assert_close(one, expected[:1], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("count", "rounded"), [(0, 0), (1, 64), (64, 64), (65, 128), (1024, 1024), (1025, 1280), (1281, 1536)]
)
def test_sizes_are_rounded_up_to_few(count: int, rounded: int) -> None:
    assert whole(count) == rounded


def test_rows_are_joined_and_filled_up_with_zeros() -> None:
    parts, columns = [torch.randn(3, 4), torch.randn(60, 4), torch.randn(2, 4)], torch.tensor([3, 1])
    all_rows = torch.cat(parts)
    assert torch.equal(joined(parts)[:65], all_rows)
    assert torch.equal(joined(parts, columns)[:65], all_rows[:, columns])
    for result in (joined(parts), joined(parts, columns)):
        assert len(result) == 128
        assert not result[65:].any()
    assert rows.WORTH < 1


# ---- what is made at a time ----


def test_a_line_takes_as_much_as_its_values_that_live_at_one_time() -> None:
    model = nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 9), nn.Tanh(), nn.Linear(9, 2))
    program = Programs(model, channels(model, ROWS)).at(SampleBatch(ROWS))
    sizes = [bytes_of(step.node) for step in program.steps]
    assert [size for size in sizes if size] == [4 * 2 * n for n in (5, 5, 9, 9, 2)]  # transposed weights are views
    assert Line(program.steps, {program.output}).peak == 4 * 2 * (9 + 9)
    lasting = {step.node for step in program.steps}
    assert Line(program.steps, lasting).peak == 4 * 2 * (5 + 5 + 9 + 9 + 2)
    assert Line([], set()).peak == 0


@pytest.mark.parametrize("samples", [4, 7])
@pytest.mark.parametrize("memory", [1, 2**12, 2**30])
def test_units_are_told_done_by_their_share_of_the_samples(samples: int, memory: int) -> None:
    model = nn.Sequential(nn.Linear(6, 5), nn.LayerNorm(5), nn.Linear(5, 3))
    x, y = torch.randn(samples, 6), torch.zeros(samples, dtype=torch.int64)
    sites = channels(model, x)
    done: list[float] = []
    engine = GraphEngine(model, sites, Budget.of(torch.device("cpu"), memory), advance=done.append)
    engine.measure(SampleBatch(x, y), UnitTally(F.cross_entropy, sites))
    assert sum(done) == pytest.approx(sum(site.size for site in sites.values()))


@pytest.mark.parametrize("kind", ["linear", "convolution", "groups", "two readers"])
def test_what_follows_units_is_run_from_where_their_readers_are_brought_up_to_date(kind: str) -> None:
    class TwoReaders(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.c = nn.Linear(6, 5), nn.Linear(5, 4), nn.Linear(5, 4)

        def forward(self, x: Tensor) -> Tensor:
            h = self.a(x).tanh()
            return self.b(h).relu() * self.c(h)  # type: ignore[no-any-return]

    model, x, updated = UPDATED[kind] if kind in UPDATED else (TwoReaders(), ROWS, True)
    model.eval()
    program = Programs(model, channels(model, x)).at(SampleBatch(x))
    reads = next(several for several in program.reads.values() if several)
    site = _after_reads(program, reads)
    assert len(site.downdates) == (len(reads) if updated else 0)
    assert len(site.suffix.shut) == (0 if updated else len(reads))
    later = 2 * site.suffix.bytes
    if updated:
        assert site.unit_bytes == max(3 * sum(bytes_of(read.node) for read in reads) + later, 1)
    else:
        assert site.unit_bytes == max(bytes_of(read.source) for read in reads) + later


def test_rows_and_groups_of_a_chain_fit_into_what_they_are_given(monkeypatch: pytest.MonkeyPatch) -> None:
    layers = [nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Conv2d(4, 2, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8, 6), nn.ReLU()]
    model, x = nn.Sequential(*layers, nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 3)).eval(), torch.randn(40, 1, 6, 6)
    sites = channels(model, x[:1])
    engine = chain_engine(model, sites, F.cross_entropy)
    assert engine is not None
    with torch.no_grad():
        reads, gives = engine._forward(x)
    block = Block(reads, gives, torch.zeros(40, dtype=torch.int64), torch.zeros(40), torch.zeros(40))
    widest = 4 * 16  # what the first convolution gives, and what the second reads
    assert engine._chunk(block, 0) == min(CHUNK, engine.max_memory // 16) // widest
    assert engine._chunk(block, 3) == min(CHUNK, engine.max_memory // 16) // 6
    engine.max_memory = 16 * widest * 3
    assert engine._chunk(block, 0) == 3
    engine.max_memory = 1
    assert engine._chunk(block, 0) == 1
    # From the second linear layer on, a row for each neuron that is on, through products of 6 × 5 and 5 × 3.
    on = float((reads[3] != 0).float().sum(1).mean())
    work = on * 5 * 3
    for limit in (work * 0.5, work * 2.5, work * 7.5):
        monkeypatch.setattr(chain_engines, "WORK", limit)
        assert engine._group(block) == max(1, int(limit / work))
    monkeypatch.setattr(chain_engines, "CACHED", 4 * on * 6)
    assert engine._group(block) == 4


def test_one_product_takes_weights_of_any_number() -> None:
    x = torch.randn(5, 4)
    for shape in ((4,), (3, 4), (2, 3, 4), (7, 2, 3, 4)):
        weights = torch.randn(shape)
        expected = torch.einsum("...i,bi->...b", weights, x)
        if len(shape) > 1:
            torch.testing.assert_close(wide_product(weights, x), expected)


# ---- memory ----


def test_a_container_leaves_what_its_limit_says(tmp_path: Path) -> None:
    assert _within_limit(tmp_path) > 2**60
    (tmp_path / "memory.max").write_text("1000\n")
    assert _within_limit(tmp_path) > 2**60
    (tmp_path / "memory.current").write_text("400\n")
    assert _within_limit(tmp_path) == 600
    (tmp_path / "memory.current").write_text("1400\n")
    assert _within_limit(tmp_path) == 0
    (tmp_path / "memory.max").write_text("max\n")
    assert _within_limit(tmp_path) > 2**60


def test_what_is_available_is_told_in_kilobytes(tmp_path: Path) -> None:
    meminfo = tmp_path / "meminfo"
    unknown = _available(meminfo)
    assert unknown > 0
    meminfo.write_text("MemTotal:  9 kB\nMemAvailable:   7 kB\nMemFree:  3 kB\n")
    assert _available(meminfo) == 7 * 1024
    meminfo.write_text("MemTotal:  9 kB\n")
    assert _available(meminfo) == unknown


def test_of_a_gpu_its_own_memory_is_free(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (123, 456))
    assert free_memory(torch.device("cuda")) == 123
    assert free_memory(torch.device("cpu")) != 123


def test_batches_are_kept_where_all_of_them_fit() -> None:
    model = nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 3))
    data = [(torch.randn(4, 6), torch.zeros(4, dtype=torch.int64)) for _ in range(3)]
    sites = channels(model, data[0][0])
    names = frozenset(["0"])
    batches = list(Removals(model, sites, data)._batches(names))
    exact = sum(batch.bytes for batch in batches)
    assert exact >= 3 * (4 * 5 * 4 + 4 * 8)  # what the last layer reads, and the targets
    for size, fits in ((exact, True), (exact - 1, False), (0, False), (-1, False), (None, True)):
        removals = Removals(model, sites, data, max_memory=size)
        list(removals._batches(names))
        assert bool(removals._kept) is fits


# ---- errors, losses and counts ----

H, W, T = torch.zeros(4, 3), torch.zeros(2, 3), torch.zeros(4, dtype=torch.int64)


@pytest.mark.parametrize(
    ("h", "weight", "bias", "targets", "message"),
    [
        (H[0], W, None, T, "do not fit"),
        (H, W[0], None, T, "do not fit"),
        (H, W, None, T[:, None], "do not fit"),
        (H, W[:, :2], None, T, "do not fit"),
        (H, W, None, T[:3], "do not fit"),
        (H, W, torch.zeros(3), T, "do not fit"),
        (H, W[:1], None, T, "one class only"),
        (H[:0], W, None, T[:0], "no samples"),
        (H, W, None, T.int(), "int64 from 0 to 1"),
        (H, W, None, T - 1, "int64 from 0 to 1"),
        (H, W, None, T + 2, "int64 from 0 to 1"),
    ],
)
def test_what_a_last_layer_does_not_take_is_told(
    h: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor, message: str
) -> None:
    with pytest.raises(InputError, match=message):
        _check(h, weight, bias, targets)
    _check(H, W, torch.zeros(2), T + 1)


@pytest.mark.parametrize(
    ("inputs", "labels", "sizes", "message"),
    [
        ([1.0], T, (1, 1), "both tensors"),
        (H, [0], (1, 1), "both tensors"),
        (H, T[:3], (1, 1), "both tensors"),
        (H[:0], T[:0], (1, 1), "whole numbers"),
        (H, T[:, None], (1, 1), "whole numbers"),
        (H, T.float(), (1, 1), "whole numbers"),
        (H, T, (0, 1), "batch_size"),
        (H, T, (1, 0), "memory"),
    ],
)
def test_what_a_population_does_not_take_is_told(
    inputs: Any, labels: Any, sizes: tuple[int, int], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        check_samples(inputs, labels, *sizes)
    check_samples(H[:1], T[:1], 1, 1)


@pytest.mark.parametrize(
    ("outputs", "labels", "message"),
    [
        ([1.0], T, "list"),
        (H[0], T, r"\(3,\)"),
        (H[:, :1], T, r"\(4, 1\)"),
        (H[:3], T, r"\(3, 3\)"),
        (H, T - 1, "-1 … -1"),
        (H, T + 3, "0 … 2; got 3 … 3"),
    ],
)
def test_outputs_that_are_no_logits_of_the_labels_are_told(outputs: Any, labels: Tensor, message: str) -> None:
    with pytest.raises(InputError, match=message):
        check_outputs(outputs, labels)
    check_outputs(H[:, :2], T + 1)
    check_outputs(H, T)


def test_an_error_says_how_far_whole_numbers_go() -> None:
    table = nn.Embedding(5, 3)
    with pytest.raises(InputError, match="its whole numbers go up to 7: an embedding has fewer rows"):
        try_model(table, SampleBatch(torch.tensor([[0, 7], [1, 2]])), "evaluate")

    class Raises(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            raise IndexError("no such thing")

    for x in (torch.zeros(2), torch.zeros(0, dtype=torch.int64)):
        with pytest.raises(InputError) as raised:
            try_model(Raises(), SampleBatch(x), "evaluate")
        assert "whole numbers" not in str(raised.value)


def test_a_loss_of_several_outputs_lies_as_they_do() -> None:
    outputs = {"a": torch.randn(4, 2), "b": torch.randn(4, 3)}
    packing = Packing.of(outputs, 4)

    def loss(given: dict[str, Tensor], targets: Tensor) -> Tensor:
        return (given["a"].sum(1) - given["b"].sum(1) - targets).square().mean()

    plain = SampleLoss(loss, "score")
    assert plain.of_packed(None) is plain
    packed = plain.of_packed(packing)
    assert packed is not plain
    assert packed.of_packed(packing) is packed
    targets = torch.randn(4)
    expected = (outputs["a"].sum(1) - outputs["b"].sum(1) - targets).square()
    torch.testing.assert_close(packed(packing.pack(outputs), targets), expected)
    assert packed.of_packed(None).loss is loss


def test_right_answers_are_counted_by_class_and_of_equals_the_first_counts() -> None:
    outputs = torch.tensor([[[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]], [[2.0, 2.0, 0.0], [0.0, 2.0, 2.0]]])
    assert right_by_class(outputs, torch.tensor([0, 1])).tolist() == [[1, 1, 0], [1, 1, 0]]
    assert right_by_class(outputs, torch.tensor([1, 2])).tolist() == [[0, 0, 0], [0, 0, 0]]
    tally = Tally()
    assert tally.accuracy is None
    for batch in outputs:
        tally.add(batch, torch.tensor([0, 2]), 3.0, 2)
    assert tally.answers is not None
    assert tally.answers.tolist() == [[0, 0, 2], [2, 0, 0]]
    assert (tally.accuracy, tally.loss, tally.count) == (0.5, 1.5, 4)


def test_masks_are_counted_block_by_block() -> None:
    outputs, targets = torch.randn(5, 6, 3), torch.tensor([0, 1, 2, 2, 1, 1])
    tally = MaskTally(5, F.cross_entropy, "rate")
    for _ in range(2):
        for first in (0, 2, 4):
            tally.add(first, outputs[first : first + 2], SampleBatch(torch.zeros(6, 1), targets))
    losses = torch.stack([F.cross_entropy(row, targets, reduction="sum") for row in outputs])
    torch.testing.assert_close(tally.sums.loss, 2 * losses.double())
    assert tally.sums.count.tolist() == [12] * 5
    assert tally.asked is not None
    assert tally.asked.tolist() == [2, 6, 4]
    assert torch.equal(tally.sums.right, 2 * right_by_class(outputs, targets))
