"""Solvers: what to remove and new values for what stays, found together from data, without training."""

from secateur.solvers.solution import Solution, Solver
from secateur.solvers.sparse_gpt import SparseGPT
from secateur.solvers.thinet import ThiNet
from secateur.solvers.wood_fisher import WoodFisher

__all__ = ["Solution", "Solver", "SparseGPT", "ThiNet", "WoodFisher"]
