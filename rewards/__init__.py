"""Reward terms and their composition: pure functions of arrays and small compiled libraries; no files, torch or Ray.

Read in this order: geometry, polygons, keypoints, masks, text; records, values, duplicates, matching, terms, overlaps,
compose; then credit and official.
"""

from rewards.compose import CREDITS, REWARDS, GroupScores, RewardWeights, Said, Truth, score_group, score_groups

__all__ = ["CREDITS", "REWARDS", "GroupScores", "RewardWeights", "Said", "Truth", "score_group", "score_groups"]
