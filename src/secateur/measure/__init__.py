"""Measuring: how large a model is, how fast, and how good."""

from secateur.activations import UnitCounts, UnitStatistics, activation_counts, activation_statistics
from secateur.measure.agree import Agreement, agreement
from secateur.measure.complexity import (
    bottleneck_macs,
    composed_macs,
    convolution_macs,
    factored_macs,
    linear_macs,
    rank_bound,
    separable_macs,
)
from secateur.measure.generation import TokenRate, TokenRates, tokens_per_second
from secateur.measure.language import perplexity
from secateur.measure.quality import Evaluation, calibration_error, evaluate, has_learnt, predict
from secateur.measure.side_by_side import Bench, BenchRow, bench, bundle, read_bench
from secateur.measure.size import ParameterCount, file_bytes, macs, parameters, peak_memory
from secateur.measure.speed import Latency, LatencyComparison, Spread, compare_latency, latency
from secateur.rate.masks import rate

__all__ = [
    "Agreement",
    "Bench",
    "BenchRow",
    "Evaluation",
    "Latency",
    "LatencyComparison",
    "ParameterCount",
    "Spread",
    "TokenRate",
    "TokenRates",
    "UnitCounts",
    "UnitStatistics",
    "activation_counts",
    "activation_statistics",
    "agreement",
    "bench",
    "bottleneck_macs",
    "bundle",
    "calibration_error",
    "compare_latency",
    "composed_macs",
    "convolution_macs",
    "evaluate",
    "factored_macs",
    "file_bytes",
    "has_learnt",
    "latency",
    "linear_macs",
    "macs",
    "parameters",
    "peak_memory",
    "perplexity",
    "predict",
    "rank_bound",
    "rate",
    "read_bench",
    "separable_macs",
    "tokens_per_second",
]
