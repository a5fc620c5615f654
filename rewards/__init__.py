"""Reward terms and their composition: pure functions of arrays (NumPy, SciPy), no files, no torch, no Ray.

Read in this order: geometry, duplicates, matching, terms, compose; then credit and official.
"""

from rewards.compose import CREDITS, REWARDS, GroupScores, RewardWeights, Said, Truth, score_group

__all__ = ["CREDITS", "REWARDS", "GroupScores", "RewardWeights", "Said", "Truth", "score_group"]
