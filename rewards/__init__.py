"""Reward terms and their composition: pure functions of arrays and small compiled libraries; no files, torch or Ray.

Imports: nothing of rex_rl or actors.
Begin with compose.py, truth.py and records.py. For the whole, read in this order: geometry/, text.py; truth.py,
records.py, values.py, duplicates.py, matching.py, terms.py, overlaps.py, compose.py; then prefixes.py and official.py.
"""

from rewards.compose import score_group, score_groups
from rewards.records import REWARDS, GroupScores, Predictions, Prefixes, RewardWeights
from rewards.truth import Truth

__all__ = [
    "REWARDS",
    "GroupScores",
    "Predictions",
    "Prefixes",
    "RewardWeights",
    "Truth",
    "score_group",
    "score_groups",
]
