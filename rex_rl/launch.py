"""From a configuration to a finished run: data -> cluster -> actors -> loops -> report -> shutdown.

The only module that imports `actors`, and only inside functions: what runs without a cluster does not load one.
"""

import contextlib
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rex_rl import grpo, sft
from rex_rl.canaries import CanaryWatch
from rex_rl.codec import Codec
from rex_rl.comparison import control_config
from rex_rl.config import Config, GrpoConfig, SftConfig
from rex_rl.data import PromptStream, evaluation_prompts
from rex_rl.datasets import DataSplit, load_split
from rex_rl.evaluation import evaluate_detections
from rex_rl.feed import RolloutFeed
from rex_rl.heldout import HeldOut, answer_greedily
from rex_rl.model_folder import resolve_model
from rex_rl.prediction import Prediction
from rex_rl.reward_rule import RewardRule
from rex_rl.run_folder import RunFolder
from rex_rl.run_log import RunLog
from rex_rl.run_report import write_run_report
from rex_rl.tasks import TASKS
from rex_rl.types import Record, Sampling
from rex_rl.vocabulary import load_vocabulary

if TYPE_CHECKING:
    from actors.cluster import Cluster


def describe_plan(config: Config) -> str:
    """The actors a run would start and what they ask of the cluster, one line each; starts nothing."""
    from actors.placement import plan_actors

    lines = [
        f"{plan.count} x {plan.role}: {plan.num_cpus:g} CPU + {plan.num_gpus:g} GPU each"
        for plan in plan_actors(config)
    ]
    return "\n".join([*lines, f"run folder: {config.run_folder}"])


def train(config: Config) -> Path:
    """Run the configured stages, or what an interrupted run left of them; returns the run's folder.

    Everything a user can get wrong is looked at before any actor starts.
    """
    begun = time.monotonic()
    model = resolve_model(config.model.path)
    data = load_split(config)
    run = RunFolder.open(config)
    with RunLog.for_run(config, run.folder) as log:
        log.event("data", train=len(data.train), heldout=len(data.heldout), bad=len(data.bad))
        for bad in data.bad:
            log.event("bad_record", record=bad.text)
        todo = [stage for stage in config.stages if not run.is_done(stage)]
        canaries = CanaryWatch(data.train, RewardRule(config.reward), config.reward.canaries, log)
        if "grpo" in todo:
            canaries.start()
        if todo:
            with run.timed("start", since=begun):
                cluster = _start(config, model)
            with contextlib.closing(cluster):
                for stage in todo:
                    _Stage(config, cluster, data, run, log, canaries).run(stage, run.start_of(stage, model))
        with run.timed("report"):
            run.publish_model(config.stages[-1])
            run.write_summary()
            write_run_report(run.folder)
    run.write_summary()
    return run.folder


def _start(config: Config, model: Path) -> "Cluster":
    from actors.cluster import Cluster, connect
    from actors.placement import plan_actors

    connect(config)
    return Cluster(config, str(model), roles=tuple(plan.role for plan in plan_actors(config)))


class _Stage:
    """What both stages of a run share."""

    def __init__(
        self,
        config: Config,
        cluster: "Cluster",
        data: DataSplit,
        run: RunFolder,
        log: RunLog,
        canaries: CanaryWatch,
    ) -> None:
        self._config, self._cluster, self._data = config, cluster, data
        self._run, self._log, self._canaries = run, log, canaries

    def run(self, stage: str, model: Path) -> None:
        """One stage from a model folder to a model folder; its last evaluation are its figures."""
        codec = Codec(load_vocabulary(model))
        heldout = HeldOut(
            self._cluster.rollouts,
            self._data.heldout,
            codec,
            max_answer_tokens=self._config.evaluation.max_answer_tokens,
            run=self._run,
        )
        progress = self._run.checkpoints(stage, keep=self._config.checkpoint.keep)
        self._log.truncate_after(stage, progress.newest_step())
        shared: dict[str, Any] = {
            "learner": self._cluster.learner,
            "sync": self._cluster.sync,
            "progress": progress,
            "heldout": heldout,
            "log": self._log,
        }
        with self._run.timed(stage):
            if stage == "sft":
                self._sft(self._config.sft, model, codec, shared)
            else:
                self._grpo(self._config.grpo, model, shared)
            self._cluster.learner.save_model(self._run.stage_model(stage))
        self._run.end_stage(stage, heldout.figures)

    def _sft(self, settings: SftConfig, model: Path, codec: Codec, shared: dict[str, Any]) -> None:
        self._cluster.learner.begin_sft(str(model), settings)
        stream = PromptStream(records=self._data.train, seed=self._config.seed, paraphrase=settings.paraphrase)
        sft.train(settings, stream=stream, codec=codec, **shared)

    def _grpo(self, settings: GrpoConfig, model: Path, shared: dict[str, Any]) -> None:
        self._cluster.learner.begin_grpo(str(model), settings)
        feed = RolloutFeed(
            self._cluster.rollouts,
            PromptStream(records=self._data.train, seed=self._config.seed + 1),
            settings,
            seed=self._config.seed,
        )
        grpo.train(settings, feed=feed, rewards=self._cluster.rewards, canaries=self._canaries, **shared)


def predict(model: Path, question: Record, max_answer_tokens: int) -> Prediction:
    """What a model says about one image, greedily."""
    from actors.rollout import answer_in_process

    folder = resolve_model(str(model))
    sampling = Sampling(num_answers=1, temperature=0.0, max_tokens=max_answer_tokens, seed=0)
    answer = answer_in_process(str(folder), evaluation_prompts([question])[0], sampling)
    codec = Codec(load_vocabulary(folder))
    shapes = codec.decode(answer.tokens_T, task=TASKS[question.task], categories=question.categories)
    return Prediction(record=question, shapes=shapes)


def evaluate_model(config: Config, model: Path) -> dict[str, float]:
    """Held-out figures of a model folder under a config's data and evaluation settings."""
    from actors.cluster import Cluster, connect

    folder = resolve_model(str(model))
    data = load_split(config)
    connect(config)
    with contextlib.closing(Cluster(config, str(folder), roles=("rollout",))) as cluster:
        cluster.serve_folder()
        results = answer_greedily(
            cluster.rollouts,
            data.heldout,
            Codec(load_vocabulary(folder)),
            max_answer_tokens=config.evaluation.max_answer_tokens,
        )
    return evaluate_detections(results)


def control(run: Path) -> Path:
    """Continue a run's SFT for its GRPO's wall time, as a run of its own; returns that run's folder."""
    return train(control_config(run))
