"""What train mode alone runs ties units, is verified, and what cannot be run there is said."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import secateur as sc
from secateur.structure.asking import mode_reads
from secateur.structure.both_modes import trace_both
from secateur.structure.cutting import CutModel, cut_with_plan


class Plain(nn.Module):
    """Two convolutions and a head; subclasses do more in train mode."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 16, 3, padding=1), nn.Conv2d(16, 16, 3, padding=1)
        self.norm, self.drop, self.head = nn.BatchNorm2d(16), nn.Dropout(0.5), nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Any:
        h = self.first(x).relu()
        z = self.norm(self.second(h)).relu()
        if self.training:
            return self.trained(h, z)
        return self.answer(z)

    def answer(self, z: Tensor) -> Tensor:
        made: Tensor = self.head(self.drop(z.mean((2, 3))))
        return made

    def trained(self, h: Tensor, z: Tensor) -> Any:
        return self.answer(F.dropout(z, 0.1, self.training))


class Auxiliary(Plain):
    def __init__(self) -> None:
        super().__init__()
        self.aux = nn.Sequential(
            nn.Conv2d(16, 12, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(12, 5)
        )

    def trained(self, h: Tensor, z: Tensor) -> Any:
        return self.answer(z), self.aux(h)


class AuxiliaryLoss(Plain):
    def trained(self, h: Tensor, z: Tensor) -> Any:
        return self.answer(z), (h - z.detach()).abs().mean()


class Features(Plain):
    def trained(self, h: Tensor, z: Tensor) -> Any:
        return {"out": self.answer(z), "features": [h]}


class Slice(Plain):
    def trained(self, h: Tensor, z: Tensor) -> Any:
        return self.answer(torch.cat([z[:, :8] * 0.5, z[:, 8:]], 1))


class Halves(Plain):
    def trained(self, h: Tensor, z: Tensor) -> Any:
        a, b = z.chunk(2, 1)
        return self.answer(torch.cat([b, a], 1))


class Residual(Plain):
    def trained(self, h: Tensor, z: Tensor) -> Any:
        return self.answer(z + h)


class Noise(Plain):
    def trained(self, h: Tensor, z: Tensor) -> Any:
        return self.answer(z + 0.1 * torch.randn_like(z))


class Depth(Plain):
    def forward(self, x: Tensor) -> Any:
        h = self.first(x).relu()
        if not (self.training and random.random() < 0.5):
            h = h + self.norm(self.second(h))
        return self.answer(h)


class LayerDrop(Plain):
    def forward(self, x: Tensor) -> Any:
        h = self.first(x).relu()
        chance = torch.rand([])
        if not self.training or chance > 0.1:
            h = h + self.norm(self.second(h))
        return (self.answer(h), self.answer(2 * h)) if self.training else self.answer(h)


class Normed(Plain):
    def __init__(self) -> None:
        super().__init__()
        self.layer_norm, self.project = nn.LayerNorm(16), nn.Linear(16, 4)

    def trained(self, h: Tensor, z: Tensor) -> Any:
        return self.answer(z), self.project(self.layer_norm(h.mean((2, 3))))


class OtherScale(Plain):
    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.rand(16))

    def trained(self, h: Tensor, z: Tensor) -> Any:
        return self.answer(z * self.scale[None, :, None, None])


class Grouped(Plain):
    def trained(self, h: Tensor, z: Tensor) -> Any:
        return self.answer(z.view(len(z), 2, 8, *z.shape[2:]).flatten(1, 2))


class Projected(Plain):
    """Train mode projects what the first convolution gives, by sizes that subclasses write in their code."""

    def __init__(self) -> None:
        super().__init__()
        self.project = nn.Linear(16, 4)

    def trained(self, h: Tensor, z: Tensor) -> Any:
        return self.answer(z), self.project(self.sized(h.mean((2, 3))))

    def sized(self, pooled: Tensor) -> Tensor:
        return pooled.view(-1, 16)


class Zeros(Projected):
    def sized(self, pooled: Tensor) -> Tensor:
        return pooled + torch.zeros(16)


class UnitMatrix(Projected):
    """A loss of how far the units are from standing at right angles."""

    def trained(self, h: Tensor, z: Tensor) -> Any:
        pooled = h.mean((2, 3))
        return self.answer(z), (pooled.T @ pooled - torch.eye(16)).pow(2).sum()


class Dropped(Projected):
    def sized(self, pooled: Tensor) -> Tensor:
        return pooled * torch.bernoulli(torch.full((len(pooled), 16), 0.9))


class NormedByNumber(Projected):
    def sized(self, pooled: Tensor) -> Tensor:
        return F.layer_norm(pooled, (16,))


class GroupedByNumber(Projected):
    def sized(self, pooled: Tensor) -> Tensor:
        return F.conv1d(pooled[..., None], torch.full((16, 1, 1), 0.5), groups=16).flatten(1)


class Followed(Projected):
    """Its size comes from the tensor, on ways that cannot be seen."""

    def sized(self, pooled: Tensor) -> Tensor:
        return pooled.view(-1, int(pooled.shape[1]))


class Mapped(Projected):
    def __init__(self) -> None:
        super().__init__()
        self.mapping = {"width": 16}

    def sized(self, pooled: Tensor) -> Tensor:
        return pooled.view(-1, self.mapping["width"])


class Stores(Plain):
    def trained(self, h: Tensor, z: Tensor) -> Any:
        self.hidden = h
        return self.answer(z)


class Switches(Plain):
    """It reads no mode, but changes something of its own with it."""

    tall = False

    def train(self, mode: bool = True) -> Switches:
        self.tall = mode
        return super().train(mode)

    def forward(self, x: Tensor) -> Any:
        h = self.first(x).relu()
        z = self.norm(self.second(h)).relu()
        return (self.answer(z), h) if self.tall else self.answer(z)


class Numpy(Plain):
    """It draws from what torch knows nothing of."""

    def trained(self, h: Tensor, z: Tensor) -> Any:
        return self.answer(z + h * float(np.random.rand()))  # noqa: NPY002


class Generators(Plain):
    def trained(self, h: Tensor, z: Tensor) -> Any:
        return self.answer(z + h * float(np.random.default_rng().random()))


class Averages(Plain):
    """Statistics of its own that train mode moves."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(16))

    def trained(self, h: Tensor, z: Tensor) -> Any:
        mean = z.mean((0, 2, 3))
        self.mean.mul_(0.9).add_(0.1 * mean)
        return self.answer(z - mean[None, :, None, None])

    def answer(self, z: Tensor) -> Tensor:
        return super().answer(z if self.training else z - self.mean[None, :, None, None])


class Targets(Plain):
    def forward(self, x: Tensor, targets: Tensor | None = None) -> Any:
        answer = self.answer(self.norm(self.second(self.first(x).relu())).relu())
        if not self.training:
            return answer
        assert targets is not None, "targets must be given"
        return F.cross_entropy(answer, targets)


class AsksChild(Plain):
    """It reads the mode of a layer of torch's."""

    def forward(self, x: Tensor) -> Any:
        h = self.first(x).relu()
        z = self.norm(self.second(h)).relu()
        return self.answer(z.flip(1) if self.drop.training else z)


class HeldInEval(AsksChild):
    """The layer that it asks stays in eval mode."""

    def train(self, mode: bool = True) -> HeldInEval:
        super().train(mode)
        self.drop.eval()
        return self


class PutInEval(AsksChild):
    def forward(self, x: Tensor) -> Any:
        self.drop.eval()
        return super().forward(x)


class Deciding(Plain):
    """What train mode does hangs on values, so that it cannot be traced."""

    def trained(self, h: Tensor, z: Tensor) -> Any:
        return self.answer(z * 2) if float(h.sum()) > -1e9 else self.answer(z)


class DecidingSum(Plain):
    def trained(self, h: Tensor, z: Tensor) -> Any:
        return self.answer(z + h) if float(h.sum()) > -1e9 else self.answer(z)


X = torch.randn(2, 3, 6, 6, generator=torch.Generator().manual_seed(0))


def cut_every_third(model: nn.Module) -> tuple[sc.Sites, CutModel]:
    sites = sc.channels(model, X)
    keep = {name: torch.arange(site.size) % 3 != 1 for name, site in sites.items()}
    return sites, cut_with_plan(model, sites, keep)


def numbers(outputs: Any) -> list[Tensor]:
    if isinstance(outputs, Tensor):
        return [outputs]
    inner = outputs.values() if isinstance(outputs, dict) else outputs
    return [number for output in inner for number in numbers(output)]


MODELS = {
    Auxiliary: (
        {"first", "second"},
        {"aux.0": "train mode alone runs it", "aux.4": "the model's output in train mode"},
    ),
    AuxiliaryLoss: (set(), {}),
    Features: ({"second"}, {"first": "the model's output in train mode"}),
    Slice: ({"first"}, {"second": "train mode counts its units at aten.slice"}),
    Halves: ({"first"}, {"second": "train mode counts its units at aten.chunk"}),
    Residual: ({"first"}, {}),
    Noise: ({"first", "second"}, {}),
    Depth: ({"first"}, {}),
    LayerDrop: ({"first"}, {}),
    Normed: ({"first", "second"}, {"project": "the model's output in train mode"}),
    OtherScale: ({"first", "second"}, {}),
    Grouped: ({"first"}, {"second": "train mode counts its units at aten."}),
    Projected: ({"second"}, {"first": "train mode counts its units at aten.view"}),
    Zeros: ({"second"}, {"first": "train mode counts its units at aten.zeros"}),
    UnitMatrix: ({"second"}, {"first": "train mode counts its units at aten.eye"}),
    Dropped: ({"second"}, {"first": "train mode counts its units at aten.full"}),
    NormedByNumber: ({"second"}, {"first": "train mode counts its units at aten.layer_norm"}),
    GroupedByNumber: ({"second"}, {}),
    Followed: ({"first", "second"}, {}),
    Mapped: ({"first", "second"}, {}),
    Stores: ({"second"}, {"first": "the forward pass stores it as hidden in train mode"}),
    Numpy: ({"first"}, {}),
    Averages: ({"first", "second"}, {}),
    AsksChild: ({"first"}, {"second": "moved along at aten.flip"}),
    HeldInEval: ({"first", "second"}, {}),
    PutInEval: ({"first", "second"}, {}),
    Switches: ({"second"}, {"first": "the model's output in train mode"}),
}


@pytest.mark.parametrize("kind", MODELS)
def test_a_cut_model_trains_as_the_masked_one_does(kind: type[Plain]) -> None:
    torch.manual_seed(0)
    model = kind().train()
    free, frozen = MODELS[kind]
    sites, small = cut_every_third(model)
    if free:
        assert set(sites) == free
    assert all(sites.frozen[name].startswith(why) for name, why in frozen.items()), sites.frozen
    assert type(small.model) is kind
    masked = sc.mask(model, sites, {name: torch.arange(site.size) % 3 != 1 for name, site in sites.items()})
    for module in (small.model, masked):
        module.train()
        module.drop.p = 0.0
    results = []
    for module in (small.model, masked):
        random.seed(1)
        np.random.seed(1)  # noqa: NPY002
        torch.manual_seed(1)
        results.append(numbers(module(X)))
    for ours, theirs in zip(*results, strict=True):
        assert ours.shape == theirs.shape
        if kind is not Noise:  # other numbers are drawn for other numbers of units
            torch.testing.assert_close(ours, theirs)
    sum(number.sum() for number in numbers(small.model.train()(X))).backward()  # type: ignore[union-attr]


def test_what_was_verified_in_train_mode_is_said() -> None:
    _, small = cut_every_third(Auxiliary())
    assert sum("in train mode" in draw for draw in small.verification.draws) == len(small.verification.draws) // 2 > 0


@pytest.mark.parametrize("kind", [Targets, Deciding])
def test_what_could_not_be_looked_at_is_a_warning(kind: type[Plain]) -> None:
    torch.manual_seed(0)
    result = sc.prune(kind(), X, sparsity=0.3, latency=False)
    (warning,) = [text for text in result.report.warnings if "train mode" in text]
    assert ("targets must be given" in warning) == (kind is Targets)
    assert "WARNING: train mode was not verified" in str(result.report)
    with pytest.warns(UserWarning, match="cut: train mode was not verified") as caught:
        sc.cut(result.original, result.sites, result.keep)
    assert [str(each.message) for each in caught] == [f"cut: {warning}"]


def test_a_model_that_differs_from_itself_cannot_be_compared() -> None:
    torch.manual_seed(0)
    (skipped,) = cut_every_third(Generators())[1].verification.skipped
    assert skipped == "train mode: it answers otherwise each time"


class Halting(nn.Module):
    """It decides by values, so that it is traced in parts, of which each does more in train mode."""

    def __init__(self, asks: bool) -> None:
        super().__init__()
        self.block, self.last, self.asks = Residual(), nn.Linear(5, 2), asks

    def forward(self, x: Tensor) -> Any:
        h = self.block(x)
        h = h if float(h.detach().sum()) > 0 else -h
        return (self.last(h), h) if self.asks and self.training else self.last(h)


@pytest.mark.parametrize("asks", [True, False])
def test_parts_of_a_model_are_verified_in_train_mode(asks: bool) -> None:
    torch.manual_seed(0)
    sites, small = cut_every_third(Halting(asks))
    assert set(sites) == {"block.first"}
    assert any(draw.startswith("block: ") and draw.endswith("in train mode") for draw in small.verification.draws)
    assert any("the code between them asks for the mode" in why for why in small.verification.skipped) is asks
    small.model.train()(X)


def test_random_numbers_go_on_as_before() -> None:
    random.seed(7), np.random.seed(7)  # noqa: NPY002
    expected = random.random(), np.random.rand()  # noqa: NPY002
    random.seed(7), np.random.seed(7)  # noqa: NPY002
    cut_every_third(Numpy())
    assert (random.random(), np.random.rand()) == expected  # noqa: NPY002


def test_code_that_is_not_traced_is_run() -> None:
    torch.manual_seed(0)
    model = DecidingSum()
    sites = sc.channels(model, X)
    keep = {"first": torch.arange(16) % 3 != 1, "second": torch.arange(16) % 4 != 1}
    with pytest.raises(sc.CutError, match="in train mode, which runs other code than eval mode"):
        sc.cut(model, sites, keep, form="module")


@pytest.mark.parametrize(
    "model", [Plain(), nn.Sequential(nn.Conv2d(3, 8, 1), nn.BatchNorm2d(8), nn.Dropout()), Targets()]
)
def test_no_second_trace_where_train_mode_runs_no_other_code(model: nn.Module) -> None:
    assert trace_both(model, X).trained is None


def test_only_code_that_is_not_torchs_counts_as_asking() -> None:
    with mode_reads(model := nn.Sequential(nn.Conv2d(3, 8, 1), nn.BatchNorm2d(8), nn.Dropout())) as reads:
        model(X)
    assert not reads.asked_mode
    with mode_reads(plain := Plain()) as reads:
        plain(X)
    assert reads.asked_mode
    assert "training" not in vars(nn.Module)


def _is_training(module: nn.Module) -> bool:
    return bool(module.__dict__["training"])


class LooksUp(Plain):
    def forward(self, x: Tensor) -> Any:
        h = self.first(x).relu()
        z = self.norm(self.second(h)).relu()
        return self.answer(h * z) if vars(self)["training"] else self.answer(h) + self.answer(z)


class LooksUpByHelper(LooksUp):
    def forward(self, x: Tensor) -> Any:
        h, z = (norm(layer(x)) for norm, layer in ((F.relu, self.first), (F.silu, self.first)))
        return self.answer(h * z) if _is_training(self) else self.answer(h + z)


@pytest.mark.parametrize("kind", [LooksUp, LooksUpByHelper])
def test_a_mode_that_is_looked_up_in_what_a_module_holds_is_asked_for(kind: type[Plain]) -> None:
    with mode_reads(kind()) as reads:
        pass
    assert reads.asked_mode
    assert trace_both(kind(), X).trained is not None


@pytest.mark.parametrize("training", [True, False])
def test_a_model_is_left_in_its_modes(training: bool) -> None:
    model = Auxiliary().train(training)
    model.norm.train(not training)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    cut_every_third(model)
    assert model.training is training
    assert model.norm.training is not training
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


class Gradients(Plain):
    """Code that asks whether gradients are recorded; subclasses say how."""

    def asks(self, z: Tensor) -> bool:
        return torch.is_grad_enabled()

    def more(self, z: Tensor) -> Any:
        return self.answer(z.flip(1))

    def forward(self, x: Tensor) -> Any:
        z = self.norm(self.second(self.first(x).relu())).relu()
        return self.more(z) if self.asks(z) else self.answer(z)


class InTrainingAlone(Gradients):
    def asks(self, z: Tensor) -> bool:
        return self.training and torch.is_grad_enabled()


class Required(Gradients):
    def asks(self, z: Tensor) -> bool:
        return z.requires_grad

    def more(self, z: Tensor) -> Any:
        return self.answer(z), z.view(len(z), 4, 4, -1).mean(1)


class OfInputs(Gradients):
    def forward(self, x: Tensor) -> Any:
        z = self.second(self.first(x).relu()).relu()
        return self.answer(z.flip(1) if x.requires_grad else z)


@pytest.mark.parametrize("kind", [Gradients, InTrainingAlone, Required, OfInputs])
def test_what_runs_with_gradients_alone_is_verified(kind: type[Plain]) -> None:
    torch.manual_seed(0)
    model = kind()
    sites = sc.channels(model, X)
    keep = {name: torch.arange(site.size) % 3 != 1 for name, site in sites.items()}
    with pytest.raises(sc.CutError):
        sc.cut(model, sites, keep, form="module")
    graph = sc.cut(model, sites, keep)
    with pytest.raises(sc.InputError, match=r"gradients|eval mode"):
        graph.train()(X.clone().requires_grad_())
    kept_by_the_second = sc.cut(model, sites, {"first": keep["first"]}, form="module")
    assert type(kept_by_the_second) is kind


class Scaling(Gradients):
    """What it runs with gradients ties as without."""

    def more(self, z: Tensor) -> Any:
        return self.answer(z * 2)


class Heeding(Gradients):
    """It asks, and answers the same."""

    def more(self, z: Tensor) -> Any:
        return self.answer(z)


class NormedWithGradients(Scaling):
    def answer(self, z: Tensor) -> Tensor:
        return super().answer(F.layer_norm(z.transpose(1, 3), (z.shape[1],)).transpose(1, 3))


def test_what_could_not_be_compared_with_gradients_is_a_warning() -> None:
    torch.manual_seed(0)
    for kind in (Scaling, Heeding):
        assert cut_every_third(kind())[1].verification.skipped == ()
        assert type(cut_every_third(kind())[1].model) is kind
    result = sc.prune(NormedWithGradients(), X, sparsity=0.3, latency=False)
    assert any("with gradients on" in warning for warning in result.report.warnings), result.report.warnings


class NormsWithGradients(Gradients):
    """Norms over what is cut by a module, which the masked model runs on what stays."""

    def __init__(self, flips: bool) -> None:
        super().__init__()
        self.last, self.flips = nn.LayerNorm(16), flips

    def answer(self, z: Tensor) -> Tensor:
        return super().answer(self.last(z.transpose(1, 3)).transpose(1, 3))

    def more(self, z: Tensor) -> Any:
        return self.answer(z.flip(1) if self.flips else z * 2 + 1)


def test_what_norms_by_modules_is_compared_with_gradients() -> None:
    torch.manual_seed(0)
    assert cut_every_third(NormsWithGradients(flips=False))[1].verification.skipped == ()
    model = NormsWithGradients(flips=True)
    sites = sc.channels(model, X)
    keep = {name: torch.arange(site.size) % 3 != 1 for name, site in sites.items()}
    with pytest.raises(sc.CutError, match="with gradients on"):
        sc.cut(model, sites, keep, form="module")


class DecidingWithGradients(nn.Module):
    """Traced in parts, between which its code asks for gradients."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 16, 1), nn.ReLU(), nn.Conv2d(16, 16, 1))
        self.last = nn.Sequential(nn.Conv2d(16, 8, 1), nn.ReLU(), nn.Conv2d(8, 2, 1))

    def forward(self, x: Tensor) -> Any:
        z = self.body(x)
        answer = self.last(z.flip(1) if torch.is_grad_enabled() else z)
        del z
        return None if float(answer.sum()) > 1e9 else answer


def test_gradients_are_asked_for_between_parts() -> None:
    torch.manual_seed(0)
    with pytest.raises(sc.CutError, match=r"with gradients on.*, where the model runs other code"):
        cut_every_third(DecidingWithGradients())


def clamp(layer: nn.Conv2d) -> None:
    with torch.no_grad():
        layer.weight.clamp_(-0.05, 0.05)


def fill(layer: nn.Conv2d) -> None:
    with torch.no_grad():
        layer.weight[layer.weight.abs() < 0.05] = 0.0


def zero(layer: nn.Conv2d) -> None:
    assert layer.bias is not None
    layer.bias.data.zero_()


def scale(layer: nn.Conv2d) -> None:
    layer.weight.detach().mul_(0.5)


def assign(layer: nn.Conv2d) -> None:
    layer.weight.data = layer.weight.data.clamp(-0.05, 0.05)


class Writes(Plain):
    """Train mode writes into its parameters, as critics do whose weights are clipped."""

    def __init__(self, write: Any) -> None:
        super().__init__()
        self.write = write

    def forward(self, x: Tensor) -> Any:
        if self.training:
            self.write(self.first)
        return self.answer(self.norm(self.second(self.first(x).relu())).relu())


@pytest.mark.parametrize("write", [clamp, fill, zero, scale, assign])
def test_what_train_mode_writes_stays_out_of_the_cut_model(write: Any) -> None:
    torch.manual_seed(0)
    model = Writes(write)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    _, small = cut_every_third(model)
    assert type(small.model) is Writes
    kept = torch.arange(16) % 3 != 1
    assert torch.equal(small.model.first.weight, model.first.weight[kept])  # type: ignore[union-attr, index]
    assert torch.equal(small.model.first.bias, model.first.bias[kept])  # type: ignore[union-attr, index]
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


class Gram(nn.Module):
    """Train mode returns a product of a weight with itself."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.head = nn.Linear(6, 16), nn.Linear(16, 12), nn.Linear(12, 3)

    def forward(self, x: Tensor) -> Any:
        answer = self.head(self.second(self.first(x).relu()).relu())
        return (answer, self.second.weight.t() @ self.second.weight) if self.training else answer


def test_what_is_a_site_is_not_listed_as_left_whole() -> None:
    sites = sc.channels(Gram(), torch.ones(2, 6))
    assert set(sites) == {"second"}
    assert set(sites.frozen) == {"first", "head"}


class Teacher(Plain):
    """Train mode moves a teacher, and runs it."""

    def __init__(self) -> None:
        super().__init__()
        self.teacher = nn.Linear(16, 16)

    def trained(self, h: Tensor, z: Tensor) -> Any:
        with torch.no_grad():
            self.teacher.weight.mul_(0.9)
        return self.answer(z), self.teacher(h.mean((2, 3)))


def test_what_train_mode_may_run_is_not_said_never_to_run() -> None:
    assert sc.channels(Teacher(), X).frozen["teacher"] == "the example inputs never run it in eval mode"


@pytest.mark.parametrize("criterion", ["l2", "taylor", "energy"])
@pytest.mark.parametrize("repair", [None, "least-squares"])
def test_heads_of_train_mode_are_cut_by_any_criterion(criterion: str, repair: str | None) -> None:
    torch.manual_seed(0)
    data = [(torch.randn(8, 3, 6, 6), torch.randint(0, 5, (8,))) for _ in range(2)]
    result = sc.prune(
        Auxiliary(), X, criterion=criterion, sparsity=0.3, data=data, loss="cross_entropy", repair=repair, latency=False
    )
    answers = result.model.train()(X)
    assert [tuple(answer.shape) for answer in answers] == [(2, 5), (2, 5)]


def test_an_exported_graph_knows_what_train_mode_ties(tmp_path: Any) -> None:
    torch.manual_seed(0)
    result = sc.prune(Residual(), X, sparsity=0.3, latency=False, form="graph")
    again = sc.load(result.save(tmp_path / "small"), Residual())
    assert torch.equal(again.eval()(X), result.model.eval()(X))


class Drawing(Plain):
    """A norm over the units makes the reference a trace, which must draw and drop what the module does."""

    def __init__(self) -> None:
        super().__init__()
        self.over = nn.LayerNorm(16)

    def trained(self, h: Tensor, z: Tensor) -> Any:
        return self.answer(self.over(self.changed(z.transpose(1, 3))).transpose(1, 3))

    def changed(self, z: Tensor) -> Tensor:
        raise NotImplementedError


class MaskedPlaces(Drawing):
    def changed(self, z: Tensor) -> Tensor:
        place, z = int(np.random.randint(z.shape[1])), z.clone()  # noqa: NPY002
        z[:, place] = 0.0
        return z


class DroppingAttention(Drawing):
    def changed(self, z: Tensor) -> Tensor:
        same = torch.ones(*z.shape[:3], 1)
        return z + F.scaled_dot_product_attention(same, same, z, dropout_p=0.1 if self.training else 0.0)


class FunctionalNorm(Drawing):
    def changed(self, z: Tensor) -> Tensor:
        norm = self.norm
        z = F.batch_norm(z.transpose(1, 3), norm.running_mean, norm.running_var, training=self.training)
        return z.transpose(1, 3)


@pytest.mark.parametrize("kind", [MaskedPlaces, DroppingAttention, FunctionalNorm])
def test_a_trace_of_train_mode_draws_and_drops_as_the_module_does(kind: type[Drawing]) -> None:
    torch.manual_seed(0), np.random.seed(5)  # noqa: NPY002
    _, small = cut_every_third(kind())
    assert type(small.model) is kind
    assert any(draw.endswith("in train mode") for draw in small.verification.draws)
