"""Make the small base model that ships with the project: it knows shapes and coordinates, not the task.

    python -m rex_rl.shapes.pretrain --out rex_rl/shapes/base --schedule SCHEDULE

The base learns three things about a picture, all in plain text: what stands at a point, where the only object of a
label is, and a description of everything from top to bottom. It has never seen a question about a category, an
answer's grammar, its order from left to right, or an absent category; SFT teaches those. The questions about one
picture share its forward pass, so each picture is supervised about ten times.

The vision tower is warmed up first, and kept company later, by a dense task of its own: every image token tells
whether an object's centre lies in its cell, which one, and its box. Its linear head is thrown away at the end. Without
it a model this small takes an hour on two cores before it localises at all.
"""

import argparse
import copy
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from rex_rl.codec import quantise
from rex_rl.model import ForwardInputs, ImagePreparer, answer_stats, collate, load_policy, pack_group
from rex_rl.shapes.tiny import IMAGE_MEAN, IMAGE_STD, build_model, default_tokenizer, write_processor_files
from rex_rl.shapes.world import IMAGE_SIDE_PX, LABELS, Scene, SceneKind, draw_scene, sample_scene
from rex_rl.tasks import chat_prompt
from rex_rl.vocabulary import NUM_BINS, Vocabulary, load_vocabulary

QUESTION = "Describe the picture."
CELLS = IMAGE_SIDE_PX // 28
POINTS_PER_SCENE = 6
SPARSE_SHARE, SPARSE_OBJECTS, MAX_OBJECTS = 0.3, 8, 20
"""In the first share of the time scenes are sparse: localisation is found there, and kept in crowded ones."""
NUM_SEEN = 6016
"""Pictures the language phase draws from; each is asked about from other points every time."""



def describe(scene: Scene) -> str:
    """The caption of a scene: label and box of every object, from top to bottom.

    >>> describe(Scene(labels=("red circle",), boxes_N4=np.array([[0.0, 0.0, 98.0, 196.0]])))
    'red circle<0><0><500><999>'
    """
    bins_N4 = quantise(scene.boxes_N4, (IMAGE_SIDE_PX, IMAGE_SIDE_PX))
    order = np.lexsort((bins_N4[:, 0], bins_N4[:, 1]))
    return ", ".join(f"{scene.labels[i]}" + "".join(f"<{value}>" for value in bins_N4[i]) for i in order)


def questions(rng: np.random.Generator, scene: Scene) -> list[tuple[str, str]]:
    """(given, wanted) pairs of text about one scene: points, labels that occur once, and the description."""
    bins_N4 = quantise(scene.boxes_N4, (IMAGE_SIDE_PX, IMAGE_SIDE_PX))
    coordinates = ["".join(f"<{value}>" for value in bins_4) for bins_4 in bins_N4]
    pairs = []
    for i in rng.choice(len(scene.labels), size=min(POINTS_PER_SCENE, len(scene.labels)), replace=False):
        x0, y0, x1, y1 = bins_N4[i]
        x, y = (int(low + (high - low) * rng.uniform(0.3, 0.7)) for low, high in ((x0, x1), (y0, y1)))
        pairs.append((f"at<{x}><{y}>", f" {scene.labels[i]}{coordinates[i]}"))
    for label, box in zip(scene.labels, coordinates, strict=True):
        if scene.labels.count(label) == 1:
            pairs.append((f"the {label}", box))
    return [*pairs, ("", describe(scene))]


def draw_batch(rng: np.random.Generator, *, size: int, max_objects: int) -> list[tuple[Scene, Image.Image]]:
    """Fresh scenes, never drawn twice."""
    kind = SceneKind(min_objects=1, max_objects=max_objects, column_share=0.25)
    scenes = [sample_scene(rng, kind) for _ in range(size)]
    return [(scene, draw_scene(rng, scene)) for scene in scenes]


def patchify(images: list[Image.Image]) -> tuple[torch.Tensor, np.ndarray]:
    """What the model folder's processor makes of images that need no resizing, four times as fast.

    Patches of 14 px in 2 x 2 squares, each repeated for the two frames of Qwen's temporal patch.
    """
    mean_3, std_3 = (np.array(values, dtype=np.float32) * 255 for values in (IMAGE_MEAN, IMAGE_STD))
    pixels_BHW3 = (np.stack([np.asarray(image, dtype=np.float32) for image in images]) - mean_3) / std_3
    squares = torch.from_numpy(pixels_BHW3).reshape(len(images), CELLS, 2, 14, CELLS, 2, 14, 3)
    patches = squares.permute(0, 1, 4, 2, 5, 7, 3, 6).reshape(-1, 3, 1, 14 * 14).expand(-1, -1, 2, -1)
    return patches.reshape(-1, 3 * 2 * 14 * 14), np.tile([1, 2 * CELLS, 2 * CELLS], (len(images), 1))


def check_patchify(processor: ImagePreparer) -> None:
    """Stop at once should the processor ever do something else than :func:`patchify`."""
    rng = np.random.default_rng(0)
    images = [draw_scene(rng, sample_scene(rng, SceneKind()))]
    for own, theirs in zip(patchify(images), processor.many(images), strict=True):
        np.testing.assert_allclose(own, theirs, atol=1e-4)


def language_inputs(
    rng: np.random.Generator, scenes: list[Scene], grids_B3: np.ndarray, vocabulary: Vocabulary
) -> tuple[ForwardInputs, torch.Tensor]:
    """The questions about the scenes, and which of the answers' tokens are learned (not what is given)."""
    prompt = vocabulary.encode(chat_prompt(QUESTION))
    layouts, learned = [], []
    for scene, grid_3 in zip(scenes, grids_B3, strict=True):
        answers = []
        for given, wanted in questions(rng, scene):
            given_ids, wanted_ids = vocabulary.encode(given), vocabulary.encode(wanted)
            answers.append(np.array([*given_ids, *wanted_ids, vocabulary.answer_end_id]))
            learned.append(np.arange(answers[-1].size) >= len(given_ids))
        layouts.append(pack_group(prompt, answers, image_token_id=vocabulary.image_pad_id, grid_3=grid_3, merge_size=2))
    return collate(layouts, [torch.empty(0)], list(grids_B3)), torch.from_numpy(np.concatenate(learned))


class DenseHead(torch.nn.Module):
    """What every image token is asked: is a centre in my cell, of which label, and where are the box's four sides.

    Sides are told in the language model's own coordinate embeddings (`table_VH`), so that what the language model
    later needs to say is in the image tokens already, one linear map away.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.what = torch.nn.Linear(width, 1 + len(LABELS))
        self.sides = torch.nn.Linear(width, 4 * width)

    def loss(self, features_KH: torch.Tensor, scenes: list[Scene], table_VH: torch.Tensor) -> torch.Tensor:
        """Sum of three cross-entropies, each a mean over the tokens it concerns."""
        present_K = torch.zeros(features_KH.shape[0])
        label_K = torch.zeros(features_KH.shape[0], dtype=torch.long)
        sides_K4 = torch.zeros(features_KH.shape[0], 4, dtype=torch.long)
        for row, scene in enumerate(scenes):
            bins_N4 = quantise(scene.boxes_N4, (IMAGE_SIDE_PX, IMAGE_SIDE_PX))
            for label, box_4, bins_4 in zip(scene.labels, scene.boxes_N4, bins_N4, strict=True):
                column, line = (int((box_4[i] + box_4[i + 2]) / 2 // 28) for i in (0, 1))
                cell = (row * CELLS + line) * CELLS + column
                present_K[cell], label_K[cell], sides_K4[cell] = 1.0, LABELS.index(label), torch.from_numpy(bins_4)
        there_K = present_K > 0
        what = self.what(features_KH)
        sides_K4H = self.sides(features_KH[there_K]).unflatten(-1, (4, -1))
        cross_entropy = torch.nn.functional.cross_entropy
        return (
            torch.nn.functional.binary_cross_entropy_with_logits(what[:, 0], present_K)
            + 0.3 * cross_entropy(what[there_K, 1:], label_K[there_K])
            + 0.3 * cross_entropy((sides_K4H @ table_VH.T).flatten(0, 1), sides_K4[there_K].flatten())
        )


class Trainer:
    """The model, its throw-away dense head, and one step of each phase."""

    def __init__(self, model: torch.nn.Module, vocabulary: Vocabulary, *, seed: int, batch_size: int) -> None:
        self.model, self._vocabulary, self._batch_size = model, vocabulary, batch_size
        self.head = DenseHead(model.config.vision_config.out_hidden_size)
        self._rng = np.random.default_rng([seed, 20_251_012])
        self._seen: list[tuple[Scene, torch.Tensor]] = []

    def dense(self, max_objects: int) -> dict[str, torch.Tensor]:
        """Vision tower alone."""
        scenes, features_KH, _ = self._look(2 * self._batch_size, max_objects)
        return {"dense": self._dense(features_KH, scenes)}

    def joint(self, max_objects: int) -> dict[str, torch.Tensor]:
        """Both at once."""
        scenes, features_KH, grids_B3 = self._look(self._batch_size, max_objects)
        return {
            "language": self._answer(scenes, features_KH, grids_B3),
            "dense": 0.3 * self._dense(features_KH, scenes),
        }

    def language(self, max_objects: int) -> dict[str, torch.Tensor]:
        """Language model alone, on pictures the vision tower has looked at once: three times as many steps."""
        if not self._seen:
            with torch.no_grad():
                for _ in range(NUM_SEEN // 64):
                    scenes, features_KH, _ = self._look(64, max_objects)
                    self._seen += zip(scenes, features_KH.split(CELLS * CELLS), strict=True)
        picked = [self._seen[i] for i in self._rng.integers(len(self._seen), size=self._batch_size)]
        scenes = [scene for scene, _ in picked]
        grids_B3 = np.tile([1, 2 * CELLS, 2 * CELLS], (len(scenes), 1))
        return {"language": self._answer(scenes, torch.cat([features for _, features in picked]), grids_B3)}

    def _dense(self, features_KH: torch.Tensor, scenes: list[Scene]) -> torch.Tensor:
        first = self._vocabulary.first_coordinate_id
        table_VH = self.model.get_input_embeddings().weight[first : first + NUM_BINS]
        return self.head.loss(features_KH, scenes, table_VH)

    def _look(self, size: int, max_objects: int) -> tuple[list[Scene], torch.Tensor, np.ndarray]:
        drawn = draw_batch(self._rng, size=size, max_objects=max_objects)
        patches, grids_B3 = patchify([image for _, image in drawn])
        features = self.model.model.get_image_features(patches, torch.from_numpy(grids_B3)).pooler_output
        return [scene for scene, _ in drawn], torch.cat(features), grids_B3

    def _answer(self, scenes: list[Scene], features_KH: torch.Tensor, grids_B3: np.ndarray) -> torch.Tensor:
        inputs, learned_N = language_inputs(self._rng, scenes, grids_B3, self._vocabulary)
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
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--learning-rate", type=float, default=1.2e-3)
    args = parser.parse_args()

    tokenizer = default_tokenizer()
    write_processor_files(args.out, tokenizer)
    vocabulary = load_vocabulary(args.out)
    check_patchify(ImagePreparer(args.out))
    model = load_policy(args.start) if args.start else build_model(tokenizer, seed=args.seed)
    model.train()
    trainer = Trainer(model, vocabulary, seed=args.seed, batch_size=args.batch_size)
    optimizer = torch.optim.AdamW(
        [*model.parameters(), *trainer.head.parameters()], lr=args.learning_rate, betas=(0.9, 0.98), weight_decay=0.01
    )
    total_s, begun, step = sum(seconds for _, seconds in args.schedule), time.monotonic(), 0
    until_s = 0.0
    for phase, seconds in args.schedule:
        until_s += seconds
        recent: list[float] = []
        while (passed_s := time.monotonic() - begun) < until_s:
            share = passed_s / total_s
            for group in optimizer.param_groups:
                warm = min(1.0, (step + 1) / 100)
                group["lr"] = args.learning_rate * warm * max(0.02, 0.5 * (1 + np.cos(np.pi * share)))
            losses = getattr(trainer, phase)(SPARSE_OBJECTS if share < SPARSE_SHARE and not args.start else MAX_OBJECTS)
            loss = sum(losses.values())
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            step += 1
            recent = [*recent[-99:], loss.item()]
            if step % 100 == 0:
                print(f"step {step}  {phase}  {share:.1%}  loss {np.mean(recent):.3f}", flush=True)
            if step % 500 == 0:
                save(model, args.out)
    save(model, args.out)


def save(model: torch.nn.Module, folder: Path) -> None:
    """Write the model in bfloat16 and go on in float32."""
    copy.deepcopy(model).to(torch.bfloat16).save_pretrained(folder)


if __name__ == "__main__":
    main()
