"""ThiNet: channels by greedy reconstruction, their readers refitted by least squares (Luo et al., 2017; He et al., 2017)."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from secateur.calls import usual
from secateur.checks import check_number
from secateur.copies import copied
from secateur.criteria.batches import check_batches
from secateur.criteria.layer_inputs import Inputs, LayerInputs
from secateur.criteria.reconstruction import gram, greedy, read_by, readers
from secateur.criteria.weight_rows import parameters_of
from secateur.equations import solved
from secateur.labelled import Data
from secateur.selection import select
from secateur.solvers.layer_problems import damping_of, merged
from secateur.solvers.solution import Fractions, Solution, Solver, fractions_of, write
from secateur.state import own_tensors
from secateur.structure.sites import masked_tensors
from secateur.types import InputError, Sites

__all__ = ["ThiNet"]


@dataclass(frozen=True)
class ThiNet(Solver):
    """Removes channels so that the layers that read them compute nearly the same, and refits those (Luo et al., 2017).

    Channels go by `secateur.criteria.Reconstruction`; then the readers' weights are fitted anew to what they computed
    with all channels, by least squares (He et al., 2017; the authors fit a scale for each channel). Sites are taken in
    their order, each on what the sites before leave. Every site loses the same fraction, or its own. One forward
    pass a site, and the second moments of one site's readers at a time. No labels are needed. A weight that several layers
    share is fitted to all of them; one that is used in another way as well, as a table of an embedding, is not.

    Attributes:
        data: labelled samples; the targets are not used.
        damping: added to the diagonal of the inputs' second moments, as a share of its mean.
        batch_size: samples a pass, where the data are in memory.

    Raises:
        InputError: unfit data, sites of single weights, or channels that no linear layer or convolution reads.

    >>> from secateur.structure import channels
    >>> model = nn.Sequential(nn.Linear(1, 2, bias=False), nn.Linear(2, 1, bias=False))
    >>> model[0].weight.data, model[1].weight.data = torch.tensor([[1.0], [2.0]]), torch.tensor([[1.0, 1.0]])
    >>> sites = channels(model, torch.zeros(1, 1))
    >>> solution = ThiNet((torch.ones(4, 1), torch.zeros(4)), damping=1e-9).solve(model, sites, 0.5)
    >>> solution.keep["0"].tolist(), solution.tensors["1.weight"]        # 1 · 1 + 2 · 1 = 2 · 1.5
    ([False, True], tensor([[0.0000, 1.5000]]))
    """

    data: Data = field(repr=False)
    damping: float = 1e-3
    batch_size: int = 500

    def __post_init__(self) -> None:
        check_batches("ThiNet", self.data, self.batch_size)
        check_number(self, "(0, inf)", damping=self.damping)

    @usual
    def solve(
        self, model: nn.Module, sites: Sites, sparsity: Fractions | None = None, *, pattern: str | None = None
    ) -> Solution:
        """Return masks and weights; one unit of every site stays at least."""
        if sparsity is None or pattern is not None:
            raise InputError("ThiNet: give a sparsity (a fraction, or one by site); channels have no pattern")
        fractions = fractions_of(sparsity, sites, "ThiNet")
        work = copied(model)
        parameters_of(work, sites)
        inputs = LayerInputs(work, self.data, self.batch_size, "ThiNet")
        fixed = inputs.other_uses()
        keep: dict[str, Tensor] = {}
        for name, site in sites.items():
            if fractions[name] == 0:
                keep[name] = torch.ones(site.shape, dtype=torch.bool)
                continue
            problems = {n: merged(f, "ThiNet") for n, f in inputs.second_moments(read_by(site)).items()}
            scores = greedy(gram(site, parameters_of(work, sites), problems, "ThiNet"))
            keep[name] = select({name: scores}, fractions[name], scope="layer")[name]
            products = readers(site, problems, "ThiNet")
            self._refit(work, [p for p in products if p[0].layer.parameter not in fixed], keep[name])
            write(work, masked_tensors(work, sites, {name: keep[name]}))
        before = own_tensors(model)
        changed = {n: t.detach().clone() for n, t in own_tensors(work).items() if not torch.equal(t, before[n])}
        return Solution(keep, changed)

    def _refit(self, work: nn.Module, products: list[tuple[Inputs, Tensor]], keep: Tensor) -> None:
        model_tensors = own_tensors(work)
        for inputs, owners in products:
            weight = model_tensors[inputs.layer.parameter]
            flat = weight.detach().flatten().clone()
            for entries, owner, moments in zip(inputs.layer.entries.to(flat.device), owners, inputs.total, strict=True):
                stays = ((owner < 0) | keep[owner.clamp(min=0)]).to(flat.device)
                load = damping_of(moments, self.damping)
                flat[entries] = refitted(flat[entries].double(), moments, stays, load).to(flat)
            write(work, {inputs.layer.parameter: flat.reshape(weight.shape)})


def refitted(weight: Tensor, moments: Tensor, stays: Tensor, load: float) -> Tensor:
    """Return the matrix whose columns that stay compute what all did, as nearly as they can; zeros in the others.

    `load` is what the square of a column's change costs.

    >>> moments = torch.tensor([[1.0, 2.0], [2.0, 4.0]])
    >>> refitted(torch.tensor([[1.0, 1.0]]), moments, torch.tensor([False, True]), 0.0)
    tensor([[0.0000, 1.5000]])
    """
    refit = torch.zeros_like(weight)
    change = solved(moments[stays][:, stays], weight[:, ~stays] @ moments[~stays][:, stays], load)
    refit[:, stays] = weight[:, stays] + change.to(weight)
    return refit
