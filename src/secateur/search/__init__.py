"""Keep masks found by search instead of by scores."""

from secateur.search.continuous import CmaEs, CoordinateRows
from secateur.search.fitness import Fitness, FitnessLike, Rating, Screened, Surrogate
from secateur.search.front import Nsga2, front
from secateur.search.genetic import Genetic
from secateur.search.local import Annealing, HillClimbing, OneShotMagnitude, RandomSearch
from secateur.search.result import Generation, SearchResult, lineage
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
    "Nsga2",
    "OneShotMagnitude",
    "RandomSearch",
    "Rating",
    "Screened",
    "Search",
    "SearchResult",
    "Space",
    "Supermask",
    "Surrogate",
    "front",
    "lineage",
    "only",
]
