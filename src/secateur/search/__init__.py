"""Keep masks found by search instead of by scores."""

from secateur.search.fitness import Fitness, FitnessLike, Rating, Screened, Surrogate
from secateur.search.genetic import Genetic
from secateur.search.result import Generation, SearchResult, lineage
from secateur.search.run import Search
from secateur.search.space import Space, only

__all__ = [
    "Fitness",
    "FitnessLike",
    "Generation",
    "Genetic",
    "Rating",
    "Screened",
    "Search",
    "SearchResult",
    "Space",
    "Surrogate",
    "lineage",
    "only",
]
