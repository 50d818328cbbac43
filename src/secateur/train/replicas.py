"""Many networks of one architecture trained at once, each as it would be alone: seeds, schemes, masks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from math import isfinite
from time import perf_counter
from typing import Any

import torch
from torch import Generator, Tensor, nn
from torch.nn.functional import cross_entropy

from secateur.calls import usual
from secateur.checks import check_options, check_whole
from secateur.labelled import Samples, are_classes, spans, together
from secateur.state import check_finite, check_ordinary, device_of, own_tensors, restore, snapshot, tensors
from secateur.train.dense import DenseChain, is_dense_as, read_dense
from secateur.train.history import EpochRecord, History
from secateur.train.loop import CALMER, EVALUATION_BATCH, Sources, fit
from secateur.train.masks import HoldZeros, checked_masks
from secateur.train.options import TrainOptions
from secateur.types import InputError, Keep, Loss, with_changes
from secateur.wrappers import check_module

__all__ = ["fit_replicas", "pays"]


@usual
def fit_replicas(
    models: Sequence[nn.Module],
    train: Samples,
    validation: Samples | None = None,
    options: TrainOptions | None = None,
    *,
    seeds: Sequence[int] | None = None,
    keeps: Sequence[Keep] | None = None,
    **changes: Any,
) -> list[History]:
    """Train networks of one architecture in place, each as `fit` trains it alone, and return their histories.

    Where it pays (see `pays`) they are trained as one: their activations lie in one stack, and one optimizer steps all.
    The losses are those of `fit` but for rounding, which grows as it does in any training: 1e-4 over some hundred steps.
    Else they are trained one after the other. If anything goes wrong, all are left as they were before.

    Args:
        models: the networks, which may begin with other weights each; none shares a tensor with another.
        train: as for `fit`; each network goes through it in an order of its own.
        validation: as for `fit`.
        options: of every training; see `TrainOptions`.
        seeds: one for each network, of the order of its samples and of what is random in it; None takes the
            options' seed for the first network and the numbers after it for the others.
        keeps: keep masks for each network, as `HoldZeros` takes them, bools of the parameter's shape by its name: the
            other weights are zero from the start, and stay so. None keeps all.
        changes: single training options by name.

    Raises:
        InputError: as `fit` does; there is no network, one is given twice, or there are not as many seeds or keeps.

    >>> data = torch.randn(64, 4), torch.arange(64) % 2
    >>> nets = [nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2)) for _ in range(3)]
    >>> pays(nets[0], data)
    True
    >>> histories = fit_replicas(nets, data, data, epochs=2, seeds=[5, 6, 7])
    >>> len(histories), len(histories[2]), histories[0].best_epoch in (1, 2)
    (3, 2, True)
    """
    check_options("fit_replicas", TrainOptions, or_none=True, options=options)
    options = with_changes(options or TrainOptions(), changes, "training option")
    data = Sources(train, validation, options)
    data.check()
    models = list(models)
    seeds = _seeds(seeds, len(models), options)
    keeps = list(keeps) if keeps is not None else [{} for _ in models]
    _check(models, seeds, keeps)
    before = [snapshot(model) for model in models]
    try:
        chain = _common_chain(models, data)
        if chain is None:
            return _one_by_one(models, data, seeds, keeps)
        for model in models:
            data.try_out(model)
        return _Stack(models, chain, data, seeds, keeps).train()
    except BaseException:
        for model, state in zip(models, before, strict=True):
            restore(model, state)
        raise
    finally:
        for model in models:
            model.zero_grad(set_to_none=True)


@usual
def pays(model: nn.Module, train: Samples, options: TrainOptions | None = None) -> bool:
    """Return whether `fit_replicas` trains networks like this one as one stack, which is faster.

    It does for chains of dense layers with pointwise ops between them, on data in memory, with an optimizer and a schedule
    that have a name, and without the options `accumulate`, `amp` and `ema`. It does not for convolutions, which do not
    gain, and for what a stack cannot do: dropout, norms, several inputs.

    >>> data = torch.randn(8, 1, 4, 4), torch.arange(8) % 2
    >>> pays(nn.Sequential(nn.Flatten(), nn.Linear(16, 2)), data)
    True
    >>> pays(nn.Sequential(nn.Conv2d(1, 2, 3), nn.Flatten(), nn.Linear(8, 2)), data)
    False
    """
    return not _unstackable(options or TrainOptions()) and read_dense(model, train).chain is not None


def _unstackable(options: TrainOptions) -> bool:
    """Whether the options ask for what a stack does not do."""
    named = isinstance(options.optimizer, str) and isinstance(options.schedule, str)
    return not named or options.accumulate > 1 or options.amp or options.ema is not None


def _seeds(seeds: Sequence[int] | None, count: int, options: TrainOptions) -> list[int]:
    return list(range(options.seed, options.seed + count)) if seeds is None else list(seeds)


def _check(models: Sequence[nn.Module], seeds: Sequence[int], keeps: Sequence[Keep]) -> None:
    if not models:
        raise InputError("fit_replicas: there is no network; give at least one")
    for name, values in (("seeds", seeds), ("keeps", keeps)):
        if len(values) != len(models):
            raise InputError(f"fit_replicas: {len(values)} {name} for {len(models)} networks; give one for each")
    for seed in seeds:
        check_whole("fit_replicas", 0, most=2**63 - 1, seeds=seed)
    for number, (model, keep) in enumerate(zip(models, keeps, strict=True)):
        check_module(model, "fit_replicas")
        check_ordinary(model, "fit_replicas")
        check_finite(model, "training", "repair them before training")
        checked_masks(keep, model, f"fit_replicas, network {number}")
    identities = [id(tensor) for model in models for tensor in {id(t): t for t in own_tensors(model).values()}.values()]
    if len(set(identities)) < len(identities):
        raise InputError("fit_replicas: networks share tensors; give copies, as by copy.deepcopy")


def _common_chain(models: Sequence[nn.Module], data: Sources) -> DenseChain | None:
    """The chain that all of them are; None where they are trained alone."""
    if len(models) < 2 or _unstackable(data.options):
        return None
    if len({(device_of(model), next(model.parameters()).dtype) for model in models}) > 1:
        return None
    if data.validation is not None and together(data.validation) is None:
        return None
    chain = read_dense(models[0], data.train).chain
    return (
        chain if chain is not None and all(is_dense_as(models[0], m, chain, data.train) for m in models[1:]) else None
    )


def _one_by_one(
    models: Sequence[nn.Module], data: Sources, seeds: Sequence[int], keeps: Sequence[Keep]
) -> list[History]:
    return [
        fit(
            model,
            data.train,
            data.validation,
            replace(data.options, seed=seed),
            callbacks=[HoldZeros(keep)] * bool(keep),
        )
        for model, seed, keep in zip(models, seeds, keeps, strict=True)
    ]


@dataclass(eq=False)
class _Replica:
    """A network of the stack.

    Attributes:
        number: its place among the networks.
        model: the network.
        order: the generator of its samples' order.
        held: its masked parameters, each with its mask as numbers, 1 for keep.
        records: its epochs.
        best: its tensors after the epoch of the lowest validation loss, where they are kept.
        stopped: whether it waits for the others, as its validation loss has not fallen for long.
    """

    number: int
    model: nn.Module
    order: Generator
    held: list[tuple[nn.Parameter, Tensor]]
    records: list[EpochRecord] = field(default_factory=list)
    best: dict[str, Tensor] | None = None
    stopped: bool = False

    @classmethod
    def of(cls, number: int, model: nn.Module, seed: int, keep: Keep) -> _Replica:
        """Set the removed weights to zero."""
        masked = []
        for name, mask in keep.items():
            parameter = model.get_parameter(name)
            mask = mask.to(parameter.device)
            parameter.detach().masked_fill_(~mask, 0)
            masked.append((parameter, mask.to(parameter.dtype)))
        return cls(number, model, Generator().manual_seed(seed), masked)

    @property
    def parameters(self) -> dict[str, nn.Parameter]:
        """Its parameters by name."""
        return dict(self.model.named_parameters(remove_duplicate=False))

    def after_epoch(self, record: EpochRecord, options: TrainOptions, keeps_best: bool) -> None:
        """Keep the record, and the tensors of the best epoch; stop where the best is long ago."""
        self.records.append(record)
        best = History(tuple(self.records)).best_epoch
        if keeps_best and best == record.epoch:
            self.best = snapshot(self.model)
        if options.patience is not None and best is not None and record.epoch - best >= options.patience:
            self.stopped = True


@dataclass(frozen=True, eq=False)
class _StackData:
    """Data as the chain reads them: inputs ``(N, I)`` and targets ``(N, …)``."""

    inputs: Tensor
    targets: Tensor

    @classmethod
    def of(cls, data: Samples, chain: DenseChain, device: torch.device) -> _StackData:
        batch = together(data)
        assert batch is not None
        batch = batch.to(device)
        return cls(chain.enter(batch.inputs), batch.targets)


Figures = tuple[float, float | None]
"""Mean loss and accuracy of a network over a pass; no accuracy where the targets are no classes."""


class _Pass:
    """What a group of networks answered in one pass through the data; looked at when it is over."""

    def __init__(self) -> None:
        self.losses: list[Tensor] = []
        self.right: list[Tensor] = []
        self.sizes: list[int] = []

    def add(self, outputs_KBO: Tensor, targets_KB: Tensor, losses_K: Tensor) -> None:
        """Take in a batch of each network, with its mean losses."""
        self.sizes.append(outputs_KBO.shape[1])
        self.losses.append(losses_K)
        if are_classes(outputs_KBO[0], targets_KB[0]):
            self.right.append((outputs_KBO.argmax(2) == targets_KB).sum(1))

    def figures(self) -> list[Figures]:
        """Return the figures of each network."""
        count = sum(self.sizes)
        sizes = torch.tensor(self.sizes, dtype=torch.float64)
        losses = ((sizes @ torch.stack(self.losses).double().cpu()) / count).tolist()
        right = [sum(counts) / count for counts in zip(*(part.tolist() for part in self.right), strict=True)]
        return list(zip(losses, right or [None] * len(losses), strict=True))


class _Stack:
    """Networks that take each step together, with one optimizer."""

    def __init__(
        self,
        models: Sequence[nn.Module],
        chain: DenseChain,
        data: Sources,
        seeds: Sequence[int],
        keeps: Sequence[Keep],
    ) -> None:
        self.chain, self.options, self.loss, self.keeps_best = chain, data.options, data.loss, data.keeps_best
        self.replicas = [_Replica.of(k, *triple) for k, triple in enumerate(zip(models, seeds, keeps, strict=True))]
        device = device_of(models[0])
        self.samples = _StackData.of(data.train, chain, device)
        self.validation = None if data.validation is None else _StackData.of(data.validation, chain, device)
        trained = [p for model in models for p in model.parameters() if p.requires_grad]
        if not trained:
            raise InputError("training: no network has a parameter that requires a gradient; there is nothing to train")
        self.optimizer = self.options.make_optimizer(trained, fused=True)
        self.spans = spans(len(self.samples.inputs), self.options.batch_size)
        self.schedule = self.options.make_schedule(self.optimizer, len(self.spans))

    @torch.no_grad()
    def train(self) -> list[History]:
        """Train all epochs, and end with the weights that the options ask for."""
        for epoch in range(1, self.options.epochs + 1):
            if active := [replica for replica in self.replicas if not replica.stopped]:
                self._epoch(epoch, active)
        for replica in self.replicas:
            if replica.best is not None:
                restore(replica.model, replica.best)
        return [History(tuple(replica.records)) for replica in self.replicas]

    def _epoch(self, epoch: int, active: Sequence[_Replica]) -> None:
        started = perf_counter()
        fitted, lr = self._steps(active)
        self._check(fitted, active, f"loss of epoch {epoch}")
        for replica in active:
            check_finite(replica.model, f"training, network {replica.number}, after epoch {epoch}", CALMER)
        judged: Sequence[tuple[float | None, float | None]] = [(None, None)] * len(active)
        if self.validation is not None:
            judged = self._validate(self.validation, epoch, active)
        seconds = (perf_counter() - started) / len(active)
        self.schedule.after_epoch(fitted[0][0])
        for replica, train, validation in zip(active, fitted, judged, strict=True):
            replica.after_epoch(EpochRecord(epoch, *train, *validation, lr, seconds), self.options, self.keeps_best)

    def _steps(self, active: Sequence[_Replica]) -> tuple[list[Figures], float]:
        """Take an epoch's steps; return each network's figures, and the last learning rate."""
        inputs, targets, pass_, lr = self.samples.inputs, self.samples.targets, _Pass(), 0.0
        parameters = [replica.parameters for replica in active]
        orders = torch.stack([torch.randperm(len(inputs), generator=replica.order) for replica in active])
        orders_KN = orders.to(inputs.device)
        for start, stop in self.spans:
            lr = float(self.optimizer.param_groups[0]["lr"])
            rows_KB = orders_KN[:, start:stop]
            x_KBI = inputs.index_select(0, rows_KB.flatten()).view(*rows_KB.shape, -1)
            y_KB = targets[rows_KB]
            self.optimizer.zero_grad(set_to_none=True)
            outputs, losses = self.chain.gradients(x_KBI, parameters, partial(_losses, self.loss, targets_KB=y_KB))
            self._step(active)
            pass_.add(outputs, y_KB, losses)
        return pass_.figures(), lr

    def _step(self, active: Sequence[_Replica]) -> None:
        pairs = [pair for replica in active for pair in replica.held]
        gradients = [(parameter.grad, mask) for parameter, mask in pairs if parameter.grad is not None]
        if gradients:
            # A removed weight whose gradients were zero from the start stays zero: every optimizer that has a name moves a
            # weight by multiples of its gradients and of itself alone.
            torch._foreach_mul_([gradient for gradient, _ in gradients], [mask for _, mask in gradients])
        if self.options.clip_norm is not None:
            for replica in active:
                nn.utils.clip_grad_norm_(replica.model.parameters(), self.options.clip_norm)
        self.optimizer.step()
        self.schedule.after_step()

    def _validate(self, samples: _StackData, epoch: int, active: Sequence[_Replica]) -> list[Figures]:
        parameters, pass_ = [tensors(replica.model) for replica in active], _Pass()
        for start, stop in spans(len(samples.inputs), EVALUATION_BATCH):
            x, y = samples.inputs[start:stop], samples.targets[start:stop]
            targets_KB = y.expand(len(active), *y.shape)
            outputs = self.chain(x.expand(len(active), *x.shape), parameters)
            pass_.add(outputs, targets_KB, _losses(self.loss, outputs, targets_KB))
        figures = pass_.figures()
        self._check(figures, active, f"validation loss after epoch {epoch}")
        return figures

    def _check(self, figures: Sequence[Figures], active: Sequence[_Replica], kind: str) -> None:
        for replica, (loss, _) in zip(active, figures, strict=True):
            if not isfinite(loss):
                raise InputError(
                    f"training: the {kind} of network {replica.number} became {loss}; all networks are as they were "
                    "before; train with a lower lr, or with clip_norm"
                )


def _losses(loss: Loss, outputs_KBO: Tensor, targets_KB: Tensor) -> Tensor:
    """Return the mean loss of each network, ``(K,)``."""
    if loss is cross_entropy:
        # As `fit` does it, but for all networks in one call.
        rows = cross_entropy(outputs_KBO.flatten(0, 1), targets_KB.flatten(0, 1), reduction="none")
        return rows.view(len(outputs_KBO), -1).mean(1)
    return torch.stack([loss(outputs, targets) for outputs, targets in zip(outputs_KBO, targets_KB, strict=True)])
