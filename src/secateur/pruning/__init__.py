"""`prune`: the whole line in one call, with safe choices where nothing is chosen."""

from secateur.pruning.line import prune
from secateur.pruning.options import PruneOptions

__all__ = ["PruneOptions", "prune"]
