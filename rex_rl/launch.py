"""From a configuration to a finished run: data -> cluster -> actors -> loops -> report -> shutdown.

The only module that imports `actors`, and only inside functions, so that commands without a cluster do not load Ray.
"""

import contextlib
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from rex_rl import grpo, sft
from rex_rl.bench.figure import Figure
from rex_rl.config.load import Config, Stage
from rex_rl.config.schema import SHAPES_DATA, GrpoConfig, SftConfig
from rex_rl.data.splits import DataSplit, load_split
from rex_rl.data.stream import PromptStream, evaluation_prompts
from rex_rl.errors import LearnerLostError
from rex_rl.evaluation.comparison import control_config
from rex_rl.evaluation.credit_trials import FORMS, Trial, read_trial, trial_config
from rex_rl.evaluation.figures import evaluate
from rex_rl.evaluation.heldout import HeldOut, answer_greedily
from rex_rl.language.codec import Codec
from rex_rl.language.tasks import TASKS
from rex_rl.language.vocabulary import load_vocabulary
from rex_rl.policy.model_folder import resolve_model
from rex_rl.report.prediction import Prediction
from rex_rl.report.run_report import write_run_report
from rex_rl.rollout.dynamic_sampling import with_dynamic_sampling
from rex_rl.rollout.feed import RolloutFeed
from rex_rl.run.checkpoints import StageCheckpoints
from rex_rl.run.folder import SKIPPED, RunFolder
from rex_rl.run.guards import GuardedLearner
from rex_rl.run.lock import run_lock
from rex_rl.run.log import RunLog
from rex_rl.run.loss_budget import LossBudget
from rex_rl.run.stopping import StopRequest
from rex_rl.scoring.canaries import CanaryWatch
from rex_rl.scoring.reward_rule import RewardRule
from rex_rl.types import Record, Sampling

if TYPE_CHECKING:
    from actors.cluster.cluster import Cluster

T = TypeVar("T")


def describe_plan(config: Config) -> str:
    """The actors a run would start and what they ask of the cluster, one line each; starts nothing."""
    from actors.cluster.placement import plan_actors

    lines = [
        f"{plan.count} x {plan.role}: {plan.num_cpus:g} CPU + {plan.num_gpus:g} GPU each"
        for plan in plan_actors(config)
    ]
    return "\n".join([*lines, f"run folder: {config.run_folder}"])


def train(config: Config, *, accept_changes: bool = False) -> Path:
    """Run the configured stages, or the rest of them after an interruption; returns the run's folder.

    Everything a user can get wrong is checked before any actor starts. Only the synthetic world is drawn, and the
    canaries tried on it, while they start. Raises Stopped when SIGTERM asked the run to end.
    """
    begun = time.monotonic()
    model = resolve_model(config.model.path, max_model_len=config.rollout.max_model_len)
    data = _begin(partial(load_split, config), beside=config.data.train == SHAPES_DATA)
    with run_lock(config.run_folder):
        run = RunFolder.open(config, accept_changes=accept_changes)
        stop = StopRequest(wait_s=config.checkpoint.stop_wait_s)
        with stop.listening(), RunLog.for_run(config, run.folder) as log:
            _run_stages(config, model, data, run, log, stop, begun)
            with run.timed("report"):
                run.publish_model(config.stages[-1])
                run.write_summary()
                write_run_report(run.folder)
        run.write_summary()
    return run.folder


def _begin(function: Callable[[], T], *, beside: bool) -> Future[T]:
    """Call a function, here and now or in a thread beside what follows."""
    future: Future[T] = Future()
    if not beside:
        future.set_result(function())
        return future

    def call() -> None:
        try:
            future.set_result(function())
        except BaseException as error:  # noqa: BLE001 - handed to whoever asks for the result
            future.set_exception(error)

    threading.Thread(target=call, daemon=True).start()
    return future


def _run_stages(
    config: Config, model: Path, data: Future[DataSplit], run: RunFolder, log: RunLog, stop: StopRequest, begun: float
) -> None:
    """Run the configured stages that are not done; where none is left, no cluster is joined."""
    todo = [stage for stage in config.stages if not run.is_done(stage)]
    rule = RewardRule(config.reward)
    check = partial(_check_inputs, config, rule, data, run, log, is_trained="grpo" in todo)
    canaries = _begin(check, beside=not data.done())
    if not todo:
        canaries.result()
        return
    with contextlib.ExitStack() as stack:
        with run.timed("start", since=begun):
            cluster = stack.enter_context(contextlib.closing(_start(config, model, log, stop, canaries)))
            canaries.result()
            stop.is_patient = True
        for stage in todo:
            _Stage(config, cluster, data.result(), run, log, canaries.result(), stop).run(
                stage, run.start_of(stage, model)
            )


def _check_inputs(
    config: Config, rule: RewardRule, data: Future[DataSplit], run: RunFolder, log: RunLog, *, is_trained: bool
) -> CanaryWatch:
    """Log what the run starts from, and try the cheats on its reward where GRPO is going to train with it."""
    _tell_inputs(run, data.result(), log)
    canaries = CanaryWatch(data.result().train, rule, config.reward.canaries, log)
    if is_trained:
        canaries.start()
    return canaries


def _tell_inputs(run: RunFolder, data: DataSplit, log: RunLog) -> None:
    """Log what a run starts from: changes of its configuration, number of records, bad records by reason."""
    for change in run.accepted:
        log.event("config_changed", change=change)
    reasons = Counter(bad.kind for bad in data.bad)
    log.event("data", train=len(data.train), heldout=len(data.heldout), bad=len(data.bad), **reasons)
    for bad in data.bad:
        log.event("bad_record", record=bad.text)
    run.write_quarantine(data.bad)


def _start(config: Config, model: Path, log: RunLog, stop: StopRequest, checks: Future[CanaryWatch]) -> "Cluster":
    """Join the cluster and start the actors, unless the checks have failed by then."""
    from actors.cluster.cluster import Cluster, connect
    from actors.cluster.placement import plan_actors

    roles = [plan.role for plan in plan_actors(config)]
    log.event("cluster", address=connect(config, roles))
    stop.listen()  # Ray has set a handler of its own
    if checks.done():
        checks.result()
    cluster = Cluster(config, str(model), roles=roles, tell=log.event)
    log.watch_steps(cluster.start_monitor().step)
    log.watch_steps(cluster.rollouts.goodput.step)
    return cluster


@dataclass(frozen=True, slots=True)
class _Stage:
    """What both stages of a run share."""

    _config: Config
    _cluster: "Cluster"
    _data: DataSplit
    _run: RunFolder
    _log: RunLog
    _canaries: CanaryWatch
    _stop: StopRequest

    def run(self, stage: Stage, model: Path) -> None:
        """Run one stage from a model folder to a model folder; its last evaluation gives its figures.

        Where the learner dies, it starts anew and the stage goes on from its last checkpoint, as a run that is
        submitted again would. The rollout workers stay as they are.
        """
        with self._run.timed(stage):
            losses = LossBudget(self._config.learner.max_losses_in_row)
            back_to: int | None = None
            while True:
                try:
                    if back_to is not None:
                        self._cluster.restart_learner(stage, back_to)
                    return self._attempt(stage, model)
                except LearnerLostError as lost:
                    back_to = self._checkpoints(stage).newest_step()
                    losses.count(lost, step=back_to)
                    self._log.event("learner_lost", stage=stage, reason=str(lost))

    def _checkpoints(self, stage: Stage) -> StageCheckpoints:
        return self._run.checkpoints(self._config, stage, log=self._log, stop=self._stop)

    def _attempt(self, stage: Stage, model: Path) -> None:
        codec = Codec(load_vocabulary(model))
        heldout = HeldOut(
            self._cluster.rollouts,
            self._data.heldout,
            codec,
            max_answer_tokens=self._config.evaluation.max_answer_tokens,
            run=self._run,
        )
        progress = self._checkpoints(stage)
        shared: dict[str, Any] = {
            "learner": GuardedLearner(
                self._cluster.learner,
                self._config.guards,
                stage=stage,
                folder=self._run.folder / SKIPPED,
                event=self._log.event,
            ),
            "sync": self._cluster.sync,
            "progress": progress,
            "heldout": heldout,
            "log": self._log,
        }
        with progress:  # its last checkpoint is whole before the stage counts as done
            if stage == "sft":
                self._sft(self._config.sft, model, codec, shared)
            else:
                self._grpo(self._config.grpo, model, shared)
        self._cluster.learner.save_model(self._run.stage_model(stage))
        self._run.end_stage(stage, heldout.figures)

    def _sft(self, settings: SftConfig, model: Path, codec: Codec, shared: dict[str, Any]) -> None:
        self._cluster.learner.begin(str(model), settings)
        stream = PromptStream(records=self._data.train, seed=self._config.seed, paraphrase=settings.paraphrase)
        sft.train(settings, stream=stream, codec=codec, **shared)

    def _grpo(self, settings: GrpoConfig, model: Path, shared: dict[str, Any]) -> None:
        self._cluster.learner.begin(str(model), settings)
        stream = PromptStream(records=self._data.train, seed=self._config.seed + 1)
        rollouts, tell = self._cluster.rollouts, self._log.event
        with contextlib.closing(RolloutFeed(rollouts, stream, settings, seed=self._config.seed, tell=tell)) as feed:
            through = with_dynamic_sampling(feed, self._cluster.rewards, shared.pop("learner"), settings)
            grpo.train(
                settings,
                feed=through.feed,
                rewards=through.rewards,
                learner=through.learner,
                canaries=self._canaries,
                **shared,
            )


def predict(model: Path, question: Record, max_answer_tokens: int) -> Prediction:
    """A model's prediction for one image, decoded greedily."""
    from actors.rollout.worker import answer_in_process

    folder = resolve_model(str(model))
    sampling = Sampling(num_answers=1, temperature=0.0, max_tokens=max_answer_tokens, seed=0)
    answer = answer_in_process(str(folder), evaluation_prompts([question])[0], sampling)
    codec = Codec(load_vocabulary(folder))
    shapes = codec.decode(answer.tokens_T, task=TASKS[question.task], categories=question.categories)
    return Prediction(record=question, shapes=shapes)


def evaluate_model(config: Config, model: Path) -> dict[str, float]:
    """Held-out figures of a model folder under a config's data and evaluation settings."""
    from actors.cluster.cluster import Cluster, connect

    folder = resolve_model(str(model), max_model_len=config.rollout.max_model_len)
    data = load_split(config)
    roles = ["rollout"]
    connect(config, roles)
    with contextlib.closing(Cluster(config, str(folder), roles=roles)) as cluster:
        cluster.serve_folder()
        results = answer_greedily(
            cluster.rollouts,
            data.heldout,
            Codec(load_vocabulary(folder)),
            max_answer_tokens=config.evaluation.max_answer_tokens,
        )
    return evaluate(results)


def run_status(address: str, run: str | None) -> Mapping[str, Any]:
    """The status a running job reports; see actors/cluster/monitor.py."""
    from actors.cluster import controller

    return controller.run_status(address, run)


def scale_run(address: str, run: str | None, rollouts: int) -> None:
    """Ask a running job to have this many rollout workers."""
    from actors.cluster import controller

    controller.scale_run(address, run, rollouts)


def control(run: Path) -> Path:
    """Continue a run's SFT for as long as its GRPO took, as a run of its own; returns that run's folder."""
    return train(control_config(run))


def credits(runs: Sequence[Path], num_steps: int) -> list[Trial]:
    """GRPO under each form of credit from the SFT model of each run; trials done already are read from disk."""
    todo = [(run, credit, trial_config(run, credit, num_steps)) for run in runs for credit in FORMS]
    return [read_trial(run, train(config), credit) for run, credit, config in todo]


def bench_sync() -> list[Figure]:
    """Measure a weight sync from a learner to two workers."""
    from actors.bench import sync as bench

    return bench.bench_sync()


def bench_rollout() -> list[Figure]:
    """Measure a rollout worker against a bare engine."""
    from actors.bench import rollout as bench

    return bench.bench_rollout()


def bench_step() -> list[Figure]:
    """Measure steps with rollout beside learning against steps with one after the other."""
    from actors.bench import step as held
    from rex_rl.bench.step import StepBench, step_figures

    with held.held_cluster() as (cluster, config, model):
        return step_figures(StepBench(cluster, load_split(config).train, model))
