"""The lab: studies (grids of recipes), the store that keeps their results, the report that shows them."""

from secateur.lab.blocks import Basis, Card, Column, Picture, Section, Table
from secateur.lab.build import build_report, write_report
from secateur.lab.recipe import Recipe
from secateur.lab.records import Failure, Record
from secateur.lab.report import Report
from secateur.lab.run import RunSummary, run_study
from secateur.lab.stats import Summary, area, bootstrap, compare, describe, pareto, summarise
from secateur.lab.store import Store
from secateur.lab.study import Cell, Context, Outcome, Results, Source, Study
from secateur.lab.tables import comparison_table
from secateur.lab.trackers import Tracker

__all__ = [
    "Basis",
    "Card",
    "Cell",
    "Column",
    "Context",
    "Failure",
    "Outcome",
    "Picture",
    "Recipe",
    "Record",
    "Report",
    "Results",
    "RunSummary",
    "Section",
    "Source",
    "Store",
    "Study",
    "Summary",
    "Table",
    "Tracker",
    "area",
    "bootstrap",
    "build_report",
    "compare",
    "comparison_table",
    "describe",
    "pareto",
    "run_study",
    "summarise",
    "write_report",
]
