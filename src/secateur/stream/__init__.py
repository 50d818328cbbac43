"""A walk over the blocks of a language model: each is scored, cut and repaired once, on what the blocks before it make.

What streams here are activations, from block to block; `secateur.data.stream` reads images from disk as they are needed.
"""

from secateur.stream.blocks import block_container
from secateur.stream.depth import block_influence, block_losses, drop_blocks, remove_blocks
from secateur.stream.experts import drop_experts, expert_scores
from secateur.stream.history import DepthHistory, ExpertHistory, WalkHistory
from secateur.stream.planning import WalkPlan, plan, step_within
from secateur.stream.shards import WalkedFolder, empty_weights, walk_folder
from secateur.stream.steps import CutUnits, SparsifyWeights
from secateur.stream.walking import BlockWalk, CutBlock, walk

__all__ = [
    "BlockWalk",
    "CutBlock",
    "CutUnits",
    "DepthHistory",
    "ExpertHistory",
    "SparsifyWeights",
    "WalkHistory",
    "WalkPlan",
    "WalkedFolder",
    "block_container",
    "block_influence",
    "block_losses",
    "drop_blocks",
    "drop_experts",
    "empty_weights",
    "expert_scores",
    "plan",
    "remove_blocks",
    "step_within",
    "walk",
    "walk_folder",
]
