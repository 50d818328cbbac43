"""Keep masks found by search instead of by scores."""

from secateur.equations import Moments, least_squares, patches
from secateur.search import operators
from secateur.search.continuous import CmaEs, CoordinateRows
from secateur.search.fitness import Fitness, FitnessLike, Rating, Screened, Surrogate
from secateur.search.genetic import Genetic
from secateur.search.local import Annealing, HillClimbing, OneShotMagnitude, RandomSearch
from secateur.search.pareto import Nsga2, front
from secateur.search.protocol import Judged, judge
from secateur.search.replace import Replacement, corrections, replacements
from secateur.search.result import Generation, SearchLog, lineage
from secateur.search.run import Search
from secateur.search.space import Space, only
from secateur.search.supermask import Supermask

__all__ = [
    "Annealing",
    "CmaEs",
    "CoordinateRows",
    "Fitness",
    "FitnessLike",
    "Generation",
    "Genetic",
    "HillClimbing",
    "Judged",
    "Moments",
    "Nsga2",
    "OneShotMagnitude",
    "RandomSearch",
    "Rating",
    "Replacement",
    "Screened",
    "Search",
    "SearchLog",
    "Space",
    "Supermask",
    "Surrogate",
    "corrections",
    "front",
    "judge",
    "least_squares",
    "lineage",
    "only",
    "operators",
    "patches",
    "replacements",
]
