"""What the benches of engines and actors share: Ray on this machine, a small configuration, and a run's actors of which
some kinds are replaced by ones that count or stay on one core.
"""

import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import ray
from ray.actor import ActorHandle

from actors.cluster.cluster import Cluster
from rex_rl.config.load import Config

START_TIMEOUT_S = 600.0
"""The first start of vLLM on a machine compiles."""
SYNC_TIMEOUT_S = 60.0


@contextlib.contextmanager
def local_cluster() -> Iterator[None]:
    """Ray on this machine; where this process is in a cluster already, that one is used and left running."""
    if ray.is_initialized():
        yield
        return
    ray.init(include_dashboard=False, log_to_driver=False, logging_level="warning")
    try:
        yield
    finally:
        ray.shutdown()


def bench_config(name: str, root: Path, **sections: Mapping[str, Any]) -> Config:
    """A small run of the shapes world and the tiny base, which starts anywhere; `root` holds its images."""
    settings: dict[str, Mapping[str, Any]] = {
        "rollout": {"num_cpus": 0.1, "kv_cache_gib": 0.5, "max_model_len": 1024},
        "learner": {"num_cpus": 0.1},
        "reward_workers": {"num_cpus": 0.1},
        "data": {"train": "shapes", "shapes": {"num_train": 64, "num_heldout": 2}},
        "model": {"path": "tiny"},
    }
    merged = {key: {**settings.get(key, {}), **sections.get(key, {})} for key in settings | dict(sections)}
    return Config.model_validate({"name": name, "run_root": root, "stages": ["grpo"], **merged})


class BenchCluster(Cluster):
    """A run's actors, with `kinds` (usual kind -> its replacement). Closing it leaves Ray running."""

    def __init__(
        self, config: Config, model_folder: str, *, roles: tuple[str, ...], kinds: Mapping[type, type]
    ) -> None:
        self._kinds = kinds
        super().__init__(config, model_folder, roles=roles)

    def _start(self, kind: type, *args: Any, **kwargs: Any) -> ActorHandle:
        return super()._start(self._kinds.get(kind, kind), *args, **kwargs)

    def close(self) -> None:
        """End every actor."""
        self.end_actors()
