"""The settings at which the cells of every study are frozen; ``python tests/studies/frozen_cells.py`` prints them anew."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from pathlib import Path
from typing import Any

from secateur.lab.plan.study import Study
from secateur.studies import STUDIES

FILE = Path(__file__).with_suffix(".json")

_DIGITS = {"data": "digits", "seeds": 2, "epochs": 2, "validation": 300}
_UNITS = {**_DIGITS, "measured": 200}
_BOTH = {**_DIGITS, "model": ["ann-128", "cnn-4"], "model_options": {"hidden": 12, "width": 0.1}, "images": 200}
_FILTERS = {
    **_DIGITS,
    "epochs": 1,
    "validation": 1400,
    "train_images": 64,
    "test_images": 40,
    "model_options": {"width": 0.0625},
}
_EVOLUTION = {
    **_DIGITS,
    "validation": None,
    "model_options": {"hidden": 30},
    "damages": [0.1, 0.9],
    "population": 10,
    "generations": 3,
    "searches": ["random", "magnitude", "learned mask"],
    "converged_epochs": 2,
}

_CYCLES = {"images": 60, "epochs": 1, "cycles": 2, "settle": 1, "batch_size": 20}
_FEW_SUMS = {"hidden": 60, "samples": 2000, "epochs": 4, "batch_size": 100, "cycles": 4, "settle": 4}

_ROUNDS = {
    "seeds": 2,
    "data": "digits",
    "validation": 200,
    "train_images": 300,
    "epochs": {"digits": 2},
    "rounds": 3,
    "schemes": ["xavier-normal", "kaiming-uniform"],
}

_LITTLE = {"data": "digits", "epochs": 2, "validation": 300, "train_images": 300}
_MOBILE = {**_LITTLE, "seeds": 1, "rated": 60, "few": 40, "model": "conv-2", "model_options": {"width": 0.125}}
_COMBINED = {**_LITTLE, "seeds": 2, "low_rank": [0.0, 0.5], "tune": 1, "model_options": {"input_size": 8}}
_SMALLER = {"seeds": 2, "data": "digits", "epochs": 2, "validation": 300, "train_images": 300, "rated": 60, "few": 40}

SMALL: dict[str, dict[str, Any]] = {
    "calli-factorise": {**_SMALLER, "macs": [0.5], "energies": [0.9], "ranks": [4]},
    "calli-share": {**_SMALLER, "model_options": {"input_size": 8}, "bits": [1, 4], "ways": ["linear", "exact"]},
    "calli-quantise": {**_SMALLER, "model_options": {"input_size": 8}, "bits": [2, 8]},
    "calli-structures": {**_SMALLER, "table_width": 0.0625, "table_size": 32},
    "calli-mobile": {**_MOBILE, "runtimes": ["eager"], "sparsities": [0.5]},
    "calli-combine": {**_COMBINED, "channels": [0.0, 0.5], "weights": [0.8], "share": [0, 3], "quantise": [0]},
    "calli-sum": {**_FEW_SUMS, "seeds": 2, "ways": ["vanilla", "small weights"]},
    "calli-autoencoder": {**_CYCLES, "data": "mnist-5k", "ways": ["outliers", "combined"]},
    "calli-mnist": {**_CYCLES, "rated": 40, "ways": ["unpruned", "outliers"]},
    "calli-cifar": {**_CYCLES, "rated": 40, "ways": ["unpruned", "group lasso"]},
    "wijnja": {**_ROUNDS, "controls": [2], "long_round": 2, "longer": 2, "other_sparsities": [0.5]},
    "wijnja-conv": {**_ROUNDS, "train_images": 60, "model_options": {"width": 0.0625}},
    "demo": {"seeds": 2, "epochs": 8, "sparsities": [0.2, 0.5, 0.8], "methods": ["weight", "neuron", "neuron random"]},
    "fathollahi": {**_DIGITS, "model": "lenet-300-100", "model_options": {"input_size": 8}, "sparsities": [0.5, 0.8]},
    "charpentier-random": {**_DIGITS, "model_options": {"hidden": 12}, "removed": [1, 6], "draws": 5},
    "charpentier-shrink": {**_DIGITS, "model_options": {"hidden": 12}, "n": [1, 2], "runs": 3, "images": 300},
    "charpentier-importance": _BOTH,
    "charpentier-batch-size": {**_UNITS, "model": "ann-128", "batch_sizes": [32, 128]},
    "charpentier-dropout": {**_UNITS, "model": "mlp-3", "dropouts": [0.0, 0.5]},
    "charpentier-reinit": {**_UNITS, "model": "ann-128", "every": 1},
    "charpentier-classes": {**_UNITS, "sparsities": [0.25], "classes": [3]},
    "charpentier-precomputed": {**_BOTH, "draws": 3},
    "charpentier-exhaustive-greedy": {**_BOTH, "draws": 3},
    "charpentier-vgg": {
        **_UNITS,
        "epochs": 1,
        "width": 0.03125,
        "measured": 20,
        "sparsities": [0.3],
        "steps": 2,
        "tune_images": 64,
    },
    "janjic-energy-vgg16": {**_FILTERS, "thresholds": [0.1, 0.5], "methods": ["energy", "l2"]},
    "janjic-energy-resnet101": {
        **_FILTERS,
        "seeds": 1,
        "thresholds": [0.5],
        "methods": ["energy", "random"],
        "layers": "layer1*",
    },
    "janjic-dropout": {**_FILTERS, "rates": [0, 0.5], "draws": 2, "thresholds": [0.1]},
    "janjic-iterative": {
        **_FILTERS,
        "model_options": {"width": 0.0625, "batch_norm": True},
        "thresholds": [0.5],
        "methods": ["energy", "l2"],
        "tolerance": 100,
        "layers": ["features.7", "features.34"],
        "retrain_images": 32,
        "calibration": 32,
    },
    "janjic-iterative-resnet101": {**_FILTERS, "seeds": 1, "thresholds": [0.5], "layers": "layer1.0*"},
    "janjic-ga-mlp": _EVOLUTION,
    "janjic-ga-cnn": {**_EVOLUTION, "model_options": {}, "seeds": 1},
    "janjic-ga-filters": {**_DIGITS, "images": 100, "population": 6, "generations": 3},
    "janjic-replace": {**_DIGITS, "layers": ["conv1"], "images": 100, "population": 6, "generations": 3},
    "language-model": {"seeds": 2, "epochs": 1, "model_options": {"blocks": 3, "width": 32}, "untouched": 320},
    "criteria-shootout": {
        **_DIGITS,
        "model": ["lenet-300-100", "cnn-4"],
        "model_options": {"lenet-300-100": {"input_size": 8}, "cnn-4": {"width": 0.25}},
        "images": 300,
        "shown": 64,
        "criteria": ["random", "magnitude", "l1", "snip"],
        "tune_images": 100,
    },
}
"""Settings at which a study takes seconds."""

_TWO = {"data": ["mnist-5k", "digits"], "seeds": 4, "epochs": 7, "validation": 0.25, "batch_size": 20}
_NETWORKS = {**_TWO, "model": ["mlp-3", "lenet-300-100"]}
_WIDE_UNITS = {**_NETWORKS, "measured": 77, "sparsities": [0.1, 0.6]}
_WIDE_PRUNING = {**_TWO, "model": ["cnn-4", "mlp-3"], "model_options": {"width": 0.3}, "images": 99}
_WIDE_FILTERS = {
    **_TWO,
    "data": "mnist-5k",
    "size": 64,
    "train_images": 500,
    "test_images": None,
    "layers": ["features.0", "features.1*"],
}
_WIDE_EVOLUTION = {
    **_TWO,
    "lr": 0.1,
    "layer": "fc1",
    "damages": [0.2],
    "population": 9,
    "generations": 4,
    "protocols": ["honest"],
    "searches": ["nsga-ii", "learned mask and biases"],
    "converged_epochs": 0,
}

_OTHER_SMALLER = {**_TWO, "rated": 30, "few": 20, "tune": 3, "train_images": 99}

OTHER: dict[str, dict[str, Any]] = {
    "calli-factorise": {
        **_OTHER_SMALLER,
        "model": ["conv-2", "conv-4"],
        "ways": ["SVD on data", "Tucker-2"],
        "ranks": [3],
    },
    "calli-share": {**_OTHER_SMALLER, "model": ["lenet-300-100", "mlp-3"], "bits": [3], "ways": ["random"]},
    "calli-quantise": {**_OTHER_SMALLER, "model": ["lenet-300-100", "mlp-3"], "bits": [5], "ways": ["per tensor"]},
    "calli-structures": {**_OTHER_SMALLER, "model": ["conv-2", "conv-4"], "ways": ["1-D"], "table_size": 64},
    "calli-mobile": {**_MOBILE, "runtimes": ["eager"], "model": ["conv-2", "conv-4"], "repeats": 5},
    "calli-combine": {
        **_COMBINED,
        "channels": [0.3],
        "share": [4],
        "drops": [0.1],
        "model": ["lenet-300-100", "mlp-3"],
    },
    "calli-sum": {**_FEW_SUMS, "seeds": 3, "few": 2, "low": -1.0, "ways": ["Adam", "L1", "distorted, added"]},
    "calli-autoencoder": {**_CYCLES, "seeds": 2, "ways": ["activation"], "data": ["mnist", "fashion-mnist"]},
    "calli-mnist": {**_CYCLES, "seeds": 2, "rated": 30, "ways": ["no biases"], "data": ["mnist", "digits"]},
    "calli-cifar": {**_CYCLES, "seeds": 2, "rated": 30, "ways": ["distorted"], "data": "cifar-10"},
    "wijnja": {**_ROUNDS, "seeds": 3, "replicas": 2, "rate": 0.5, "scope": "global", "controls": []},
    "wijnja-conv": {**_ROUNDS, "model": ["conv-4", "conv-6"], "lr": 0.001, "batch_size": 20},
    "demo": {**_NETWORKS, "model_options": {}, "minimum": 0, "dense": [0.9], "output": "pruned"},
    "fathollahi": {**_NETWORKS, "minimum": 2, "dense": [], "methods": ["weight random", "neuron per layer"]},
    "charpentier-random": {**_NETWORKS, "removed": [3], "draws": 7},
    "charpentier-shrink": {**_NETWORKS, "n": [5, 2], "runs": 4, "images": 50},
    "charpentier-importance": {**_WIDE_PRUNING, "alpha": 0.01},
    "charpentier-batch-size": {
        **{name: value for name, value in _WIDE_UNITS.items() if name != "batch_size"},
        "batch_sizes": [7, 5],
        "model_options": {"dropout": 0.1},
        "model": ["mlp-3"],
    },
    "charpentier-dropout": {**_WIDE_UNITS, "model": ["mlp-3", "ann-128"], "dropouts": [0.3, 0.2]},
    "charpentier-reinit": {
        **_WIDE_UNITS,
        "every": 3,
        "cycles": 2,
        "schemes": ["xavier-uniform", "kaiming-uniform"],
        "outgoing": None,
    },
    "charpentier-classes": {**_WIDE_UNITS, "model_options": {}, "classes": [1, 7], "class_sparsity": 0.4},
    "charpentier-precomputed": {**_WIDE_PRUNING, "draws": 4, "schedules": ["no higher loss"]},
    "charpentier-exhaustive-greedy": {
        **_WIDE_PRUNING,
        "draws": 4,
        "schedules": ["greedy", "exhaustive"],
        "tolerance": 0.01,
        "skip_rounds": 1,
    },
    "charpentier-vgg": {
        **_TWO,
        "width": 0.0625,
        "measured": 33,
        "sparsities": [0.2, 0.8],
        "steps": 4,
        "tune_epochs": 3,
        "tune_images": 55,
        "tune_lr": 0.01,
    },
    "janjic-energy-vgg16": {**_WIDE_FILTERS, "thresholds": [0.3], "model_options": {"width": 0.25, "batch_norm": True}},
    "janjic-energy-resnet101": {**_WIDE_FILTERS, "model": "resnet-18", "methods": ["l1"], "layers": "*"},
    "janjic-dropout": {**_WIDE_FILTERS, "rates": [0.3], "draws": 3, "thresholds": [0.4]},
    "janjic-iterative": {
        **_WIDE_FILTERS,
        "thresholds": [0.3, 0.05],
        "modes": ["least-squares", "end", "none"],
        "methods": ["l1", "energy"],
        "tolerance": 1,
        "retrain_images": 8,
        "retrain_lr": 0.1,
        "calibration": 16,
    },
    "janjic-iterative-resnet101": {**_WIDE_FILTERS, "model": "resnet-18", "tolerance": 3, "layers": "*"},
    "janjic-ga-mlp": _WIDE_EVOLUTION,
    "janjic-ga-cnn": {**_WIDE_EVOLUTION, "protocols": ["thesis"], "data": ["digits"], "converged_epochs": 3},
    "janjic-ga-filters": {
        **_TWO,
        "layers": ["conv2"],
        "fitnesses": ["taylor", "all images"],
        "images": 99,
        "share": 0.3,
        "again": 0.5,
        "alpha": 20.0,
        "damage": 0.2,
        "population": 9,
        "generations": 4,
    },
    "janjic-replace": {
        **_TWO,
        "layers": ["conv2"],
        "sparsities": [0.4],
        "choices": ["random"],
        "methods": ["least squares", "removed"],
        "images": 9,
        "population": 3,
        "generations": 2,
    },
    "language-model": {
        "seeds": 2,
        "data": "/text",
        "model": "/model",
        "length": 256,
        "calibration": 1024,
        "untouched": 2048,
        "criteria": ["wanda"],
        "sparsities": [0.3],
        "repairs": ["none"],
        "blocks": [2],
        "depth_by": ["loss"],
        "weight_methods": ["wanda"],
        "weight_sparsities": [0.6],
    },
    "criteria-shootout": {
        **_TWO,
        "model": "cnn-4",
        "model_options": {},
        "images": 50,
        "rated": 40,
        "shown": 30,
        "units": ["weights", "channels"],
        "criteria": ["magnitude", "wanda", "taylor"],
        "sparsities": [0.2, 0.4],
        "weight_sparsities": [0.6],
        "tune_at": 0.2,
        "tune_weights_at": 0.6,
        "tune_images": 20,
    },
}
"""Settings that change nearly every option, on two data sets and two networks where a study takes them."""


INSTALLED = {"calli-mobile": {"runtimes": ["eager"]}}
"""Options whose defaults plan what is installed, at what always is."""


def settings(name: str) -> dict[str, dict[str, Any]]:
    """Return the three settings of a study at which its cells are frozen."""
    return {"defaults": INSTALLED.get(name, {}), "small": SMALL[name], "other": OTHER[name]}


def fingerprint(study: Study, options: dict[str, Any]) -> dict[str, Any]:
    """Return how many cells of each kind a plan has, and a hash of all their ids, sorted."""
    cells = study.plan(options)
    ids = "\n".join(sorted(cell.id for cell in cells))
    return {
        "kinds": dict(sorted(Counter(cell.recipe.kind for cell in cells).items())),
        "ids": hashlib.sha256(ids.encode()).hexdigest(),
    }


def frozen() -> dict[str, dict[str, Any]]:
    """Return the fingerprints of all studies at all settings."""
    return {
        name: {which: fingerprint(study, options) for which, options in settings(name).items()}
        for name, study in STUDIES.items()
    }


if __name__ == "__main__":
    print(json.dumps(frozen(), indent=1))
