"""What checks a cut, part by part: tensors, draws, programs and blocks, each with what it must pass and what it must not."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from secateur.structure import cases, channels
from secateur.structure.cases import GAINS, Cases
from secateur.structure.depth import _tried
from secateur.structure.export import Export, answers_otherwise, export
from secateur.structure.flow import Flow
from secateur.structure.frames import EXAMPLE, Frame
from secateur.structure.reference import Reference
from secateur.structure.verify import check_tensors
from secateur.types import VerificationError

# ---- the cut model's tensors ----


def pair() -> nn.Module:
    """Two layers with one weight, and buffers of a type of its own and with what is no number."""
    model = nn.Module()
    model.a, model.b = nn.Linear(3, 4), nn.Linear(3, 4)
    model.b.weight = model.a.weight
    model.register_buffer("steps", torch.tensor(7))
    model.register_buffer("table", torch.tensor([1.0, float("nan"), float("inf")]))
    return model


ROWS = {"a.weight": {0: torch.tensor([0, 2])}, "a.bias": {0: torch.tensor([0, 2])}, "b.bias": {0: torch.tensor([1, 3])}}


def halves(model: Any) -> Any:
    """A model of the rows that stay."""
    small: Any = pair()
    with torch.no_grad():
        small.a.weight = small.b.weight = nn.Parameter(model.a.weight[[0, 2]])
        small.a.bias, small.b.bias = nn.Parameter(model.a.bias[[0, 2]]), nn.Parameter(model.b.bias[[1, 3]])
    return small


def other_row(small: Any, model: Any) -> None:
    small.b.bias = nn.Parameter(model.b.bias[[0, 3]].detach())


def other_digit(small: Any, model: Any) -> None:
    small.a.weight.data *= 1 + 1e-6


def one_row_more(small: Any, model: Any) -> None:
    small.a.bias = nn.Parameter(model.a.bias[[0, 2, 3]].detach())


def other_type(small: Any, model: Any) -> None:
    small.steps = small.steps.int()


def wider(small: Any, model: Any) -> None:
    small.a.bias = nn.Parameter(small.a.bias.detach().double())


def other_count(small: Any, model: Any) -> None:
    small.steps += 1


def tie_broken(small: Any, model: Any) -> None:
    small.b.weight = nn.Parameter(small.a.weight.detach().clone())


def checked(fault: Callable[[Any, Any], None] | None) -> None:
    model = pair()
    small = halves(model)
    if fault is not None:
        fault(small, model)
    check_tensors(SimpleNamespace(tensors=cases_tensors(model)), small, ROWS)  # type: ignore[arg-type]


def cases_tensors(model: nn.Module) -> dict[str, Tensor]:
    return Reference.tensors.func(SimpleNamespace(model=model))  # type: ignore[attr-defined,no-any-return]


def test_the_rows_that_stay_are_those_of_the_original() -> None:
    checked(None)


@pytest.mark.parametrize("fault", [other_row, other_digit, one_row_more, other_type, wider, other_count])
def test_a_tensor_that_is_another_in_anything_is_named(fault: Callable[[Any, Any], None]) -> None:
    with pytest.raises(VerificationError, match="of the cut model is not what is kept"):
        checked(fault)


def test_what_was_one_tensor_stays_one() -> None:
    with pytest.raises(VerificationError, match="one in the original are two"):
        checked(tie_broken)


def test_what_the_cut_model_has_of_its_own_is_not_compared() -> None:
    checked(lambda small, model: small.register_buffer("new", torch.zeros(2)))


# ---- the draws ----


class Runs(nn.Module):
    """Two layers; it notes the sizes and types of what it is called with, and takes batches of some sizes alone."""

    def __init__(self, batches: tuple[int, ...] = (2, 3)) -> None:
        super().__init__()
        self.a, self.b, self.batches = nn.Linear(3, 4), nn.Linear(4, 2), batches

    def forward(self, x: Tensor) -> Tensor:
        if x.shape[0] not in self.batches:
            raise ValueError(f"no batch of {x.shape[0]}\nand so on")
        return self.b(self.a(x).relu())  # type: ignore[no-any-return]


def cases_of(model: nn.Module) -> Cases:
    sites = channels(model, torch.randn(2, 3))
    return Cases(Reference(model, sites, {"a": torch.tensor([True, False, True, True])}))


def test_a_small_model_runs_on_draws_of_every_gain_and_a_large_one_once(monkeypatch: pytest.MonkeyPatch) -> None:
    model = Runs().eval()
    draws = cases_of(model).at_example
    assert [case.draw.gain for case in draws] == list(GAINS)
    assert min(GAINS) < 1 == GAINS[0] < max(GAINS)
    assert len({case.draw.seed for case in draws}) == len(GAINS)
    assert not any(case.draw.mild for case in draws)
    assert not torch.equal(draws[0].inputs[0][0], draws[1].inputs[0][0])
    # 3 · 4 + 4 + 4 · 2 + 2 parameters, and 2 · (12 + 8) multiply-accumulates on the example
    for most, count in ((66, len(GAINS)), (65, 1)):
        monkeypatch.setattr(cases, "CHEAP", most)
        assert len(cases_of(model).at_example) == count


def test_draws_are_in_float64_and_the_masked_models() -> None:
    model = Runs().eval()
    for case in cases_of(model).at_example:
        a, before, b, after = (case.draw(f"{name}.{part}").double() for name in "ab" for part in ("weight", "bias"))
        hidden = (case.inputs[0][0] @ a.mT + before).relu() * torch.tensor([1, 0, 1, 1])
        torch.testing.assert_close(case.outputs, hidden @ b.mT + after)
        assert case.outputs.dtype is torch.float64


def test_elsewhere_is_where_the_original_runs_and_why_not_is_said() -> None:
    here = cases_of(Runs().eval())
    assert {case.inputs[0][0].shape[0] for case in here.elsewhere} == {3}
    assert not any("no other batch" in why for why in here.skipped)
    nowhere = cases_of(Runs((2,)).eval())
    assert nowhere.elsewhere == []
    assert "the original runs at no other batch, length or size that was tried" in nowhere.skipped
    assert any(why.endswith("no batch of 3") for why in nowhere.skipped)


def test_a_model_without_float64_is_drawn_in_its_own_types_on_the_example_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    right = Reference.outputs

    def narrow(self: Reference, *args: Any, double: bool = True) -> Any:
        if double:
            raise RuntimeError("not implemented for 'Double'")
        return right(self, *args, double=double)

    monkeypatch.setattr(Reference, "outputs", narrow)
    here = cases_of(Runs().eval())
    assert [str(case) for case in here.at_example] == [f"{EXAMPLE}, in its own types"] * len(GAINS)
    assert {case.outputs.dtype for case in here.at_example} == {torch.float32}
    assert here.at(Frame((2, 3))) == []


def test_where_a_draw_gives_what_is_no_number_a_mild_one_follows() -> None:
    class Root(Runs):
        def forward(self, x: Tensor) -> Tensor:
            # The second weight must be positive.
            return self.a(x).relu() @ self.b.weight.sqrt().mT  # type: ignore[no-any-return]

    model = Root().eval()
    with torch.no_grad():
        model.b.weight.abs_().add_(0.1)
    draws = cases_of(model).at_example
    assert [case.draw.mild for case in draws] == [True] * len(GAINS)


# ---- programs that answer otherwise ----


def exported(outputs: int = 1) -> tuple[nn.Module, Export, tuple[Tensor]]:
    class Scaled(nn.Module):
        def forward(self, x: Tensor) -> Any:
            return [x * (n + 1) for n in range(outputs)]

    model, x = Scaled(), torch.tensor([1.0, -2.0])
    return model, export(model, (x,), {}, None), (x,)


PROGRAM = exported()


@pytest.mark.parametrize(
    ("kind", "off", "otherwise"),
    [
        (torch.float32, 0.0, False),
        (torch.float32, 5e-4, False),
        (torch.float32, 2e-3, True),
        (torch.float64, 2e-3, True),
        (torch.float16, 2e-2, False),
        (torch.bfloat16, 2e-2, False),
        (torch.float16, 5e-2, True),
    ],
)
def test_a_program_answers_otherwise_from_a_thousandth_on_and_in_half_precision_from_some_hundredths(
    kind: torch.dtype, off: float, otherwise: bool
) -> None:
    model, program, args = PROGRAM
    answers = [(args[0].double() * (1 + off)).to(kind)]
    assert answers_otherwise(model, program, answers, args, {}) is otherwise


def test_what_cannot_be_compared_does_not_answer_otherwise() -> None:
    model, program, (x,) = PROGRAM
    wrong = [5 * x]
    assert answers_otherwise(model, program, wrong, (x,), {})
    assert not answers_otherwise(model, replace(program, packed=True), wrong, (x,), {})
    assert not answers_otherwise(model, replace(program, opaque="Box"), wrong, (x,), {})
    for answers in ([wrong[0][:1]], [*wrong, 5 * x], [x * float("nan")], [wrong[0].to("meta")]):
        assert not answers_otherwise(model, program, answers, (x,), {})
    assert not answers_otherwise(model, program, wrong, (torch.zeros(3, 3, 3), x), {})


# ---- blocks that may be skipped ----


class Residual(nn.Module):
    """A block whose answer is its input, and more by its weight."""

    def __init__(self, answer: Callable[[Tensor, Tensor], Any]) -> None:
        super().__init__()
        self.layer, self.answer = nn.Linear(3, 3), answer

    def forward(self, x: Tensor) -> Any:
        return self.answer(x, self.layer(x))


@pytest.mark.parametrize(
    ("answer", "problem"),
    [
        (lambda x, y: x + y, ""),
        (lambda x, y: (x + y,), ""),
        (lambda x, y: x * (1 + 1e-6) + y, ""),
        (lambda x, y: x * (1 + 1e-4) + y, "is no residual block"),
        (lambda x, y: y, "is no residual block"),
        (lambda x, y: (x + y, y), "takes or gives no single tensor"),
        (lambda x, y: [x + y], "takes or gives no single tensor"),
        (lambda x, y: (x + y)[:, :2], "changes the shape of its input"),
        (lambda x, y: ((x + y)[:1],), "changes the shape of its input"),
    ],
)
def test_a_block_may_be_skipped_that_gives_its_input_where_its_weights_are_zero(
    answer: Callable[[Tensor, Tensor], Any], problem: str
) -> None:
    block, x = Residual(answer), torch.tensor([[1.0, -2.0, 0.5], [0.0, 1.0, 1.0]])
    assert _tried(block, ((x,), {}, block(x)))[0] == problem
    # What is small beside a great input is great beside a small one.
    assert _tried(block, ((x * 1e-3,), {}, block(x * 1e-3)))[0] == problem


def test_a_block_that_is_given_no_tensor_first_is_none_to_skip() -> None:
    block, x = Residual(lambda x, y: x + y), torch.zeros(2, 3)
    for call in (((), {"x": x}, x), (([x],), {}, x), ((x,), {}, None)):
        assert _tried(block, call)[0] == "takes or gives no single tensor"


# ---- the one tensor of an answer ----


class Several(nn.Module):
    """A model that answers with one tensor twice, and with another."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(3, 4), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Any:
        hidden = self.a(x).relu()
        scores = self.b(hidden)
        return {"scores": scores, "again": [scores], "hidden": hidden.exp()}


def test_the_node_of_an_answer_is_that_of_the_one_tensor_in_it() -> None:
    model, x = Several(), torch.zeros(2, 3)
    flow = Flow(model, channels(model, x))
    scores = flow.answer(x, lambda out: out["scores"])
    assert scores is not None
    assert scores.meta["val"].shape == (2, 2)
    assert flow.answer(x, lambda out: out["again"]) is scores
    assert flow.answer(x, lambda out: [out["scores"], out["again"]]) is scores
    assert flow.answer(x, lambda out: out["hidden"]) not in (None, scores)
    assert flow.answer(x, lambda out: out) is None
    assert flow.answer(x, lambda out: []) is None
