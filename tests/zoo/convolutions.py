"""The zoo's convolutional models: groups, shuffles, reshapes, derived weights, norms, one and three dimensions."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo.parts import ZooToy, conv_bn, image, toy

__all__ = ["TOYS"]

TOYS: dict[str, ZooToy] = {}


@toy(TOYS, "autoencoder", image(1))
class Autoencoder(nn.Module):
    """A convolutional autoencoder: transposed convolutions keep their channels in the other dimension."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Conv2d(1, 8, 3, 2, 1), nn.ReLU(), nn.Conv2d(8, 12, 3, 2, 1), nn.ReLU())
        self.decoder = nn.Sequential(
            nn.ConvTranspose2d(12, 8, 2, 2), nn.BatchNorm2d(8), nn.ReLU(), nn.ConvTranspose2d(8, 1, 2, 2), nn.Sigmoid()
        )

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.decoder(self.encoder(x))
        return y


@toy(TOYS, "grouped", image())
class GroupedConv(nn.Module):
    """A grouped convolution after and before layers that are cut: groups shrink alike or go whole."""

    def __init__(self) -> None:
        super().__init__()
        self.before, self.grouped, self.after = conv_bn(3, 16), conv_bn(16, 24, groups=4), nn.Conv2d(24, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.after(self.grouped(self.before(x)))
        return y


@toy(TOYS, "depthwise_separable", image())
class DepthwiseSeparable(nn.Module):
    """Depthwise and pointwise convolutions, one of them with two filters a channel."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = conv_bn(3, 8)
        self.body = nn.Sequential(conv_bn(8, 8, groups=8), conv_bn(8, 12, 1), conv_bn(12, 24, groups=12))
        self.head = nn.Conv2d(24, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.head(self.body(self.stem(x)))
        return y


@toy(TOYS, "flatten_spatial", image())
class FlattenSpatial(nn.Module):
    """Flatten with 16 pixels a channel before the linear layer: a channel is 16 columns."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.fc1, self.fc2 = conv_bn(3, 8), nn.Linear(128, 20), nn.Linear(20, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = F.adaptive_avg_pool2d(self.conv(x), 4).flatten(1)
        y: Tensor = self.fc2(F.relu(self.fc1(x)))
        return y


@toy(TOYS, "linear_view_deconv", lambda: (torch.randn(2, 10),))
class LinearViewDeconv(nn.Module):
    """A generator: a linear layer viewed as 8 channels of 4 × 4 pixels, the 8 written in the code."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(10, 128)
        self.up1, self.up2 = nn.ConvTranspose2d(8, 6, 4, 2, 1), nn.ConvTranspose2d(6, 1, 4, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.fc(x)).view(-1, 8, 4, 4)
        y: Tensor = torch.tanh(self.up2(F.relu(self.up1(x))))
        return y


@toy(TOYS, "pixel_shuffle", image())
class PixelShuffle(nn.Module):
    """Sub-pixel upscaling: four channels become one of four times the pixels."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.wide, self.shuffle = conv_bn(3, 8), nn.Conv2d(8, 24, 3, padding=1), nn.PixelShuffle(2)
        self.head = nn.Conv2d(6, 3, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.head(F.relu(self.shuffle(self.wide(self.stem(x)))))
        return y


@toy(TOYS, "pixel_unshuffle", image())
class PixelUnshuffle(nn.Module):
    """Pixels moved into channels by hand, with view and permute, between two convolutions."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.mix, self.head = conv_bn(3, 6), conv_bn(24, 10, 1), nn.Conv2d(10, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        b, c, h, w = x.shape
        x = x.view(b, c, h // 2, 2, w // 2, 2).permute(0, 1, 3, 5, 2, 4).reshape(b, c * 4, h // 2, w // 2)
        y: Tensor = self.head(self.mix(x))
        return y


@toy(TOYS, "channel_shuffle", image())
class ChannelShuffle(nn.Module):
    """ShuffleNet's unit: half of the channels is passed on, the halves are interleaved afterwards, twice."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = conv_bn(3, 16)
        self.branches = nn.ModuleList(
            nn.Sequential(conv_bn(8, 8, 1), conv_bn(8, 8, groups=8), conv_bn(8, 8, 1)) for _ in range(2)
        )
        self.head = nn.Conv2d(16, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for branch in self.branches:
            a, b = x.chunk(2, dim=1)
            x = torch.cat([a, branch(b)], dim=1)
            n, c, h, w = x.shape
            x = x.view(n, 2, c // 2, h, w).transpose(1, 2).reshape(n, c, h, w)
        y: Tensor = self.head(x)
        return y


class StandardisedConv(nn.Conv2d):
    """A convolution whose weight is standardised over its inputs before use."""

    def forward(self, x: Tensor) -> Tensor:
        w = self.weight
        w = (w - w.mean(dim=(1, 2, 3), keepdim=True)) / (w.std(dim=(1, 2, 3), keepdim=True) + 1e-5)
        return F.conv2d(x, w, self.bias, padding=self.padding)


@toy(TOYS, "weight_standardised", image())
class WeightStandardised(nn.Module):
    """Weight standardisation: the weight that is used is a function of the one that is stored."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = StandardisedConv(3, 8, 3, padding=1), StandardisedConv(8, 12, 3, padding=1)
        self.c, self.head = nn.Conv2d(12, 10, 1), nn.Conv2d(10, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.head(F.relu(self.c(F.relu(self.b(F.relu(self.a(x)))))))
        return y


@toy(TOYS, "scaled_weight", image())
class ScaledWeight(nn.Module):
    """A reparametrised convolution: the weight that is used is the stored one times a learnt gain a filter."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 4, 1)
        self.gain = nn.Parameter(torch.rand(8, 1, 1, 1) + 0.5)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(F.conv2d(x, self.a.weight * self.gain, self.a.bias))
        y: Tensor = self.b(x)
        return y


@toy(TOYS, "group_norm", image())
class GroupNorms(nn.Module):
    """Group normalisation with 4 groups, and with one group: statistics are taken over channels that are cut."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.head = nn.Conv2d(3, 16, 3), nn.Conv2d(16, 12, 3), nn.Conv2d(12, 4, 1)
        self.norm_a, self.norm_b = nn.GroupNorm(4, 16), nn.GroupNorm(1, 12)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.norm_b(self.b(F.relu(self.norm_a(self.a(x))))))
        y: Tensor = self.head(x)
        return y


@toy(TOYS, "one_dimensional", lambda: (torch.randn(2, 4, 32),))
class OneDimensional(nn.Module):
    """1-D convolutions with dilation, a norm, pooling and a linear layer over time."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.norm, self.b = nn.Conv1d(4, 10, 3), nn.BatchNorm1d(10), nn.Conv1d(10, 8, 3, dilation=2)
        self.fc = nn.Linear(104, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.b(F.max_pool1d(F.relu(self.norm(self.a(x))), 2, ceil_mode=True)))
        x = F.pad(x, (1, 1))
        y: Tensor = self.fc(x.flatten(1))
        return y


@toy(TOYS, "three_dimensional", lambda: (torch.randn(2, 1, 8, 8, 8),))
class ThreeDimensional(nn.Module):
    """3-D convolutions, and a 3-D transposed one."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.norm, self.b = nn.Conv3d(1, 6, 3, 2, 1), nn.BatchNorm3d(6), nn.Conv3d(6, 8, 3, padding=1)
        self.up = nn.ConvTranspose3d(8, 2, 2, 2)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.up(F.relu(self.b(F.relu(self.norm(self.a(x))))))
        return y


@toy(TOYS, "grouped_deconv", image())
class GroupedDeconv(nn.Module):
    """A transposed convolution with groups."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.up = conv_bn(3, 16), nn.ConvTranspose2d(16, 24, 2, 2, groups=4)
        self.head = nn.Conv2d(24, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.head(F.relu(self.up(self.stem(x))))
        return y


@toy(TOYS, "buffer_scale", image())
class BufferScale(nn.Module):
    """Buffers scale and shift the channels, one of them not saved with the model."""

    scale: Tensor
    shift: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.a, self.head = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 4, 1)
        self.register_buffer("scale", torch.rand(1, 8, 1, 1) + 0.5)
        self.register_buffer("shift", torch.randn(8, 1, 1), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.head(F.relu(self.a(x) * self.scale + self.shift))
        return y


@toy(TOYS, "channels_last", image())
class ChannelsLast(nn.Module):
    """ConvNeXt's block: depthwise convolution, then norm and linear layers with channels last, and a layer scale."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.dw = nn.Conv2d(3, 12, 4, 4), nn.Conv2d(12, 12, 3, padding=1, groups=12)
        self.norm, self.up, self.down = nn.LayerNorm(12), nn.Linear(12, 30), nn.Linear(30, 12)
        self.gamma = nn.Parameter(torch.ones(12))
        self.fc = nn.Linear(12, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        z = self.norm(self.dw(x).permute(0, 2, 3, 1))
        z = self.gamma * self.down(F.gelu(self.up(z)))
        x = x + z.permute(0, 3, 1, 2)
        y: Tensor = self.fc(x.mean(dim=(-2, -1)))
        return y


@toy(TOYS, "dropout", image())
class Dropouts(nn.Module):
    """Dropout of every kind, which does nothing in eval mode."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.drop2d = conv_bn(3, 8), nn.Dropout2d(0.3)
        self.fc1, self.drop, self.fc2 = nn.Linear(8, 16), nn.AlphaDropout(0.5), nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = F.dropout(self.drop2d(self.a(x)).amax(dim=(2, 3)), 0.5, self.training)
        y: Tensor = self.fc2(self.drop(F.selu(self.fc1(x))))
        return y


@toy(TOYS, "gated_convolution", image())
class GatedConvolution(nn.Module):
    """A gated linear unit over channels: halves of one layer are multiplied with each other."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.head = nn.Conv2d(3, 16, 3), nn.Conv2d(8, 20, 1), nn.Conv2d(10, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = F.glu(self.a(x), dim=1)
        x, gate = self.b(x).chunk(2, dim=1)
        y: Tensor = self.head(x * torch.sigmoid(gate))
        return y


@toy(TOYS, "prelu_and_maxout", image())
class PReLUMaxout(nn.Module):
    """PReLU with a slope a channel, then the maximum over pairs of channels."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.act, self.b = nn.Conv2d(3, 12, 3), nn.PReLU(12), nn.Conv2d(12, 20, 3)
        self.head = nn.Conv2d(10, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.b(self.act(self.a(x)))
        x = x.view(x.shape[0], 10, 2, *x.shape[2:]).amax(dim=2)
        y: Tensor = self.head(x)
        return y
