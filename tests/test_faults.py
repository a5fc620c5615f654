"""Faults from outside: the job ends well, no prompt is lost or used twice, and the metrics equal those of a quiet run.

With `deterministic` and `max_staleness` 0 a run repeats to the bit on CPU. So equal metrics in every step prove that
every prompt of the stream was used exactly once, under the right weights.
"""

import json
import random
import signal
import time
from pathlib import Path
from statistics import mean

import pytest

from rex_rl.run.guards import GROUPS
from rex_rl.shapes.world import write_split
from tests.support.breaking_rank import FOLDER, NAN_LOSS, NAN_WEIGHTS, notes, position
from tests.support.faulty_job import NUM_STEPS, ROLES, FaultyJob, StartJob, differences, learned
from tests.support.poison import write_poisoned

pytestmark = pytest.mark.engine
SAMPLED = ("reward", "reward_std", "rewards/f1/mean")
"""Metrics of a step that depend on its answers alone, whether or not they were learned from."""


def test_workers_of_every_role_are_killed_and_the_numbers_stay(start_job: StartJob, quiet_job: FaultyJob) -> None:
    """A rollout worker, a reward worker and the learner, one after the other, by kill -9."""
    job = start_job("killed", "rollout.num_workers=2", num_steps=8)
    for step, role in ((1, "rollout"), (2, "reward"), (3, "learner")):
        job.wait_for_step(step)
        job.strike(role)
    job.finish()
    assert differences(job, quiet_job, steps=range(1, 9)) == []  # constant learning rate: any steps may follow
    assert job.events("rollout_worker_lost")
    assert job.events("learner_lost")


def test_a_scaled_killed_and_stopped_run_has_the_numbers_of_a_quiet_one(
    start_job: StartJob, quiet_job: FaultyJob
) -> None:
    """Watched and scaled from other shells, its driver killed with -9, submitted again, ended by SIGTERM."""
    job = start_job("moved", num_steps=24)  # another command takes as long as eight steps to start
    job.wait_for_step(1)
    scale(job, 0)
    num_steps = len(job.steps())
    assert job.command("status").startswith("moved: grpo")
    assert len(job.steps()) <= num_steps + 1  # a pause: at most the step that had its answers already
    scale(job, 2)
    job.wait_for(lambda: len(job.events("rollout_worker_serves")) == 1 + 2)
    status = json.loads(job.command("status", "moved", "--json"))
    assert (status["run"], status["stage"]) == ("moved", "grpo")
    pids = {role: sorted(one["pid"] for one in status["workers"] if one["role"] == role) for role in ROLES}
    assert pids == {role: job.pids(role) for role in ROLES}
    scale(job, 1)
    job.kill_driver()
    num_done = len(job.steps())
    job.start()
    job.wait_for(lambda: job.events("resumed"))
    assert num_done - 1 <= job.events("resumed")[0]["step"] <= num_done  # at most one step is repeated
    job.wait_for_step(num_done + 1)
    job.process.send_signal(signal.SIGTERM)  # as `ray job stop` sends it
    assert job.process.wait(60) == 143
    assert (job.folder / "checkpoints" / f"grpo_{len(job.steps()):06d}" / "manifest.json").is_file()
    assert differences(job, quiet_job, steps=range(1, min(len(job.steps()), NUM_STEPS) + 1)) == []
    assert [row["step"] for row in job.steps("sft")] == [1]


def scale(job: FaultyJob, rollouts: int) -> None:
    """Ask for so many rollout workers from another process, and wait until there are."""
    job.command("scale", "moved", "--rollouts", f"{rollouts}")
    job.wait_for(lambda: len(job.pids("rollout")) == rollouts)


def test_numbers_break_the_disk_is_full_and_wandb_is_away(
    start_job: StartJob, quiet_job: FaultyJob, tmp_path: Path
) -> None:
    """No connection to W&B; no room for metrics, checkpoints and samples for some steps, one of them evaluated; weights
    that are not finite; a loss that is not finite. Steps before that loss equal the quiet run's to the bit, steps after
    it within its noise. Every prompt is learned from once, or kept with the skipped step."""
    job = start_job(
        "broken",
        "wandb.mode=online",
        "grpo.eval_every=5",
        num_steps=16,
        module="tests.support.breaking_rank",
        WANDB_MODE="online",  # the tests' default is `offline`
        WANDB_BASE_URL="http://127.0.0.1:9",  # the discard port: nobody listens
        WANDB_API_KEY="0123456789abcdef" * 3,
        **{FOLDER: str(tmp_path)},
    )
    job.wait_for_step(2)
    job.limit_files(0)
    job.wait_for(lambda: "grpo 5, held-out" in job.said())
    job.limit_files(None)
    job.wait_for_step(len(job.steps()) + 2)  # the older of the two then has its checkpoint
    (tmp_path / NAN_WEIGHTS).touch()
    job.wait_for(lambda: job.events("resumed"))
    job.wait_for_step(len(job.steps()) + 2)
    (tmp_path / NAN_LOSS).touch()
    job.finish()

    (wandb,) = job.events("wandb")
    assert "connection refused" in wandb["message"]
    assert "lines may be missing there" in job.said()
    assert "no checkpoint of step" in job.said()
    assert "grpo_000005.jsonl: cannot be written: File too large; the run goes on" in job.said()
    (lost,) = job.events("learner_lost")
    assert lost["reason"] == "weights are not numbers"
    (skipped,) = job.events("step_skipped")
    step = skipped["step"]
    assert differences(job, quiet_job, steps=[row["step"] for row in job.steps() if row["step"] < step]) == []
    calls = notes(tmp_path)
    steps = list(dict.fromkeys(calls))
    assert len(calls) == len(steps) + 1  # the call that broke the weights is repeated
    assert [prompt for prompts in steps for prompt in prompts] == list(range(4 * 16))
    kept = (job.folder / "skipped" / f"grpo_{step:06d}" / GROUPS).read_text().splitlines()
    assert sorted(position(json.loads(line)["prompt"]["uid"]) for line in kept) == list(steps[step - 1])
    counts = {row["step"]: row["guards/skipped_steps"] for row in job.steps()}
    assert counts == {number: float(number >= step) for number in counts}
    ours, quiet = (learned(run) for run in (job, quiet_job))
    assert {name: ours[step][name] for name in SAMPLED} == {name: quiet[step][name] for name in SAMPLED}
    rest = range(step + 1, 16 + 1)
    rewards = [mean(float(run[number]["reward"]) for number in rest) for run in (ours, quiet)]
    print(f"step {step} of 16 skipped: mean reward of the rest {rewards[0]:.3f}, without faults {rewards[1]:.3f}")
    assert rewards[0] == pytest.approx(rewards[1], abs=0.05)  # a step's reward varies by as much from prompt to prompt


@pytest.mark.soak
@pytest.mark.parametrize(
    ("num_kills", "every", "num_steps"),
    [(10, 2, 30), pytest.param(2, 130, 260, id="a kill in three minutes")],  # where a step takes 1.4 s
)
def test_kills_of_rollout_workers(start_job: StartJob, num_kills: int, every: int, num_steps: int) -> None:
    """At random moments: idle, in prefill, in decode, in a sync; some are stopped instead of killed."""
    rng = random.Random(4)
    quiet = start_job(f"quiet{num_steps}", num_steps=num_steps)
    quiet.finish(timeout_s=3_600)
    job = start_job(f"kills{num_kills}", "rollout.num_workers=2", num_steps=num_steps)
    for number in range(num_kills):
        job.wait_for_step(1 + every * number, timeout_s=1_800, poll_s=every / 100)  # reading a long log takes time
        time.sleep(rng.uniform(0, 2))
        job.strike("rollout", sign=signal.SIGSTOP if number % 4 == 3 else signal.SIGKILL, which=rng.randrange(2))
    job.finish(timeout_s=3_600)
    assert differences(job, quiet) == []
    took_s, quiet_s = (float(run.steps()[-1]["time"]) - float(run.steps()[0]["time"]) for run in (job, quiet))
    goodput = job.steps()[-1]["goodput"]
    print(f"{num_kills} kills in {num_steps} steps: goodput {goodput:.3f}; {took_s:.0f} s, without {quiet_s:.0f} s")


@pytest.mark.soak
def test_the_driver_is_killed_at_twenty_random_points(start_job: StartJob) -> None:
    """Half of them while it starts, half while it trains; submitted again each time, it repeats at most one step."""
    rng = random.Random(5)
    quiet = start_job("quiet60", num_steps=60)
    quiet.finish()
    took_s = json.loads((quiet.folder / "summary.json").read_text())["wall_s"]
    job = start_job("driver", num_steps=60)
    num_done: list[int] = []
    for number in range(20):  # at any machine speed the run outlasts them: a kill comes after some 2 steps
        done = max(num_done, default=0)
        if number % 2:
            job.wait_for_step(1 + done)
            time.sleep(rng.uniform(0, 3 * took_s["grpo"] / 60))
        else:
            until_s = time.monotonic() + rng.uniform(0, took_s["start"])
            job.wait_for(lambda until_s=until_s, done=done: time.monotonic() > until_s or len(job.steps()) > done)
        job.kill_driver()
        num_done.append(len(job.steps()))
        job.start()
    job.finish()
    assert differences(job, quiet) == []
    gone_on = [int(str(event["step"])) for event in job.events("resumed") if event["stage"] == "grpo"]
    assert all(step in {done - 1 for done in num_done} | set(num_done) for step in gone_on)
    print(f"20 kills of the driver, {len(gone_on)} of them in GRPO")


@pytest.mark.soak
def test_both_ranks_of_a_learner_are_killed_and_one_is_stopped(start_job: StartJob) -> None:
    """One after the other, under ZeRO-2, where the other rank would wait in its collective for ever."""
    overrides = (
        "learner.hang_timeout_s=30",
        "learner.num_ranks=2",
        "learner.num_cpus=0.3",
        "learner.deepspeed={zero_optimization: {stage: 2}}",
    )
    quiet = start_job("quiet2", *overrides)
    quiet.finish()
    job = start_job("ranks", *overrides)
    for step, rank, sign in ((1, 0, signal.SIGKILL), (3, 1, signal.SIGKILL), (5, 1, signal.SIGSTOP)):
        job.wait_for_step(step)
        job.strike("learner", sign=sign, which=rank)
        num_lost = len(job.events("learner_lost"))
        job.wait_for(lambda before=num_lost: len(job.events("learner_lost")) > before)
    job.finish()
    assert differences(job, quiet) == []


@pytest.mark.soak
def test_a_run_with_one_record_in_twenty_poisoned_is_the_one_without_them(start_job: StartJob, tmp_path: Path) -> None:
    """Each bad record is counted by reason and put aside; the metrics equal those of the clean data to the bit."""
    file = write_split(tmp_path / "shapes", name="good", num_images=1, seed=0)
    good = json.loads(file.read_text())
    poisoned = write_poisoned(tmp_path, [good], pixels=(file.parent / good["image"]).read_bytes())
    settings = (f"data.images={poisoned.images}", "data.max_bad_fraction=0.1")
    quiet = start_job("clean", f"data.train={poisoned.clean}", *settings, num_steps=6)
    quiet.finish()
    job = start_job("poisoned", f"data.train={poisoned.file}", *settings, num_steps=6)
    job.finish()
    assert differences(job, quiet) == []
    (said,) = job.events("data")
    assert said["bad"] == poisoned.num_bad
    assert sum(count for kind, count in said.items() if kind.startswith(("image:", "bbox"))) == poisoned.num_bad
    assert len((job.folder / "quarantine.jsonl").read_text().splitlines()) == poisoned.num_bad
