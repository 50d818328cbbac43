"""The zoo's models that write or read at places which an index names: networks on graphs, deformable attention."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo.parts import ZooToy, image, sequence, tokens, toy

__all__ = ["TOYS"]

TOYS: dict[str, ZooToy] = {}


def nodes() -> tuple[Tensor]:
    """Return what seven nodes hold in each of two samples ``(2, 7, 8)``."""
    return (torch.randn(2, 7, 8),)


class OnGraph(nn.Module):
    """Knows the ends of its twelve edges, from where and to where."""

    edges: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("edges", torch.randint(0, 7, (2, 12)))


class Convolution(nn.Module):
    """Neighbours are added, each by the inverse roots of both degrees."""

    def __init__(self, into: int, out: int) -> None:
        super().__init__()
        self.lin = nn.Linear(into, out, bias=False)
        self.bias = nn.Parameter(torch.zeros(out))

    def forward(self, x: Tensor, edges: Tensor) -> Tensor:
        batch, count, _ = x.shape
        loops = torch.arange(count)
        source, target = torch.cat([edges, torch.stack([loops, loops])], 1)
        degrees = torch.zeros(count, dtype=x.dtype).scatter_add_(0, target, torch.ones_like(target).to(x.dtype))
        scale = (degrees[source] * degrees[target]).rsqrt()
        x = self.lin(x)
        messages = scale.view(-1, 1) * x.index_select(1, source)
        places = target.view(1, -1, 1).expand(batch, -1, x.size(2))
        return x.new_zeros(batch, count, x.size(2)).scatter_add_(1, places, messages) + self.bias


@toy(TOYS, "graph_convolution", nodes)
class GraphConvolution(OnGraph):
    """Three convolutions on a graph."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList([Convolution(8, 12), Convolution(12, 10), Convolution(10, 3)])

    def forward(self, x: Tensor) -> Tensor:
        first, second, last = self.layers
        y: Tensor = last(second(first(x, self.edges).relu(), self.edges).relu(), self.edges)
        return y


@toy(TOYS, "graph_attention", nodes)
class GraphAttention(OnGraph):
    """Heads that weigh the neighbours, with a softmax over each node's edges."""

    def __init__(self, heads: int = 4, channels: int = 6) -> None:
        super().__init__()
        self.heads, self.channels = heads, channels
        self.lin = nn.Linear(8, heads * channels, bias=False)
        self.ask, self.answer = (nn.Parameter(torch.randn(1, heads, channels)) for _ in range(2))
        self.head = nn.Linear(heads * channels, 3)

    def forward(self, x: Tensor) -> Tensor:
        source, target = self.edges
        x = self.lin(x).view(*x.shape[:2], self.heads, self.channels)
        scores = (x * self.ask).sum(-1)[:, source] + (x * self.answer).sum(-1)[:, target]
        places = target.view(1, -1, 1).expand(len(x), -1, scores.size(2))
        blank = scores.new_zeros(x.size(0), x.size(1), scores.size(2))
        greatest = blank.scatter_reduce(1, places, scores, "amax", include_self=False)
        weights = (F.leaky_relu(scores, 0.2) - greatest.index_select(1, target)).exp()
        total = blank.scatter_add(1, places, weights)
        messages = (weights / total.index_select(1, target)).unsqueeze(-1) * x.index_select(1, source)
        y = torch.zeros_like(x).index_add_(1, target, messages)
        answer: Tensor = self.head(F.elu(y.flatten(2)))
        return answer


class Sampling(nn.Module):
    """The mean of the neighbours beside the node itself, of length one."""

    def __init__(self, into: int, out: int) -> None:
        super().__init__()
        self.neighbours, self.itself = nn.Linear(into, out), nn.Linear(into, out, bias=False)

    def forward(self, x: Tensor, edges: Tensor) -> Tensor:
        source, target = edges
        count = torch.zeros(x.size(1), dtype=x.dtype).index_add_(0, target, torch.ones_like(target).to(x.dtype))
        mean = torch.zeros_like(x).index_add(1, target, x[:, source]) / count.clamp(min=1).unsqueeze(-1)
        return F.normalize(self.neighbours(mean) + self.itself(x), dim=-1)


@toy(TOYS, "graph_sampling", nodes)
class GraphSampling(OnGraph):
    """Two layers that average neighbours, and a third."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList([Sampling(8, 12), Sampling(12, 10), Sampling(10, 3)])

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = layer(x, self.edges).relu()
        return x


@toy(TOYS, "deformable_attention", lambda: (torch.randn(2, 20, 16),))
class DeformableAttention(nn.Module):
    """Queries that look at a few places of two maps each, the heads in the batch of what is sampled."""

    def __init__(self, heads: int = 4, points: int = 2) -> None:
        super().__init__()
        self.heads, self.points, self.shapes = heads, points, ((4, 4), (2, 2))
        self.value, self.out = nn.Linear(16, 16), nn.Linear(16, 16)
        self.offsets = nn.Linear(16, heads * len(self.shapes) * points * 2)
        self.weights = nn.Linear(16, heads * len(self.shapes) * points)

    def forward(self, x: Tensor) -> Tensor:
        batch, length, _ = x.shape
        levels, heads, points = len(self.shapes), self.heads, self.points
        value = self.value(x).view(batch, length, heads, -1)
        places = self.offsets(x).view(batch, length, heads, levels, points, 2).tanh()
        weights = self.weights(x).view(batch, length, heads, levels * points).softmax(-1)
        sampled = []
        for level, values in enumerate(value.split([h * w for h, w in self.shapes], dim=1)):
            maps = values.flatten(2).transpose(1, 2).reshape(batch * heads, -1, *self.shapes[level])
            grid = places[:, :, :, level].transpose(1, 2).flatten(0, 1)
            sampled.append(F.grid_sample(maps, grid, mode="bilinear", padding_mode="zeros", align_corners=False))
        weights = weights.transpose(1, 2).reshape(batch * heads, 1, length, levels * points)
        y = (torch.stack(sampled, dim=-2).flatten(-2) * weights).sum(-1).view(batch, -1, length)
        answer: Tensor = self.out(y.transpose(1, 2).contiguous())
        return answer


def tokens_and_picture() -> tuple[Tensor, Tensor]:
    """Return two rows of tokens ``(2, 6)``, of which four in all are 10 and stand for features, and those ``(4, 5)``."""
    return torch.tensor([[1, 10, 10, 3, 4, 5], [2, 6, 10, 7, 10, 8]]), torch.randn(4, 5)


@toy(TOYS, "features_among_tokens", tokens_and_picture)
class FeaturesAmongTokens(nn.Module):
    """Projected features take the places of some tokens' embeddings."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.project = nn.Embedding(11, 12), nn.Linear(5, 12)
        self.mlp, self.head = nn.Sequential(nn.Linear(12, 20), nn.GELU(), nn.Linear(20, 12)), nn.Linear(12, 3)

    def forward(self, tokens: Tensor, features: Tensor) -> Tensor:
        x = self.table(tokens)
        x = x.masked_scatter((tokens == 10).unsqueeze(-1).expand_as(x), self.project(features).to(x.dtype))
        y: Tensor = self.head(x + self.mlp(x))
        return y


@toy(TOYS, "features_by_a_narrow_mask", tokens_and_picture)
class FeaturesByANarrowMask(FeaturesAmongTokens):
    """The same where the mask has one entry for all units of a token."""

    def forward(self, tokens: Tensor, features: Tensor) -> Tensor:
        x = self.table(tokens)
        x = x.masked_scatter((tokens == 10).unsqueeze(-1), self.project(features))
        y: Tensor = self.head(x + self.mlp(x))
        return y


@toy(TOYS, "rows_by_their_kind", lambda: (torch.tensor([0, 2, 1, 0, 2]), torch.randn(5, 8)))
class RowsByTheirKind(nn.Module):
    """Each row goes through the layer of its kind and is written to its place in room that nothing has filled."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.width = nn.Linear(8, 12), 10
        self.layers = nn.ModuleList(nn.Linear(12, 10) for _ in range(3))
        self.head = nn.Linear(10, 3)

    def forward(self, kinds: Tensor, x: Tensor) -> Tensor:
        x = self.stem(x).relu()
        y = x.new_empty([*x.shape[:-1], self.width])
        for kind, layer in enumerate(self.layers):
            rows = (kinds == kind).nonzero().view(-1)
            y.index_copy_(0, rows, layer(x.index_select(0, rows)))
        answer: Tensor = self.head(y.relu())
        return answer


@toy(TOYS, "rows_in_their_order", sequence())
class RowsInTheirOrder(nn.Module):
    """Steps are put in an order that is repeated for all units, as often as there are of them; heads are masked alike."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.rank, self.head = nn.Linear(8, 12), nn.Linear(8, 1), nn.Linear(12, 3)
        self.heads, self.gate = 4, nn.Linear(8, 12)

    def forward(self, x: Tensor) -> Tensor:
        order = self.rank(x).argsort(1)
        h, gate = self.stem(x), self.gate(x)
        h = h.gather(1, order.repeat(1, 1, h.shape[2])).view(*x.shape[:2], self.heads, -1)
        ahead = (order > 2).unsqueeze(2).repeat(1, 1, self.heads, 1)
        y: Tensor = self.head(h.masked_fill(ahead, 0.0).flatten(2) * gate.tanh())
        return y


@toy(TOYS, "one_of_many_alike", sequence())
class OneOfManyAlike(nn.Module):
    """Numbers that stand for no unit are picked from a tensor as wide as the units are, in which all are alike."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.kinds, self.head = nn.Linear(8, 12), nn.Embedding(2, 12), nn.Linear(12, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        kinds = torch.zeros_like(x, dtype=torch.long)[..., 0]
        y: Tensor = self.head((x + self.kinds(kinds)).relu() * torch.ones_like(x)[..., :1])
        return y


@toy(TOYS, "windows_written", lambda: (torch.randn(2, 6, 8),))
class WindowsWritten(nn.Module):
    """Steps that are computed apart are written into one tensor at their places."""

    places: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.odd, self.even, self.head = nn.Linear(8, 10), nn.Linear(8, 10), nn.Linear(10, 3)
        self.register_buffer("places", torch.tensor([4, 0, 2]))

    def forward(self, x: Tensor) -> Tensor:
        y = x.new_zeros(x.shape[0], x.shape[1], self.odd.out_features)
        y[:, self.places] = self.even(x[:, self.places])
        y[:, self.places + 1] = self.odd(x[:, self.places + 1])
        answer: Tensor = self.head(y)
        return answer


@toy(TOYS, "decided_by_tokens", tokens())
class DecidedByTokens(nn.Module):
    """How many steps there are, which of them are taken and what runs: all by the tokens, which no weight changes."""

    step: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.table, self.never = nn.Embedding(11, 12), nn.Linear(12, 12)
        self.mlp, self.head = nn.Sequential(nn.Linear(12, 20), nn.GELU(), nn.Linear(20, 12)), nn.Linear(12, 3)
        self.register_buffer("step", torch.tensor(1))

    def forward(self, tokens: Tensor) -> Tensor:
        longest = int((tokens >= 0).sum(1).max())
        x = self.table(tokens)[:, : longest : int(self.step)]
        if bool((tokens > 99).any()):
            x = self.never(x)
        x = x[:, (tokens[0] >= 0).nonzero()[:, 0]]
        x = x[:, tokens[0] >= 0]
        y: Tensor = self.head(x + self.mlp(x))
        return y


@toy(TOYS, "sizes_alike", sequence())
class SizesAlike(nn.Module):
    """As many heads as each has channels and states: which attribute is which, its value does not tell."""

    def __init__(self, heads: int = 4, groups: int = 2, channels: int = 4, states: int = 4) -> None:
        super().__init__()
        self.heads, self.groups, self.channels, self.states = heads, groups, channels, states
        self.inner, self.shared = heads * channels, groups * states
        self.project = nn.Linear(8, self.inner + self.shared + heads)
        self.head = nn.Linear(heads * channels * states, 3)

    def forward(self, x: Tensor) -> Tensor:
        batch, length, _ = x.shape
        x, shared, gates = self.project(x).split([self.inner, self.shared, self.heads], dim=-1)
        x = x.view(batch, length, self.heads, self.channels) * gates.tanh().unsqueeze(-1)
        shared = shared.view(batch, length, self.groups, self.states)
        shared = shared.repeat_interleave(self.heads // self.groups, dim=2, output_size=self.heads)
        y: Tensor = self.head((shared.unsqueeze(-1) * x.unsqueeze(-2)).cumsum(1).flatten(2))
        return y


@toy(TOYS, "weight_standardised_by_batch_norm", image(1))
class Standardised(nn.Module):
    """A convolution whose weight a batch norm standardises, as networks without norms have it; one input channel."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(1, 10, 3, padding=1), nn.Conv2d(10, 12, 3, padding=1)
        self.gains = nn.ParameterList(torch.ones(size, 1, 1, 1) for size in (10, 12))
        self.head = nn.Linear(12, 3)

    def forward(self, x: Tensor) -> Tensor:
        for conv, gain in zip((self.first, self.second), self.gains, strict=True):
            rows = conv.weight.reshape(1, conv.out_channels, -1)
            weight = F.batch_norm(rows, None, None, weight=(gain * 0.5).view(-1), training=True, momentum=0.0)
            x = F.conv2d(x, weight.reshape_as(conv.weight), conv.bias, padding=1).relu()
        y: Tensor = self.head(x.mean((2, 3)))
        return y


class _ReadsItsWidth(nn.Module):
    """Attention that gives its heads back in the width that it reads from its input."""

    def __init__(self) -> None:
        super().__init__()
        self.heads, self.head_dim = 4, 4
        self.q, self.k, self.v, self.o = (nn.Linear(16, 16) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        b, n, width = x.size()
        q, k, v = (f(x).view(b, n, self.heads, self.head_dim).transpose(1, 2) for f in (self.q, self.k, self.v))
        z = (q @ k.transpose(-2, -1) * 0.4).softmax(-1) @ v
        y: Tensor = self.o(z.transpose(1, 2).reshape(b, n, width))
        return y


@toy(TOYS, "width_of_the_input", tokens())
class WidthOfTheInput(nn.Module):
    """Decided by tokens, so that no graph is written: the width and what the heads add up to are one."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(11, 16)
        self.attention: nn.Module = _ReadsItsWidth()
        self.mlp, self.head = nn.Sequential(nn.Linear(16, 20), nn.GELU(), nn.Linear(20, 16)), nn.Linear(16, 3)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.table(tokens)[:, : int((tokens >= 0).sum(1).max())]
        x = x + self.attention(x)
        y: Tensor = self.head(x + self.mlp(x))
        return y


class _DividesItsWidth(nn.Module):
    """Attention whose heads have a fraction of the width that it reads from its input."""

    def __init__(self) -> None:
        super().__init__()
        self.heads, self.qkv, self.o = 4, nn.Linear(16, 48), nn.Linear(16, 16)

    def forward(self, x: Tensor) -> Tensor:
        b, n, width = x.shape
        q, k, v = self.qkv(x).reshape(b, n, 3, self.heads, width // self.heads).permute(2, 0, 3, 1, 4)
        z = (q @ k.transpose(-2, -1) * 0.4).softmax(-1) @ v
        y: Tensor = self.o(z.transpose(1, 2).flatten(2))
        return y


@toy(TOYS, "fraction_of_the_width", tokens())
class FractionOfTheWidth(WidthOfTheInput):
    """Decided by tokens: neither the width nor the heads can be cut, as one makes the other."""

    def __init__(self) -> None:
        super().__init__()
        self.attention = _DividesItsWidth()


class _SharesItsSize(nn.Module):
    """A gate and values of one attribute's size, of which the values are sorted among themselves."""

    def __init__(self) -> None:
        super().__init__()
        self.parts, self.size = 4, 5
        self.gate, self.values = nn.Linear(16, 20), nn.Linear(16, 20)
        self.first, self.second = nn.Linear(20, 16), nn.Linear(20, 16)

    def forward(self, x: Tensor) -> Tensor:
        gate, values = (f(x).view(*x.shape[:2], self.parts, self.size) for f in (self.gate, self.values))
        y: Tensor = self.first(gate.flatten(2)) + self.second(values.sort(-1).values.flatten(2))
        return y


@toy(TOYS, "one_size_of_two", tokens())
class OneSizeOfTwo(WidthOfTheInput):
    """Decided by tokens: an attribute sizes what can be cut and what cannot."""

    def __init__(self) -> None:
        super().__init__()
        self.attention = _SharesItsSize()
