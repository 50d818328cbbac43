"""Saved folders that somebody changed who knows how they are made."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from secateur.saving.manifest import EDITS, MANIFEST, MODEL


def reseal(folder: Path, change: Callable[[dict[str, Any]], None] = lambda m: None) -> None:
    """Change the manifest as one would who knows how the checksums are made."""
    manifest = json.loads((folder / MANIFEST).read_text())
    manifest.pop("checksum")
    for name in (MODEL, EDITS):
        manifest["sha256"][name] = hashlib.sha256((folder / name).read_bytes()).hexdigest()
    change(manifest)
    checksum = hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()
    (folder / MANIFEST).write_text(json.dumps({**manifest, "checksum": checksum}))
