"""One GRPO run, read in the order the data moves.

Axes: P prompts a step, G answers a prompt, T tokens of an answer.
No Ray, vLLM, DeepSpeed or torch here: launch.py builds the collaborators and hands them in.
"""

from rex_rl.config.schema import GrpoConfig
from rex_rl.evaluation.heldout import HeldOut
from rex_rl.interfaces import Feed, Learner, Progress, RewardPool, WeightSync
from rex_rl.learning.advantage import train_groups
from rex_rl.learning.schedule import due, learning_rate_factor
from rex_rl.run.log import RunLog, StepTimer
from rex_rl.run.step_metrics import grpo_metrics
from rex_rl.scoring.canaries import CanaryWatch


def train(
    config: GrpoConfig,
    *,
    feed: Feed,
    rewards: RewardPool,
    canaries: CanaryWatch,
    learner: Learner,
    sync: WeightSync,
    progress: Progress,
    heldout: HeldOut,
    log: RunLog,
) -> None:
    """Train for `config.num_steps` steps, from where `progress` stands."""
    step = progress.restore(learner)  # 0 on a fresh run
    sync.publish(version=step)  # engines serve the learner's weights, never their own copy
    feed.open(version=step)  # from here on (max_staleness + 1) * P groups are in flight
    while step < config.num_steps:
        timer = StepTimer()
        with timer("rollout"):
            groups = feed.take(version=step)  # P groups of G answers, oldest first
        with timer("reward"):
            scores = rewards.score(groups)  # a total and every term by name, [G] a group
        with timer("advantage"):
            batch = train_groups(groups, scores, config)  # an advantage and a weight for every token
        with timer("learn"):
            learned = learner.step(batch, learning_rate_factor(step, config))  # raises before weights go bad
        step += 1
        with timer("sync"):
            sent = sync.publish(version=step)  # returns when every engine confirmed `step`
        feed.open(version=step)  # only now, so no answer begins stale

        metrics = grpo_metrics(groups, scores, learned, max_answer_tokens=config.max_answer_tokens)
        metrics |= dict(sent) | canaries.metrics(step)
        log.step("grpo", step, num_steps=config.num_steps, metrics=metrics, seconds=timer.seconds)
        progress.after_step(step, learner)  # checkpoints; ends the run here if it was asked to
        if due(step, every=config.eval_every, last=config.num_steps):
            log.evaluation("grpo", step, heldout.evaluate("grpo", step))
    if not heldout.figures:  # resumed after the last step: only its evaluation is missing
        log.evaluation("grpo", step, heldout.evaluate("grpo", step))
