"""Random networks, random masks: what is cut computes what is masked, or is refused in plain words."""

from __future__ import annotations

from collections import Counter

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from secateur.structure import channels, cut
from secateur.structure.cutting import cut_with_plan
from secateur.structure.difference import difference
from secateur.structure.reference import Reference
from secateur.testing.toys import same_state, snapshot
from secateur.types import CutError, Keep, Sites, TraceError, VerificationError
from zoo.random_nets import RULES, NetStep, RandomNet, random_keep

SMALL = settings(max_examples=100, suppress_health_check=[HealthCheck.too_slow])

steps = st.lists(st.builds(NetStep, st.integers(0, len(RULES) - 1), st.integers(0, 11), st.integers(0, 11)), max_size=7)


def plainly_masked(model: nn.Module, sites: Sites, keep: Keep, x: Tensor) -> Tensor:
    """The masked model by the book: zero every tied row, one after the other, in a state dict."""
    tensors = {name: p.detach().clone() for name, p in model.named_parameters(remove_duplicate=False)}
    for name, kept in keep.items():
        for member in sites[name].members:
            assert member.index is not None
            assert member.dim is not None
            rows = tensors[member.parameter].movedim(member.dim, 0)
            for unit in (~kept).nonzero().flatten().tolist():
                for position in member.index[unit].tolist():
                    rows[position] = 0
    with torch.no_grad():
        outputs: Tensor = torch.func.functional_call(model, tensors, (x,))
    return outputs


def expected(net: RandomNet, sites: Sites, keep: Keep, x: Tensor) -> Tensor:
    """What the cut model must compute on `x`, which is not what it was verified on."""
    if sites.structure.ties.statistics:  # statistics over fewer channels: ask the library's own reference
        fresh = channels(net, x)
        outputs = Reference(net, fresh, keep).on_example()
        assert isinstance(outputs, Tensor)
        return outputs
    return plainly_masked(net, sites, keep, x)


def check(program: list[NetStep], kind: int, seed: int) -> str:
    """Make, trace, cut and compare; return what came of it."""
    net = RandomNet(program, kind, seed)
    example = net.example(batch=3, seed=1)
    before = snapshot(net)
    try:
        sites = channels(net, example)
    except TraceError as error:
        return f"not traced: {error}"
    finally:
        same_state(before, snapshot(net))
    keep = random_keep({name: site.shape for name, site in sites.items()}, seed)
    try:
        made = cut_with_plan(net, sites, keep)
    except VerificationError:
        raise  # never wrong silently, but a rule or the reference is wrong
    except CutError as error:
        return f"not cut: {error}"
    finally:
        same_state(before, snapshot(net))
    x = net.example(batch=3, seed=2)
    with torch.no_grad():
        outputs = made.model(x)
    found = difference(expected(net, sites, keep, x), outputs)
    assert found < 1e-7, f"differs by {found:.1e}: {net.text}"
    assert list(made.model.state_dict()) == list(net.state_dict()) or isinstance(made.model, torch.fx.GraphModule)
    return "graph" if isinstance(made.model, torch.fx.GraphModule) else "module" if sites else "nothing to cut"


@SMALL
@given(steps, st.integers(0, 2), st.integers(0, 99))
def test_what_is_cut_computes_what_is_masked(program: list[NetStep], kind: int, seed: int) -> None:
    check(program, kind, seed)


@settings(max_examples=20)
@given(steps, st.integers(0, 2))
def test_keeping_everything_changes_nothing_to_the_bit(program: list[NetStep], kind: int) -> None:
    net = RandomNet(program, kind)
    x = net.example(batch=3)
    sites = channels(net, x)
    same = cut(net, sites, {name: torch.ones(site.shape, dtype=torch.bool) for name, site in sites.items()})
    with torch.no_grad():
        assert torch.equal(same(x), net(x))
    assert all(torch.equal(a, b) for a, b in zip(same.state_dict().values(), net.state_dict().values(), strict=True))


def test_most_random_networks_are_cut_as_modules() -> None:
    """The property above would hold of a library that refuses everything; this one does not."""
    generator = torch.Generator().manual_seed(0)
    outcomes: Counter[str] = Counter()
    for seed in range(30):
        numbers = torch.randint(0, 1000, (5, 3), generator=generator).tolist()
        program = [NetStep(op % len(RULES), a % 12, b % 12) for op, a, b in numbers]
        outcomes[check(program, seed, seed).split(":")[0]] += 1
    assert outcomes["module"] + outcomes["graph"] >= 24, outcomes
    assert outcomes["not traced"] == 0, outcomes


@pytest.mark.slow
@settings(max_examples=4000, suppress_health_check=[HealthCheck.too_slow], derandomize=False)
@given(steps, st.integers(0, 2), st.integers(0, 10_000))
def test_what_is_cut_computes_what_is_masked_at_length(program: list[NetStep], kind: int, seed: int) -> None:
    check(program, kind, seed)
