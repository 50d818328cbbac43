"""The lab: studies (grids of recipes), the store that keeps their results, the report that shows them."""

from secateur.lab.drive.driver import RunSummary, run_study
from secateur.lab.drive.trackers import Tracker
from secateur.lab.keep.records import Failure, Record
from secateur.lab.keep.store import Store
from secateur.lab.plan.recipe import Recipe
from secateur.lab.plan.study import Cell, Context, Outcome, Publication, Resources, Results, Study
from secateur.lab.show.blocks import Basis, Card, Column, Picture, Section, Table
from secateur.lab.show.build import build_report, write_report
from secateur.lab.show.report import Report
from secateur.lab.show.stats import Summary, area, bootstrap, compare, describe, pareto, summarise
from secateur.lab.show.tables import comparison_table

__all__ = [
    "Basis",
    "Card",
    "Cell",
    "Column",
    "Context",
    "Failure",
    "Outcome",
    "Picture",
    "Publication",
    "Recipe",
    "Record",
    "Report",
    "Resources",
    "Results",
    "RunSummary",
    "Section",
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
