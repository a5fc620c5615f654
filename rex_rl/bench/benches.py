"""The benches by name: what `rex-rl bench NAME` runs."""

from importlib import import_module

from rex_rl.bench.figure import Figure
from rex_rl.errors import UserError

BENCHES = {
    "rewards": {"tiny": "rex_rl.bench.rewards:bench_rewards"},
    "learner": {"tiny": "rex_rl.bench.learner:bench_learner", "3b": "rex_rl.bench.learner:bench_learner_3b"},
    "sync": {"tiny": "rex_rl.launch:bench_sync"},
    "rollout": {"tiny": "rex_rl.launch:bench_rollout"},
    "step": {"tiny": "rex_rl.launch:bench_step"},
}
"""Name -> shapes of the model -> the function that measures; each is imported only when it is asked for."""


def run_bench(name: str, *, shapes: str) -> list[Figure]:
    """Figures of one bench; raises UserError for an unknown name or unknown shapes."""
    if name not in BENCHES:
        raise UserError(f"bench {name}: should be one of {', '.join(BENCHES)}")
    if shapes not in BENCHES[name]:
        raise UserError(f"bench {name} --shapes {shapes}: should be one of {', '.join(BENCHES[name])}")
    module, _, function = BENCHES[name][shapes].partition(":")
    figures: list[Figure] = getattr(import_module(module), function)()
    return figures
