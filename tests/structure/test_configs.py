"""Widths that a config says: found by rebuilding, cut equally, and written into the config."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import secateur as sc
from secateur.criteria import Magnitude
from secateur.schedules import Iterative
from secateur.selection.uniform import uniform
from secateur.structure import ConfigWidth, config_widths, rebuilt_shapes
from secateur.structure.configs import edits_of, kept_steps
from secateur.structure.fitting import _depths, _scaled_sizes, fitting_depth
from secateur.structure.rebuilding import Rebuilding
from secateur.train import TrainOptions


@dataclass
class Settings:
    """Sizes of a toy; `inner` may be left open."""

    width: int = 12
    heads: int = 3
    inner: int | None = None
    blocks: int = 2
    classes: int = 5
    use_cache: bool = False

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


class Block(nn.Module):
    """Attention of heads of one size, and a perceptron, both beside the stream."""

    def __init__(self, config: Settings) -> None:
        super().__init__()
        self.config = config
        self.heads, self.size = config.heads, config.width // config.heads
        self.scale = self.size**-0.5
        self.qkv = nn.Linear(config.width, 3 * config.width)
        self.out = nn.Linear(config.width, config.width)
        inner = 4 * config.width if config.inner is None else config.inner
        self.up, self.down = nn.Linear(config.width, inner), nn.Linear(inner, config.width)

    def forward(self, x: Tensor) -> Tensor:
        batch, length = x.shape[:2]
        q, k, v = (part.view(batch, length, self.heads, self.size).transpose(1, 2) for part in self.qkv(x).chunk(3, -1))
        mixed = (q @ k.transpose(-1, -2) * self.scale).softmax(-1) @ v
        x = x + self.out(mixed.transpose(1, 2).reshape(batch, length, -1))
        return x + self.down(self.up(x).relu())


class Typed(nn.Module):
    """A class that reads the type from its config, as Apertus does; saving leaves the type's name there."""

    config_class = Settings

    def __init__(self, config: Settings) -> None:
        super().__init__()
        self.config = config
        self.scale = nn.Parameter(torch.tensor(1.0, dtype=getattr(config, "dtype", None)))
        self.up, self.down = nn.Linear(4, config.inner or 8), nn.Linear(config.inner or 8, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(self.up(x).relu()) * self.scale  # type: ignore[no-any-return]


@pytest.mark.parametrize("named", [None, torch.float32, "float32"])
def test_a_type_that_is_a_name_in_the_config_is_one(named: Any) -> None:
    config = Settings(inner=8)
    config.dtype = torch.float32  # type: ignore[attr-defined]
    model = Typed(config)
    config.dtype = named  # type: ignore[attr-defined]
    assert rebuilt_shapes(model) == {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    assert [dict(width.units) for width in config_widths(model, sc.channels(model, torch.zeros(1, 4)))] == [{"up": 8}]
    assert model.config.dtype == named  # type: ignore[attr-defined]


class Toy(nn.Module):
    """What a class of transformers looks like from outside."""

    config_class = Settings

    def __init__(self, config: Settings) -> None:
        super().__init__()
        self.config = config
        self.embed = nn.Linear(4, config.width)
        self.layers = nn.ModuleList(Block(config) for _ in range(config.blocks))
        self.head = nn.Linear(config.width, config.classes)

    def forward(self, x: Tensor, use_cache: bool | None = None) -> Any:
        x = self.embed(x)
        for layer in self.layers:
            x = layer(x)
        cache = self.config.use_cache if use_cache is None else use_cache
        return (self.head(x), x) if cache else self.head(x)


class Sharing(Toy):
    """Whose layers have its config, too."""

    def __init__(self, config: Settings) -> None:
        super().__init__(config)
        for layer in self.layers:
            layer.config = config


def test_a_config_that_modules_share_changes_once() -> None:
    edits = edits_of(Sharing(Settings()), {("inner",): 24})
    assert edits is not None
    assert {path: values for path, values in edits.items() if "layers" not in path} == {"": {"config.inner": 24}}
    assert edits["layers.0.up"] == edits["layers.1.up"] == {"out_features": 24}
    assert not {"layers.0", "layers.1"} & set(edits)


@dataclass
class DeepSettings(Settings):
    """What a config may say of its blocks beside their number."""

    blocks: int = 4
    kinds: list[str] = field(default_factory=lambda: ["a", "b", "a", "b"])
    first_wide: int = 3
    marked: list[int] = field(default_factory=lambda: [0, 3])


class Deep(Toy):
    config_class = DeepSettings

    def __init__(self, config: DeepSettings) -> None:
        super().__init__(config)
        for number, layer in enumerate(self.layers):
            layer.kind = config.kinds[number]
            layer.wide, layer.is_marked = int(number < config.first_wide), int(number in config.marked)


def test_a_config_says_the_blocks_that_are_left() -> None:
    model, small = Deep(DeepSettings()), Deep(DeepSettings())
    small.layers = nn.ModuleList(small.layers[n] for n in (0, 3))
    changes = fitting_depth(model, small, "layers", 4, [0, 3])
    assert changes == {("blocks",): 2, ("kinds",): ["a", "b"], ("first_wide",): 1, ("marked",): [0, 1]}
    assert fitting_depth(nn.Linear(1, 1), small, "layers", 4, [0, 3]) == {}


X = torch.randn(2, 6, 4, generator=torch.Generator().manual_seed(0))


def test_sizes_that_shrink_together_are_found_with_their_sites() -> None:
    model = Toy(Settings())
    widths = {width.name: width for width in config_widths(model, sc.channels(model, X))}
    assert set(widths) == {"inner", "width and heads"}
    assert widths["inner"] == ConfigWidth({("inner",): 48}, {"layers.0.up": 48, "layers.1.up": 48}, 48)
    assert widths["width and heads"].steps == 3  # a head of four at a time, as the size of a head is a temperature
    assert dict(widths["width and heads"].units) == {"embed": 12, "layers.0.qkv.heads": 3, "layers.1.qkv.heads": 3}


def test_a_cut_model_is_what_its_class_makes_of_its_config() -> None:
    model = Toy(Settings()).eval()
    small = sc.prune(model, X, "l2", 1 / 3, scope="layer", latency=False).model
    assert (small.config.width, small.config.heads, small.config.inner, small.config.classes) == (8, 2, 32, 5)
    assert (model.config.width, model.config.heads, model.config.inner) == (12, 3, None)
    again = Toy(small.config).eval()
    again.load_state_dict(small.state_dict())
    assert torch.equal(again(X), small(X))


def test_scores_of_one_layer_alone_do_not_make_its_width_another() -> None:
    model = Toy(Settings()).eval()
    with torch.no_grad():
        model.layers[0].up.weight.mul_(0.01)
    result = sc.prune(model, X, "l2", 0.4, scope="global", latency=False)
    assert len({layer.up.out_features for layer in result.model.layers}) == 1
    assert rebuilt_shapes(result.model) == {name: tuple(t.shape) for name, t in result.model.state_dict().items()}


@pytest.mark.parametrize("measure", ["macs", "parameters"])
def test_a_budget_is_kept_by_equal_widths(measure: str) -> None:
    model = Toy(Settings()).eval()
    result = sc.prune(model, X, budget={measure: 0.6}, latency=False)
    before, after = getattr(result.report, measure)
    assert 0.3 * before < after <= 0.6 * before
    assert rebuilt_shapes(result.model) == {name: tuple(t.shape) for name, t in result.model.state_dict().items()}


def test_every_site_has_a_width_of_its_own_where_that_is_asked() -> None:
    model = Toy(Settings()).eval()
    with torch.no_grad():
        model.layers[0].up.weight.mul_(0.01)
    small = sc.prune(model, X, "l2", 0.3, scope="global", uniform=False, latency=False).model
    assert small.layers[0].up.out_features < small.layers[1].up.out_features
    assert small.config.width == 12


def is_of_its_config(model: nn.Module) -> bool:
    return rebuilt_shapes(model) == {name: tuple(t.shape) for name, t in model.state_dict().items()}


@pytest.mark.parametrize("trains", [False, True])
@pytest.mark.parametrize("goal", [{"sparsity": 0.5, "scope": "global"}, {"budget": {"parameters": 0.5}}])
def test_widths_stay_equal_over_the_steps_of_a_schedule(goal: dict[str, Any], trains: bool) -> None:
    model = Toy(Settings()).eval()
    with torch.no_grad():
        model.layers[0].up.weight.mul_(0.01)
    train = (lambda small, masks: None) if trains else None
    schedule = Iterative(Magnitude(2), steps=3, train=train, **goal)
    small = schedule(model, sc.channels(model, X)).model
    assert is_of_its_config(small)
    assert small.config.inner < 48
    uneven = Iterative(Magnitude(2), steps=3, train=train, uniform=False, **goal)(model, sc.channels(model, X)).model
    assert not is_of_its_config(uneven)
    plain = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
    sites = sc.channels(plain, torch.zeros(1, 4))
    with pytest.raises(sc.InputError, match="Iterative: uniform=True, but no config says"):
        Iterative(Magnitude(), 0.5, uniform=True)(plain, sites)


def test_widths_stay_equal_where_a_goal_is_approached(tmp_path: Path) -> None:
    data = (torch.randn(64, 6, 4, generator=torch.Generator().manual_seed(1)),)
    model, short = Toy(Settings()).eval(), TrainOptions(epochs=1)
    ways: dict[str, Any] = {"train": short, "finish": None, "max_drop": 1e9, "runtime": "eager", "samples": 32}
    small = sc.compress(model, X, {"parameters": 0.6}, data, data, folder=tmp_path, metric="fidelity", **ways).model
    assert is_of_its_config(small)
    assert sum(p.numel() for p in small.parameters()) <= 0.6 * sum(p.numel() for p in model.parameters())


def test_equal_widths_of_a_model_without_a_config_are_an_error() -> None:
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
    with pytest.raises(sc.InputError, match="no config says the widths of Sequential"):
        sc.prune(model, torch.zeros(1, 4), sparsity=0.5, uniform=True, latency=False)
    changed = Toy(Settings())
    changed.head = nn.Linear(12, 7)
    assert config_widths(changed, sc.channels(changed, X)) == ()


def test_a_cache_is_not_asked_for() -> None:
    """A cache that the model returns would freeze what it holds."""
    model = Toy(Settings(use_cache=True)).eval()
    for inputs in (X, (X,), {"x": X}):
        small = sc.prune(model, inputs, "l2", 1 / 3, scope="layer", latency=False).model
        assert small.config.width == 8
        assert small.config.use_cache


def test_a_saved_cut_says_the_sizes_again(tmp_path: Path) -> None:
    result = sc.prune(Toy(Settings()).eval(), X, "l2", 1 / 3, scope="layer", latency=False)
    again = sc.load(result.save(tmp_path / "small"), Toy(Settings())).eval()
    assert (again.config.width, again.config.heads, again.config.inner) == (8, 2, 32)
    assert torch.equal(again(X), result.model(X))


def test_steps_that_sites_agree_on() -> None:
    width = ConfigWidth({("width",): 12, ("heads",): 3}, {"embed": 12, "heads": 3}, 3)
    assert kept_steps(width, {"embed": 8, "heads": 2}) == 2
    assert kept_steps(width, {"embed": 8, "heads": 1}) is None
    assert kept_steps(width, {"embed": 7, "heads": 2}) is None
    assert kept_steps(width, {}) == 3


def test_equal_widths_are_rounded_as_asked() -> None:
    width = ConfigWidth({("inner",): 16}, {"a": 16, "b": 16}, 16)
    scores = {"a": torch.arange(16.0), "b": -torch.arange(16.0)}
    keep = {"a": torch.arange(16) < 4, "b": torch.arange(16) < 9}  # 13 of 32: six and a half each
    counts = {name: int(mask.sum()) for name, mask in uniform(keep, scores, [width], 4).items()}
    assert counts == {"a": 8, "b": 8}
    masks = uniform(keep, scores, [width])
    assert masks["a"].nonzero().flatten().tolist() == list(range(10, 16))
    assert masks["b"].nonzero().flatten().tolist() == list(range(6))


@dataclass
class ManySettings(Settings):
    """Twenty more sizes of the value that the width has, of which the class reads none."""

    others: tuple[int, ...] = (12,) * 20


class Many(Toy):
    config_class = ManySettings


def test_sizes_that_change_nothing_are_not_tried_together(monkeypatch: pytest.MonkeyPatch) -> None:
    counts = []
    built = Rebuilding.built

    def counted(self: Rebuilding, sizes: Any) -> nn.Module | None:
        counts.append(len(sizes))
        return built(self, sizes)

    monkeypatch.setattr(Rebuilding, "built", counted)
    model, x = Many(ManySettings()).eval(), torch.randn(2, 3, 4)
    widths = config_widths(model, sc.channels(model, x))
    assert {width.name for width in widths} == {"width and heads", "inner"}
    assert len(counts) < 150  # there are 1,771 triples of 23 sizes


# ---- what is tried for a config ----


@dataclass
class Counts:
    """Numbers of every kind that a config holds."""

    width: int = 8
    one: int = 1
    none: int = 0
    unset: int = -2
    odd: int = 3
    blocks: int = 4
    first: int = 2
    kinds: list[Any] = field(default_factory=lambda: ["a", "b", "c", "d"])
    chosen: list[Any] = field(default_factory=lambda: [0, 3])

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def test_sizes_are_scaled_to_whole_ones_that_are_others() -> None:
    tried = list(_scaled_sizes(Counts(kinds=[], chosen=[]), [Fraction(0), Fraction(1, 2), Fraction(2, 3)]))
    assert tried == [
        *({("blocks",): new} for new in (0, 2)),
        *({("first",): new} for new in (0, 1)),
        *({("odd",): new} for new in (0, 2)),
        *({("width",): new} for new in (0, 4)),
    ]


def test_fewer_blocks_are_a_smaller_depth_shorter_lists_smaller_counts_and_other_numbers() -> None:
    tried = list(_depths(Counts(), 4, [0, 2, 3]))
    depth, kinds = ("blocks",), ("kinds",)
    assert tried[:3] == [
        {depth: 3, kinds: ["a", "c", "d"]},
        {depth: 3},
        {depth: 3, kinds: ["a", "c", "d"]},
    ]
    assert {kinds: ["a", "c", "d"]} in tried
    assert {("first",): 1} in tried  # of the first two blocks the first stays
    assert {("odd",): 2} in tried
    assert {("one",): 1} in tried
    assert {("chosen",): [0, 2]} in tried  # blocks 0 and 3 are 0 and 2 by now
    touched = {place for change in tried for place in change}
    assert touched == {depth, kinds, ("first",), ("odd",), ("one",), ("chosen",)}


def test_numbers_of_blocks_that_went_go_and_lists_of_other_numbers_stay() -> None:
    assert {("chosen",): [2]} in _depths(Counts(), 4, [1, 2, 3])
    for other in ([], [0, 4], [-1, 2], ["a", 1]):
        assert not any(("chosen",) in change for change in _depths(Counts(chosen=other), 4, [1, 2, 3]))
