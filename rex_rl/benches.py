"""The benches by name: what `rex-rl bench NAME` runs."""

from collections.abc import Callable

from rex_rl.bench import Figure
from rex_rl.errors import UserError


def _rewards() -> list[Figure]:
    from rex_rl.bench_rewards import bench_rewards

    return bench_rewards()


def _learner() -> list[Figure]:
    from rex_rl.bench_learner import bench_learner

    return bench_learner()


def _learner_3b() -> list[Figure]:
    from rex_rl.bench_learner import bench_learner_3b

    return bench_learner_3b()


def _sync() -> list[Figure]:
    from rex_rl.launch import bench_sync

    return bench_sync()


def _rollout() -> list[Figure]:
    from rex_rl.launch import bench_rollout

    return bench_rollout()


def _step() -> list[Figure]:
    from rex_rl.launch import bench_step

    return bench_step()


BENCHES: dict[str, dict[str, Callable[[], list[Figure]]]] = {
    "rewards": {"tiny": _rewards},
    "learner": {"tiny": _learner, "3b": _learner_3b},
    "sync": {"tiny": _sync},
    "rollout": {"tiny": _rollout},
    "step": {"tiny": _step},
}
"""Name -> shapes of the model -> what measures; each is imported only when it is asked for."""


def run_bench(name: str, *, shapes: str) -> list[Figure]:
    """Figures of one bench; raises UserError for a name or shapes that there are not."""
    if name not in BENCHES:
        raise UserError(f"bench {name}: should be one of {', '.join(BENCHES)}")
    if shapes not in BENCHES[name]:
        raise UserError(f"bench {name} --shapes {shapes}: should be one of {', '.join(BENCHES[name])}")
    return BENCHES[name][shapes]()
