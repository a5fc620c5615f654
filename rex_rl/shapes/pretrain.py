"""Make the small base model that ships with the project: it knows shapes and coordinates, not the task.

    python -m rex_rl.shapes.pretrain --out DIR --schedule dense:600,names:300,language:900,joint:3000
    python -m rex_rl.shapes.pretrain --out DIR --start rex_rl/shapes/base --schedule joint:900    # train it on

The base learns some things about a picture, all in plain text: where the only object of a label is, or the leftmost of
each that the user names ("no" where there is none), what stands at a point, which object of a label comes next to the
right of one, and a description of everything, from left to right or name by name. It has never been asked for some
labels and not for others, nor seen the grammar of an answer; SFT teaches those.

Left to itself a model this small does not localise within an hour on two cores, so it is taught in phases (seconds
each, in `--schedule`): `dense` trains the vision tower alone, every image token telling what is in its cell and where
(the linear head is thrown away); `names` and `language` train the language model alone, on pictures most of which the
tower has looked at before, first where the one object of a label is, then everything; `joint` trains all of it.

The shipped base came from several calls in that order while this file was being written: the early ones on a world of
nine labels, with AdamW; the last six were `joint` with Muon, 135 minutes together on a busy machine, the last 40 with
the questions as they stand here (`--schedule joint:2400 --learning-rate 5e-4 --muon-rate 1.5e-3`). Descriptions name by
name came with those: before, SFT's model told the objects of all labels under one. The first line above, in one go, has
not been run.
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

from rex_rl.codec import quantise
from rex_rl.model import ForwardInputs, ImagePreparer, answer_stats, collate, load_policy, pack_group
from rex_rl.shapes.muon import Muon, split_weights
from rex_rl.shapes.tiny import IMAGE_MEAN, IMAGE_STD, build_model, default_tokenizer, write_processor_files
from rex_rl.shapes.world import IMAGE_SIDE_PX, LABELS, Scene, SceneKind, draw_scene, sample_scene
from rex_rl.tasks import chat_prompt
from rex_rl.vocabulary import NUM_BINS, Vocabulary, load_vocabulary

if TYPE_CHECKING:
    from transformers import Qwen2_5_VLForConditionalGeneration

QUESTION = "Describe the picture."
TURNS = (f"{QUESTION} {{}}.", "{}: where is the leftmost?", "The leftmost {}.", "Leftmost of each: {}. Then the rest.")
NAME_START, NAME_END = "<|object_ref_start|>", "<|object_ref_end|>"
CELLS = IMAGE_SIDE_PX // 28
CROWDED = SceneKind(min_objects=1, column_share=0.25)
MANY_LABELS = SceneKind(min_objects=3, max_labels=len(LABELS), column_share=0.25)
NUM_NEXT = 3
CAPTION_SHARE = 0.25
"""Of the captions from left to right; the others go by name. Of nothing else a model learns to pass over labels."""
BATCH, FRESH_PER_STEP = 8, 4
NUM_SEEN = 3000
"""A step of the language phases asks about some fresh pictures and some of those seen last, which cost no look."""
BELL_BINS, LOGIT_SCALE = 4.0, 8.0
Question = tuple[str, str]
"""(given, wanted) texts; only the wanted one is learned."""
Asked = tuple[str, list[Question]]
"""(the user's turn, what is asked under it)."""
Ask = Callable[[np.random.Generator, Scene], Asked]


def describe(scene: Scene) -> str:
    """The caption of a scene: label and box of every object, from left to right.

    >>> describe(Scene(labels=("red circle",), boxes_N4=np.array([[0.0, 0.0, 98.0, 196.0]])))
    'red circle<0><0><500><999>'
    """
    bins_N4 = quantise(scene.boxes_N4, (IMAGE_SIDE_PX, IMAGE_SIDE_PX))
    order = np.argsort(bins_N4[:, 0], kind="stable")  # ties stay in the scene's order, which says nothing
    return ", ".join(f"{scene.labels[i]}" + "".join(f"<{value}>" for value in bins_N4[i]) for i in order)


def describe_by_name(rng: np.random.Generator, scene: Scene) -> str:
    """The caption told label after label, each from left to right; whatever is there, in any order of labels."""
    bins_N4, boxes = quantise(scene.boxes_N4, (IMAGE_SIDE_PX, IMAGE_SIDE_PX)), coordinates(scene)
    order = np.argsort(bins_N4[:, 0], kind="stable").tolist()
    names = [str(name) for name in rng.permutation(sorted(set(scene.labels)))]
    return ". ".join(name + ", ".join(boxes[i] for i in order if scene.labels[i] == name) for name in names)


def coordinates(scene: Scene) -> list[str]:
    """The box of each object as four coordinate tokens."""
    bins_N4 = quantise(scene.boxes_N4, (IMAGE_SIDE_PX, IMAGE_SIDE_PX))
    return ["".join(f"<{value}>" for value in bins_4) for bins_4 in bins_N4]


def ask_names(rng: np.random.Generator, scene: Scene) -> Asked:
    """Where is the only object of a label; at least one question a scene, about the description if need be."""
    boxes = zip(scene.labels, coordinates(scene), strict=True)
    asked = [(f"the {label}", box) for label, box in boxes if scene.labels.count(label) == 1]
    return QUESTION, asked or [("", describe(scene))]


def ask_everything(rng: np.random.Generator, scene: Scene) -> Asked:
    """What is at a point, what comes next, the description, and where the leftmost of each name in the user's turn is.

    The names teach to read: under one and the same question a model learns to ignore it. A name in the answer
    stands between Qwen's own marks for one (`<|object_ref_start|>`), which a real base has seen too; under a mark of
    ours it was learned just as well and then not used (150 SFT steps named the right label 3 times in 10).
    """
    boxes, bins_N4 = coordinates(scene), quantise(scene.boxes_N4, (IMAGE_SIDE_PX, IMAGE_SIDE_PX))
    i = rng.integers(len(scene.labels))
    x0, y0, x1, y1 = bins_N4[i]
    x, y = (int(low + (high - low) * rng.uniform(0.3, 0.7)) for low, high in ((x0, x1), (y0, y1)))
    names = [str(name) for name in rng.permutation(LABELS)[: rng.integers(1, len(LABELS) + 1)]]
    leftmost = {scene.labels[at]: boxes[at] for at in np.argsort(-bins_N4[:, 0], kind="stable")}
    named = [f"{name}{NAME_END}{leftmost.get(name, ' no')}" for name in names]
    turn = str(rng.choice(TURNS)).format(", ".join(names))
    return turn, [
        (f"at<{x}><{y}>", f" {scene.labels[i]}{boxes[i]}"),
        *(ask_next(rng, scene, boxes, bins_N4) for _ in range(NUM_NEXT)),
        (NAME_START, f", {NAME_START}".join(named)),
        ("", describe(scene)) if rng.random() < CAPTION_SHARE else ("by name: ", describe_by_name(rng, scene)),
    ]


def ask_next(rng: np.random.Generator, scene: Scene, boxes: list[str], bins_N4: np.ndarray) -> Question:
    """Which object of a label comes next, to the right of a given one."""
    i = int(rng.integers(len(scene.labels)))
    label = scene.labels[i] if rng.random() < 0.7 else str(rng.choice(LABELS))
    order = np.argsort(bins_N4[:, 0], kind="stable").tolist()
    behind = [j for j in order[order.index(i) + 1 :] if scene.labels[j] == label]
    return f"right of{boxes[i]} {label}", boxes[behind[0]] if behind else " no"


def distinct(scene: Scene) -> Scene:
    """The scene with one object of each label."""
    first = [i for i, label in enumerate(scene.labels) if label not in scene.labels[:i]]
    return Scene(labels=tuple(scene.labels[i] for i in first), boxes_N4=scene.boxes_N4[first])


def draw_batch(rng: np.random.Generator, size: int, *, share_distinct: float) -> list[tuple[Scene, Image.Image]]:
    """Fresh scenes, never drawn twice; a share of them holds one object a label."""
    drawn = []
    for _ in range(size):
        scene = (
            distinct(sample_scene(rng, MANY_LABELS)) if rng.random() < share_distinct else sample_scene(rng, CROWDED)
        )
        drawn.append((scene, draw_scene(rng, scene)))
    return drawn


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


class DenseHead(torch.nn.Module):
    """What every image token is asked: is a centre in my cell, of which label, and where are the box's four sides.

    Sides are told in the language model's own coordinate embeddings, so that what it later has to say is in the image
    tokens already, one linear map away; targets are bells of a few bins, so that near is better than far.
    """

    bins_V: torch.Tensor
    table_VH: torch.Tensor

    def __init__(self, table_VH: torch.Tensor) -> None:
        super().__init__()
        width = table_VH.shape[1]
        self.what = torch.nn.Linear(width, 1 + len(LABELS))
        self.sides = torch.nn.Linear(width, 4 * width)
        self.register_buffer("table_VH", table_VH.detach() / table_VH.detach().std())
        self.register_buffer("bins_V", torch.arange(float(table_VH.shape[0])))

    def loss(self, features_KH: torch.Tensor, scenes: list[Scene]) -> torch.Tensor:
        """Weighted sum of three cross-entropies, each a mean over the tokens it concerns."""
        present_K = torch.zeros(features_KH.shape[0])
        label_K = torch.zeros(features_KH.shape[0], dtype=torch.long)
        sides_K4 = torch.zeros(features_KH.shape[0], 4)
        for row, scene in enumerate(scenes):
            bins_N4 = quantise(scene.boxes_N4, (IMAGE_SIDE_PX, IMAGE_SIDE_PX))
            for label, box_4, bins_4 in zip(scene.labels, scene.boxes_N4, bins_N4, strict=True):
                column, line = (int((box_4[i] + box_4[i + 2]) / 2 // 28) for i in (0, 1))
                cell = (row * CELLS + line) * CELLS + column
                present_K[cell], label_K[cell] = 1.0, LABELS.index(label)
                sides_K4[cell] = torch.from_numpy(bins_4)
        there_K = present_K > 0
        what = self.what(features_KH)
        sides_MH = self.sides(features_KH[there_K]).unflatten(-1, (4, -1)).flatten(0, 1)
        logits_MV = sides_MH @ self.table_VH.T / LOGIT_SCALE
        bells_MV = (-0.5 * ((self.bins_V - sides_K4[there_K].flatten()[:, None]) / BELL_BINS) ** 2).softmax(dim=-1)
        return (
            torch.nn.functional.binary_cross_entropy_with_logits(what[:, 0], present_K)
            + 0.3 * torch.nn.functional.cross_entropy(what[there_K, 1:], label_K[there_K])
            + 0.5 * torch.nn.functional.cross_entropy(logits_MV, bells_MV)
        )


class Trainer:
    """The model, its throw-away dense head, and the loss of one step of each phase."""

    def __init__(self, model: "Qwen2_5_VLForConditionalGeneration", vocabulary: Vocabulary, *, seed: int) -> None:
        self.model, self._vocabulary = model, vocabulary
        first = vocabulary.first_coordinate_id
        self.head = DenseHead(model.get_input_embeddings().weight[first : first + NUM_BINS])
        self._rng = np.random.default_rng([seed, 20_251_012])
        self._seen: list[tuple[Scene, torch.Tensor]] = []

    def dense(self) -> torch.Tensor:
        """Vision tower alone, on crowded scenes."""
        scenes, features_KH = self._look(32, share_distinct=0.0)
        return self.head.loss(features_KH, scenes)

    def names(self) -> torch.Tensor:
        """Language model alone, on scenes with one object a label: finds an object by what it looks like."""
        return self._recall(ask_names, share_distinct=1.0)

    def language(self) -> torch.Tensor:
        """Language model alone, on all scenes and questions."""
        return self._recall(ask_everything, share_distinct=0.1)

    def joint(self) -> torch.Tensor:
        """Both at once, on fresh scenes."""
        scenes, features_KH = self._look(BATCH, share_distinct=0.0)
        return self._answer(scenes, features_KH, ask_everything) + 0.5 * self.head.loss(features_KH, scenes)

    def forget(self) -> None:
        """Drop the pictures looked at: the next phase wants others, or the tower has changed."""
        self._seen = []

    def _recall(self, ask: Ask, *, share_distinct: float) -> torch.Tensor:
        with torch.no_grad():
            scenes, features_KH = self._look(FRESH_PER_STEP, share_distinct=share_distinct)
        self._seen = [*self._seen[-NUM_SEEN:], *zip(scenes, features_KH.split(CELLS * CELLS), strict=True)]
        again = self._rng.integers(len(self._seen), size=BATCH - FRESH_PER_STEP)
        picked = [*self._seen[-FRESH_PER_STEP:], *(self._seen[i] for i in again)]
        return self._answer([scene for scene, _ in picked], torch.cat([features for _, features in picked]), ask)

    def _look(self, size: int, *, share_distinct: float) -> tuple[list[Scene], torch.Tensor]:
        drawn = draw_batch(self._rng, size, share_distinct=share_distinct)
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
