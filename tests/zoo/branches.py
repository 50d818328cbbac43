"""The zoo's branching models: tensors that are added, cat'ed, scaled, shared, or given out on the way."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo.parts import ZooToy, conv_bn, image, toy

__all__ = ["TOYS"]

TOYS: dict[str, ZooToy] = {}


@toy(TOYS, "residual", image())
class ResidualBlocks(nn.Module):
    """Two residual blocks: the channels of the stem, both blocks and the shortcut are one."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = conv_bn(3, 8)
        self.body1 = nn.Sequential(conv_bn(8, 12), nn.Conv2d(12, 8, 3, padding=1), nn.BatchNorm2d(8))
        self.body2 = nn.Sequential(conv_bn(8, 10), nn.Conv2d(10, 16, 3, padding=1), nn.BatchNorm2d(16))
        self.shortcut = nn.Conv2d(8, 16, 1)
        self.fc = nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = F.relu(x + self.body1(x))
        x = F.relu(self.shortcut(x) + self.body2(x))
        y: Tensor = self.fc(x.mean(dim=(2, 3)))
        return y


@toy(TOYS, "unet", image())
class UNet(nn.Module):
    """A U-Net: what is cat'ed on the way up was made on the way down."""

    def __init__(self) -> None:
        super().__init__()
        self.down1, self.down2, self.bottom = conv_bn(3, 8), conv_bn(8, 12), conv_bn(12, 16)
        self.up2, self.up1 = nn.ConvTranspose2d(16, 12, 2, stride=2), nn.ConvTranspose2d(12, 8, 2, stride=2)
        self.join2, self.join1 = conv_bn(24, 12), conv_bn(16, 8)
        self.head = nn.Conv2d(8, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        a = self.down1(x)
        b = self.down2(F.max_pool2d(a, 2))
        c = self.bottom(F.max_pool2d(b, 2))
        b = self.join2(torch.cat([self.up2(c), b], dim=1))
        a = self.join1(torch.cat([a, self.up1(b)], dim=1))
        y: Tensor = self.head(a)
        return y


@toy(TOYS, "feature_pyramid", image())
class FeaturePyramid(nn.Module):
    """A feature pyramid: lateral layers are tied by the sums on the way down; three outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.c1, self.c2, self.c3 = conv_bn(3, 6), conv_bn(6, 10), conv_bn(10, 14)
        self.l1, self.l2, self.l3 = nn.Conv2d(6, 8, 1), nn.Conv2d(10, 8, 1), nn.Conv2d(14, 8, 1)
        self.heads = nn.ModuleList(nn.Conv2d(8, 4, 3, padding=1) for _ in range(3))

    def forward(self, x: Tensor) -> list[Tensor]:
        a = self.c1(x)
        b = self.c2(F.max_pool2d(a, 2))
        c = self.c3(F.max_pool2d(b, 2))
        p3 = self.l3(c)
        p2 = self.l2(b) + F.interpolate(p3, scale_factor=2.0, mode="nearest")
        p1 = self.l1(a) + F.interpolate(p2, size=a.shape[-2:], mode="bilinear", align_corners=False)
        return [head(p) for head, p in zip(self.heads, (p1, p2, p3), strict=True)]


@toy(TOYS, "dense_cats", image())
class DenseCats(nn.Module):
    """A dense block: every layer reads the cat of all earlier ones, each time through another norm."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 6, 3, padding=1)
        self.norms = nn.ModuleList(nn.BatchNorm2d(6 + 4 * i) for i in range(3))
        self.layers = nn.ModuleList(nn.Conv2d(6 + 4 * i, 4, 3, padding=1) for i in range(3))
        self.fc = nn.Linear(18, 5)

    def forward(self, x: Tensor) -> Tensor:
        features = [self.stem(x)]
        for norm, layer in zip(self.norms, self.layers, strict=True):
            features.append(layer(F.relu(norm(torch.cat(features, dim=1)))))
        y: Tensor = self.fc(torch.cat(features, dim=1).mean(dim=(2, 3)))
        return y


@toy(TOYS, "squeeze_excite", image())
class SqueezeExcite(nn.Module):
    """Squeeze and excitation: channels scaled by gates that are made of the same channels; sigmoid(0) is not 0."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = conv_bn(3, 12)
        self.squeeze, self.excite = nn.Conv2d(12, 6, 1), nn.Conv2d(6, 12, 1)
        self.head = nn.Conv2d(12, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        gate = torch.sigmoid(self.excite(F.relu(self.squeeze(F.adaptive_avg_pool2d(x, 1)))))
        y: Tensor = self.head(x * gate)
        return y


@toy(TOYS, "cat_and_add", image())
class CatAndAdd(nn.Module):
    """One tensor feeds both a cat and a sum, and the cat's other half feeds the sum's other side."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = conv_bn(3, 8), conv_bn(3, 8), conv_bn(16, 8)
        self.head = nn.Conv2d(8, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        a, b = self.a(x), self.b(x)
        y: Tensor = self.head(self.c(torch.cat([a, b], dim=1)) + a)
        return y


@toy(TOYS, "cat_in_two_orders", image())
class CatInTwoOrders(nn.Module):
    """The sum of two cats with parts of other sizes: the places where parts end must be refined against each other."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = conv_bn(3, 4), conv_bn(3, 8), conv_bn(3, 6)
        self.d, self.head = conv_bn(3, 6), nn.Conv2d(12, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.head(torch.cat([self.a(x), self.b(x)], 1) + torch.cat([self.c(x), self.d(x)], 1))
        return y


@toy(TOYS, "shared_twice", image(8))
class SharedTwice(nn.Module):
    """One layer used twice: its inputs and outputs are the same channels, and its norm is shared as well."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.shared, self.head = nn.Conv2d(8, 12, 1), conv_bn(12, 12), nn.Conv2d(12, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.head(self.shared(self.shared(self.stem(x))))
        return y


@toy(TOYS, "multi_scale", image())
class MultiScale(nn.Module):
    """Branches at several scales, brought to one size by interpolation and cat'ed."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = conv_bn(3, 8)
        self.branches = nn.ModuleList(conv_bn(8, 6, 1) for _ in range(3))
        self.head = nn.Conv2d(26, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        pyramid = [x]
        for scale, branch in zip((1, 2, 4), self.branches, strict=True):
            small = branch(F.adaptive_avg_pool2d(x, scale))
            pyramid.append(F.interpolate(small, size=x.shape[-2:], mode="bilinear", align_corners=False))
        y: Tensor = self.head(torch.cat(pyramid, dim=1))
        return y


@toy(TOYS, "dict_outputs", image())
class DictOutputs(nn.Module):
    """A mapping of outputs, one of them a hidden layer's: that one must keep its channels."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = conv_bn(3, 8), conv_bn(8, 12), conv_bn(12, 10)
        self.fc = nn.Linear(10, 5)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        features = self.b(self.a(x))
        return {"features": features, "logits": self.fc(self.c(features).mean(dim=(2, 3)))}


@toy(TOYS, "two_inputs_two_outputs", lambda: (torch.randn(2, 3, 8, 8), torch.randn(2, 6)))
class TwoInputsTwoOutputs(nn.Module):
    """An image and a vector in, joined by scale and shift (FiLM); two heads out."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.film = conv_bn(3, 8), nn.Linear(6, 16)
        self.classes, self.box = nn.Linear(8, 5), nn.Linear(8, 4)

    def forward(self, x: Tensor, condition: Tensor) -> tuple[Tensor, Tensor]:
        scale, shift = self.film(condition)[:, :, None, None].chunk(2, dim=1)
        z = F.relu(self.conv(x) * scale + shift).mean(dim=(2, 3))
        return self.classes(z), self.box(z)
