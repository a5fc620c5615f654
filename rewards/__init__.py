"""Reward terms and their composition: pure functions of arrays and small compiled libraries; no files, torch or Ray.

Imports: nothing of rex_rl or actors.
Begin with compose.py and records.py. For the whole, read in this order: geometry/, text.py; records.py, values.py,
duplicates.py, matching.py, terms.py, overlaps.py, compose.py; then credit.py and official.py.
"""

from rewards.compose import score_group, score_groups
from rewards.records import CREDITS, REWARDS, GroupScores, Predictions, RewardWeights, Truth

__all__ = ["CREDITS", "REWARDS", "GroupScores", "Predictions", "RewardWeights", "Truth", "score_group", "score_groups"]
