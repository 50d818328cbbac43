"""torch-geometric: a small network of each of its convolutions, and its whole models."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from coverage_case import Case, Made
from coverage_libraries import import_torchvision

__all__ = ["cases"]

NODES, EDGES, FEATURES, HIDDEN, CLASSES = 12, 30, 8, 16, 4
RELATIONS, EDGE_FEATURES = 3, 5


class _TwoLayers(nn.Module):
    """Nodes' features through two convolutions and a linear layer; `more` goes to both after the edges."""

    def __init__(self, first: nn.Module, second: nn.Module, width: int = HIDDEN) -> None:
        super().__init__()
        self.first, self.second, self.head = first, second, nn.Linear(width, CLASSES)

    def forward(self, nodes: Tensor, edges: Tensor, *more: Tensor) -> Tensor:
        nodes = self.first(nodes, edges, *more).relu()
        hidden: Tensor = self.head(self.second(nodes, edges, *more).relu())
        return hidden


class _SameWidth(nn.Module):
    """A linear layer, two convolutions that keep the width and may take the first features, and a linear layer."""

    def __init__(self, first: nn.Module, second: nn.Module, initial: bool = False) -> None:
        super().__init__()
        self.stem, self.first, self.second = nn.Linear(FEATURES, HIDDEN), first, second
        self.head, self.initial = nn.Linear(HIDDEN, CLASSES), initial

    def forward(self, nodes: Tensor, edges: Tensor) -> Tensor:
        nodes = start = self.stem(nodes).relu()
        for layer in (self.first, self.second):
            nodes = (layer(nodes, start, edges) if self.initial else layer(nodes, edges)).relu()
        hidden: Tensor = self.head(nodes)
        return hidden


def _edges() -> Tensor:
    """Edges ``(2, EDGES)`` between nodes that all have one at least; the last node is among them."""
    ring = torch.arange(NODES)
    others = torch.randint(0, NODES, (2, EDGES - NODES))
    return torch.cat([torch.stack([ring, ring.roll(1)]), others], 1)


def _graph() -> tuple[Tensor, Tensor]:
    return torch.randn(NODES, FEATURES), _edges()


def _mlp(width: int, out: int = HIDDEN) -> nn.Module:
    return nn.Sequential(nn.Linear(width, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, out))


# Convolutions of (in, out, further options): the options, and how many times wider than asked their output is.
PLAIN: dict[str, dict[str, Any]] = {
    "ARMAConv": {"num_stacks": 2, "num_layers": 2},
    "ChebConv": {"K": 3},
    "ClusterGCNConv": {},
    "EGConv": {"num_heads": 4, "num_bases": 2},
    "FeaStConv": {"heads": 2},
    "FiLMConv": {},
    "GATConv": {"heads": 2, "concat": False},
    "GATv2Conv": {"heads": 2, "concat": False},
    "GCNConv": {},
    "GENConv": {},
    "GeneralConv": {"attention": True, "heads": 2},
    "GraphConv": {},
    "LEConv": {},
    "MFConv": {"max_degree": 4},
    "ResGatedGraphConv": {},
    "SAGEConv": {},
    "SGConv": {"K": 2},
    "SSGConv": {"alpha": 0.1, "K": 2},
    "SuperGATConv": {"heads": 2, "concat": False},
    "TAGConv": {"K": 2},
    "TransformerConv": {"heads": 2, "concat": False},
}
WIDER: dict[str, tuple[int, dict[str, Any]]] = {
    "GATConv": (2, {"heads": 2}),
    "GATv2Conv": (2, {"heads": 2}),
    "HypergraphConv": (1, {}),
    "MixHopConv": (3, {"powers": [0, 1, 2]}),
    "SuperGATConv": (2, {"heads": 2}),
    "TransformerConv": (2, {"heads": 2, "beta": True}),
    "SAGEConv": (1, {"aggr": "max", "project": True, "normalize": True}),
}
SAME: dict[str, tuple[tuple[Any, ...], dict[str, Any]]] = {
    "AGNNConv": ((), {}),
    "APPNP": ((3, 0.1), {}),
    "AntiSymmetricConv": ((HIDDEN,), {}),
    "CGConv": ((HIDDEN,), {}),
    "GatedGraphConv": ((HIDDEN, 2), {}),
    "LGConv": ((), {}),
    "FAConv": ((HIDDEN,), {}),
    "GCN2Conv": ((HIDDEN, 0.1), {}),
}
TYPED: dict[str, dict[str, Any]] = {
    "RGCNConv": {},
    "FastRGCNConv": {},
    "RGATConv": {},
    "FiLMConv": {},
}
WITH_EDGE_FEATURES: dict[str, dict[str, Any]] = {
    "GATConv": {"edge_dim": EDGE_FEATURES},
    "GENConv": {"edge_dim": EDGE_FEATURES},
    "GMMConv": {"dim": EDGE_FEATURES, "kernel_size": 3},
    "PDNConv": {"edge_dim": EDGE_FEATURES, "hidden_channels": HIDDEN},
    "ResGatedGraphConv": {"edge_dim": EDGE_FEATURES},
    "TransformerConv": {"edge_dim": EDGE_FEATURES},
}
BASIC = ("GCN", "GraphSAGE", "GIN", "GAT", "EdgeCNN")
JUMPS = (None, "cat", "max", "lstm")


def cases() -> Iterator[Case]:
    """Yield networks of each convolution, then the library's whole models."""
    for name, options in PLAIN.items():
        yield _case("convolution", name, partial(_two, name, options, 1))
    for name, (times, options) in WIDER.items():
        yield _case("convolution", f"{name}-wide", partial(_two, name, options, times))
    for name, (positional, options) in SAME.items():
        yield _case("convolution", name, partial(_same, name, positional, options))
    for name, options in TYPED.items():
        yield _case("convolution", f"{name}-typed", partial(_typed, name, options))
    for name, options in WITH_EDGE_FEATURES.items():
        yield _case("convolution", f"{name}-edges", partial(_with_edge_features, name, options))
    for name, make in {
        "GINConv": _gin,
        "EdgeConv": _edge_conv,
        "GINEConv": _gine,
        "NNConv": _nn,
        "PNAConv": _pna,
    }.items():
        yield _case("convolution", name, make)
    for name in BASIC:
        for jump in JUMPS:
            yield _case("model", f"{name}-{jump or 'plain'}", partial(_basic, name, jump))
    for name, make in MODELS.items():
        yield _case("model", name, make)


def _case(family: str, name: str, make: Callable[[], Made]) -> Case:
    return Case("geometric", family, name, make)


def _library() -> Any:
    import_torchvision()
    import torch_geometric.nn

    return torch_geometric.nn


def _two(name: str, options: dict[str, Any], times: int) -> Made:
    make = getattr(_library(), name)
    width = times * HIDDEN
    return _TwoLayers(make(FEATURES, HIDDEN, **options), make(width, HIDDEN, **options), width), _graph()


def _same(name: str, positional: tuple[Any, ...], options: dict[str, Any]) -> Made:
    first, second = (getattr(_library(), name)(*positional, **options) for _ in range(2))
    return _SameWidth(first, second, initial=name in {"FAConv", "GCN2Conv"}), _graph()


def _typed(name: str, options: dict[str, Any]) -> Made:
    make = getattr(_library(), name)
    layers = (make(width, HIDDEN, num_relations=RELATIONS, **options) for width in (FEATURES, HIDDEN))
    return _TwoLayers(*layers), (*_graph(), torch.randint(0, RELATIONS, (EDGES,)))


def _with_edge_features(name: str, options: dict[str, Any]) -> Made:
    make = getattr(_library(), name)
    layers = (make(width, HIDDEN, **options) for width in (FEATURES, HIDDEN))
    return _TwoLayers(*layers), (*_graph(), torch.rand(EDGES, EDGE_FEATURES))


def _gin() -> Made:
    make = _library().GINConv
    return _TwoLayers(make(_mlp(FEATURES), train_eps=True), make(_mlp(HIDDEN), train_eps=True)), _graph()


def _edge_conv() -> Made:
    make = _library().EdgeConv
    return _TwoLayers(make(_mlp(2 * FEATURES)), make(_mlp(2 * HIDDEN))), _graph()


def _gine() -> Made:
    make = _library().GINEConv
    layers = (make(_mlp(width), edge_dim=EDGE_FEATURES) for width in (FEATURES, HIDDEN))
    return _TwoLayers(*layers), (*_graph(), torch.randn(EDGES, EDGE_FEATURES))


def _nn() -> Made:
    make = _library().NNConv
    layers = (make(width, HIDDEN, _mlp(EDGE_FEATURES, width * HIDDEN)) for width in (FEATURES, HIDDEN))
    return _TwoLayers(*layers), (*_graph(), torch.randn(EDGES, EDGE_FEATURES))


def _pna() -> Made:
    make, degrees = _library().PNAConv, torch.tensor([0, 2, 5, 3, 2])
    options = {"aggregators": ["mean", "max", "std"], "scalers": ["identity", "amplification"], "deg": degrees}
    layers = (make(width, HIDDEN, towers=2, **options) for width in (FEATURES, HIDDEN))
    return _TwoLayers(*layers), _graph()


def _basic(name: str, jump: str | None) -> Made:
    make = getattr(_library(), name)
    return make(FEATURES, HIDDEN, 3, out_channels=CLASSES, jk=jump, norm="batch_norm"), _graph()


def _attentive() -> Made:
    model = _library().AttentiveFP(FEATURES, HIDDEN, CLASSES, EDGE_FEATURES, num_layers=2, num_timesteps=2)
    nodes, edges = _graph()
    return model, (nodes, edges, torch.randn(EDGES, EDGE_FEATURES), _halves())


def _halves() -> Tensor:
    """Which of two graphs each node belongs to."""
    return torch.arange(NODES) // (NODES // 2)


class _Deep(nn.Module):
    """Residual layers as in DeepGCN: normalised, activated, convolved, added."""

    def __init__(self) -> None:
        super().__init__()
        library = _library()
        self.stem, self.head = nn.Linear(FEATURES, HIDDEN), nn.Linear(HIDDEN, CLASSES)
        self.layers = nn.ModuleList(
            library.DeepGCNLayer(library.GENConv(HIDDEN, HIDDEN, num_layers=2), library.LayerNorm(HIDDEN), nn.ReLU())
            for _ in range(2)
        )

    def forward(self, nodes: Tensor, edges: Tensor) -> Tensor:
        nodes = self.stem(nodes)
        for layer in self.layers:
            nodes = layer(nodes, edges)
        hidden: Tensor = self.head(nodes)
        return hidden


class _OfGraphs(nn.Module):
    """A convolution, nodes gathered into graphs in one way, and a linear layer."""

    def __init__(self, gather: Any) -> None:
        super().__init__()
        self.conv, self.gather, self.head = _library().GCNConv(FEATURES, HIDDEN), gather, nn.Linear(HIDDEN, CLASSES)

    def forward(self, nodes: Tensor, edges: Tensor, graphs: Tensor) -> Tensor:
        hidden: Tensor = self.head(self.gather(self.conv(nodes, edges).relu(), graphs))
        return hidden


def _of_graphs(name: str) -> Made:
    return _OfGraphs(getattr(_library(), name)), (*_graph(), _halves())


def _linkx() -> Made:
    return _library().models.LINKX(NODES, FEATURES, HIDDEN, CLASSES, num_layers=2), _graph()


def _mlp_model() -> Made:
    return _library().MLP([FEATURES, HIDDEN, HIDDEN, CLASSES]), (torch.randn(NODES, FEATURES),)


def _signed() -> Made:
    model = _library().SignedGCN(FEATURES, HIDDEN, num_layers=2)
    return model, (*_graph(), _edges())


def _whole(name: str, *positional: Any, batch: bool = False, **options: Any) -> Made:
    model = getattr(_library().models, name)(*positional, **options)
    return model, (*_graph(), *([torch.zeros(NODES, dtype=torch.long)] if batch else []))


MODELS: dict[str, Callable[[], Made]] = {
    "AttentiveFP": _attentive,
    "DeepGCN": lambda: (_Deep(), _graph()),
    "GraphUNet": partial(_whole, "GraphUNet", FEATURES, HIDDEN, CLASSES, depth=2),
    "LINKX": _linkx,
    "MLP": _mlp_model,
    "NeuralFingerprint": partial(_whole, "NeuralFingerprint", FEATURES, HIDDEN, CLASSES, 2),
    "PMLP": partial(_whole, "PMLP", FEATURES, HIDDEN, CLASSES, 3),
    "Polynormer": partial(_whole, "Polynormer", FEATURES, HIDDEN, CLASSES, local_layers=2, heads=2, batch=True),
    "RECT_L": partial(_whole, "RECT_L", FEATURES, HIDDEN),
    "SGFormer": partial(_whole, "SGFormer", FEATURES, HIDDEN, CLASSES, batch=True),
    "SignedGCN": _signed,
    **{name: partial(_of_graphs, name) for name in ("global_mean_pool", "global_max_pool", "global_add_pool")},
}
