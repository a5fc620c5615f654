"""Answers written at random or by hand, and their decisions."""

from collections.abc import Sequence

import numpy as np

from rex_rl.config.reward import RewardConfig
from rex_rl.language.codec import Codec, truth_on_grid
from rex_rl.language.tasks import TASKS
from rex_rl.language.vocabulary import BOX_END, BOX_START, OBJECT_END, OBJECT_START, Vocabulary
from rex_rl.scoring.decisions import decide
from rex_rl.scoring.reward_rule import RewardRule
from rex_rl.types import Answer, FinishReason, Group, Object, Prompt, Record, Scores

CATEGORIES = ("red", "blue", "owl")
RULE = RewardRule(RewardConfig())


def scene(rng: np.random.Generator, task: str) -> Record:
    """A few boxes of two of the three categories (or two texts), near each other."""
    objects = []
    for _ in range(int(rng.integers(0, 5))):
        x, y = rng.integers(0, 60, 2).tolist()
        label = str(rng.choice(CATEGORIES[:2]))
        corners = ((x, y), (x + 30, y), (x + 30, y + 30))
        keypoints = {name: (x, y) for name in TASKS[task].keypoints}
        box = (x, y, x + 30, y + 30)
        objects.append(Object(label=label, bbox=box, point=(x, y), polygon=corners, keypoints=keypoints))
    return Record(
        id="1",
        image="/1.png",
        task=task,
        categories=CATEGORIES,
        objects=tuple(objects),
        width=100,
        height=100,
        source="",
    )


def written(rng: np.random.Generator, record: Record, codec: Codec, vocabulary: Vocabulary) -> np.ndarray:
    """The true answer with shapes moved; then, of most, some tokens exchanged, dropped, doubled, or the end cut off."""
    tokens = codec.encode(record, record.categories).tolist()
    first = vocabulary.first_coordinate_id
    tokens = [
        int(np.clip(token + rng.integers(-30, 31), first, first + 999)) if first <= token < first + 1000 else token
        for token in tokens
    ]
    alphabet = [vocabulary.id_of(name) for name in (BOX_END, BOX_START, OBJECT_END, OBJECT_START)]
    alphabet += [*vocabulary.encode(", ,red None blue"), first + 5, first + 9, vocabulary.answer_end_id]
    stray = [vocabulary.id_of(BOX_START), *vocabulary.encode(",")]
    for _ in range(int(rng.choice([0, 0, 1]))):  # a delimiter or a comma among shapes
        tokens.insert(int(rng.integers(len(tokens))), int(rng.choice(stray)))
    for _ in range(int(rng.choice([0, 1, 2, 4]))):
        place = int(rng.integers(len(tokens)))
        piece = tokens[place : place + int(rng.integers(1, 7))] if rng.random() < 0.5 else [int(rng.choice(alphabet))]
        tokens[place : place + int(rng.integers(0, 3))] = piece
    end = tokens.index(vocabulary.answer_end_id) + 1 if vocabulary.answer_end_id in tokens else len(tokens)
    return np.array(tokens[: max(1, end - (rng.random() < 0.1))], dtype=np.int64)


def answer_of(tokens_T: np.ndarray) -> Answer:
    """As an engine returns it."""
    return Answer(
        tokens_T=tokens_T,
        logprobs_T=np.zeros(tokens_T.size, np.float32),
        versions_T=np.zeros(tokens_T.size, np.int64),
        finish_reason=FinishReason.STOP,
    )


def scored(record: Record, tokens_G: Sequence[np.ndarray], codec: Codec, rule: RewardRule = RULE) -> Scores:
    """Rewards and decisions of some answers to a record, as a reward worker gives them."""
    task, truth = TASKS[record.task], truth_on_grid(record)
    group = Group(
        prompt=Prompt(uid="1", record=record, question=""), answers=tuple(answer_of(tokens_T) for tokens_T in tokens_G)
    )
    shapes_G = codec.decode_group(tokens_G, categories=record.categories, task=task, with_marks=True)
    scores_P = rule.score([shapes_G], [truth], task=task.name, prefixes=True)
    (decisions_G,) = decide([group], [shapes_G], scores_P, [truth], codec=codec, rule=rule, task=task)
    return Scores(
        total_G=scores_P[0].total_G, terms_G=scores_P[0].terms_G, decisions_G=decisions_G, shapes_G=tuple(shapes_G)
    )
