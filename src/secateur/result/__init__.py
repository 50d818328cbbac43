"""One result for every road to a smaller model, with its report."""

from secateur.result.change import OutputChange
from secateur.result.joint import JointCut
from secateur.result.layers import LayerReport, Replayed
from secateur.result.report import UNREPAIRED, Method, PruneReport, SiteReport
from secateur.result.result import Log, Result

__all__ = [
    "UNREPAIRED",
    "JointCut",
    "LayerReport",
    "Log",
    "Method",
    "OutputChange",
    "PruneReport",
    "Replayed",
    "Result",
    "SiteReport",
]
