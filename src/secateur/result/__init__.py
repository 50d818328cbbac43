"""One result for every road to a smaller model, with its report."""

from secateur.result.report import Method, PruneReport, SiteReport
from secateur.result.result import History, Result

__all__ = ["History", "Method", "PruneReport", "Result", "SiteReport"]
