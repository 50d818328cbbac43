"""Faults planted by hand in what cuts: verification itself must find each, and must pass the same cut without it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import zoo
from secateur.criteria import Random
from secateur.selection import select
from secateur.structure import channels, cut, cutting, graph, literals, mend, plan
from secateur.structure.axes import total
from secateur.structure.rules import RULES, Call, Value
from secateur.types import Member, Sites, VerificationError

Patch = pytest.MonkeyPatch
Plant = Callable[[Patch], None]


class Temperature(nn.Module):
    """Attention whose head size sets shapes and, where `apart`, another attribute of the same value the temperature."""

    def __init__(self) -> None:
        super().__init__()
        self.heads, self.width = 4, 8
        self.scale = 8.0
        self.inp, self.q, self.k, self.v = nn.Linear(8, 32), nn.Linear(32, 32), nn.Linear(32, 32), nn.Linear(32, 32)
        self.out = nn.Linear(32, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.inp(x)
        b, t, _ = x.shape
        q, k, v = (f(x).view(b, t, self.heads, -1).transpose(1, 2) for f in (self.q, self.k, self.v))
        y = ((q @ k.transpose(-2, -1)) / self.scale**0.5).softmax(-1) @ v
        made: Tensor = self.out(y.transpose(1, 2).reshape(b, t, -1))
        return made


class Tied(nn.Module):
    """Two layers with one weight."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.out = nn.Linear(6, 8), nn.Linear(6, 8), nn.Linear(8, 3)
        self.b.weight = self.a.weight

    def forward(self, x: Tensor) -> Tensor:
        made: Tensor = self.out(torch.relu(self.a(x)) + torch.relu(self.b(-x)))
        return made


class Normed(nn.Module):
    """A layer norm as it is made."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.norm, self.out = nn.Linear(6, 8), nn.LayerNorm(8), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        made: Tensor = self.out(self.norm(self.a(x)))
        return made


class Factors(nn.Module):
    """Two layers whose units are multiplied."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.out = nn.Linear(6, 8), nn.Linear(6, 8), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        made: Tensor = self.out(self.a(x) * self.b(x))
        return made


class Norms(nn.Module):
    """Two batch norms of one size, whose statistics and slopes are as they are made: all alike."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.first = nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.b, self.second = nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.out = nn.Linear(8, 3)
        nn.init.constant_(self.second.bias, 0.1)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.first(self.a(x)))
        made: Tensor = self.out(torch.relu(self.second(self.b(x))).mean((2, 3)))
        return made


class Groups(nn.Module):
    """A norm over groups, of which some go."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.norm, self.b = nn.Conv2d(3, 16, 1), nn.GroupNorm(8, 16), nn.Conv2d(16, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        made: Tensor = self.b(torch.relu(self.norm(self.a(x)))).mean((2, 3))
        return made


class Wave(nn.Module):
    """A function that is not zero at zero, and its sum over the units."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.out = nn.Linear(4, 8), nn.Linear(4, 8), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        made: Tensor = self.out(torch.relu(self.a(x))) + torch.cos(self.b(x)).sum(1, keepdim=True)
        return made


class Literals(nn.Module):
    """Boundaries between units that are numbers in the code."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(6, 12), nn.Linear(12, 3)

    def forward(self, x: Tensor) -> Tensor:
        h = self.a(x)
        made: Tensor = self.b(torch.cat([torch.tanh(h[:, :4]), torch.relu(h[:, 4:8]), torch.sigmoid(h[:, 8:])], 1))
        return made


class Shares(nn.Module):
    """Units that share what there is."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.out = nn.Linear(6, 8), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        made: Tensor = self.out(torch.softmax(self.a(x), -1))
        return made


class Gated(nn.Module):
    """A gate and a value of one size, and two square layers."""

    def __init__(self) -> None:
        super().__init__()
        self.both, self.square, self.out = nn.Linear(6, 16), nn.Linear(8, 8), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        gate, value = self.both(x).chunk(2, -1)
        made: Tensor = self.out(torch.relu(self.square(torch.sigmoid(gate) * value)))
        return made


MODELS: dict[str, Callable[[], tuple[nn.Module, Tensor]]] = {
    "temperature": lambda: (Temperature(), 0.01 * torch.randn(2, 6, 8)),
    "tied": lambda: (Tied(), torch.randn(2, 6)),
    "norms": lambda: (Norms(), torch.randn(2, 3, 8, 8)),
    "groups": lambda: (Groups(), torch.randn(2, 3, 4, 4)),
    "wave": lambda: (Wave(), torch.randn(2, 4)),
    "literals": lambda: (Literals(), torch.randn(2, 6)),
    "gated": lambda: (Gated(), torch.randn(2, 6)),
    "softmax": lambda: (Shares(), torch.randn(2, 6)),
    "lstm": lambda: (zoo.build("lstm")[0], zoo.build("lstm")[1][0]),
    "heads": lambda: (zoo.build("multihead_attention")[0], zoo.build("multihead_attention")[1][0]),
    "cats": lambda: (zoo.build("cat_in_two_orders")[0], zoo.build("cat_in_two_orders")[1][0]),
    "normed": lambda: (Normed(), torch.randn(2, 6)),
    "factors": lambda: (Factors(), torch.randn(2, 6)),
}


def built(name: str) -> tuple[nn.Module, Tensor]:
    torch.manual_seed(0)
    model, x = MODELS[name]()
    return model.eval(), x


def keep_of(model: nn.Module, found: Sites) -> dict[str, Tensor]:
    return select(Random(seed=3)(model, found), 0.4, scope="layer")


def planned(change: Callable[[Any], None]) -> Plant:
    """Change the plan after it is made."""

    def plant(patch: Patch) -> None:
        make = cutting.make_plan

        def made(*args: Any) -> Any:
            plan = make(*args)
            change(plan)
            return plan

        patch.setattr(cutting, "make_plan", made)

    return plant


def applied(change: Callable[[nn.Module, nn.Module], None]) -> Plant:
    """Change the cut model after the plan is applied; the original is given, too."""

    def plant(patch: Patch) -> None:
        apply = cutting.apply_plan

        def made(model: nn.Module, plan: Any) -> nn.Module:
            small = apply(model, plan)
            with torch.no_grad():
                change(model, small)
            return small

        patch.setattr(cutting, "apply_plan", made)

    return plant


def attribute(path: str, name: str, new: Callable[[Any], Any]) -> Plant:
    """Set an attribute of the cut model, after the edits that are right."""

    def plant(patch: Patch) -> None:
        set_all = cutting.set_attributes

        def wrongly(model: nn.Module, attributes: Any) -> None:
            set_all(model, attributes)
            module = model.get_submodule(path)
            setattr(module, name, new(getattr(module, name)))

        patch.setattr(cutting, "set_attributes", wrongly)

    return plant


def moved(rows: Any, name: str, dim: int, size: int) -> None:
    rows[name][dim] = ((rows[name][dim] + 1) % size).sort().values


def roll(name: str, dim: int, size: int) -> Plant:
    return planned(lambda plan: moved(plan.rows, name, dim, size))


def exchanged(plan: Any) -> None:
    """The rows of a square weight's outputs for its inputs."""
    rows = plan.rows["square.weight"]
    rows[0], rows[1] = rows[1], rows[0]


def other_gates(plan: Any) -> None:
    """The first gate of an LSTM loses what the second should."""
    rows = next(dims for name, dims in plan.rows.items() if name.endswith("weight_hh_l0"))
    quarter = len(rows[0]) // 4
    rows[0][:quarter] = (rows[0][:quarter] + 1) % int(rows[0][quarter])
    rows[0][:quarter] = rows[0][:quarter].sort().values


def swapped_norms(model: nn.Module, small: nn.Module) -> None:
    small.first, small.second = small.second, small.first


def untied(model: nn.Module, small: nn.Module) -> None:
    small.b.weight = nn.Parameter(small.a.weight.clone())


def without_bias(model: nn.Module, small: nn.Module) -> None:
    small.a.bias = None


def scaled(model: nn.Module, small: nn.Module) -> None:
    next(small.parameters()).mul_(1 + 1e-6)


def halved_width(model: nn.Module, small: nn.Module) -> None:
    small.out.weight.data = small.out.weight.data.half()


def instead(name: str, of: str) -> Plant:
    """Take the rule of another op."""
    return lambda patch: patch.setitem(RULES, name, RULES[of])


def wrong_dimension(patch: Patch) -> None:
    """Zeros go into a square weight along its other dimension."""
    right = Member.removed

    def removed(self: Member, keep: Tensor) -> tuple[int | None, Tensor]:
        dim, where = right(self, keep)
        return 1 - dim if dim is not None and self.shape == (8, 8) else dim, where

    patch.setattr(Member, "removed", removed)


def boundary_off_by_one(patch: Patch) -> None:
    right = literals._moved
    patch.setattr(literals, "_moved", lambda index, kept: right(index, kept) + (0 < index < kept.numel()))


def boundary_as_it_was(patch: Patch) -> None:
    patch.setattr(graph, "_change", lambda node, changes: None)


def no_statistics(patch: Patch) -> None:
    """Norms of the masked model see all channels."""
    patch.setattr(Call, "statistic", lambda self, *axes: None)


def late(patch: Patch) -> None:
    """Every slice begins one row late."""
    right = plan._sliced

    def sliced(tensor: Tensor, rows: Any) -> Tensor:
        return right(tensor, {dim: (index + 1) % tensor.shape[dim] for dim, index in rows.items()})

    patch.setattr(plan, "_sliced", sliced)


def reversed_cat(call: Call) -> Value:
    """The parts in reverse order, where they are of one size."""
    values = [v for v in call["tensors"] if v.shape != (0,)]
    dim = (call["dim"] or 0) % len(values[0].axes)
    axes = list(values[0].axes)
    axes[dim] = total(*(v.axes[dim] for v in reversed(values)))
    return Value(tuple(axes), all(v.zero for v in values))


def untied_product(call: Call) -> Value:
    """A product whose factors' units are not the same."""
    return Value(call["self"].axes, zero=True)


FAULTS: dict[str, tuple[str, Plant]] = {
    "a wrong row of a weight": ("gated", roll("both.weight", 0, 16)),
    "a wrong row of a bias": ("norms", roll("a.bias", 0, 8)),
    "a wrong input of a weight": ("norms", roll("b.weight", 1, 8)),
    "a wrong row of a norm's slope": ("norms", roll("first.weight", 0, 8)),
    "a wrong row of a norm's offset": ("norms", roll("second.bias", 0, 8)),
    "a wrong row of a running mean": ("norms", roll("first.running_mean", 0, 8)),
    "a wrong row of a running variance": ("norms", roll("second.running_var", 0, 8)),
    "outputs for inputs": ("gated", planned(exchanged)),
    "a gate's rows for another's": ("lstm", planned(other_gates)),
    "a slice one row late": ("norms", late),
    "swapped norms": ("norms", applied(swapped_norms)),
    "a tie broken": ("tied", applied(untied)),
    "a bias dropped": ("norms", applied(without_bias)),
    "a weight moved by a millionth": ("gated", applied(scaled)),
    "a weight in another type": ("gated", applied(halved_width)),
    "an edited temperature": ("temperature", attribute("", "scale", lambda old: 5.0)),
    "an edited number of heads": ("temperature", attribute("", "heads", lambda old: old // 2 or 1)),
    "an edited epsilon": ("norms", attribute("first", "eps", lambda old: 1e-4)),
    "an edited padding mode": ("norms", attribute("b", "padding_mode", lambda old: "replicate")),
    "a wrong number of groups in a norm": ("groups", attribute("norm", "num_groups", lambda old: 1)),
    "a wrong number of heads": ("heads", lambda patch: patch.setattr(mend, "_heads", lambda *args: 1)),
    "zeros along the other dimension": ("gated", wrong_dimension),
    "parts of a concatenation in another order": ("cats", lambda patch: patch.setitem(RULES, "cat", reversed_cat)),
    "a cosine taken for a ReLU": ("wave", instead("cos", "relu")),
    "a softmax taken for a ReLU": ("softmax", instead("softmax", "relu")),
    "a layer norm's statistics over all channels": ("normed", no_statistics),
    "a group norm's statistics over all channels": ("groups", no_statistics),
    "a forgotten tie of two factors": ("factors", lambda patch: patch.setitem(RULES, "mul", untied_product)),
    "a literal off by one": ("literals", boundary_off_by_one),
    "a literal as it was": ("literals", boundary_as_it_was),
}


@pytest.mark.parametrize("name", MODELS)
def test_without_a_fault_the_cut_is_returned(name: str) -> None:
    model, x = built(name)
    found = channels(model, x)
    verification = cutting.cut_with_plan(model, found, keep_of(model, found)).verification
    assert verification.double is not None
    assert verification.double < 1e-12


@pytest.mark.parametrize("fault", FAULTS)
def test_verification_finds(fault: str, monkeypatch: pytest.MonkeyPatch) -> None:
    name, plant = FAULTS[fault]
    model, x = built(name)
    plant(monkeypatch)
    found = channels(model, x)
    form = "graph" if name == "literals" else "module"
    with pytest.raises(VerificationError):
        cut(model, found, keep_of(model, found), form=form)
