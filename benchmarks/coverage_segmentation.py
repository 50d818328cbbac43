"""segmentation-models-pytorch: each decoder with each encoder of up to 30 million parameters that it takes."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

from coverage_case import Case, Made, image
from coverage_libraries import import_torchvision

__all__ = ["cases"]

ENCODERS = [
    "resnet18",
    "resnet34",
    "resnet50",
    "resnext50_32x4d",
    "dpn68",
    "dpn68b",
    "vgg11",
    "vgg11_bn",
    "vgg13",
    "vgg13_bn",
    "vgg16",
    "vgg16_bn",
    "vgg19",
    "vgg19_bn",
    "se_resnet50",
    "se_resnext50_32x4d",
    "densenet121",
    "densenet161",
    "densenet169",
    "densenet201",
    "efficientnet-b0",
    "efficientnet-b1",
    "efficientnet-b2",
    "efficientnet-b3",
    "efficientnet-b4",
    "efficientnet-b5",
    "mobilenet_v2",
    "xception",
    "timm-efficientnet-b0",
    "timm-efficientnet-b1",
    "timm-efficientnet-b2",
    "timm-efficientnet-b3",
    "timm-efficientnet-b4",
    "timm-efficientnet-b5",
    "timm-tf_efficientnet_lite0",
    "timm-tf_efficientnet_lite1",
    "timm-tf_efficientnet_lite2",
    "timm-tf_efficientnet_lite3",
    "timm-tf_efficientnet_lite4",
    "timm-skresnet18",
    "timm-skresnet34",
    "timm-skresnext50_32x4d",
    "mit_b0",
    "mit_b1",
    "mit_b2",
    "mobileone_s0",
    "mobileone_s1",
    "mobileone_s2",
    "mobileone_s3",
    "mobileone_s4",
]
DECODERS = [
    "Unet",
    "UnetPlusPlus",
    "MAnet",
    "Linknet",
    "FPN",
    "PSPNet",
    "DeepLabV3",
    "DeepLabV3Plus",
    "PAN",
    "UPerNet",
    "Segformer",
]
# These do not dilate, which the decoder asks of an encoder, or have no features at half the picture's size.
DILATED = {"DeepLabV3", "DeepLabV3Plus", "PAN"}
UNDILATED = ("vgg", "densenet", "mit_", "xception")
HALF_SIZE = {"UnetPlusPlus", "Linknet"}
TRANSFORMERS = ["tu-vit_tiny_patch16_224", "tu-deit_tiny_patch16_224", "tu-vit_small_patch16_224"]


def cases() -> Iterator[Case]:
    """Yield every decoder with every encoder that it takes."""
    for decoder in DECODERS:
        for encoder in ENCODERS:
            undilated = decoder in DILATED and encoder.startswith(UNDILATED)
            if not undilated and not (decoder in HALF_SIZE and encoder.startswith("mit_")):
                yield _case(decoder, encoder, 128 if decoder == "PAN" else 64)
    for encoder in TRANSFORMERS:
        yield _case("DPT", encoder, 224)


def _case(decoder: str, encoder: str, size: int) -> Case:
    return Case("segmentation", decoder, f"{decoder}-{encoder}", partial(_made, decoder, encoder, size))


def _made(decoder: str, encoder: str, size: int) -> Made:
    import_torchvision()  # which timm imports, and the library timm
    import segmentation_models_pytorch

    make = getattr(segmentation_models_pytorch, decoder)
    return make(encoder, encoder_weights=None, classes=5), (image(size),)
