"""From the results of a few seeds to what can be said of them: intervals, tests, fronts, areas."""

from secateur.lab.show.stats.comparisons import compare
from secateur.lab.show.stats.curves import area, pareto
from secateur.lab.show.stats.summary import Summary, bootstrap, describe, summarise

__all__ = ["Summary", "area", "bootstrap", "compare", "describe", "pareto", "summarise"]
