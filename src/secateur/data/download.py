"""Fetching a data set's files: with progress, a checksum, and several mirrors."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from secateur.data.local import VARIABLE, cache_folder, places
from secateur.data.registry import Download, File, Info
from secateur.files import require
from secateur.types import DataError

__all__ = ["fetch", "missing"]


class _Progress:
    """The progress bar that pooch drives, drawn by rich (which secateur has anyway)."""

    def __init__(self, title: str) -> None:
        from rich.console import Console
        from rich.progress import DownloadColumn, Progress, TextColumn, TransferSpeedColumn

        self.total = 0
        self._bar = Progress(
            TextColumn("{task.description}"),
            DownloadColumn(),
            TransferSpeedColumn(),
            console=Console(stderr=True),
        )
        self._task = self._bar.add_task(title, total=None)
        self._bar.start()

    def update(self, amount: int) -> None:
        self._bar.update(self._task, advance=amount, total=self.total or None)

    def reset(self) -> None:
        self._bar.reset(self._task, total=self.total or None)

    def close(self) -> None:
        self._bar.stop()


def fetch(info: Info, wanted: Sequence[File], root: str | Path | None = None) -> None:
    """Fetch the downloads that hold the `wanted` files into ``root/<name>``, or into the cache.

    A file appears under its name only when it is whole and its checksum is right.

    Raises:
        DataError: no mirror gave the file, with what to do by hand.
    """
    require("pooch", "data")
    folder = (Path(root).expanduser() if root is not None else cache_folder()) / info.name
    names = {file.name for file in wanted}
    for download in info.downloads:
        if names.intersection(download.holds):
            _fetch_one(info, download, folder, root)


def _fetch_one(info: Info, download: Download, folder: Path, root: str | Path | None) -> None:
    import requests
    import urllib3

    reasons = []
    for mirror in download.mirrors:
        try:
            _retrieve(mirror, download, folder)
            return
        # ValueError is how pooch says that a checksum is wrong.
        except (requests.RequestException, urllib3.exceptions.HTTPError, OSError, ValueError) as error:
            reasons.append(f"{mirror}: {error}")
    files = [file for file in info.files if file.name in download.holds]
    raise missing(info, files, f"it could not be downloaded ({'; '.join(reasons)})", root)


def _retrieve(mirror: str, download: Download, folder: Path) -> None:
    import pooch

    bar = _Progress(download.name)
    try:
        downloader = pooch.HTTPDownloader(progressbar=bar, chunk_size=1 << 16)
        pooch.retrieve(mirror, download.checksum, fname=download.name, path=str(folder), downloader=downloader)
    finally:
        bar.close()


def missing(info: Info, wanted: Sequence[File], reason: str, root: str | Path | None = None) -> DataError:
    """Return the error for a data set that cannot be had, which says how to get it by hand."""
    names = {file.name for file in wanted}
    downloads = [download for download in info.downloads if names.intersection(download.holds)]
    addresses = "\n".join(f"  {download.mirrors[0]}" for download in downloads)
    searched = ", ".join(dict.fromkeys(str(place) for place in places(info, root)))
    return DataError(
        f"load({info.name!r}): {', '.join(sorted(names))} not found on this machine, and {reason}.\n"
        f"Fetch by hand, and keep compressed as they are:\n{addresses}\n"
        f"Put them into a folder DATA/{info.folders[0]} and pass root='DATA' or set {VARIABLE}=DATA.\n"
        f"Looked in: {searched}"
    )
