"""What a cut is verified on, and what is claimed of it afterwards."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.fx import GraphModule

from secateur.criteria import Random
from secateur.pruning import prune
from secateur.selection import select
from secateur.structure import channels, cut, cutting
from secateur.structure.difference import difference
from secateur.structure.draws import Draw
from secateur.structure.frames import Frame, drawn_inputs, other_frames
from secateur.structure.stand_in import run_substituted
from secateur.structure.verify import Verification
from secateur.types import InputError, VerificationError


class Between(nn.Module):
    """Two linear layers with something between."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, 8), nn.Linear(8, 3)

    def between(self, h: Tensor) -> Tensor:
        return torch.relu(h)

    def forward(self, x: Tensor) -> Tensor:
        made: Tensor = self.b(self.between(self.a(x)))
        return made


def verified(model: nn.Module, inputs: Any, form: str = "auto") -> Any:
    torch.manual_seed(0)
    sites = channels(model.eval(), inputs)
    keep = select(Random(seed=3)(model, sites), 0.4, scope="layer")
    return cutting.cut_with_plan(model, sites, keep, form=form)


def test_what_was_run_is_said() -> None:
    found = verified(Between(), torch.randn(2, 5, 4)).verification
    assert found.draws == ("the example's shapes",) + ("batch 3, 5 → 7",) * 3
    assert str(found).startswith("differs from the masked model by ")
    assert "in float64 on 4 draws (the example's shapes; batch 3, 5 → 7), " in str(found)
    assert str(Verification(2e-7)) == "differs from the masked model by 2.0e-07 on the example"


def test_the_report_says_it() -> None:
    report = prune(Between(), torch.randn(2, 4), latency=False).report
    assert report.verified.endswith("on the example")
    assert f"verified: {report.verified}" in str(report)


class Narrow(Between):
    """Casts to float32 by hand, as norms in half precision do."""

    def between(self, h: Tensor) -> Tensor:
        return torch.softmax(h.float(), -1, dtype=torch.float32).to(self.b.weight.dtype)


def test_float64_holds_whatever_the_code_casts_to() -> None:
    assert verified(Narrow(), torch.randn(2, 4)).verification.double < 1e-15


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_proven_in_float64(dtype: torch.dtype) -> None:
    found = verified(Narrow().to(dtype), torch.randn(2, 4, dtype=dtype))
    assert found.verification.double < 1e-15
    assert found.model.a.weight.dtype is dtype


class Kernel(Between):
    """Has no kernel for float64."""

    def between(self, h: Tensor) -> Tensor:
        if h.dtype is torch.float64:
            raise NotImplementedError("no kernel for float64")
        return torch.relu(h)


def test_without_float64_the_draws_are_in_the_models_own_type(monkeypatch: pytest.MonkeyPatch) -> None:
    found = verified(Kernel(), torch.randn(2, 4)).verification
    assert found.double is None
    assert found.draws == ("the example's shapes, in its own types",) * 3
    assert any("no kernel" in reason for reason in found.skipped)


def test_weights_that_may_not_be_any_stay_near_what_they_are() -> None:
    class Logarithm(Between):
        def between(self, h: Tensor) -> Tensor:
            return torch.relu(h) * torch.log(self.scale).mean()

        def __init__(self) -> None:
            super().__init__()
            self.scale = nn.Parameter(torch.rand(5, 5) + 1)

    assert verified(Logarithm(), torch.randn(2, 4)).verification.double < 1e-14


def test_forward_may_write_what_it_finds() -> None:
    class Stateful(Between):
        size = 6

        def between(self, h: Tensor) -> Tensor:
            self.size = h.shape[1]
            return torch.relu(h)[:, : self.size] * self.size

    model = Stateful()
    assert len(verified(model, torch.randn(2, 6, 4)).verification.draws) == 4
    assert model.size == 6


class Crops(nn.Module):
    """The first half of a sequence."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, 8), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        h = torch.relu(self.a(x))
        made: Tensor = self.b(h[:, : x.shape[1] // 2].mean(1))
        return made


def test_a_graph_claims_the_shapes_that_it_was_run_at() -> None:
    free = verified(Between(), torch.randn(2, 6, 4), form="graph").model
    crops = verified(Crops(), torch.randn(2, 6, 4), form="graph").model
    assert isinstance(crops, GraphModule)
    assert free.meta["shapes"] == ((None, None, 4),)
    assert crops.meta["shapes"] == ((None, (2, None), 4),), "half of one place is none, of which there is no mean"
    assert crops(torch.randn(5, 7, 4)).shape == (5, 3)
    with pytest.raises(
        InputError, match=r"input 0 of this graph has shape \(2, 1, 4\); it takes \(any, 2 or more, 4\) alone"
    ):
        crops(torch.randn(2, 1, 4))


def test_a_graph_whose_batch_is_fixed_takes_no_other() -> None:
    class Mixes(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(4, 8), nn.Linear(8, 3)

        def forward(self, x: Tensor) -> Tensor:
            made: Tensor = self.b(torch.relu(self.a(x)) * len(x).bit_length())
            return made

    result = prune(Mixes(), torch.randn(2, 4), form="graph", latency=False)
    assert result.report.shapes == ((2, 4),)
    assert "form: a graph (torch.fx.GraphModule), on inputs of shape (2, 4)" in str(result.report)
    with pytest.raises(InputError, match="takes"):
        result.model(torch.randn(3, 4))


def test_an_attribute_that_equals_a_length_is_seen_at_another(monkeypatch: pytest.MonkeyPatch) -> None:
    class Window(Between):
        def __init__(self) -> None:
            super().__init__()
            self.window = 12

        def between(self, h: Tensor) -> Tensor:
            return torch.relu(h[:, : self.window])

    right = cutting.set_attributes

    def wrongly(model: nn.Module, attributes: Any) -> None:
        right(model, attributes)
        model.window = 6

    monkeypatch.setattr(cutting, "set_attributes", wrongly)
    with pytest.raises(VerificationError, match="batch 3, 6 → 8"):
        verified(Window(), torch.randn(2, 6, 4), form="module")


class TestFrames:
    tokens = ((), {"ids": torch.randint(3, 9, (2, 12)), "mask": torch.ones(2, 12, dtype=torch.long)})

    def test_batch_and_length_change_together(self) -> None:
        first = next(other_frames(self.tokens))
        assert [first.shape(x) for x in self.tokens[1].values()] == [(3, 16), (3, 16)]

    def test_large_pictures_become_small(self) -> None:
        x = torch.zeros(1, 3, 224, 224)
        assert next(other_frames(((x,), {}))).shape(x) == (2, 3, 32, 32)

    def test_vectors_have_no_length_among_others(self) -> None:
        x, y = torch.zeros(2, 3, 8, 8), torch.zeros(2, 6)
        assert next(other_frames(((x, y), {}))).shape(y) == (3, 6)

    def test_tokens_come_from_the_range_in_use(self) -> None:
        drawn = drawn_inputs(self.tokens, Frame(), {0: 99}, seed=0)[1]
        assert 3 <= int(drawn["ids"].min()) <= int(drawn["ids"].max()) <= 8
        assert not torch.equal(drawn["ids"], self.tokens[1]["ids"])
        assert torch.equal(drawn["mask"], self.tokens[1]["mask"])

    def test_one_token_alone_is_drawn_from_the_table(self) -> None:
        ids = torch.zeros(2, 50, dtype=torch.long)
        assert len(drawn_inputs(((ids,), {}), Frame(), {0: 7}, seed=0)[0][0].unique()) == 7

    def test_what_is_never_negative_stays_so(self) -> None:
        x = torch.rand(2, 30)
        drawn = drawn_inputs(((x,), {}), Frame(), {}, seed=0)[0][0]
        assert drawn.dtype is torch.float64
        assert float(drawn.min()) >= 0

    def test_samples_have_scales_of_their_own(self) -> None:
        drawn = drawn_inputs(((torch.zeros(3, 1000),), {}), Frame(), {}, seed=0)[0][0]
        assert [round(float(x.std()), 1) for x in drawn] == [1.0, 0.1, 3.0]


class TestDraws:
    def test_a_weight_keeps_the_size_of_signals(self) -> None:
        tensors = {"w": nn.Parameter(torch.zeros(300, 256))}
        w = Draw(tensors, frozenset())("w")
        assert 0.055 < float(w.std()) < 0.07  # 1/16

    def test_a_tensor_with_two_names_has_one_value(self) -> None:
        shared = nn.Parameter(torch.zeros(4, 4))
        draw = Draw({"a": shared, "b": shared, "c": nn.Parameter(torch.zeros(4, 4))}, frozenset())
        assert torch.equal(draw("a"), draw("b"))
        assert not torch.equal(draw("a"), draw("c"))

    def test_a_variance_stays_positive(self) -> None:
        buffer = torch.ones(1000)
        drawn = Draw({"v": buffer}, frozenset({id(buffer)}))("v")
        assert float(drawn.min()) > 0.5
        assert torch.equal(Draw({"v": buffer}, frozenset())("v"), buffer.double())

    def test_a_table_larger_than_the_pool_has_rows_of_its_own(self) -> None:
        w = Draw({"w": nn.Parameter(torch.zeros(2000, 1000))}, frozenset())("w")
        assert len(w[:, 0].unique()) > 1900


class TestSubstitution:
    def test_the_model_is_left_as_it_is(self) -> None:
        model = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
        before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
        made = run_substituted(
            model, lambda name: torch.ones(2, 2) if name == "0.weight" else torch.ones(2), ((torch.ones(1, 2),), {})
        )
        assert made.dtype is torch.float64
        assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())

    def test_a_buffer_that_forward_writes_is_read_as_written(self) -> None:
        class Counts(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.steps: Tensor
                self.register_buffer("steps", torch.zeros(()))

            def forward(self, x: Tensor) -> Tensor:
                self.steps += 1
                return x * self.steps

        model = Counts()
        assert float(run_substituted(model, lambda name: torch.tensor(4.0), ((torch.ones(()),), {}))) == 5
        assert float(model.steps) == 0

    def test_a_weight_is_read_by_its_data_too(self) -> None:
        class Data(nn.Linear):
            def forward(self, x: Tensor) -> Tensor:
                return x @ self.weight.data.T

        made = run_substituted(Data(2, 1), lambda name: torch.full((1, 2), 3.0), ((torch.ones(1, 2),), {}))
        assert made.tolist() == [[6.0]]

    def test_what_modes_write_into_a_weight_is_read(self) -> None:
        class Merged(nn.Linear):
            """Adds one to its weight for evaluation, as adapters are merged."""

            def train(self, mode: bool = True) -> nn.Module:
                if mode != self.training:
                    self.weight.data += -1 if mode else 1
                return super().train(mode)

        model = Merged(2, 1, bias=False).eval()
        before = model.weight.clone()
        fetched = torch.full((1, 2), 3.0)
        assert run_substituted(model, lambda name: fetched, ((torch.ones(1, 2),), {})).tolist() == [[6.0]]
        assert fetched.tolist() == [[3.0, 3.0]]
        assert torch.equal(model.weight, before)


class TestDifference:
    def test_marks_of_what_is_masked_do_not_hide_the_rest(self) -> None:
        least = torch.finfo(torch.float32).min
        assert difference(torch.tensor([least, 2.0]), torch.tensor([least, 1.0])) == 0.5
        assert difference(torch.tensor([-float("inf"), 2.0]), torch.tensor([-float("inf"), 1.0])) == 0.5

    def test_what_is_no_number_is_never_near(self) -> None:
        nan, one = torch.tensor([float("nan")]), torch.tensor([1.0])
        assert not difference(one, nan) <= 1e9
        assert not difference(one, torch.tensor([float("inf")])) <= 1e9

    def test_complex_numbers(self) -> None:
        assert difference(torch.tensor([2.0 + 0j]), torch.tensor([2.0 + 1j])) == 0.5


def test_a_cut_model_fails_where_the_original_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    right = cutting.apply_plan

    def limited(model: nn.Module, plan: Any) -> nn.Module:
        small: nn.Module = right(model, plan)

        def refuse(_module: nn.Module, args: tuple[Tensor, ...]) -> None:
            if args[0].shape[0] != 2:
                raise ValueError("two samples alone")

        small.register_forward_pre_hook(refuse)
        return small

    monkeypatch.setattr(cutting, "apply_plan", limited)
    model = Between().eval()
    sites = channels(model, torch.randn(2, 4))
    with pytest.raises(VerificationError, match="fails where the original runs, batch 3: two samples alone"):
        cut(model, sites, {"a": torch.arange(8) > 2}, form="module")


class TableOfLength(nn.Module):
    """Tokens with a table of positions that is held for one length, and computed anew for others from its width."""

    def __init__(self) -> None:
        super().__init__()
        self.inp, self.norm, self.out = nn.Linear(5, 8), nn.LayerNorm(8), nn.Linear(8, 3)
        self.register_buffer("table", self.positions(6, 8))

    @staticmethod
    def positions(length: int, width: int) -> Tensor:
        return torch.outer(torch.arange(length) + 1.0, 1.0 / (torch.arange(width) + 1.0)).sin()

    def forward(self, x: Tensor) -> Tensor:
        table = self.table if x.shape[1] == len(self.table) else self.positions(x.shape[1], self.table.shape[1])
        made: Tensor = self.out(self.norm(self.inp(x) + table))
        return made


def test_units_that_other_shapes_freeze_are_not_cut_out_of_the_module() -> None:
    model, x = TableOfLength().eval(), torch.randn(2, 6, 5)
    sites = channels(model, x)
    keep = {"inp": torch.arange(8) % 2 == 0}
    with pytest.raises(VerificationError, match="cannot be cut where the inputs have other shapes"):
        cut(model, sites, keep, form="module")
    small = cut(model, sites, keep)  # a graph, which holds to what it was verified on
    assert small(torch.randn(5, 6, 5)).shape == (5, 6, 3)
    with pytest.raises(InputError, match="it takes"):
        small(torch.randn(2, 9, 5))
