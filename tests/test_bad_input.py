"""Bad input of every kind: one clear error that names the thing and the remedy, and a model left as it was."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from secateur.criteria import Magnitude
from secateur.measure import latency, macs
from secateur.pruning import prune
from secateur.runtimes import export
from secateur.structure import channels, cut, mask, weights
from secateur.testing.toys import TOYS, hand_mlp, same_state, snapshot
from secateur.transforms import LowRank, Quantize, Replace, Share, as_csr
from secateur.types import InputError, SecateurError, TraceError, UnknownNameError

X = torch.ones(1, 2)

BAD_EXAMPLES: list[tuple[Any, str]] = [
    (torch.ones(1, 3), r"forward pass failed on the example inputs.*\(1, 3\)"),
    (torch.ones(1, 2, dtype=torch.float64), "forward pass failed"),
    (torch.ones(1, 2, dtype=torch.int64), "forward pass failed"),
    (torch.ones(0, 2), r"empty tensor.*\(0, 2\).*at least one sample"),
    ((), "no tensor"),
    ({}, "no tensor"),
    (None, "example_inputs is a NoneType"),
    (3, "example_inputs is a int"),
    ([[1.0, 2.0]], "example_inputs is a list"),
    (np.ones((1, 2), dtype=np.float32), "example_inputs is a ndarray"),
    ((torch.ones(1, 2), torch.ones(1, 2)), "forward pass failed"),
    ({"x": torch.ones(1, 2)}, "forward pass failed"),
    (((1, 2),), "no tensor"),
]


@pytest.mark.parametrize(("inputs", "message"), BAD_EXAMPLES)
def test_example_inputs_that_do_not_fit(inputs: Any, message: str) -> None:
    model = hand_mlp().train()
    before = snapshot(model)
    for call in (lambda: channels(model, inputs), lambda: prune(model, inputs, latency=False)):
        with pytest.raises(InputError, match=message):
            call()
    assert same_state(before, snapshot(model))


@pytest.mark.parametrize("inputs", [torch.ones(1, 3), torch.ones(1, 2).double(), (X, X), {"z": X}])
@pytest.mark.parametrize(
    "call",
    [
        macs,
        latency,
        LowRank(rank=1),
        Share(bits=2),
        Quantize(4),
        Replace("separable"),
        as_csr,
        lambda m, x: export(m, x, "onnxruntime"),
    ],
    ids=["macs", "latency", "low-rank", "share", "quantize", "replace", "csr", "export"],
)
def test_whatever_runs_the_model_says_that_it_does_not_take_its_inputs(call: Callable[..., Any], inputs: Any) -> None:
    with pytest.raises(
        InputError, match=r"forward pass failed on the example inputs.*Pass inputs that the model takes"
    ):
        call(hand_mlp(), inputs)


@pytest.mark.parametrize(
    "call",
    [LowRank(macs=0.9, data=torch.ones(4, 3)), Quantize(8, input_bits=8, data=torch.ones(4, 3))],
    ids=["low-rank", "quantize"],
)
def test_transforms_say_whose_data_the_model_does_not_take(call: Callable[..., Any]) -> None:
    with pytest.raises(InputError, match=r"does not take inputs of shape \(\d, 3\)"):
        call(nn.Sequential(nn.Linear(2, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 2)), X)


@pytest.mark.parametrize(
    ("scores", "message"),
    [
        (lambda sites: None, "returned None; return a mapping of each site's name"),
        (lambda sites: [1.0], r"returned \[1.0\]; return a mapping"),
        (lambda sites: {}, "scored none of the"),
        (lambda sites: {name: [1.0] * site.size for name, site in sites.items()}, "are a list; give a tensor"),
    ],
    ids=["none", "list", "empty", "lists"],
)
def test_scores_of_another_form_are_named(scores: Callable[..., Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        prune(hand_mlp(), X, lambda model, sites: scores(sites), sparsity=0.5, latency=False)


NOT_FINITE = [
    ("0.weight", "nan"),
    ("0.weight", "inf"),
    ("0.weight", "-inf"),
    ("7.bias", "inf"),
    ("1.running_var", "nan"),
]


@pytest.mark.parametrize(("name", "value"), NOT_FINITE)
def test_values_that_are_not_finite_are_named(name: str, value: str) -> None:
    toy = TOYS["cnn"]
    model = toy.build()
    model.state_dict()[name].view(-1)[1] = float(value)
    calls: list[Callable[[], object]] = [
        lambda: channels(model, toy.inputs()),
        lambda: weights(model),
        lambda: prune(model, toy.inputs(), latency=False),
    ]
    for call in calls:
        with pytest.raises(InputError, match=rf"{name}.* 1 NaN or infinite"):
            call()


def test_buffers_may_hold_infinities() -> None:
    """As attention masks do."""
    model = hand_mlp()
    model.register_buffer("limits", torch.tensor([-float("inf"), float("inf")]))
    assert list(channels(model, X)) == ["0"]


def test_example_inputs_that_are_nan() -> None:
    """Outputs of NaN verify nothing."""
    with pytest.raises(InputError, match=r"example_inputs.*NaN"):
        channels(hand_mlp(), torch.full((1, 2), float("nan")))


def test_what_is_no_module() -> None:
    for model in (None, 3, "resnet18", hand_mlp, nn.Linear, hand_mlp().state_dict(), lambda x: x):
        with pytest.raises(InputError, match=r"pass an nn\.Module"):
            channels(model, X)  # type: ignore[arg-type]
        with pytest.raises(InputError, match=r"pass an nn\.Module"):
            weights(model)  # type: ignore[arg-type]
        with pytest.raises(InputError, match=r"pass an nn\.Module"):
            prune(model, X)  # type: ignore[arg-type]


def test_masking_and_cutting_what_is_no_module() -> None:
    sites = channels(hand_mlp(), X)
    for call in (mask, cut):
        with pytest.raises(InputError, match=r"pass an nn\.Module"):
            call(None, sites, {})  # type: ignore[arg-type]


def test_sites_that_are_none() -> None:
    for call in (mask, cut):
        with pytest.raises(InputError, match="sites"):
            call(hand_mlp(), {"0": 3}, {})  # type: ignore[arg-type]


def test_models_without_parameters() -> None:
    model = nn.Sequential(nn.Flatten(), nn.ReLU())
    with pytest.raises(InputError, match="no weights of two dimensions"):
        weights(model)
    assert len(channels(model, X)) == 0
    with pytest.raises(InputError, match="nothing of this model can be removed"):
        prune(model, X, latency=False)


def test_a_model_of_biases_and_scales_has_no_weights() -> None:
    with pytest.raises(InputError, match="BatchNorm1d has no weights of two dimensions"):
        weights(nn.BatchNorm1d(3))


def test_a_lazy_model_is_asked_to_be_made_first() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch says once in a process that lazy modules may change
        model = nn.Sequential(nn.LazyLinear(3), nn.ReLU(), nn.Linear(3, 2))
    for call in (lambda: channels(model, X), lambda: weights(model), lambda: prune(model, X)):
        with pytest.raises(InputError, match=r"(?i)lazy|shape"):
            call()


class Branching(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc, self.out = nn.Linear(2, 3), nn.Linear(3, 2)

    def forward(self, x: Tensor) -> Tensor:
        h = self.fc(x)
        if h.sum() > 0:
            h = torch.relu(h)
        made: Tensor = self.out(h)
        return made


class Item(Branching):
    def forward(self, x: Tensor) -> Tensor:
        h = self.fc(x)
        made: Tensor = self.out(h * float(h.max().item()))
        return made


class Numpy(Branching):
    def forward(self, x: Tensor) -> Tensor:
        made: Tensor = self.out(torch.from_numpy(np.tanh(self.fc(x).detach().numpy())))
        return made


class _Sign(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.sign()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        return gradients[0]


class Custom(Branching):
    def forward(self, x: Tensor) -> Tensor:
        made: Tensor = self.out(_Sign.apply(self.fc(x)))
        return made


class Loop(Branching):
    def forward(self, x: Tensor) -> Tensor:
        h = self.fc(x)
        while h.abs().max() > 1:
            h = h / 2
        made: Tensor = self.out(h)
        return made


@pytest.mark.parametrize("kind", [Branching, Item, Numpy, Loop])
def test_models_that_cannot_be_traced_are_refused(kind: type[nn.Module]) -> None:
    model = kind().train()
    before = snapshot(model)
    with pytest.raises(TraceError, match=rf"{kind.__name__} cannot be traced.*torch\.where.*torch\.export"):
        channels(model, X)
    assert same_state(before, snapshot(model))


def test_a_custom_autograd_function_is_traced_or_refused() -> None:
    """Its forward is made of ordinary ops, so the trace may see through it; then the cut must be right."""
    model = Custom()
    try:
        sites = channels(model, X)
    except TraceError as error:
        assert "custom autograd function" in str(error)  # noqa: PT017
        return
    keep = {"fc": torch.tensor([True, False, True])} if "fc" in sites else {}
    with torch.no_grad():
        assert torch.allclose(cut(model, sites, keep)(X), mask(model, sites, keep)(X))


def test_single_weights_need_no_trace() -> None:
    for kind in (Branching, Item, Numpy, Loop):
        assert list(weights(kind())) == ["fc.weight", "out.weight"]


def test_a_forward_pass_that_raises_is_quoted() -> None:
    class Broken(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(2, 2)

        def forward(self, x: Tensor) -> Tensor:
            raise KeyError("the missing thing")

    with pytest.raises(InputError, match=r"forward pass failed.*the missing thing"):
        channels(Broken(), X)


def test_ignore_patterns_of_the_wrong_kind() -> None:
    for ignore in (3, [3], None, [None]):
        with pytest.raises(InputError, match="ignore"):
            channels(hand_mlp(), X, ignore=ignore)  # type: ignore[arg-type]
    with pytest.raises(UnknownNameError, match=r"did you mean '0'"):
        channels(hand_mlp(), X, ignore=["00"])


def test_a_criterion_with_sites_of_another_model_names_what_is_missing() -> None:
    for sites in (channels(hand_mlp(), X), weights(hand_mlp())):
        with pytest.raises(InputError, match=r"another model.*0\.weight"):
            Magnitude()(nn.Linear(2, 2), sites)


def test_every_error_is_one_of_ours_and_of_its_usual_kind() -> None:
    """So `except ValueError` and `except LookupError` go on working."""
    assert issubclass(InputError, SecateurError)
    assert issubclass(InputError, ValueError)
    assert issubclass(UnknownNameError, LookupError)
    assert issubclass(TraceError, SecateurError)
