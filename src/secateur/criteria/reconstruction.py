"""What the next layer loses: weights by the size of their inputs, channels by greedy reconstruction."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from secateur.criteria.base import DataCriterion
from secateur.criteria.layer_inputs import Inputs, LayerInputs
from secateur.criteria.weight_rows import Reduce, Side, check_reduce, check_side, parameters_of, unit_sums
from secateur.state import device_of
from secateur.types import InputError, Site, Sites

__all__ = ["Reconstruction", "Wanda", "gram", "greedy", "read_by", "readers", "unread"]


@dataclass(frozen=True)
class Wanda(DataCriterion):
    """Scores a weight by its absolute value times the norm of what it is multiplied by, |w| · ‖x‖₂ (Sun et al., 2024).

    The norm is taken over all samples and positions. The authors compare within each output:
    ``select(scores, 0.5, scope="row")``, or ``pattern="2:4"``. A weight that no linear layer or convolution multiplies
    by, as a recurrent one or an embedding, has a norm of 1: its scores are magnitudes, good within the site. One forward
    pass. A channel's score is the sum over the weights that read it.

    Attributes:
        data: labelled samples: a `Split`, a pair (inputs, targets) of tensors, or batches of such pairs; the targets
            are not used.
        side: the weights of a channel that count.
        reduce: how several weights of a tied group become one score; ``"joint"`` adds all up.
        batch_size: samples a pass, where the data are in memory.

    >>> from secateur.structure import weights
    >>> model = nn.Linear(2, 1, bias=False)
    >>> model.weight.data = torch.tensor([[1.0, -1.0]])
    >>> data = [(torch.tensor([[3.0, 1.0], [4.0, 0.0]]), torch.zeros(2))]
    >>> Wanda(data)(model, weights(model))
    {'weight': tensor([[5., 1.]])}
    """

    side: Side = "outgoing"
    reduce: Reduce = "joint"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_side(self, self.side)
        check_reduce(self, self.reduce)

    def _score(self, model: nn.Module, sites: Sites) -> dict[str, Tensor]:
        """Return the scores, 0 or more; high = keep."""
        parameters = parameters_of(model, sites)
        named = {member.parameter for site in sites.values() for member in site.members}
        squares = LayerInputs(model, self.data, self.batch_size, "Wanda").squares(named)
        felt = {n: parameters[n].detach().abs() * _norms(parameters[n], squares.get(n, [])) for n in named}
        return unit_sums(felt, sites, self.side, self.reduce)


def _norms(parameter: Tensor, layer_inputs: list[Inputs]) -> Tensor:
    """The norm of what each entry is multiplied by, over all products with it; 1 where there is none."""
    squares = torch.zeros(parameter.numel(), dtype=torch.float64, device=parameter.device)
    met = torch.zeros(parameter.numel(), dtype=torch.bool, device=parameter.device)
    for inputs in layer_inputs:
        entries = inputs.layer.entries.to(parameter.device)
        wide = inputs.total.unsqueeze(1).expand(entries.shape)
        squares.index_add_(0, entries.flatten(), wide.flatten())
        met[entries.flatten()] = True
    return torch.where(met, squares.sqrt(), squares.new_ones(())).reshape(parameter.shape)


@dataclass(frozen=True)
class Reconstruction(DataCriterion):
    """Scores a channel by the error in what its readers compute once it, and all before it, are gone (Luo et al., 2017).

    ThiNet's greedy order: of the channels that are left the one goes whose removal, with those that went before, changes
    the readers' outputs least in square. The score is the error then, as a share of the outputs' square, and never less
    than that of a channel that went earlier; so the order is the authors', and scores of several layers can be compared.
    Their readers' weights are adjusted by the solver `secateur.solvers.ThiNet`. One forward pass.

    Attributes:
        data: labelled samples: a `Split`, a pair (inputs, targets) of tensors, or batches of such pairs; the targets
            are not used.
        batch_size: samples a pass, where the data are in memory.

    Raises:
        InputError: unfit data, sites of single weights, or channels that no linear layer or convolution reads.

    >>> from secateur.structure import channels
    >>> model = nn.Sequential(nn.Linear(1, 3, bias=False), nn.Linear(3, 1, bias=False))
    >>> model[0].weight.data, model[1].weight.data = torch.tensor([[1.0], [1.0], [1.0]]), torch.tensor([[2.0, 3.0, -1.9]])
    >>> data = [(torch.ones(4, 1), torch.zeros(4))]      # 2 + 3 − 1.9 = 3.1: −1.9 goes first, 2 with it at nearly none
    >>> Reconstruction(data)(model, channels(model, torch.ones(1, 1)))
    {'0': tensor([0.3757, 1.0000, 0.3757])}
    """

    def __post_init__(self) -> None:
        super().__post_init__()

    def _score(self, model: nn.Module, sites: Sites) -> dict[str, Tensor]:
        """Return the scores, 0 or more; high = keep."""
        parameters = parameters_of(model, sites)
        named = {name for site in sites.values() for name in read_by(site)}
        inputs = LayerInputs(model, self.data, self.batch_size, "Reconstruction")
        moments = inputs.second_moments(named)
        return {
            n: greedy(gram(site, parameters, moments, "Reconstruction")).to(device_of(model))
            for n, site in sites.items()
        }


def read_by(site: Site) -> set[str]:
    """Return the names of the parameters that read a site's units."""
    return {member.parameter for member in site.members if member.role == "in"}


def readers(site: Site, inputs_by_parameter: dict[str, list[Inputs]], doing: str) -> list[tuple[Inputs, Tensor]]:
    """Return the products that read a site's units, each with the unit of every column, −1 for others: ``(groups, in)``.

    Raises:
        InputError: there is none.
    """
    products = []
    for member in site.members:
        if member.role != "in" or member.dim is None or member.index is None:
            continue
        owners = torch.full(member.shape, -1)
        for unit, places in enumerate(member.index):
            owners.index_fill_(member.dim, places, unit)
        for inputs in inputs_by_parameter.get(member.parameter, []):
            of_entry = owners.flatten()[inputs.layer.entries]
            if bool((of_entry == of_entry[:, :1]).all()):
                products.append((inputs, of_entry[:, 0]))
    if not products or site.kind != "channel":
        raise unread(site, doing)
    return products


def unread(site: Site, doing: str) -> InputError:
    """Return the error for a site that no layer reads whose outputs could be compared."""
    return InputError(
        f"{doing}: no linear layer or convolution reads the units of site {site.name!r} as its input channels; "
        f"leave it out: channels(model, inputs, ignore=[{site.name!r}]), or take another criterion"
    )


def gram(
    site: Site, parameters: Mapping[str, Tensor], inputs_by_parameter: dict[str, list[Inputs]], doing: str
) -> Tensor:
    """Return the products of what each two units add to their readers' outputs, summed over data: ``(units, units)``."""
    total = torch.zeros(site.size, site.size, dtype=torch.float64)
    for inputs, owners in readers(site, inputs_by_parameter, doing):
        weight = parameters[inputs.layer.parameter].detach().cpu().double().flatten()[inputs.layer.entries]
        both = (weight.mT @ weight) * inputs.total.cpu()
        for pair, owner in zip(both, owners, strict=True):
            of_unit = _owned(owner, site.size)
            total += of_unit @ pair @ of_unit.T
    return total


def _owned(owner: Tensor, units: int) -> Tensor:
    """1 where a column is a unit's: ``(units, columns)``."""
    return (owner == torch.arange(units).unsqueeze(1)).double()


def greedy(gram: Tensor) -> Tensor:
    """Return the share of the outputs' square that is lost when each unit goes, in the order of least loss.

    >>> greedy(torch.tensor([[4.0, 0.0], [0.0, 12.0]]))
    tensor([0.2500, 1.0000])
    """
    # With aᵤ what unit u adds, G = [⟨aᵤ, aᵥ⟩] and R what is removed: ‖Σ_R a + aᵤ‖² = ‖Σ_R a‖² + 2 ⟨Σ_R a, aᵤ⟩ + Gᵤᵤ.
    total = gram.sum()
    scores = gram.new_zeros(len(gram))
    # What stands in `cross` is each unit's product with the sum of all that went before.
    cross, squares, lost, last = gram.new_zeros(len(gram)), gram.diagonal(), gram.new_zeros(()), gram.new_zeros(())
    left = torch.ones(len(gram), dtype=torch.bool)
    for _ in range(len(gram)):
        after = torch.where(left, lost + 2 * cross + squares, torch.inf)
        unit = int(after.argmin())
        lost, left[unit] = after[unit], False
        cross = cross + gram[unit]
        # A little more than the one before, so that the order survives where the error falls again.
        last = torch.maximum(lost.clamp(min=0), last * (1 + 1e-6))
        scores[unit] = last
    return (scores / total if total > 0 else scores).float()
