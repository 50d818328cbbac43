"""The zoo's models of sequences: recurrent layers, attention, gates, norms, ties; and the ones that must be refused."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo.parts import ZooToy, image, sequence, tokens, toy

__all__ = ["REFUSED", "TOYS"]

TOYS: dict[str, ZooToy] = {}
REFUSED: dict[str, ZooToy] = {}


class Recurrent(nn.Module):
    """A recurrent layer between two linear ones; the last step is classified."""

    def __init__(self, layer: nn.RNNBase, features: int) -> None:
        super().__init__()
        self.embed, self.layer, self.fc = nn.Linear(8, 10), layer, nn.Linear(features, 3)

    def forward(self, x: Tensor) -> Tensor:
        outputs, _ = self.layer(F.relu(self.embed(x)))
        y: Tensor = self.fc(outputs[:, -1])
        return y


TOYS["lstm"] = ZooToy(lambda: Recurrent(nn.LSTM(10, 12, batch_first=True), 12), sequence())
TOYS["lstm_bidirectional"] = ZooToy(lambda: Recurrent(nn.LSTM(10, 7, 1, bidirectional=True), 14), sequence())
TOYS["lstm_two_layers"] = ZooToy(lambda: Recurrent(nn.LSTM(10, 12, 2), 12), sequence())
TOYS["lstm_projection"] = ZooToy(lambda: Recurrent(nn.LSTM(10, 12, 2, proj_size=5), 5), sequence())
TOYS["gru"] = ZooToy(lambda: Recurrent(nn.GRU(10, 12, batch_first=True), 12), sequence())
TOYS["gru_bidirectional"] = ZooToy(lambda: Recurrent(nn.GRU(10, 7, 2, bidirectional=True), 14), sequence())
TOYS["rnn"] = ZooToy(lambda: Recurrent(nn.RNN(10, 12, 2, nonlinearity="relu"), 12), sequence())


@toy(TOYS, "lstm_states", sequence())
class LSTMStates(nn.Module):
    """An LSTM whose last hidden and cell states are read, and whose first states are given."""

    def __init__(self) -> None:
        super().__init__()
        self.start, self.layer, self.fc = nn.Linear(8, 10), nn.LSTM(8, 10, batch_first=True), nn.Linear(20, 3)

    def forward(self, x: Tensor) -> Tensor:
        first = torch.tanh(self.start(x.mean(dim=1)))[None]
        _, (h, c) = self.layer(x, (first, first))
        y: Tensor = self.fc(torch.cat([h[0], c[0]], dim=-1))
        return y


@toy(TOYS, "convolutional_lstm", lambda: (torch.randn(2, 2, 8, 8),))
class ConvolutionalLSTM(nn.Module):
    """Convolutional features flattened column by column into the steps of an LSTM (text recognition)."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.layer, self.fc = nn.Conv2d(2, 6, 3, padding=1), nn.LSTM(48, 10), nn.Linear(10, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.conv(x)).permute(3, 0, 1, 2).flatten(2)
        y: Tensor = self.fc(self.layer(x)[0])
        return y


@toy(TOYS, "glu_mlp", sequence())
class GatedMLP(nn.Module):
    """SwiGLU as language models have it: one fused layer makes the gate and the value, in halves."""

    def __init__(self) -> None:
        super().__init__()
        self.fused, self.down, self.fc = nn.Linear(8, 40), nn.Linear(20, 8), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        gate, value = self.fused(x).chunk(2, dim=-1)
        y: Tensor = self.fc(x + self.down(F.silu(gate) * value))
        return y


@toy(TOYS, "fused_qkv", sequence(features=16))
class FusedAttention(nn.Module):
    """A vision transformer's block: queries, keys and values from one layer, heads by reshape, scale in the code."""

    def __init__(self) -> None:
        super().__init__()
        self.heads, self.scale = 4, 0.5
        self.norm1, self.qkv, self.proj = nn.LayerNorm(16), nn.Linear(16, 48), nn.Linear(16, 16)
        self.norm2, self.up, self.down = nn.LayerNorm(16), nn.Linear(16, 32), nn.Linear(32, 16)
        self.fc = nn.Linear(16, 3)

    def attend(self, x: Tensor) -> Tensor:
        b, n, c = x.shape
        qkv = self.qkv(x).reshape(b, n, 3, self.heads, c // self.heads).permute(2, 0, 3, 1, 4)
        q, k, v = qkv.unbind(0)
        weights = (q @ k.transpose(-2, -1) * self.scale).softmax(dim=-1)
        y: Tensor = self.proj((weights @ v).transpose(1, 2).reshape(b, n, c))
        return y

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attend(self.norm1(x))
        x = x + self.down(F.gelu(self.up(self.norm2(x))))
        y: Tensor = self.fc(x.mean(dim=1))
        return y


@toy(TOYS, "rotated_halves", sequence(features=32))
class RotatedHalves(nn.Module):
    """Queries and keys whose halves are rotated, and values beside them: one attribute sizes the three."""

    def __init__(self) -> None:
        super().__init__()
        self.head_dim = 8
        self.q, self.k, self.v, self.o = (nn.Linear(32, 32) for _ in range(4))
        self.pace = nn.Parameter(torch.rand(4))
        self.fc = nn.Linear(32, 3)

    def rotated(self, x: Tensor, angles: Tensor) -> Tensor:
        left, right = x.chunk(2, dim=-1)
        angles = torch.cat([angles, angles], -1)
        return x * angles.cos() + torch.cat([-right, left], -1) * angles.sin()

    def forward(self, x: Tensor) -> Tensor:
        b, n, _ = x.shape
        shape = (b, n, -1, self.head_dim)
        q, k, v = (layer(x).view(shape).transpose(1, 2) for layer in (self.q, self.k, self.v))
        angles = torch.arange(n)[:, None] * self.pace
        scores = (self.rotated(q, angles) @ self.rotated(k, angles).transpose(-2, -1)).mul(0.5)
        y: Tensor = self.fc(self.o((scores.softmax(-1) @ v).transpose(1, 2).reshape(b, n, -1)))
        return y


@toy(TOYS, "spectral_layers", sequence(features=16))
class SpectralLayers(nn.Module):
    """Mixed over time in the frequencies, by complex weights of each channel; then linear layers."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.down, self.fc = nn.Linear(16, 24), nn.Linear(24, 16), nn.Linear(16, 3)
        self.filters = nn.Parameter(torch.randn(4, 24, dtype=torch.cfloat))

    def forward(self, x: Tensor) -> Tensor:
        h = self.up(x)
        h = torch.fft.irfft(torch.fft.rfft(h, dim=1) * self.filters, n=x.shape[1], dim=1)
        y: Tensor = self.fc(torch.fft.fft2(self.down(h.relu()), dim=(0, 1)).real)
        return y


@toy(TOYS, "overlapping_chunks", sequence(8, 16))
class OverlappingChunks(nn.Module):
    """Sliding windows as Longformer cuts them: overlapping chunks by strides, heads beside the batch."""

    def __init__(self) -> None:
        super().__init__()
        self.heads, self.q, self.v, self.o, self.fc = (
            4,
            nn.Linear(16, 16),
            nn.Linear(16, 24),
            nn.Linear(24, 8),
            nn.Linear(8, 3),
        )

    def chunks(self, x: Tensor) -> Tensor:
        size, (a, b, c) = x.shape, x.stride()
        return x.as_strided((size[0], 3, 4, size[2]), (a, 2 * b, b, c))

    def split(self, x: Tensor) -> Tensor:
        b, n, _ = x.shape
        return x.view(b, n, self.heads, -1).transpose(1, 2).reshape(b * self.heads, n, -1)

    def forward(self, x: Tensor) -> Tensor:
        b = x.shape[0]
        q, v = self.chunks(self.split(self.q(x))), self.chunks(self.split(self.v(x)))
        z = (q @ q.transpose(-2, -1) * 0.3).softmax(-1) @ v
        z = z.reshape(b, self.heads, 12, -1).transpose(1, 2).reshape(b, 12, -1)
        y: Tensor = self.fc(self.o(z).relu())
        return y


class Apart(nn.Module):
    """Takes the last dimension apart by lengths that it holds in a mapping, and reads as pairs."""

    def __init__(self, **lengths: int) -> None:
        super().__init__()
        self.lengths = lengths
        self._pairs = tuple(lengths.items())

    def forward(self, x: Tensor) -> Tensor:
        return x.view(*x.shape[:-1], *(length for _, length in self._pairs), -1)


@toy(TOYS, "lengths_in_a_mapping", sequence())
class LengthsInAMapping(nn.Module):
    """Attention whose heads a layer without weights knows by name, as layers that rearrange by a pattern do."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv, self.apart, self.head = nn.Linear(8, 3 * 4 * 6), Apart(parts=3, heads=4), nn.Linear(24, 3)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.apart(self.qkv(x)).permute(2, 0, 3, 1, 4)
        y: Tensor = self.head(((q @ k.mT * 0.4).softmax(-1) @ v).transpose(1, 2).flatten(2))
        return y


@toy(TOYS, "rows_of_sizes", image())
class RowsOfSizes(nn.Module):
    """Two lists of sizes in which the same number stands for another width each."""

    def __init__(self) -> None:
        super().__init__()
        self.patches, self.hidden = nn.Conv2d(3, 12, 4, stride=4), nn.Linear(12, 12)
        self.maps, self.rows = [4, 4, 12], [1, 16, 12]
        self.conv, self.head = nn.Conv2d(12, 6, 3, padding=1), nn.Linear(6 + 12, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patches(x).flatten(2).transpose(1, 2)
        maps = x.reshape([x.size(0), *self.maps]).permute(0, 3, 1, 2)
        rows = self.hidden(x).relu().flatten(1).view([x.size(0), *self.rows])
        y: Tensor = self.head(torch.cat([self.conv(maps).relu().mean((2, 3)), rows.mean((1, 2))], 1))
        return y


@toy(TOYS, "grouped_query", sequence(features=16))
class GroupedQueryAttention(nn.Module):
    """Four query heads share two heads of keys and values, which are repeated; biases on the queries alone."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.k, self.v = nn.Linear(16, 16), nn.Linear(16, 8, bias=False), nn.Linear(16, 8, bias=False)
        self.o, self.fc = nn.Linear(16, 16, bias=False), nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        b, n, _ = x.shape
        q = self.q(x).view(b, n, 4, 4).transpose(1, 2)
        k = self.k(x).view(b, n, 2, 4).transpose(1, 2).repeat_interleave(2, dim=1)
        v = self.v(x).view(b, n, 2, 4).transpose(1, 2)
        v = v[:, :, None].expand(b, 2, 2, n, 4).reshape(b, 4, n, 4)
        z = F.scaled_dot_product_attention(q, k, v, is_causal=True, scale=0.5)
        y: Tensor = self.fc(self.o(z.transpose(1, 2).reshape(b, n, -1)))
        return y


@toy(TOYS, "relative_position", sequence(6, 16))
class RelativePosition(nn.Module):
    """Swin's attention: a table of biases, one column a head, indexed by relative position; absolute positions too."""

    index: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.position = nn.Parameter(torch.zeros(1, 6, 16))
        self.table = nn.Parameter(torch.zeros(11, 4))
        self.register_buffer("index", torch.arange(6)[:, None] - torch.arange(6)[None, :] + 5)
        self.qkv, self.proj, self.fc = nn.Linear(16, 48), nn.Linear(16, 16), nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.position
        b, n, c = x.shape
        q, k, v = self.qkv(x).reshape(b, n, 3, 4, c // 4).permute(2, 0, 3, 1, 4)
        bias = self.table[self.index.view(-1)].view(n, n, -1).permute(2, 0, 1)
        weights = (q @ k.transpose(-2, -1) * (c // 4) ** -0.5 + bias[None]).softmax(dim=-1)
        y: Tensor = self.fc(x + self.proj((weights @ v).transpose(1, 2).reshape(b, n, c)))
        return y


@toy(TOYS, "rotary", sequence(6, 16))
class Rotary(nn.Module):
    """Rotary position embeddings: halves of every head are turned against each other by tables."""

    cos: Tensor
    sin: Tensor

    def __init__(self) -> None:
        super().__init__()
        angles = torch.arange(6)[:, None] * torch.tensor([1.0, 0.1])[None].repeat(1, 2)
        self.register_buffer("cos", angles.cos(), persistent=False)
        self.register_buffer("sin", angles.sin(), persistent=False)
        self.q, self.k, self.v = (nn.Linear(16, 16, bias=False) for _ in range(3))
        self.o, self.fc = nn.Linear(16, 16, bias=False), nn.Linear(16, 3)

    def turn(self, x: Tensor) -> Tensor:
        a, b = x[..., : x.shape[-1] // 2], x[..., x.shape[-1] // 2 :]
        return x * self.cos + torch.cat((-b, a), dim=-1) * self.sin

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (f(x).view(x.shape[0], 6, -1, 4).transpose(1, 2) for f in (self.q, self.k, self.v))
        z = F.scaled_dot_product_attention(self.turn(q), self.turn(k), v)
        y: Tensor = self.fc(x + self.o(z.transpose(1, 2).flatten(2)))
        return y


@toy(TOYS, "tied_embedding", tokens())
class TiedEmbedding(nn.Module):
    """A language model whose output layer is its embedding table; positions are embedded too."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.position = nn.Embedding(11, 12), nn.Embedding(6, 12)
        self.up, self.down, self.norm = nn.Linear(12, 20), nn.Linear(20, 12), nn.LayerNorm(12)
        self.decoder = nn.Linear(12, 11, bias=False)
        self.decoder.weight = self.embedding.weight

    def forward(self, x: Tensor) -> Tensor:
        z = self.embedding(x) + self.position(torch.arange(x.shape[1]))
        z = z + self.down(F.gelu(self.up(self.norm(z))))
        y: Tensor = self.decoder(z)
        return y


@toy(TOYS, "layer_norm", sequence())
class LayerNorms(nn.Module):
    """Layer normalisation over channels that are cut, with and without scale and shift."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.norm, self.b = nn.Linear(8, 14), nn.LayerNorm(14), nn.Linear(14, 10)
        self.plain, self.fc = nn.LayerNorm(10, elementwise_affine=False), nn.Linear(10, 3)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.fc(self.plain(self.b(F.relu(self.norm(self.a(x))))))
        return y


class HandWrittenRMSNorm(nn.Module):
    """Root mean square normalisation as language models write it out."""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(features))

    def forward(self, x: Tensor) -> Tensor:
        return self.weight * (x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6))


@toy(TOYS, "rms_norm", sequence())
class RMSNorms(nn.Module):
    """Root mean square normalisation, torch's and one written out in the forward pass."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.norm, self.b = nn.Linear(8, 14), nn.RMSNorm(14), nn.Linear(14, 10)
        self.own, self.fc = HandWrittenRMSNorm(10), nn.Linear(10, 3)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.fc(self.own(self.b(F.silu(self.norm(self.a(x))))))
        return y


@toy(TOYS, "mixture_of_experts", sequence())
class MixtureOfExperts(nn.Module):
    """Experts with hidden layers of their own, stacked in one parameter, all of them run and weighed by a gate."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.gate = nn.Linear(8, 12), nn.Linear(12, 3)
        self.up, self.down = nn.Parameter(torch.randn(3, 12, 16) / 4), nn.Parameter(torch.randn(3, 16, 12) / 4)
        self.fc = nn.Linear(12, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.stem(x))
        hidden = F.relu(torch.einsum("bnc,ech->benh", x, self.up))
        outputs = torch.einsum("benh,ehc->benc", hidden, self.down)
        weights = self.gate(x).softmax(dim=-1)
        y: Tensor = self.fc(x + torch.einsum("benc,bne->bnc", outputs, weights))
        return y


@toy(TOYS, "expert_list", sequence())
class ExpertList(nn.Module):
    """Experts as a list of small networks, all of them run and weighed by a gate."""

    def __init__(self) -> None:
        super().__init__()
        self.gate, self.fc = nn.Linear(8, 3), nn.Linear(8, 3)
        self.experts = nn.ModuleList(nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 8)) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        weights = self.gate(x).softmax(dim=-1)
        outputs = torch.stack([expert(x) for expert in self.experts], dim=-2)
        y: Tensor = self.fc(x + (outputs * weights[..., None]).sum(dim=-2))
        return y


@toy(TOYS, "multihead_attention", sequence(features=16))
class MultiheadAttention(nn.Module):
    """torch's own attention module, as self-attention and as cross-attention with other key sizes."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.memory = nn.Linear(16, 16), nn.Linear(16, 10)
        self.own = nn.MultiheadAttention(16, 4, batch_first=True)
        self.cross = nn.MultiheadAttention(16, 4, kdim=10, vdim=10, batch_first=True)
        self.up, self.fc = nn.Linear(16, 24), nn.Linear(24, 3)

    def forward(self, x: Tensor) -> Tensor:
        z, memory = self.embed(x), F.relu(self.memory(x))
        z = z + self.own(z, z, z, need_weights=False)[0]
        z = z + self.cross(z, memory, memory)[0]
        y: Tensor = self.fc(F.relu(self.up(z)))
        return y


@toy(TOYS, "encoder_layer", sequence(features=16))
class EncoderLayers(nn.Module):
    """torch's own transformer encoder, whose layers take a fused path of their own in eval mode."""

    def __init__(self) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(16, 4, 32, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.fc = nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.fc(self.encoder(x).mean(dim=1))
        return y


@toy(TOYS, "class_token", image(3, 16))
class ClassToken(nn.Module):
    """Patches as tokens, with a class token cat'ed in front and learnt positions added to both."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, 12, 4, 4)
        self.token, self.position = nn.Parameter(torch.zeros(1, 1, 12)), nn.Parameter(torch.zeros(1, 17, 12))
        self.up, self.down, self.fc = nn.Linear(12, 24), nn.Linear(24, 12), nn.Linear(12, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patches(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(x.shape[0], -1, -1), x], dim=1) + self.position
        x = x + self.down(F.gelu(self.up(x)))
        y: Tensor = self.fc(x[:, 0])
        return y


@toy(TOYS, "mixer", sequence(6, 8))
class Mixer(nn.Module):
    """Tokens are mixed by linear layers over the sequence, channels by linear layers over the features."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Linear(8, 12)
        self.tokens = nn.Sequential(nn.Linear(6, 10), nn.GELU(), nn.Linear(10, 6))
        self.channels = nn.Sequential(nn.Linear(12, 20), nn.GELU(), nn.Linear(20, 12))
        self.fc = nn.Linear(12, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = x + self.tokens(x.transpose(1, 2)).transpose(1, 2)
        x = x + self.channels(x)
        y: Tensor = self.fc(x.mean(dim=1))
        return y


@toy(REFUSED, "custom_autograd", sequence())
class CustomAutograd(nn.Module):
    """A function with a forward pass of its own, in numpy, that no tracer can look into."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(8, 12), nn.Linear(12, 3)

    def forward(self, x: Tensor) -> Tensor:
        hidden: Tensor = Doubled.apply(self.a(x))  # type: ignore[no-untyped-call]
        y: Tensor = self.b(hidden)
        return y


class Doubled(torch.autograd.Function):
    """Twice the input, computed outside of torch."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return torch.from_numpy(2 * x.detach().numpy())

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        return 2 * gradients[0]


@toy(REFUSED, "data_dependent", sequence())
class DataDependent(nn.Module):
    """Which layer runs depends on the values of the input."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(8, 12), nn.Linear(8, 12), nn.Linear(12, 3)

    def forward(self, x: Tensor) -> Tensor:
        z = self.a(x) if bool(x.sum() > 0) else self.b(x)
        y: Tensor = self.c(F.relu(z))
        return y
