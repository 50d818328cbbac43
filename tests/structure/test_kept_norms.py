"""The masked model runs by itself where modules alone take statistics over what is cut, and its graph where other code does."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import secateur as sc
from secateur.structure import cutting, reference
from secateur.structure.reference import Reference
from secateur.types import VerificationError

KEEP = {"fc": torch.tensor([True, False, True, True, False, True, False, True])}


class Normed(nn.Module):
    def __init__(self, norm: nn.Module) -> None:
        super().__init__()
        self.fc, self.norm, self.out = nn.Linear(4, 8), norm, nn.Linear(8, 2)

    def between(self, h: Tensor) -> Tensor:
        made: Tensor = self.norm(h)
        return made

    def forward(self, x: Tensor) -> Tensor:
        made: Tensor = self.out(self.between(self.fc(x)).relu())
        return made


class ByName(Normed):
    def between(self, h: Tensor) -> Tensor:
        made: Tensor = self.norm(input=h)
        return made


class OtherInTraining(Normed):
    def between(self, h: Tensor) -> Tensor:
        made: Tensor = self.norm(h.tanh() if self.training else h)
        return made


class Rms(nn.Module):
    """A norm of no class of torch's."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.rand(8))

    def forward(self, x: Tensor) -> Tensor:
        return x * x.pow(2).mean(-1, keepdim=True).rsqrt() * self.scale


class Sized(nn.Module):
    """A norm that knows its width by an attribute of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.width, self.scale = 8, nn.Parameter(torch.rand(8))

    def forward(self, x: Tensor) -> Tensor:
        return F.layer_norm(x, (self.width,), self.scale)


class Block(nn.Module):
    """Gives back the axes that it is given, and mixes the units on the way."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.outer = nn.Parameter(torch.randn(6, 8)), nn.Parameter(torch.randn(8, 6))

    def forward(self, x: Tensor) -> Tensor:
        return x + F.linear(F.linear(x - x.mean(-1, keepdim=True), self.inner).relu(), self.outer)


def hooked() -> nn.Module:
    norm = nn.LayerNorm(8)
    norm.register_forward_pre_hook(lambda _m, args: (args[0] * 2 + 1,))
    norm.register_forward_hook(lambda _m, _args, out: out.sin())
    return norm


ALONE: dict[str, Callable[[], nn.Module]] = {
    "layer": lambda: Normed(nn.LayerNorm(8)),
    "rms": lambda: Normed(nn.RMSNorm(8)),
    "group": lambda: Normed(nn.GroupNorm(1, 8)),
    "without weights": lambda: Normed(nn.LayerNorm(8, elementwise_affine=False)),
    "of its own": lambda: Normed(Rms()),
    "by name": lambda: ByName(nn.LayerNorm(8)),
    "hooked": lambda: Normed(hooked()),
    "in both modes": lambda: OtherInTraining(nn.LayerNorm(8)),
}
INTERPRETED: dict[str, Callable[[], nn.Module]] = {"sized": lambda: Normed(Sized()), "block": lambda: Normed(Block())}


@pytest.fixture
def traced(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What the masked model is traced with after the sites were found."""
    calls: list[str] = []
    for name in ("trace", "trace_both"):
        whole = getattr(reference, name)

        def noted(*args: Any, _name: str = name, _whole: Any = whole, **options: Any) -> Any:
            calls.append(_name)
            return _whole(*args, **options)

        monkeypatch.setattr(reference, name, noted)
    return calls


@pytest.mark.parametrize("name", [*ALONE, *INTERPRETED])
def test_other_shapes_take_a_trace_where_no_module_norms_alone(name: str, traced: list[str]) -> None:
    torch.manual_seed(0)
    model = {**ALONE, **INTERPRETED}[name]().eval()
    x = torch.randn(2, 4)
    sites = sc.channels(model, x)
    masked = Reference(model, sites, KEEP)
    assert (masked.norms is None) == (name in INTERPRETED)
    verification = cutting.cut_with_plan(model, sites, KEEP).verification
    assert any("batch 3" in draw for draw in verification.draws)
    assert verification.double is not None
    assert verification.double < 1e-12
    assert bool(traced) == (name in INTERPRETED)


@pytest.mark.parametrize("name", [*ALONE, *INTERPRETED])
def test_masked_is_cut(name: str) -> None:
    torch.manual_seed(0)
    model = {**ALONE, **INTERPRETED}[name]().eval()
    x = torch.randn(2, 4)
    sites = sc.channels(model, x)
    small, masked = sc.cut(model, sites, KEEP), sc.mask(model, sites, KEEP)
    for batch in (x, torch.randn(5, 4)):
        torch.testing.assert_close(masked(batch), small(batch), rtol=1e-5, atol=1e-6)


class Grouped(nn.Module):
    """A norm of groups that it counts by an attribute of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.num_groups = 4

    def forward(self, x: Tensor) -> Tensor:
        return F.group_norm(x, self.num_groups)


@pytest.mark.parametrize("norm", [nn.GroupNorm(4, 8), Grouped()], ids=["of torch", "of its own"])
def test_groups_that_are_cut_are_counted_by_the_axes(norm: nn.Module) -> None:
    """A number of groups that stayed as it was would do the same in both models."""
    torch.manual_seed(0)
    model, x = Normed(norm).eval(), torch.randn(2, 4)
    sites = sc.channels(model, x)
    keep = {name: torch.arange(site.size) % 2 == 0 for name, site in sites.items()}
    assert sorted(site.size for site in sites.values()) == [2, 4]  # in each of four groups two
    assert (Reference(model, sites, keep).norms is None) == isinstance(norm, Grouped)
    small = cutting.cut_with_plan(model, sites, keep, form="module")
    assert small.model.get_submodule("norm").num_groups == 2
    torch.testing.assert_close(sc.mask(model, sites, keep)(x), small.model(x), rtol=1e-5, atol=1e-6)


def _other_epsilon(norm: nn.LayerNorm) -> None:
    norm.eps = 1e-4


def _other_rows(norm: nn.LayerNorm) -> None:
    norm.forward = lambda x: nn.LayerNorm.forward(norm, x).roll(1, -1)  # type: ignore[method-assign]


def _other_statistics(norm: nn.LayerNorm) -> None:
    norm.forward = lambda x: F.layer_norm(F.pad(x, (0, 3)), (8,))[..., :5] * norm.weight  # type: ignore[method-assign]


def _at_other_batches(norm: nn.LayerNorm) -> None:
    norm.forward = lambda x: nn.LayerNorm.forward(norm, x) * (1 + (len(x) != 2))  # type: ignore[method-assign]


@pytest.mark.parametrize("fault", [_other_epsilon, _other_rows, _other_statistics, _at_other_batches])
def test_a_norm_that_is_cut_wrongly_is_refused(
    fault: Callable[[nn.Module], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    right = cutting.apply_plan

    def wrongly(model: nn.Module, plan: Any) -> nn.Module:
        small = right(model, plan)
        fault(small.get_submodule("norm"))
        return small

    monkeypatch.setattr(cutting, "apply_plan", wrongly)
    model = Normed(nn.LayerNorm(8)).eval()
    sites = sc.channels(model, torch.randn(2, 4))
    with pytest.raises(VerificationError):
        sc.cut(model, sites, KEEP, form="module")


class Unequal(Normed):
    """Norms twice as many numbers at another batch."""

    def between(self, h: Tensor) -> Tensor:
        return self.norm(h) if len(h) == 2 else self.norm(torch.cat([h, h], -1))[..., : h.shape[-1]]


def test_a_norm_of_other_units_at_other_shapes_is_refused() -> None:
    model = Unequal(Rms()).eval()
    del model.norm.scale
    model.norm.scale = 1.5
    sites = sc.channels(model, torch.randn(2, 4))
    with pytest.raises(VerificationError, match="the units of 'norm' cannot be cut where the inputs have other shapes"):
        sc.cut(model, sites, KEEP, form="module")
