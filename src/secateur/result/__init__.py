"""One result for every road to a smaller model, with its report."""

from secateur.result.change import OutputChange
from secateur.result.joint import JointCut
from secateur.result.report import Method, PruneReport, SiteReport
from secateur.result.result import Log, Result

__all__ = ["JointCut", "Log", "Method", "OutputChange", "PruneReport", "Result", "SiteReport"]
