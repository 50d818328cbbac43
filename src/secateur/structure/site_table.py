"""From the axes of a model's tensors to its sites: their members, names and units, and what is frozen."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from math import gcd, lcm

import torch

from secateur.structure.axes import Atom, atoms, is_fixed, positions
from secateur.structure.rules import Ties, Value
from secateur.structure.temperature import HEAD_DIMENSION
from secateur.structure.trace import Graph
from secateur.types import Member, Role, Site, layer_of

__all__ = ["find_frozen", "find_sites", "first_use"]


def first_use(graph: Graph) -> dict[str, int]:
    """Return for each tensor of the model where in a graph it is first used."""
    order: dict[str, int] = {}
    for at, node in enumerate(graph.nodes):
        for used in node.all_input_nodes:
            if used in graph.tensors:
                order.setdefault(graph.tensors[used], at)
    return order


def _role(ties: Ties, name: str, dim: int, ndim: int) -> Role:
    roles = ties.roles.get((name, dim), set())
    if roles:
        return "out" if "out" in roles else "in"
    produces = any("out" in ties.roles.get((name, d), set()) for d in range(ndim))
    return "in" if produces else "scale"


def find_sites(graph: Graph, tensors: Mapping[str, Value], ties: Ties) -> tuple[dict[str, Site], dict[str, Atom]]:
    """Return one site for every free atom that a parameter has, named after the first layer that produces its units."""
    used = {name for holder, name in graph.tensors.items() if holder.users}
    members: dict[Atom, list[Member]] = {}
    for name, value in tensors.items():
        if name not in used or not isinstance(graph.state.get(name), torch.nn.Parameter):
            continue
        for dim, axis in enumerate(value.axes):
            for atom in dict.fromkeys(atoms(axis)):
                if not atom.frozen:
                    role = _role(ties, name, dim, len(value.axes))
                    masked = (name, dim) not in ties.unmasked
                    member = Member(name, value.shape, dim, positions(axis, atom), role, masked=masked)
                    members.setdefault(atom, []).append(member)
    unit_by_atom, multiples = _unit_names(ties), _multiples(ties)
    sites: dict[str, Site] = {}
    units: dict[str, Atom] = {}
    for atom, site_members in members.items():
        unit = unit_by_atom.get(atom, "channel")
        name = _unused(_site_name(site_members) + SUFFIX.get(unit, ""), sites)
        sites[name] = Site(name, "channel", (atom.size,), tuple(site_members), unit, multiples.get(atom, 1))
        units[name] = atom
    return sites, units


def _multiples(ties: Ties) -> dict[Atom, int]:
    """Of how many units each atom keeps a multiple, so that every axis that it is part of stays aligned."""
    multiples: dict[Atom, int] = {}
    for axis, size in ties.aligned:
        free = [atom for atom in dict.fromkeys(atoms(axis)) if not atom.frozen]
        for atom in free:
            places = axis.size // atom.size if len(free) == 1 else 1
            multiples[atom] = lcm(multiples.get(atom, 1), size // gcd(size, places))
    return multiples


# What a part of a layer's units adds to the layer's name.
SUFFIX = {"head": ".heads", HEAD_DIMENSION: ".head_dim", "group": ".groups"}


def _unit_names(ties: Ties) -> dict[Atom, str]:
    """What each atom's units are: the most particular word said of it."""
    order = ("head", "head dimension", "group", "embedding", "filter", "neuron")
    names_by_atom: dict[Atom, str] = {}
    for axis, name in ties.units:
        for atom in dict.fromkeys(atoms(axis)):
            old = names_by_atom.get(atom)
            if old is None or order.index(name) < order.index(old):
                names_by_atom[atom] = name
    return names_by_atom


def _site_name(members: list[Member]) -> str:
    first = next((m for m in members if m.role == "out"), members[0])
    return first.layer or first.parameter


def _unused(name: str, sites: Mapping[str, Site]) -> str:
    number, candidate = 2, name
    while candidate in sites:
        candidate, number = f"{name}:{number}", number + 1
    return candidate


def find_frozen(tensors: Mapping[str, Value], ties: Ties) -> Iterator[tuple[str, str]]:
    """Yield layers whose units cannot be cut, and head dimensions that cannot, with the reason."""
    words = _unit_names(ties)
    for name, value in tensors.items():
        for dim, axis in enumerate(value.axes):
            if "out" not in ties.roles.get((name, dim), set()) or axis.size == 1:
                continue
            layer, parts = layer_of(name) or name, list(dict.fromkeys(atoms(axis)))
            if is_fixed(axis):
                yield layer, next(a.frozen for a in parts if a.frozen) or ""
                break
            for atom in parts:
                if atom.frozen and words.get(atom) == HEAD_DIMENSION:
                    yield layer + SUFFIX[HEAD_DIMENSION], atom.frozen
