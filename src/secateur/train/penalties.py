"""Penalties: terms that are added to the loss of a training, to make a model need less of itself.

Each is a callback of `fit`; several may be given. What they add is trained on, and stays out of the recorded losses.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any, get_args

import torch
from torch import Tensor, nn

from secateur.checks import check_listed, check_name, check_number
from secateur.structure.sites import channels
from secateur.train.callbacks import Callback, Run
from secateur.types import ExampleInputs, InputError, Role, Site, Sites, unknown_name

__all__ = ["ActivationPenalty", "GroupLasso", "WeightPenalty", "matching"]

NONLINEAR = (
    nn.CELU,
    nn.ELU,
    nn.GELU,
    nn.Hardswish,
    nn.Hardtanh,
    nn.LeakyReLU,
    nn.Mish,
    nn.PReLU,
    nn.ReLU,
    nn.SELU,
    nn.SiLU,
    nn.Sigmoid,
    nn.Softplus,
    nn.Tanh,
)
"""The modules whose outputs are activations, where none are named."""


def matching(names: Sequence[str], patterns: Sequence[str], kind: str) -> list[str]:
    """Return the names that one of the patterns matches, in their order.

    Raises:
        UnknownNameError: a pattern matches none.

    >>> matching(["fc1.weight", "fc1.bias", "fc2.weight"], ["*.weight"], "parameter")
    ['fc1.weight', 'fc2.weight']
    """
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in names):
            raise unknown_name(kind, pattern, names)
    return [name for name in names if any(fnmatchcase(name, pattern) for pattern in patterns)]


@dataclass(frozen=True)
class WeightPenalty(Callback):
    """Adds strength · Σ|w| over chosen parameters: L1, which draws single weights to zero (Tibshirani, 1996).

    Attributes:
        strength: 0 or more.
        parameters: names, or patterns of them, such as ``"*.bias"``.

    Raises:
        UnknownNameError: the model has no such parameter.

    >>> from secateur.train import fit
    >>> model = nn.Linear(1, 1, bias=False)
    >>> model.weight.data = torch.tensor([[1.0]])
    >>> fitting = torch.ones(2, 1), torch.ones(2, 1)       # the loss is 0; the penalty's gradient 0.5
    >>> _ = fit(model, fitting, epochs=1, loss="mse", optimizer="sgd", lr=0.1, callbacks=[WeightPenalty(0.5)])
    >>> round(model.weight.item(), 4)
    0.95
    """

    strength: float
    parameters: Sequence[str] = ("*",)

    def __post_init__(self) -> None:
        check_number(self, "[0, inf)", strength=self.strength)
        check_listed(self, parameters=self.parameters)

    def identity(self) -> str:
        """Return the options."""
        return repr(self)

    def on_start(self, run: Run) -> None:
        """Refuse a pattern that matches nothing."""
        self._chosen(run.model)

    def penalty(self, run: Run) -> Tensor:
        """Return the term."""
        return self.strength * _total([parameter.abs().sum() for parameter in self._chosen(run.model)])

    def _chosen(self, model: nn.Module) -> list[Tensor]:
        parameters = dict(model.named_parameters())
        return [parameters[name] for name in matching(list(parameters), self.parameters, "parameter")]


@dataclass(frozen=True)
class ActivationPenalty(Callback):
    """Adds strength · the mean over samples of Σ|a| over the activations of chosen modules: L1 on what units answer.

    Attributes:
        strength: 0 or more.
        modules: names of modules, or patterns of them; empty for all nonlinearities that are modules, as `nn.ReLU`.

    Raises:
        InputError: the model has no nonlinearity that is a module, and none is named.
        UnknownNameError: the model has no such module.

    >>> from secateur.train import fit
    >>> model = nn.Sequential(nn.Linear(1, 1, bias=False), nn.ReLU())
    >>> model[0].weight.data = torch.tensor([[1.0]])
    >>> fitting = torch.ones(2, 1), torch.ones(2, 1)
    >>> _ = fit(model, fitting, epochs=1, loss="mse", optimizer="sgd", lr=0.1, callbacks=[ActivationPenalty(0.5)])
    >>> round(model[0].weight.item(), 4)
    0.95
    """

    strength: float
    modules: Sequence[str] = ()
    _hooks: dict[str, Any] = field(default_factory=dict, init=False, repr=False, compare=False)
    _outputs: dict[str, list[Tensor]] = field(default_factory=dict, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        check_number(self, "[0, inf)", strength=self.strength)
        check_listed(self, modules=self.modules)

    def identity(self) -> str:
        """Return the options."""
        return repr(self)

    def on_start(self, run: Run) -> None:
        """Begin to listen at the modules."""
        modules = dict(run.model.named_modules())
        names = matching(list(modules), self.modules, "module")
        names = names or [name for name, module in modules.items() if isinstance(module, NONLINEAR)]
        if not names:
            raise InputError(
                f"ActivationPenalty: {type(run.model).__name__} has no nonlinearity that is a module; name the modules "
                "whose outputs are meant, modules=('conv1',)"
            )
        for name in names:
            self._hooks[name] = modules[name].register_forward_hook(self._listen(name))

    def _listen(self, name: str) -> Any:
        def hook(module: nn.Module, _inputs: Any, output: Tensor) -> None:
            if module.training and torch.is_grad_enabled():
                self._outputs.setdefault(name, []).append(output)

        return hook

    def penalty(self, run: Run) -> Tensor:
        """Return the term for the batch that has just passed."""
        sums = [output.abs().sum() / len(output) for outputs in self._outputs.values() for output in outputs]
        self._outputs.clear()
        return self.strength * _total(sums)

    def on_end(self, run: Run) -> None:
        """Listen no more."""
        for handle in self._hooks.values():
            handle.remove()
        self._hooks.clear()
        self._outputs.clear()


@dataclass(frozen=True, eq=False)
class GroupLasso(Callback):
    """Adds strength · Σ‖g‖ over the units, g all weights of a unit together: a group is drawn to zero as a whole.

    A unit's group is what produces it and what reads it (Yuan and Lin, 2006; Wen et al., 2016, per filter alone). Of n
    equal units that share a function, the group norms add up to √n times those of one: so it favours few.

    Attributes:
        strength: 0 or more.
        inputs: example inputs, to find the units of the model that is trained, smaller ones included.
        roles: what belongs to the group: ``"out"`` (incoming weights and biases), ``"in"`` (the weights that read it),
            ``"scale"`` (a norm's scale and shift; behind a norm the size of the incoming weights changes nothing).
        sites: names of the sites that are meant, or patterns of them; empty for all.
        epsilon: under the root, so that it has a gradient at zero.

    Raises:
        InputError: the model has no units that can be told apart.
        UnknownNameError: a role or site of no known name.

    >>> from secateur.train import fit
    >>> model = nn.Sequential(nn.Linear(1, 2, bias=False), nn.Linear(2, 1, bias=False))
    >>> model[0].weight.data, model[1].weight.data = torch.tensor([[3.0], [0.0]]), torch.tensor([[4.0, 0.0]])
    >>> fitting, lasso = (torch.ones(2, 1), torch.full((2, 1), 12.0)), GroupLasso(1.0, torch.ones(1, 1))
    >>> _ = fit(model, fitting, epochs=1, loss="mse", optimizer="sgd", lr=0.1, callbacks=[lasso])
    >>> model[0].weight.flatten().tolist(), model[1].weight.flatten().tolist()      # less 0.1 · (3, 4) / 5
    ([2.940000057220459, 0.0], [3.9200000762939453, 0.0])
    """

    strength: float
    inputs: ExampleInputs = field(repr=False)
    roles: Sequence[Role] = ("out", "in")
    sites: Sequence[str] = ()
    epsilon: float = 1e-12
    _groups: dict[str, Site] = field(default_factory=dict, init=False, repr=False)

    def __post_init__(self) -> None:
        check_number(self, "[0, inf)", strength=self.strength)
        check_listed(self, roles=self.roles, sites=self.sites)
        check_number(self, "(0, inf)", epsilon=self.epsilon)
        for role in self.roles:
            check_name("role of weights in a group", role, get_args(Role))

    def identity(self) -> str:
        """Return the options."""
        return repr(self)

    def on_start(self, run: Run) -> None:
        """Find the units of the model."""
        sites: Sites = channels(run.model, self.inputs)
        if not sites:
            raise InputError(f"GroupLasso: {type(run.model).__name__} has no units; see channels(...).frozen for why")
        names = matching(list(sites), self.sites, "site") or list(sites)
        self._groups.clear()
        self._groups.update({name: sites[name] for name in names})

    def penalty(self, run: Run) -> Tensor:
        """Return the term."""
        parameters = dict(run.model.named_parameters(remove_duplicate=False))
        return self.strength * _total([self._norms(parameters, site).sum() for site in self._groups.values()])

    def _norms(self, parameters: Mapping[str, Tensor], site: Site) -> Tensor:
        """The norm of each unit's group, ``(units,)``."""
        squares = []
        for member in site.members:
            if member.role in self.roles and member.dim is not None and member.index is not None:
                tensor = parameters[member.parameter]
                rows = tensor.movedim(member.dim, 0)[member.index.to(tensor.device)]
                squares.append(rows.square().flatten(1).sum(1))
        return (torch.stack(squares).sum(0) + self.epsilon).sqrt()


def _total(terms: Sequence[Tensor]) -> Tensor:
    return torch.stack(list(terms)).sum()
