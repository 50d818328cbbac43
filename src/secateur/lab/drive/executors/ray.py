"""Cells on a Ray cluster: many machines, or this one."""

from __future__ import annotations

import logging
import math
import os
import sys
import time
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from secateur.checks import check_whole, in_one_line
from secateur.files import require
from secateur.lab.drive.executors.base import Event, Failed, Setting, Started, compute, overheard
from secateur.lab.drive.executors.wire import pack, unpack
from secateur.lab.keep import paths
from secateur.lab.keep.environment import environment
from secateur.lab.keep.presence import Presence
from secateur.lab.keep.records import Record
from secateur.lab.keep.share import Share
from secateur.lab.keep.store import intact, load_artefact
from secateur.lab.plan.recipe import Json, Recipe
from secateur.lab.plan.study import Cell
from secateur.state import threads
from secateur.types import FileError, InputError, unknown_name

__all__ = ["OnRay"]

_SHARED = 64
"""How many artefacts stay in the cluster's memory for the cells to come."""
_LOOK = 1.0
_PROBE = 60.0
"""Seconds in which a node must say whether it sees the store's folder."""


@dataclass(frozen=True)
class _Parcel:
    """All that a cell needs far from the store: itself, the records of its needs, and where their tensors are."""

    id: str
    run: bytes
    recipe: Recipe
    records: Mapping[str, Record]
    artefacts: Mapping[str, Any] = field(repr=False)
    options: Mapping[str, Json]
    threads: int
    commit: Json
    path: Sequence[str]
    presence: Presence | None = None
    share: Share | None = None

    @property
    def folder(self) -> Path | None:
        """The store's folder, where this node sees it."""
        return self.presence.folder if self.presence and self.presence.is_here() else None

    def get(self, identity: str, /) -> Record:
        """Return the record of a needed cell."""
        try:
            return self.records[identity]
        except KeyError:
            raise unknown_name("needed cell", identity, self.records) from None

    def artefact(self, identity: str, /) -> dict[str, Tensor]:
        """Return the tensors of a needed cell, fetched from where Ray has them."""
        from safetensors.torch import load

        checksum = self.get(identity).artefact
        if checksum is None:
            raise FileError(f"record {identity} kept no tensors; its cell returns no artefact")
        place = self.artefacts.get(identity)
        if isinstance(place, Share):
            return load(intact(place.read(identity), checksum, place.address, identity))
        if identity in self.artefacts:
            return load(require("ray", "ray").get(place))
        folder = self.folder
        if folder is None:
            raise FileError(
                "this node joined without the store's folder, which all others have; mount it there as well"
            )
        return load_artefact(paths.artefact_file(folder, identity), checksum, identity)


def _work(parcel: _Parcel) -> tuple[bytes, bytes]:
    """Compute a cell on a node."""
    # A study's module may lie beside the script that was started, as on the driver.
    sys.path.extend(folder for folder in parcel.path if folder not in sys.path)
    with threads(parcel.threads), overheard() as output:
        event = _answer(parcel)
    return pack(replace(event, output=output()) if isinstance(event, Failed) else event, parcel.folder, parcel.share)


def _answer(parcel: _Parcel) -> Any:
    try:
        run = require("ray.cloudpickle", "ray").loads(parcel.run)
    except Exception as error:  # noqa: BLE001  (a module that cannot be imported fails in its own way)
        why = f"the cell's function cannot be loaded on a node: {in_one_line(error)}; install its module there"
        return Failed(parcel.id, "ray", why)
    facts = {**environment(executor="ray"), "commit": parcel.commit}
    return compute(Cell(parcel.recipe, run), parcel, parcel.options, "ray", facts, parcel.folder)


class OnRay:
    """Computes cells as tasks of Ray Core, each on a node that has what its `Cell.resources` ask for.

    Nodes need secateur and the study's module, but not the store: the records of the needed cells travel with a
    cell, and results come back to the driver, which stores them as they arrive. Where all nodes see the store's folder
    under the same path (a shared file system), tensors lie there and only their names travel, and a training that is
    killed goes on from its last checkpoint. Where they do not but a `Share` is named, such as ``s3://bucket/folder``, large
    tensors lie there on their way and the driver moves files; else they go through Ray's object store. A cell whose worker or
    node dies is computed again elsewhere, up to `retries` times.

    Args:
        address: ``"auto"`` or ``"host:port"`` of a running cluster, ``"ray://host:port"`` of one that is reached as
            a client; None takes ``$RAY_ADDRESS``, and without it starts Ray on this machine.
        jobs: how many cells to have in Ray's hands at most; two for each of the cluster's processors when None.
        retries: how often a cell is tried again when its worker or node dies.
        share: the address of a place that all nodes reach, as fsspec has them; ``$SECATEUR_SHARE`` when None.

    Raises:
        InputError: fewer than one job, or a negative number of retries.
        MissingLibraryError: Ray is not installed.
    """

    name = "ray"

    def __init__(
        self, address: str | None = None, jobs: int | None = None, *, retries: int = 3, share: str | None = None
    ) -> None:
        check_whole(self, or_none=True, jobs=jobs)
        check_whole(self, 0, retries=retries)
        # Ray reads these when it is imported.
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
        self._ray = require("ray", "ray")
        self.address, self.jobs, self.retries = address, jobs, retries
        self._share = Share(share) if share else Share.of_environment()
        self._running: dict[Any, Cell] = {}
        self._ready: list[Any] = []
        self._events: list[Event] = []
        self._shared: OrderedDict[str, Any] = OrderedDict()
        self._sees: dict[str, bool] = {}
        self._alive: list[dict[str, Any]] = []
        self._looked = -math.inf
        self._ours = False

    @property
    def window(self) -> int:
        """Enough to keep every node busy while results are on their way."""
        return self.jobs or max(4, 2 * int(self._ray.cluster_resources().get("CPU", 1)))

    def start(self, setting: Setting) -> None:
        """Connect to the cluster, or start one on this machine.

        Raises:
            InputError: there is no cluster at the address.
        """
        self._setting = setting
        self._commit = environment()["commit"]
        self._sees.clear()
        self._looked = -math.inf
        self._presence = Presence.of(setting.store.path)
        if not self._ray.is_initialized():
            self._connect(self.address or os.environ.get("RAY_ADDRESS") or "local")
            self._ours = True
        self._task = self._ray.remote(_work)

    def submit(self, cell: Cell) -> None:
        """Hand the cell to Ray, which finds it a node."""
        resources = cell.resources
        if not self._some_node_has(resources.cpus, resources.gpus, resources.memory):
            self._events.append(
                Failed(cell.id, "ray", f"no node of the Ray cluster has {resources}; add one, or ask for less")
            )
            return
        task = self._task.options(
            num_cpus=resources.cpus,
            num_gpus=resources.gpus,
            memory=resources.memory or None,
            max_retries=self.retries,
            name=f"{cell.recipe.study} {cell.recipe.kind}",
        )
        self._running[task.remote(self._parcel(cell))] = cell
        self._events.append(Started(cell.id, "ray"))

    def wait(self, timeout: float | None = None) -> None:
        """Return when a cell is finished."""
        if self._running and not self._events:
            self._ready, _ = self._ray.wait(list(self._running), timeout=timeout, fetch_local=True)
        elif not self._events:
            time.sleep(timeout or 0.0)

    def collect(self) -> list[Event]:
        """Return what has happened."""
        if self._running:
            several = self._ray.wait(list(self._running), num_returns=len(self._running), timeout=0)
            self._events.extend(self._end_of(reference) for reference in several[0])
        events, self._events = self._events, []
        return events

    def stop(self) -> None:
        """Cancel what is running, and leave the cluster if it was joined for this run."""
        for reference in self._running:
            with suppress(Exception):
                self._ray.cancel(reference, force=True)
        self._running.clear()
        if self._share is not None:
            for identity in self._shared:
                self._share.drop(identity)
        self._shared.clear()
        if self._ours:
            self._ray.shutdown()
            self._ours = False

    def _connect(self, address: str) -> None:
        quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
        if address == "local":
            quiet |= {"include_dashboard": False, "num_cpus": self.jobs}
        try:
            self._ray.init(address, **quiet)
        except Exception as error:
            raise InputError(
                f"cannot use Ray at {address!r}: {in_one_line(error)}; start it with `ray start --head`, give "
                "ray://host:port, and set the same RAY_AUTH_TOKEN on all sides if the cluster has one"
            ) from error

    def _end_of(self, reference: Any) -> Event:
        cell = self._running.pop(reference)
        try:
            head, tensors = self._ray.get(reference)
            return unpack(head, tensors, self._setting.store.path)
        except self._ray.exceptions.RayError as error:
            words = f"Ray lost the cell after {self.retries} retries: {in_one_line(error)}"
            return Failed(cell.id, "ray", words, str(error))

    def _some_node_has(self, cpus: float, gpus: float, memory: int) -> bool:
        totals = [node["Resources"] for node in self._nodes()]
        amounts = {"CPU": cpus, "GPU": gpus, "memory": memory}
        return any(all(total.get(name, 0.0) >= value for name, value in amounts.items()) for total in totals)

    def _parcel(self, cell: Cell) -> _Parcel:
        records = {need: self._setting.store.get(need) for need in cell.needs}
        with_artefact = [need for need, record in records.items() if record.artefact is not None]
        visible = self._all_nodes_see()
        artefacts = {} if visible else {need: self._placed(need) for need in with_artefact}
        run = require("ray.cloudpickle", "ray").dumps(cell.run)
        setting = self._setting
        return _Parcel(
            cell.id,
            run,
            cell.recipe,
            records,
            artefacts,
            setting.options,
            setting.threads,
            self._commit,
            tuple(sys.path),
            self._presence,
            None if visible else self._share,
        )

    def _nodes(self) -> list[dict[str, Any]]:
        """Return the nodes that are alive, as they were within the last second: asking is a call of the network."""
        if time.monotonic() - self._looked > _LOOK:
            self._alive = [node for node in self._ray.nodes() if node["Alive"]]
            self._looked = time.monotonic()
        return self._alive

    def _all_nodes_see(self) -> bool:
        """Say whether every node sees the store's folder, so that artefacts need not travel."""
        by_node = require("ray.util.scheduling_strategies", "ray").NodeAffinitySchedulingStrategy
        nodes = {node["NodeID"] for node in self._nodes()}
        for node in nodes - self._sees.keys():
            probe = self._ray.remote(Presence.is_here).options(
                num_cpus=0, scheduling_strategy=by_node(node, soft=False)
            )
            try:
                self._sees[node] = self._ray.get(probe.remote(self._presence), timeout=_PROBE)
            except self._ray.exceptions.RayError:
                self._sees[node] = False
        return all(self._sees[node] for node in nodes)

    def _placed(self, identity: str) -> Any:
        """Return where the cluster has an artefact: in the share, or in Ray's memory; the latest ones stay there."""
        from safetensors.torch import save

        if identity not in self._shared:
            store = self._setting.store
            if self._share is None:
                self._shared[identity] = self._ray.put(save(store.artefact(identity)))
            else:
                self._share.put_file(identity, paths.artefact_file(store.path, identity))
                self._shared[identity] = self._share
        self._shared.move_to_end(identity)
        # What lies in the share takes no memory, and cells that are under way may still come for it.
        while self._share is None and len(self._shared) > _SHARED:
            self._shared.popitem(last=False)
        return self._shared[identity]
