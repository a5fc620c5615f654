"""After every publish the engine and the learner are the same model: issue "The whole loop", point 3.

The engine decodes token by token with caches and packed matrices, the learner forwards whole groups with a shared
prefix. Their log-probabilities of the same tokens agree only if weights, positions, image patches, temperature and
token mask all agree, and if nothing cached under older weights is used.
"""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import ray
from PIL import Image

from actors.cluster.handles import RayLearner
from actors.rollout.pool import RolloutPool
from actors.weights.published import FolderWeights
from actors.weights.sync import ObjectStoreSync
from rex_rl.config.schema import GrpoConfig, GrpoRates
from rex_rl.errors import SyncError
from rex_rl.language.vocabulary import load_vocabulary
from rex_rl.shapes.world import IMAGE_SIDE_PX, write_split
from rex_rl.types import Group, Prompt, Sampling
from tests.support.engines import as_batch, only_worker, prompt_for, start_learner

pytestmark = pytest.mark.engine

TEMPERATURE = 0.7
TOLERANCE = 1e-4
PHOTO = Path(__file__).parents[2] / "fixtures" / "photos" / "coffee.jpg"
SETTINGS = GrpoConfig(
    learning_rate=GrpoRates(vision=1e-2, projector=1e-2, language=1e-2),  # a step moves log-probabilities by nats
    temperature=TEMPERATURE,
    kl_beta=0.01,
)


@pytest.fixture(scope="module")
def pool(engine_pool: RolloutPool) -> RolloutPool:
    """Shared with the tests of the engine, of which none cares what weights it served before."""
    return engine_pool


@pytest.fixture(scope="module")
def learner(request: pytest.FixtureRequest, ray_cluster: None) -> Iterator[RayLearner]:
    """A learner with the requested number of ranks, ZeRO stage and adapter rank; every new stage starts from the model
    folder."""
    num_ranks, zero_stage, lora_rank = request.param
    started = start_learner(num_ranks, zero_stage=zero_stage, lora_rank=lora_rank)
    yield started
    for rank in started.ranks:
        ray.kill(rank)


@pytest.fixture(scope="module")
def prompts(tmp_path_factory: pytest.TempPathFactory) -> list[Prompt]:
    """Two scenes and a photograph that the processor has to resize."""
    folder = tmp_path_factory.mktemp("scenes")
    write_split(folder, name="a", num_images=2, seed=3)
    scenes = [prompt_for(path, (IMAGE_SIDE_PX, IMAGE_SIDE_PX)) for path in sorted((folder / "images").iterdir())]
    return [*scenes, prompt_for(PHOTO, Image.open(PHOTO).size, ("cup",))]


def answer(pool: RolloutPool, prompts: list[Prompt], *, seed: int) -> list[Group]:
    sampling = Sampling(num_answers=3, temperature=TEMPERATURE, max_tokens=24, seed=seed)
    return [pool.result(ticket) for ticket in [pool.submit(prompt, sampling) for prompt in prompts]]


def largest_gap(learner: RayLearner, groups: list[Group]) -> float:
    """Largest difference between the engine's and the learner's log-probability of one token."""
    said = [one.logprobs_T for group in groups for one in group.answers]
    recomputed = learner.answer_logprobs(as_batch(groups))
    return max(float(np.abs(a - b).max()) for a, b in zip(said, recomputed, strict=True))


@pytest.mark.parametrize("learner", [(1, 0, 8), (1, 0, 0), (2, 3, 0)], indirect=True)
def test_engine_and_learner_agree_after_every_publish(
    tiny_model: Path, pool: RolloutPool, prompts: list[Prompt], learner: RayLearner
) -> None:
    """With adapters too, which reach the engine merged into the weights."""
    learner.begin(str(tiny_model), SETTINGS)
    sync = ObjectStoreSync(learner, pool, timeout_s=60)

    sync.publish(0)
    groups = answer(pool, prompts, seed=1)
    assert largest_gap(learner, groups) < TOLERANCE
    for version in (1, 2):
        learned = learner.step(as_batch(groups, seed=version), 1.0)
        assert np.isfinite(learned["loss"].value)
        assert largest_gap(learner, groups) > 0.1, "the step changed too little for this test to prove anything"
        sync.publish(version)
        groups = answer(pool, prompts, seed=1)  # the same prompts and images: stale caches would show
        assert {int(v) for group in groups for one in group.answers for v in one.versions_T} == {version}
        assert largest_gap(learner, groups) < TOLERANCE


@pytest.mark.parametrize("learner", [(1, 0, 0)], indirect=True)
def test_answers_in_the_middle_of_a_sync_go_on_under_the_new_weights(
    tiny_model: Path, pool: RolloutPool, prompts: list[Prompt], learner: RayLearner
) -> None:
    """No answer is lost, and every token keeps the version that wrote it. Their image is encoded anew, also where the
    prompt was cached: vLLM alone would have dropped its pixels and fail (actors/rollout/engine.py passes them on).
    """
    learner.begin(str(tiny_model), SETTINGS)
    sync = ObjectStoreSync(learner, pool, timeout_s=60)
    sync.publish(0)
    groups = answer(pool, prompts[:1], seed=1)
    long = Sampling(num_answers=4, temperature=2.0, max_tokens=400, seed=2)  # seconds: the step and the sync fit in
    tickets = [pool.submit(prompts[0], long) for _ in range(2)]
    learner.step(as_batch(groups), 1.0)
    sync.publish(1)
    written = [one.versions_T for ticket in tickets for one in pool.result(ticket).answers]
    assert len(written) == 8
    assert all((np.diff(versions_T) >= 0).all() for versions_T in written)
    assert {0, 1} <= {int(version) for versions_T in written for version in (versions_T[0], versions_T[-1])}


def test_only_allowed_tokens_are_sampled(tiny_model: Path, pool: RolloutPool, prompts: list[Prompt]) -> None:
    """Without the mask, a random model would write an image pad or an undefined id within a few hundred tokens."""
    pool.publish(FolderWeights())
    sampling = Sampling(num_answers=8, temperature=2.0, max_tokens=60, seed=5)
    group = pool.result(pool.submit(prompts[0], sampling))
    said = np.concatenate([one.tokens_T for one in group.answers])
    assert said.size > 300
    assert set(said.tolist()) <= set(load_vocabulary(tiny_model).sampled_ids.tolist())


def test_same_seed_gives_the_same_answers_and_another_seed_others(pool: RolloutPool, prompts: list[Prompt]) -> None:
    pool.publish(FolderWeights())
    first, again, other = (answer(pool, prompts[:1], seed=seed)[0] for seed in (11, 11, 12))
    same = [np.array_equal(a.tokens_T, b.tokens_T) for a, b in zip(first.answers, again.answers, strict=True)]
    differs = [not np.array_equal(a.tokens_T, b.tokens_T) for a, b in zip(first.answers, other.answers, strict=True)]
    assert all(same)
    assert any(differs)
    assert not np.array_equal(first.answers[0].tokens_T, first.answers[1].tokens_T)


@pytest.mark.parametrize("learner", [(1, 0, 0)], indirect=True)
def test_an_altered_bucket_is_refused(tiny_model: Path, pool: RolloutPool, learner: RayLearner) -> None:
    learner.begin(str(tiny_model), SETTINGS)
    manifest, refs = learner.export_weights(7, timeout_s=60)
    first, *others = ray.get(refs[0])
    data = first.data.copy()
    data[1000] ^= 1
    altered = ray.put((replace(first, data=data), *others))
    with pytest.raises(SyncError, match="arrived altered"):
        ray.get(only_worker(pool).update_weights.remote(manifest, [altered, *refs[1:]]))
