"""What `fit` and `distill` take for data: pairs, several inputs, mappings, batches of each, and no targets."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from secateur.measure import evaluate, predict
from secateur.train import distill, fit
from secateur.types import InputError

A = torch.randn(24, 3, generator=torch.Generator().manual_seed(0))
B = torch.randn(24, 2, generator=torch.Generator().manual_seed(1))
Y = torch.randint(4, (24,), generator=torch.Generator().manual_seed(2))


class Two(nn.Module):
    """Takes two inputs; answers as Hugging Face's models do where it is told to."""

    def __init__(self, named: bool = False, seed: int = 0) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.a, self.b, self.named = nn.Linear(3, 4), nn.Linear(2, 4), named

    def forward(self, a: Tensor, b: Tensor, scale: float = 1.0) -> Any:
        logits = self.a(a) + scale * self.b(b)
        return {"loss": None, "logits": logits} if self.named else logits


def weights(model: nn.Module) -> Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in model.parameters()])


IN_MEMORY: list[Any] = [((A, B), Y), ([A, B], Y), ({"a": A, "b": B}, Y), {"a": A, "b": B, "labels": Y}]

LOADERS: list[Any] = [
    DataLoader(TensorDataset(A, B, Y), batch_size=8),
    [((A[i : i + 8], B[i : i + 8]), Y[i : i + 8]) for i in (0, 8, 16)],
    [{"a": A[i : i + 8], "b": B[i : i + 8], "labels": Y[i : i + 8]} for i in (0, 8, 16)],
    [{"a": A[i : i + 8], "b": B[i : i + 8], "labels": Y[i : i + 8], "scale": 1.0} for i in (0, 8, 16)],
]


@pytest.mark.parametrize("data", IN_MEMORY)
def test_several_inputs_in_memory_train_alike(data: Any) -> None:
    model, plain = Two(), Two()
    assert fit(model, data, data, epochs=2, batch_size=8) == fit(
        plain, IN_MEMORY[0], IN_MEMORY[0], epochs=2, batch_size=8
    )
    assert torch.equal(weights(model), weights(plain))
    assert evaluate(model, data).accuracy == evaluate(plain, IN_MEMORY[0]).accuracy
    assert torch.equal(predict(model, data, batch_size=7), plain(A, B))


@pytest.mark.parametrize("named", [False, True])
@pytest.mark.parametrize("data", LOADERS)
def test_batches_of_every_kind_train_as_the_loop_written_out(data: Any, named: bool) -> None:
    model, plain = Two(named), Two()
    history = fit(model, data, data, epochs=2, optimizer="sgd", lr=0.1, restore_best=False)
    optimizer = torch.optim.SGD(plain.parameters(), lr=0.1)
    for _ in range(2):
        for i in (0, 8, 16):
            optimizer.zero_grad()
            F.cross_entropy(plain(A[i : i + 8], B[i : i + 8]), Y[i : i + 8]).backward()
            optimizer.step()
    assert torch.equal(weights(model), weights(plain))
    right = (plain(A, B).argmax(1) == Y).float().mean().item()
    assert history[-1].validation_accuracy == pytest.approx(right)


def test_rows_stay_together_when_they_are_shuffled() -> None:
    """Each sample's inputs and target are the same number, which a loss of one's own checks in every batch."""
    numbers = torch.arange(20.0)[:, None]
    batches: list[Tensor] = []

    def loss(outputs: Any, targets: Any) -> Tensor:
        assert torch.equal(outputs[1], targets["y"])
        batches.append(targets["y"])
        return outputs[0].square().mean()

    class Echo(nn.Linear):
        def forward(self, x: Tensor, other: Tensor) -> Any:  # type: ignore[override]
            assert torch.equal(x, other)
            return super().forward(x), x

    fit(Echo(1, 1), [((numbers, numbers), {"y": numbers})], epochs=1, loss=loss)
    batches.clear()
    fit(Echo(1, 1), ((numbers, numbers), numbers), epochs=1, batch_size=7, loss=lambda o, t: loss(o, {"y": t}))
    order = torch.cat(batches[1:])  # the first is the trial
    assert not torch.equal(order, numbers)
    assert torch.equal(order.sort(0).values, numbers)


def test_a_loss_of_ones_own_without_targets() -> None:
    model = nn.Linear(3, 3)
    fit(model, A, epochs=200, lr=0.1, loss=lambda outputs, targets: (outputs - 1).square().mean())
    assert torch.allclose(model(A), torch.ones(24, 3), atol=1e-2)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"a": A, "b": B[:3], "labels": Y}, "do not have one target for each input"),
        ({"a": A, "b": B * float("nan"), "labels": Y}, "the inputs hold NaN"),
        ([{"a": A, "b": B}], "there are no targets for the loss"),
        ([(A, B)], "does not take inputs of shape"),
        ([{"a": A, "c": B, "labels": Y}], "does not take inputs of .*'c': 'shape"),
        ([{"a": A, "b": B, "labels": {"first": Y}}], "there are several targets for the loss"),
        ([("a", Y)], "batch 1 is a tuple, not a pair"),
    ],
)
def test_samples_that_do_not_fit(data: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        fit(Two(), data, epochs=1)


@pytest.mark.parametrize("data", [{"a": A, "b": B}, [{"a": A, "b": B}], [((A, B),)], ((A, B), None)])
@pytest.mark.parametrize("named", [False, True])
def test_distillation_needs_no_targets(data: Any, named: bool) -> None:
    teacher, student = Two(named, seed=1), Two(named)
    history = distill(student, teacher, data, data, epochs=100, lr=0.1)
    expected, outputs = (model(A, B)["logits"] if named else model(A, B) for model in (teacher, student))
    assert (outputs.softmax(1) - expected.softmax(1)).abs().max() < 0.02
    assert history[-1].train_accuracy is None
    assert history[-1].validation_loss is not None
    assert history[-1].validation_loss < 0.01 * history[0].train_loss
