"""Make the small base model that ships with the project: it knows shapes and coordinates, not the task.

    python -m rex_rl.shapes.pretrain --out rex_rl/shapes/base --seconds 2700

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
from rex_rl.model import ForwardInputs, ImagePreparer, answer_stats, collate, pack_group
from rex_rl.shapes.tiny import IMAGE_MEAN, IMAGE_STD, build_model, default_tokenizer, write_processor_files
from rex_rl.shapes.world import IMAGE_SIDE_PX, LABELS, Scene, SceneKind, draw_scene, sample_scene
from rex_rl.tasks import chat_prompt
from rex_rl.vocabulary import Vocabulary, load_vocabulary

QUESTION = "Describe the picture."
POINTS_PER_SCENE = 6
DENSE_SHARE = 0.2
"""Share of the time in which only the dense task is trained."""
CELLS = IMAGE_SIDE_PX // 28
CURRICULUM = ((0.3, 8), (1.01, 20))
"""(share of the time, largest number of objects): localisation is found on sparse pictures, then crowded ones."""


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
    rng: np.random.Generator, scenes: list[Scene], patches: torch.Tensor, grids_B3: np.ndarray, vocabulary: Vocabulary
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
    return collate(layouts, [patches], list(grids_B3)), torch.from_numpy(np.concatenate(learned))


def dense_loss(head: torch.nn.Module, features_KH: torch.Tensor, scenes: list[Scene]) -> torch.Tensor:
    """Per image token: is a centre in my cell, whose (label), and where are its sides (from the cell's middle)."""
    present_K = torch.zeros(features_KH.shape[0])
    label_K = torch.zeros(features_KH.shape[0], dtype=torch.long)
    sides_K4 = torch.zeros(features_KH.shape[0], 4)
    for row, scene in enumerate(scenes):
        for label, box_4 in zip(scene.labels, scene.boxes_N4, strict=True):
            column, line = (int((box_4[i] + box_4[i + 2]) / 2 // 28) for i in (0, 1))
            cell = row * CELLS * CELLS + line * CELLS + column
            middle = np.array([column, line, column, line]) * 28 + 14
            present_K[cell], label_K[cell] = 1.0, LABELS.index(label)
            sides_K4[cell] = torch.from_numpy((box_4 - middle) / 28)
    said = head(features_KH)
    there_K = present_K > 0
    return (
        torch.nn.functional.binary_cross_entropy_with_logits(said[:, 0], present_K)
        + 0.3 * torch.nn.functional.cross_entropy(said[there_K, 1:10], label_K[there_K])
        + torch.nn.functional.smooth_l1_loss(said[there_K, 10:], sides_K4[there_K], beta=0.1)
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seconds", type=float, required=True)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--learning-rate", type=float, default=1.2e-3)
    args = parser.parse_args()

    tokenizer = default_tokenizer()
    write_processor_files(args.out, tokenizer)
    vocabulary = load_vocabulary(args.out)
    check_patchify(ImagePreparer(args.out))
    model = build_model(tokenizer, seed=args.seed)
    print(f"{sum(p.numel() for p in model.parameters()) / 1e6:.2f} M parameters", flush=True)
    head = torch.nn.Linear(model.config.vision_config.out_hidden_size, 1 + len(LABELS) + 4)
    optimizer = torch.optim.AdamW(
        [*model.parameters(), *head.parameters()], lr=args.learning_rate, betas=(0.9, 0.98), weight_decay=0.01
    )
    rng = np.random.default_rng([args.seed, 20_251_012])
    start, step, recent = time.monotonic(), 0, []
    model.train()
    while (share := (time.monotonic() - start) / args.seconds) < 1:
        max_objects = next(limit for until, limit in CURRICULUM if share < until)
        for group in optimizer.param_groups:
            warm = min(1.0, (step + 1) / 100)
            group["lr"] = args.learning_rate * warm * max(0.02, 0.5 * (1 + np.cos(np.pi * share)))
        dense_only = share < DENSE_SHARE
        drawn = draw_batch(rng, size=args.batch_size * (2 if dense_only else 1), max_objects=max_objects)
        scenes = [scene for scene, _ in drawn]
        patches, grids_B3 = patchify([image for _, image in drawn])
        features_KH = torch.cat(model.model.get_image_features(patches, torch.from_numpy(grids_B3)).pooler_output)
        dense = dense_loss(head, features_KH, scenes)
        loss, language = dense, torch.tensor(float("nan"))
        if not dense_only:
            inputs, learned_N = language_inputs(rng, scenes, patches, grids_B3, vocabulary)
            language = -answer_stats(model, inputs, image_features_KH=features_KH).logprobs_N[learned_N].mean()
            loss = language + 0.3 * dense
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        recent.append((dense.item(), language.item()))
        step += 1
        if step % 50 == 0:
            means = np.mean(recent[-50:], axis=0)
            print(f"step {step}  {share:.1%}  dense {means[0]:.3f}  language {means[1]:.3f}", flush=True)
        if step % 500 == 0:
            save(model, args.out)
    save(model, args.out)


def save(model: torch.nn.Module, folder: Path) -> None:
    """Write the model in bfloat16 and go on in float32."""
    copy.deepcopy(model).to(torch.bfloat16).save_pretrained(folder)


if __name__ == "__main__":
    main()
