"""Make the small base model that ships with the project: it knows shapes and coordinates, not the task.

    python -m rex_rl.shapes.pretrain --out DIR --schedule dense:600,names:300,language:900,joint:3000
    python -m rex_rl.shapes.pretrain --out DIR --start rex_rl/shapes/base --schedule joint:900    # train it on

Its questions, all in plain text, are in questions.py. It has never seen the grammar of an answer, nor been asked for
some labels and not for others; SFT teaches those.

On its own a model this small does not localise within an hour on two cores, so it is taught in phases (seconds each,
in `--schedule`): `dense` trains the vision tower alone: every image token predicts what is in its cell and where (the
linear head is thrown away). `names` and `language` train the language model alone, on pictures most of which the tower
has encoded before: first the place of a label's only object, then all questions. `joint` trains all of it.

The shipped base came from several calls in that order while this file was being written, on two cores: the early ones
on a world of nine labels, with AdamW; then six of `joint` with Muon, 135 minutes together on a busy machine; and one of
70 idle minutes with the questions and scenes as they stand here, the first with words (`--schedule joint:4200
--learning-rate 5e-4 --muon-rate 1.5e-3 --seed 9`), in which the loss that it prints fell from 2.1 after 300 steps to
1.2. The first line above, in one go, has not been run.
"""

import argparse
import copy
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from PIL import Image
from tokenizers import Tokenizer

from rex_rl.language.tasks import chat_prompt
from rex_rl.language.vocabulary import NUM_BINS, Vocabulary, load_vocabulary
from rex_rl.policy.model import ForwardInputs, ImagePreparer, answer_stats, collate, load_policy, pack_group
from rex_rl.shapes.dense_head import CELLS, DenseHead
from rex_rl.shapes.muon import Muon, split_weights
from rex_rl.shapes.questions import Asked, ask_by_kind, ask_everything, ask_names
from rex_rl.shapes.tiny import IMAGE_MEAN, IMAGE_STD, build_model, default_tokenizer, write_processor_files
from rex_rl.shapes.world import (
    LABELS,
    Scene,
    SceneKind,
    draw_scene,
    draw_words,
    sample_scene,
    sample_words,
)

if TYPE_CHECKING:
    from transformers import Qwen2_5_VLForConditionalGeneration

CROWDED = SceneKind(min_objects=1)
MANY_LABELS = SceneKind(min_objects=3, max_labels=len(LABELS), column_share=0.25)
WORDS_SHARE = 0.2
"""Share of words among the scenes of `dense` and `joint`."""
BATCH, FRESH_PER_STEP = 8, 4
NUM_SEEN = 3000
"""Pictures kept: a step of the language phases asks about some fresh ones and some of these, encoded already."""
Ask = Callable[[np.random.Generator, Scene], Asked]


def distinct(scene: Scene) -> Scene:
    """The scene with one object of each label."""
    first = [i for i, label in enumerate(scene.labels) if label not in scene.labels[:i]]
    return Scene(labels=tuple(scene.labels[i] for i in first), boxes_N4=scene.boxes_N4[first])


def draw_batch(
    rng: np.random.Generator, size: int, *, share_distinct: float = 0.0, share_words: float = 0.0
) -> list[tuple[Scene, Image.Image]]:
    """Fresh scenes, never drawn twice; a share of them holds one object a label, another words."""
    drawn = []
    for _ in range(size):
        if rng.random() < share_words:
            scene = sample_words(rng)
            drawn.append((scene, draw_words(rng, scene)))
            continue
        scene = (
            distinct(sample_scene(rng, MANY_LABELS)) if rng.random() < share_distinct else sample_scene(rng, CROWDED)
        )
        drawn.append((scene, draw_scene(rng, scene)))
    return drawn


def patchify(images: list[Image.Image]) -> tuple[torch.Tensor, np.ndarray]:
    """The patches that the model folder's processor makes of images that need no resizing, four times as fast.

    Patches of 14 px in 2 x 2 squares, each repeated for the two frames of Qwen's temporal patch.
    """
    mean_3, std_3 = (np.array(values, dtype=np.float32) * 255 for values in (IMAGE_MEAN, IMAGE_STD))
    pixels_BHW3 = (np.stack([np.asarray(image, dtype=np.float32) for image in images]) - mean_3) / std_3
    squares = torch.from_numpy(pixels_BHW3).reshape(len(images), CELLS, 2, 14, CELLS, 2, 14, 3)
    patches = squares.permute(0, 1, 4, 2, 5, 7, 3, 6).reshape(-1, 3, 1, 14 * 14).expand(-1, -1, 2, -1)
    return patches.reshape(-1, 3 * 2 * 14 * 14), np.tile([1, 2 * CELLS, 2 * CELLS], (len(images), 1))


def check_patchify(processor: ImagePreparer) -> None:
    """Raise AssertionError if the processor does something else than :func:`patchify`."""
    rng = np.random.default_rng(0)
    images = [draw_scene(rng, sample_scene(rng, SceneKind()))]
    (own, _), (theirs, _) = patchify(images), processor.many(images)
    np.testing.assert_allclose(own.numpy(), theirs.numpy(), atol=1e-4)


def language_inputs(
    asked_B: list[Asked], grids_B3: np.ndarray, vocabulary: Vocabulary
) -> tuple[ForwardInputs, torch.Tensor]:
    """The questions about some scenes, and which of the answers' tokens are learned (not what is given)."""
    layouts, learned = [], []
    for (turn, asked), grid_3 in zip(asked_B, grids_B3, strict=True):
        prompt, answers = vocabulary.encode(chat_prompt(turn)), []
        for given, wanted in asked:
            given_ids, wanted_ids = vocabulary.encode(given), vocabulary.encode(wanted)
            answers.append(np.array([*given_ids, *wanted_ids, vocabulary.answer_end_id]))
            learned.append(np.arange(answers[-1].size) >= len(given_ids))
        layouts.append(pack_group(prompt, answers, image_token_id=vocabulary.image_pad_id, grid_3=grid_3, merge_size=2))
    return collate(layouts, [torch.empty(0)], list(grids_B3)), torch.from_numpy(np.concatenate(learned))


class Trainer:
    """The model, its throw-away dense head, and the loss of one step of each phase."""

    def __init__(self, model: "Qwen2_5_VLForConditionalGeneration", vocabulary: Vocabulary, *, seed: int) -> None:
        self.model, self._vocabulary = model, vocabulary
        first = vocabulary.first_coordinate_id
        self.head = DenseHead(model.get_input_embeddings().weight[first : first + NUM_BINS])
        self._rng = np.random.default_rng([seed, 20_251_012])
        self._seen: list[tuple[Scene, torch.Tensor]] = []

    def dense(self) -> torch.Tensor:
        """Vision tower alone, on crowded scenes and on words."""
        scenes, features_KH = self._look(32, share_words=WORDS_SHARE)
        return self.head.loss(features_KH, scenes)

    def names(self) -> torch.Tensor:
        """Language model alone, on scenes with one object a label: teaches to find an object by its looks."""
        return self._recall(ask_names, share_distinct=1.0)

    def language(self) -> torch.Tensor:
        """Language model alone, on all scenes and questions."""
        return self._recall(ask_everything, share_distinct=0.1)

    def joint(self) -> torch.Tensor:
        """Both at once, on fresh scenes."""
        scenes, features_KH = self._look(BATCH, share_words=WORDS_SHARE)
        return self._answer(scenes, features_KH, ask_by_kind) + 0.5 * self.head.loss(features_KH, scenes)

    def forget(self) -> None:
        """Drop the pictures kept: the next phase wants others, or the tower has changed."""
        self._seen = []

    def _recall(self, ask: Ask, *, share_distinct: float) -> torch.Tensor:
        with torch.no_grad():
            scenes, features_KH = self._look(FRESH_PER_STEP, share_distinct=share_distinct)
        self._seen = [*self._seen[-NUM_SEEN:], *zip(scenes, features_KH.split(CELLS * CELLS), strict=True)]
        again = self._rng.integers(len(self._seen), size=BATCH - FRESH_PER_STEP)
        picked = [*self._seen[-FRESH_PER_STEP:], *(self._seen[i] for i in again)]
        return self._answer([scene for scene, _ in picked], torch.cat([features for _, features in picked]), ask)

    def _look(
        self, size: int, *, share_distinct: float = 0.0, share_words: float = 0.0
    ) -> tuple[list[Scene], torch.Tensor]:
        drawn = draw_batch(self._rng, size, share_distinct=share_distinct, share_words=share_words)
        patches, grids_B3 = patchify([image for _, image in drawn])
        features = self.model.model.get_image_features(patches, torch.from_numpy(grids_B3)).pooler_output
        return [scene for scene, _ in drawn], torch.cat(features)

    def _answer(self, scenes: list[Scene], features_KH: torch.Tensor, ask: Ask) -> torch.Tensor:
        asked_B = [ask(self._rng, scene) for scene in scenes]
        grids_B3 = np.tile([1, 2 * CELLS, 2 * CELLS], (len(scenes), 1))
        inputs, learned_N = language_inputs(asked_B, grids_B3, self._vocabulary)
        return -answer_stats(self.model, inputs, image_features_KH=features_KH).logprobs_N[learned_N].mean()


def parse_schedule(text: str) -> list[tuple[str, float]]:
    """Phases and their seconds.

    >>> parse_schedule("dense:480,language:1200")
    [('dense', 480.0), ('language', 1200.0)]
    """
    phases = [part.split(":") for part in text.split(",")]
    return [(name, float(seconds)) for name, seconds in phases]


def main() -> None:
    """Train for the schedule's seconds and write the model folder."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--schedule", type=parse_schedule, required=True, help="such as dense:480,language:1200")
    parser.add_argument("--start", type=Path, help="go on from an earlier base")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--learning-rate", type=float, default=6e-4, help="of AdamW: embeddings, norms, biases, head")
    parser.add_argument("--muon-rate", type=float, default=2e-3, help="of Muon: matrices inside the blocks")
    args = parser.parse_args()

    # An earlier base keeps its tokenizer: the one that would be built today may number its tokens otherwise.
    tokenizer = Tokenizer.from_file(str(args.start / "tokenizer.json")) if args.start else default_tokenizer()
    write_processor_files(args.out, tokenizer)
    vocabulary = load_vocabulary(args.out)
    check_patchify(ImagePreparer(args.out))
    model = load_policy(args.start) if args.start else build_model(tokenizer, seed=args.seed)
    model.train()
    trainer = Trainer(model, vocabulary, seed=args.seed)
    inside, others = split_weights(model)
    muon = Muon(inside)
    adam = torch.optim.AdamW(
        [*others, *trainer.head.parameters()], lr=args.learning_rate, betas=(0.9, 0.98), weight_decay=0.01
    )
    total_s, begun, step = sum(seconds for _, seconds in args.schedule), time.monotonic(), 0
    until_s = 0.0
    for phase, seconds in args.schedule:
        until_s += seconds
        trainer.forget()
        recent: list[float] = []
        while (passed_s := time.monotonic() - begun) < until_s:
            share = passed_s / total_s
            rate = min(1.0, (step + 1) / 100) * max(0.02, 0.5 * (1 + np.cos(np.pi * share)))
            loss = getattr(trainer, phase)()
            model.zero_grad(set_to_none=True)
            trainer.head.zero_grad(set_to_none=True)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            adam.param_groups[0]["lr"] = args.learning_rate * rate
            adam.step()
            muon.step(args.muon_rate * rate)
            step += 1
            recent = [*recent[-49:], loss.item()]
            if step % 50 == 0:
                print(f"step {step}  {phase}  {share:.1%}  loss {np.mean(recent):.3f}", flush=True)
            if step % 500 == 0:
                save(model, args.out)
    save(model, args.out)


def save(model: "Qwen2_5_VLForConditionalGeneration", folder: Path) -> None:
    """Write the model in bfloat16 and go on in float32."""
    copy.deepcopy(model).to(torch.bfloat16).save_pretrained(folder)


if __name__ == "__main__":
    main()
