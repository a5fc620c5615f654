"""What is due when: the learning rate as a factor on its configured peak, checkpoints, evaluations."""

import math

from rex_rl.config.schema import OptimiserConfig


def learning_rate_factor(step: int, config: OptimiserConfig) -> float:
    """Factor for optimizer step `step` (from 0): linear warm-up, then constant, linear or cosine to 0.

    The last step of a linear or cosine schedule is still above 0: the zero would fall on the step after it.
    """
    warmup = config.num_warmup_steps
    if step < warmup:
        return (step + 1) / (warmup + 1)
    share = (step - warmup) / max(1, config.num_steps - warmup)
    if config.schedule == "constant":
        return 1.0
    return 1.0 - share if config.schedule == "linear" else 0.5 * (1.0 + math.cos(math.pi * share))


def due(step: int, *, every: int, last: int) -> bool:
    """True at every `every`-th step and at the last one; `every` 0 means only at the last.

    >>> [step for step in range(1, 8) if due(step, every=3, last=7)]
    [3, 6, 7]
    """
    return step == last or (every > 0 and step % every == 0)
