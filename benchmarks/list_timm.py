"""Write `timm_models.txt`: for each of timm's model modules its model with the fewest parameters (of equals the first).

Models are built without memory for their weights, so that the largest cost nothing; it takes some minutes.
"""

from __future__ import annotations

import sys
import warnings
from pathlib import Path

import torch

from coverage_libraries import import_timm

LIST = Path(__file__).with_name("timm_models.txt")


def main() -> None:
    """Write the list."""
    warnings.simplefilter("ignore")
    timm = import_timm()
    lines = []
    for module in timm.list_modules():
        counts = [(count, name) for name in timm.list_models(module=module) if (count := _parameters(timm, name))]
        if counts:
            lines.append(f"{module} {min(counts)[1]}")
            print(lines[-1], min(counts)[0], file=sys.stderr, flush=True)
    LIST.write_text("\n".join(lines) + "\n", encoding="utf-8")


def _parameters(timm: object, name: str) -> int:
    try:
        with torch.device("meta"):
            model = timm.create_model(name, pretrained=False)  # type: ignore[attr-defined]
    except Exception:  # noqa: BLE001  (a model that cannot be built is not listed)
        return 0
    return sum(p.numel() for p in model.parameters())


if __name__ == "__main__":
    main()
