"""How long the store takes: to keep a record, and to open and filter a hundred thousand.

python benchmarks/store.py [RECORDS]
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch

from secateur.lab import Recipe, Record, Store
from secateur.lab.keep import database
from secateur.lab.keep.environment import environment
from secateur.lab.keep.store import _encoded

METHODS = ("weight", "weight random", "neuron", "neuron random")


def record(number: int, facts: dict[str, object]) -> Record:
    """A record of the size of a real one: 9 parameters, 14 metrics, 10 classes."""
    seed, rest = divmod(number, 400)
    method, step = divmod(rest, 100)
    parameters = {"seed": seed, "method": METHODS[method], "sparsity": step / 100, "minimum": 0, "output": "whole"}
    parameters |= {"data": "fashion-mnist", "model": "fathollahi-5", "epochs": 10, "batch_size": 128}
    accuracy = 0.9 - (step / 100) ** 3 * 0.8 + seed * 1e-5
    metrics = {"accuracy": accuracy, "loss": 1 - accuracy, "class_accuracy": [accuracy - k / 100 for k in range(10)]}
    metrics |= {f"measure_{k}": number / (k + 1) for k in range(11)}
    return Record(Recipe("bench", "prune", parameters), metrics, (), facts, 1.0, 1.0)


def milliseconds(call: Callable[[], object], times: int) -> str:
    """Median time of a call on the clock, and of the processor, which a busy machine changes less."""
    clock, processor = [], []
    for _ in range(times):
        start, begun = time.perf_counter(), time.process_time()
        call()
        clock.append(1000 * (time.perf_counter() - start))
        processor.append(1000 * (time.process_time() - begun))
    return f"{statistics.median(clock):8.2f} ms ({statistics.median(processor):.2f} ms processor; {times} times)"


def fill(store: Store, count: int, facts: dict[str, object]) -> None:
    """Put many records in one transaction, which is not what is measured."""
    with database.writing(store.database) as ledger:
        for number in range(count):
            ledger.put_record(*_encoded(record(number, facts)))


def main() -> None:
    """Print the times."""
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 100_000
    torch.set_num_threads(1)
    facts: dict[str, object] = dict(environment())
    with tempfile.TemporaryDirectory() as folder:
        small = Store(Path(folder) / "small")
        numbers = iter(range(10**6))
        print("put, no tensors        ", milliseconds(lambda: small.put(record(next(numbers), facts)), 300))
        tensors = {"w": torch.randn(250_000)}
        print("put, 1 MB of tensors   ", milliseconds(lambda: small.put(record(next(numbers), facts), tensors), 50))
        print("has                    ", milliseconds(lambda: small.has("0" * 16), 300))
        store = Store(Path(folder) / "large")
        fill(store, count, facts)
        size = store.database.stat().st_size / 1e6
        print(f"\n{count:,} records ({size:.0f} MB)")

        def opened(**asked: object) -> Callable[[], object]:
            def call() -> object:
                store.close()
                return Store(store.path, create=False).query(**asked)  # type: ignore[arg-type]

            return call

        some = ["method", "accuracy"]
        print("open, sparsity=0.5     ", milliseconds(opened(where={"sparsity": 0.5}), 5))
        print("  the same, two columns", milliseconds(opened(where={"sparsity": 0.5}, columns=some), 5))
        print("open, accuracy>0.8998  ", milliseconds(opened(where=["accuracy>0.8998"]), 5))
        print("  and method=neuron    ", milliseconds(opened(where=["accuracy>0.8998", "method=neuron"]), 5))
        print("open, best 10          ", milliseconds(opened(sort="-accuracy", limit=10), 5))
        print("open, newest 50        ", milliseconds(opened(sort="-created", limit=50), 5))
        print("open, all, two columns ", milliseconds(opened(columns=some), 3))
        print("open, all, everything  ", milliseconds(opened(), 1))
        means = "select json_extract(parameters, '$.method'), avg(json_extract(metrics, '$.accuracy')) from cells group by 1"
        print("sql, mean by method    ", milliseconds(lambda: store.sql(means), 3))


if __name__ == "__main__":
    main()
