"""One SFT run: the same learner and log as GRPO; answers are the ground truth instead of samples."""

from rex_rl.config.schema import SftConfig
from rex_rl.data.stream import PromptStream, sft_batch
from rex_rl.evaluation.heldout import HeldOut
from rex_rl.interfaces import Learner, Progress, WeightSync
from rex_rl.language.codec import Codec
from rex_rl.learning.schedule import due, learning_rate_factor
from rex_rl.run.log import RunLog, StepTimer


def train(
    config: SftConfig,
    *,
    stream: PromptStream,
    codec: Codec,
    learner: Learner,
    sync: WeightSync,
    progress: Progress,
    heldout: HeldOut,
    log: RunLog,
) -> None:
    """Train for `config.num_steps` steps, from where `progress` stands."""
    step = progress.restore(learner)
    while step < config.num_steps:
        timer = StepTimer()
        with timer("data"):
            prompts = stream.prompts(step * config.batch_size, config.batch_size)
            batch = sft_batch(prompts, codec)
        with timer("learn"):
            learned = learner.step(batch, learning_rate_factor(step, config))
        step += 1

        metrics = {name: mean.value for name, mean in learned.items()}
        log.step("sft", step, num_steps=config.num_steps, metrics=metrics, seconds=timer.seconds)
        progress.after_step(step, learner)  # checkpoints; ends the run here if it was asked to
        if due(step, every=config.eval_every, last=config.num_steps):
            sync.publish(version=step)
            log.evaluation("sft", step, heldout.evaluate("sft", step))
    if not heldout.figures:  # resumed after the last step: only its evaluation is missing
        sync.publish(version=step)
        log.evaluation("sft", step, heldout.evaluate("sft", step))
