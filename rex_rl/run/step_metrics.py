"""The metrics of a step, under the names RL users know (TRL's, where it has one)."""

from collections.abc import Mapping, Sequence

import numpy as np

from rex_rl.learning.advantage import STD_FLOOR
from rex_rl.types import FinishReason, Group, Mean, Scores


def grpo_metrics(
    groups: Sequence[Group], scores: Sequence[Scores], learned: Mapping[str, Mean], *, max_answer_tokens: int
) -> dict[str, float]:
    """Metrics of one GRPO step: rewards over all answers, spreads within groups, completions, the learner's own.

    Where the step has several tasks, rewards are given by task too: `reward/<task>`, `rewards/<term>/<task>`.

    `reward_std` is the mean over groups of the standard deviation inside a group; `frac_reward_zero_std` the share of
    groups whose total taught nothing because all answers earned the same. `looped_saved_tokens` are the tokens that
    answers ended in a loop did not write, if each had run to its limit as loops do.
    """
    total_PG = np.stack([one.total_G for one in scores])
    std_P = total_PG.std(axis=1)
    answers = [answer for group in groups for answer in group.answers]
    lengths_N = np.array([answer.tokens_T.size for answer in answers])
    is_looped_N = np.array([answer.finish_reason is FinishReason.LOOPED for answer in answers])
    metrics = {
        "reward": float(total_PG.mean()),
        "reward_std": float(std_P.mean()),
        "frac_reward_zero_std": float((std_P < STD_FLOOR).mean()),
        "completions/mean_length": float(lengths_N.mean()),
        "completions/max_length": float(lengths_N.max()),
        "completions/clipped_ratio": float(
            np.mean([answer.finish_reason is FinishReason.LENGTH for answer in answers])
        ),
        "completions/looped_ratio": float(is_looped_N.mean()),
        "completions/looped_saved_tokens": float((max_answer_tokens - lengths_N[is_looped_N]).sum()),
        "completions/mean_shapes": float(np.mean([len(shapes.labels) for one in scores for shapes in one.shapes_G])),
        "completions/fault_ratio": float(np.mean([bool(shapes.faults) for one in scores for shapes in one.shapes_G])),
    }
    for name in dict.fromkeys(name for one in scores for name in one.terms_G):  # tasks differ in their terms
        means = [one.terms_G[name].mean() for one in scores if name in one.terms_G]
        metrics[f"rewards/{name}/mean"] = float(np.mean(means))
    return metrics | _by_task(groups, scores) | {name: mean.value for name, mean in learned.items()}


def _by_task(groups: Sequence[Group], scores: Sequence[Scores]) -> dict[str, float]:
    """Means of the total and every term by task; empty where all groups are of one task."""
    tasks_P = [group.prompt.record.task for group in groups]
    if len(set(tasks_P)) == 1:
        return {}
    found: dict[str, list[np.ndarray]] = {}
    for task, one in zip(tasks_P, scores, strict=True):
        found.setdefault(f"reward/{task}", []).append(one.total_G)
        for name, values_G in one.terms_G.items():
            found.setdefault(f"rewards/{name}/{task}", []).append(values_G)
    return {name: float(np.mean(rows)) for name, rows in found.items()}
