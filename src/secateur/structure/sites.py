"""The sites of a model: units that can be cut out, or single weights; and what masking them means."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from fnmatch import fnmatchcase

import torch
from torch import Tensor, nn

from secateur.calls import shaping, usual
from secateur.copies import copied
from secateur.state import check_finite, check_ordinary, own_tensors, tensors
from secateur.structure.both_modes import trace_both
from secateur.structure.infer import Structure, infer
from secateur.structure.regions import trace_regions
from secateur.structure.turned import with_turned
from secateur.types import ExampleInputs, InputError, Keep, Member, Site, Sites, TraceError, unknown_name
from secateur.wrappers import check_module, check_readable

__all__ = [
    "Zeros",
    "channels",
    "check_keep",
    "density_words",
    "inputs_of",
    "masked_tensors",
    "weights",
    "with_zeros",
    "write_zeros",
    "zeros",
]

REPAIR = "load a good checkpoint, or repair the tensor, first"


@shaping
def channels(model: nn.Module, example_inputs: ExampleInputs, ignore: Iterable[str] = ()) -> Sites:
    """Return the sites of `model` whose units can be cut out for real: neurons, filters, channels.

    The model is traced on `example_inputs` (a tensor, a tuple of positional or a mapping of keyword arguments) and
    what is tied together becomes one site, named after the first layer that produces it. What cannot be cut is in
    ``sites.frozen`` with the reason.

    Args:
        model: any module that `torch.export` takes; it is left as it is. On the meta device, with example inputs that are,
            too, sites are found without any weights.
        example_inputs: what the model is called with.
        ignore: sites to leave whole, by name or pattern (``"fc*"``); a name that matches nothing is an error.

    Raises:
        InputError: the inputs do not fit the model, or the model holds NaN.
        TraceError: the forward pass cannot be traced.

    >>> model = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
    >>> sites = channels(model, torch.zeros(1, 4))
    >>> {name: site.shape for name, site in sites.items()}, dict(sites.frozen)
    ({'0': (3,)}, {'2': "the model's output"})
    """
    check_module(model, "channels")
    check_readable(model, "channels")
    check_ordinary(model, "channels")
    check_finite(model, "channels", REPAIR)
    structure = _traced(model, example_inputs)
    prunable_sites, ignored = _without(structure.sites, ignore, site_names=[*structure.sites, *structure.frozen])
    frozen = {**structure.frozen, **dict.fromkeys(ignored, "ignored, as asked")}
    return Sites(prunable_sites, frozen, structure)


@usual
def weights(model: nn.Module, ignore: Iterable[str] = ()) -> Sites:
    """Return one site for every weight of `model` with two dimensions or more; each entry is a unit of its own.

    Biases and the scales of norms are not pruned: they are few, and each is worth much.

    Args:
        model: any module; it is left as it is.
        ignore: parameters to leave whole, by name or pattern (``"fc*.weight"``).

    >>> model = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
    >>> {name: site.shape for name, site in weights(model).items()}
    {'0.weight': (3, 4), '2.weight': (2, 3)}
    """
    check_module(model, "weights")
    check_ordinary(model, "weights")
    check_finite(model, "weights", REPAIR)
    table = {
        name: Site(name, "weight", tuple(p.shape), (Member(name, tuple(p.shape)),))
        for name, p in model.named_parameters()
        if p.ndim >= 2 and p.is_floating_point()
    }
    if not table:
        raise InputError(f"{type(model).__name__} has no weights of two dimensions or more to prune")
    prunable_sites, ignored = _without(table, ignore, site_names=table)
    return Sites(prunable_sites, dict.fromkeys(ignored, "ignored, as asked"))


def _traced(model: nn.Module, example_inputs: ExampleInputs) -> Structure:
    """The structure of the model, or of its regions where it cannot be traced whole."""
    try:
        graph = trace_both(model, example_inputs)
    except TraceError as error:
        structure = infer(trace_regions(model, example_inputs, error))
    else:
        structure = infer(graph)
        if any(
            half.graph.program is None and half.ties.statistics for half in filter(None, (structure, structure.trained))
        ):
            structure = infer(
                trace_both(model, example_inputs, quick=False)
            )  # they are verified on an exported program
    return with_turned(model, structure)


def _without(table: Mapping[str, Site], ignore: object, site_names: Iterable[str]) -> tuple[dict[str, Site], list[str]]:
    ignore_entries = [ignore] if isinstance(ignore, str) or not isinstance(ignore, Iterable) else list(ignore)
    patterns = [p for p in ignore_entries if isinstance(p, str)]
    if len(patterns) != len(ignore_entries):
        raise InputError(f"ignore must be names or patterns of sites; got {ignore!r}")
    aliases_by_site = {name: {name, *_layers(site)} for name, site in table.items()}
    names = sorted({*site_names, *(n for aliases in aliases_by_site.values() for n in aliases)})
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in names):
            raise unknown_name("site to ignore", pattern, names)
    ignored = [
        name for name, aliases in aliases_by_site.items() if any(fnmatchcase(n, p) for n in aliases for p in patterns)
    ]
    return {name: site for name, site in table.items() if name not in ignored}, ignored


def _layers(site: Site) -> set[str]:
    """The layers that produce a site's units: any of them names it."""
    return {m.layer for m in site.members if m.role == "out" and m.dim is not None}


def check_keep(sites: Sites, keep: Keep) -> dict[str, Tensor]:
    """Return `keep` after checking that every mask is a bool tensor of its site's shape."""
    if not isinstance(keep, Mapping):
        raise InputError(f"keep must be a mapping of site name to bool tensor; got a {type(keep).__name__}")
    checked = {}
    for name, keep_mask in keep.items():
        site = sites[name]
        if not isinstance(keep_mask, Tensor) or keep_mask.dtype is not torch.bool:
            raise InputError(
                f"keep[{name!r}] must be a bool tensor, True = keep; got {getattr(keep_mask, 'dtype', type(keep_mask))}"
            )
        if tuple(keep_mask.shape) != site.shape:
            raise InputError(f"keep[{name!r}] has shape {tuple(keep_mask.shape)}; the site has {site.shape}")
        checked[name] = keep_mask.detach().cpu()
    return checked


def density_words(keep: Keep) -> str:
    """Return how many masks there are and how much they keep, for the text of what holds them.

    >>> density_words({"fc": torch.tensor([True, False])}), density_words({})
    ('1 mask, 1 of 2 kept (50.0 %)', 'no masks')
    """
    units = sum(mask.numel() for mask in keep.values())
    if not units:
        return "no masks"
    left = sum(int(mask.sum()) for mask in keep.values())
    masks = "1 mask" if len(keep) == 1 else f"{len(keep)} masks"
    return f"{masks}, {left:,} of {units:,} kept ({100 * left / units:.1f} %)"


def masked_tensors(model: nn.Module, sites: Sites, keep: Keep) -> dict[str, Tensor]:
    """Return the parameters that `keep` changes, with zeros where units are removed; the model is left as it is."""
    zeroed = zeros(model, sites, keep)  # which checks the model
    parameters = dict(model.named_parameters(remove_duplicate=False))
    masked: dict[int, Tensor] = {}
    for parameter in parameters.values():
        if id(parameter) in zeroed and id(parameter) not in masked:
            masked[id(parameter)] = write_zeros(parameter.detach().clone(), zeroed[id(parameter)])
    return {name: masked[id(parameter)] for name, parameter in parameters.items() if id(parameter) in masked}


Zeros = list[tuple[Member, Tensor]]
"""Where a parameter is zero when units are masked: its members with the units that are kept."""


def zeros(model: nn.Module, sites: Sites, keep: Keep) -> dict[int, Zeros]:
    """Return where each parameter that `keep` changes is zero, by its id: one that has two names is one parameter."""
    check_same_model(model, sites)
    parameters = dict(model.named_parameters(remove_duplicate=False))
    zeroed: dict[int, Zeros] = {}
    for name, keep_mask in check_keep(sites, keep).items():
        for member in sites[name].members if not bool(keep_mask.all()) else ():
            zeroed.setdefault(id(parameters[member.parameter]), []).append((member, keep_mask))
    return zeroed


def write_zeros(tensor: Tensor, zeroed: Zeros) -> Tensor:
    """Write zeros into `tensor` where units are removed, and return it."""
    for member, keep_mask in zeroed:
        member.clear(tensor, keep_mask)
    return tensor


def inputs_of(sites: Sites) -> ExampleInputs | None:
    """Return the example inputs that the sites were found with; None for single weights.

    >>> inputs_of(channels(nn.Linear(2, 1), torch.zeros(1, 2)))
    (tensor([[0., 0.]]),)
    """
    if sites.structure is None:
        return None
    traced = sites.structure.graph if isinstance(sites.structure, Structure) else sites.structure
    return dict(traced.kwargs) if traced.kwargs else tuple(traced.args)


def check_same_model(model: nn.Module, sites: Sites) -> None:
    """Refuse a model that `sites` were not found in: a parameter is missing, or has another shape."""
    check_module(model, "sites")
    if not isinstance(sites, Sites):
        raise InputError(f"sites must come from channels(...) or weights(...); got a {type(sites).__name__}")
    tensors_by_name = tensors(model)
    for site in sites.values():
        for member in site.members:
            shape = None if member.parameter not in tensors_by_name else tuple(tensors_by_name[member.parameter].shape)
            if shape != member.shape:
                raise InputError(
                    f"the sites belong to another model ({member.parameter!r} has shape {shape}, expected "
                    f"{member.shape}); find the sites of this one first"
                )
    if isinstance(sites.structure, Structure):
        _check_same_ties(own_tensors(model), sites.structure.graph.state)


def _check_same_ties(own: Mapping[str, Tensor], traced: Mapping[str, Tensor]) -> None:
    """Refuse a model in which other tensors are one: a site names a shared tensor once, so its twin would stay whole."""
    names = [name for name in own if name in traced]
    first_own, first_traced = ({id(table[name]): name for name in reversed(names)} for table in (own, traced))
    for name in names:
        here, there = first_own[id(own[name])], first_traced[id(traced[name])]
        if here != there:
            twin, tied = (there, "there and not here") if there != name else (here, "here and not there")
            raise InputError(
                f"the sites belong to another model ({name!r} and {twin!r} are one tensor {tied}); tie the weights as "
                "they were, or find the sites of this model first"
            )


@usual
def with_zeros(model: nn.Module, sites: Sites, keep: Keep) -> nn.Module:
    """Return a copy of `model` with zeros where `keep` is False; norms take their statistics over all channels.

    >>> model = nn.Linear(2, 1, bias=False)
    >>> with_zeros(model, weights(model), {"weight": torch.tensor([[False, False]])}).weight.tolist()
    [[0.0, 0.0]]
    """
    changed = masked_tensors(model, sites, keep)
    result = copied(model)
    parameters = dict(result.named_parameters(remove_duplicate=False))
    with torch.no_grad():
        for name, tensor in changed.items():
            parameters[name].copy_(tensor)
    return result
