"""`prune`: the whole line in one call, with safe choices where nothing is chosen."""

from secateur.pruning.line import prune
from secateur.pruning.options import PruneOptions
from secateur.pruning.step import Prune

__all__ = ["Prune", "PruneOptions", "prune"]
