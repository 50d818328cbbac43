"""When to cut: schedules that walk from a model to a smaller one, with a log of every step."""

from __future__ import annotations

from secateur.schedules.controls import random_ticket, reinitialised, shuffled, small_dense
from secateur.schedules.cycles import Cycles, CycleTraining
from secateur.schedules.exhaustive import Exhaustive
from secateur.schedules.greedy import Greedy
from secateur.schedules.iterative import Iterative
from secateur.schedules.precomputed import Precomputed
from secateur.schedules.rewind import Rewind
from secateur.schedules.shrink import Shrink
from secateur.schedules.sparse_training import MaskedTraining, SparseTraining
from secateur.schedules.tickets import Ticket, TicketTraining, TrainedTicket, Training
from secateur.schedules.walk import PruningLog, Round, Schedule, Step
from secateur.selection import AtMost, BelowQuantile, Outliers

__all__ = [
    "AtMost",
    "BelowQuantile",
    "CycleTraining",
    "Cycles",
    "Exhaustive",
    "Greedy",
    "Iterative",
    "MaskedTraining",
    "Outliers",
    "Precomputed",
    "PruningLog",
    "Rewind",
    "Round",
    "Schedule",
    "Shrink",
    "SparseTraining",
    "Step",
    "Ticket",
    "TicketTraining",
    "TrainedTicket",
    "Training",
    "random_ticket",
    "reinitialised",
    "shuffled",
    "small_dense",
]
