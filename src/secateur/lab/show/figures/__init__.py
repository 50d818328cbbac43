"""The figures of a study, each drawn from a table and nothing else.

Every function takes plain numbers and returns a matplotlib figure, which belongs to no window.
Colours follow the method: make one table with `secateur.lab.show.style.styles` and pass it to every figure.
What is drawn is tied to its series and its values (`secateur.lab.show.marks`), so that a report's page can show
them at the pointer.
"""

from secateur.lab.show.figures.bars import bars_with_intervals, class_bars
from secateur.lab.show.figures.curves import individuals, learning_curves, path
from secateur.lab.show.figures.distributions import box, histogram, ridge
from secateur.lab.show.figures.fields import heatmap, scatter
from secateur.lab.show.figures.pictures import images
from secateur.lab.show.figures.sweeps import accuracy_by_sparsity, accuracy_panels, loss_by_sparsity, trade_off

__all__ = [
    "accuracy_by_sparsity",
    "accuracy_panels",
    "bars_with_intervals",
    "box",
    "class_bars",
    "heatmap",
    "histogram",
    "images",
    "individuals",
    "learning_curves",
    "loss_by_sparsity",
    "path",
    "ridge",
    "scatter",
    "trade_off",
]
