"""Faults from outside: the job ends well, no prompt is lost or used twice, and the numbers are those of a quiet run.

With `deterministic` and `max_staleness` 0 a run repeats to the bit on CPU, so equal metrics in every step say at once
that every prompt of the stream was used exactly once, under the right weights.
"""

import json
import random
import signal
import time
from pathlib import Path

import pytest

from rex_rl.shapes.world import SceneKind, write_split
from tests.faulty_job import ROLES, FaultyJob, StartJob, differences
from tests.poison import write_poisoned

pytestmark = pytest.mark.engine


def test_workers_of_every_role_are_killed_and_the_numbers_stay(start_job: StartJob, quiet_job: FaultyJob) -> None:
    """A rollout worker, a reward worker and the learner, one after the other, by kill -9."""
    job = start_job("killed")
    for step, role in ((1, "rollout"), (2, "reward"), (3, "learner")):
        job.wait_for_step(step)
        job.strike(role)
    job.finish()
    assert differences(job, quiet_job) == []
    assert job.events("rollout_worker_lost")
    assert job.events("learner_lost")


def test_a_scaled_killed_and_stopped_run_has_the_numbers_of_a_quiet_one(
    start_job: StartJob, quiet_job: FaultyJob
) -> None:
    """Watched and scaled from other shells, its driver killed with -9, submitted again, ended by SIGTERM."""
    job = start_job("moved")
    job.wait_for_step(1)
    scale(job, 0)
    num_steps = len(job.steps())
    assert job.command("status").startswith("moved: grpo")
    assert len(job.steps()) <= num_steps + 1  # a pause: at most the step that had its answers already
    scale(job, 3)
    job.wait_for(lambda: len(job.events("rollout_worker_serves")) == 2 + 3)
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
    assert differences(job, quiet_job, up_to=len(job.steps())) == []
    assert [row["step"] for row in job.steps("sft")] == [1]


def scale(job: FaultyJob, rollouts: int) -> None:
    """Ask for so many rollout workers from another process, and wait until there are."""
    job.command("scale", "moved", "--rollouts", f"{rollouts}")
    job.wait_for(lambda: len(job.pids("rollout")) == rollouts)


@pytest.mark.soak
def test_ten_kills_of_rollout_workers_in_thirty_steps(start_job: StartJob) -> None:
    """Idle, in prefill, in decode, in a sync: wherever chance has it; some are stopped instead of killed."""
    rng = random.Random(4)
    quiet = start_job("quiet30", num_steps=30)
    quiet.finish()
    job = start_job("ten", num_steps=30)
    for number in range(10):
        job.wait_for_step(1 + 2 * number)
        time.sleep(rng.uniform(0, 2))
        job.strike("rollout", sign=signal.SIGSTOP if number % 4 == 3 else signal.SIGKILL, which=rng.randrange(2))
    job.finish()
    assert differences(job, quiet) == []
    took_s, quiet_s = (float(run.steps()[-1]["time"]) - float(run.steps()[0]["time"]) for run in (job, quiet))
    print(f"10 kills in 30 steps: goodput {job.steps()[-1]['goodput']:.3f}; {took_s:.0f} s, without {quiet_s:.0f} s")


@pytest.mark.soak
def test_the_driver_is_killed_at_twenty_random_points(start_job: StartJob) -> None:
    """Half of them while it starts, half while it trains; submitted again each time, it repeats at most one step."""
    rng = random.Random(5)
    quiet = start_job("quiet60", num_steps=60)
    quiet.finish()
    job = start_job("driver", num_steps=60)
    num_done: list[int] = []
    for number in range(20):
        if number % 2:
            job.wait_for_step(1 + max(num_done))
            time.sleep(rng.uniform(0, 3))
        else:
            time.sleep(rng.uniform(1, 45))
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
    """One after the other, under ZeRO-2; the other rank would wait in its collective for ever."""
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
    """Each is counted by its reason and put aside; the run's numbers are those of the clean data, to the bit."""
    file = write_split(tmp_path / "shapes", name="good", num_images=1, seed=0, kind=SceneKind())
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
