"""The synthetic world: seeded, crowded, and no object hides another."""

import json
import os
import signal
import threading
import time
from multiprocessing import active_children
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from rewards.geometry.boxes import pairwise_iou
from rex_rl.config.schema import SHAPES_TASKS
from rex_rl.data.records import read_records
from rex_rl.errors import UserError
from rex_rl.shapes import world
from rex_rl.shapes.world import (
    IMAGE_SIDE_PX,
    LABELS,
    LETTERS,
    MAX_IOU,
    MAX_LETTERS,
    MAX_WORDS,
    MIN_WORDS,
    Scene,
    SceneKind,
    asked_categories,
    draw_scene,
    draw_words,
    sample_scene,
    sample_words,
    write_split,
)

SEEDS = range(300)


@pytest.fixture(scope="module")
def scenes() -> list[Scene]:
    return [sample_scene(np.random.default_rng([7, seed]), SceneKind()) for seed in SEEDS]


def test_a_scene_holds_four_to_twenty_objects(scenes: list[Scene]) -> None:
    counts = [len(scene.labels) for scene in scenes]
    assert min(counts) >= 4
    assert max(counts) <= 20
    assert {4, 20} <= set(counts), "both ends occur"
    assert all(scene.boxes_N4.shape == (len(scene.labels), 4) for scene in scenes)


def test_several_objects_of_a_label_stand_together(scenes: list[Scene]) -> None:
    """A teacher-forced model loses count of such objects."""
    assert np.mean([len(scene.labels) / len(set(scene.labels)) for scene in scenes]) > 3
    assert all(set(scene.labels) <= set(LABELS) for scene in scenes)


def test_no_two_objects_hide_each_other(scenes: list[Scene]) -> None:
    """Not even of different labels; at most 0.5 within one label would be enough."""
    for scene in scenes:
        iou_NN = pairwise_iou(scene.boxes_N4, scene.boxes_N4)
        np.fill_diagonal(iou_NN, 0)
        assert iou_NN.max() <= MAX_IOU + 1e-12


def test_boxes_lie_inside_and_have_their_size(scenes: list[Scene]) -> None:
    kind = SceneKind()
    for scene in scenes:
        sides_N2 = scene.boxes_N4[:, 2:] - scene.boxes_N4[:, :2]
        assert scene.boxes_N4.min() >= 0
        assert scene.boxes_N4.max() < IMAGE_SIDE_PX
        assert sides_N2.min() >= kind.min_side_px
        assert sides_N2.max() <= kind.max_side_px


def test_columns_share_their_x0(scenes: list[Scene]) -> None:
    """In about half of the scenes several objects of one label tie in x0, whose order a model cannot know."""
    tied = [len(set(scene.boxes_N4[:, 0])) <= 0.6 * len(scene.labels) for scene in scenes]
    assert 0.25 < np.mean(tied) < 0.6


def test_the_same_seed_gives_the_same_picture() -> None:
    def drawn(seed: int) -> tuple[Scene, bytes]:
        rng = np.random.default_rng(seed)
        scene = sample_scene(rng, SceneKind())
        return scene, draw_scene(rng, scene).tobytes()

    (first, pixels), (again, pixels_again), (_, other) = drawn(3), drawn(3), drawn(4)
    assert first.labels == again.labels
    assert first.boxes_N4.tolist() == again.boxes_N4.tolist()
    assert pixels == pixels_again != other


def test_an_object_is_drawn_where_its_box_is() -> None:
    """Its colour reaches all four sides of the box and does not leave it."""
    for label in LABELS:
        scene = Scene(labels=(label,), boxes_N4=np.array([[40.0, 60.0, 80.0, 90.0]]))
        noise = np.random.default_rng(0), np.random.default_rng(0)
        bare = np.asarray(draw_scene(noise[0], Scene(labels=(), boxes_N4=np.zeros((0, 4)))), dtype=int)
        rows, columns = np.nonzero(np.abs(np.asarray(draw_scene(noise[1], scene), dtype=int) - bare).sum(axis=2))
        assert (columns.min(), rows.min(), columns.max(), rows.max()) == (40, 60, 79, 89), label


def test_the_canvas_shows_the_position() -> None:
    """Red grows to the right and green downwards: rotary positions alone are relative."""
    canvas = np.asarray(draw_scene(np.random.default_rng(0), Scene(labels=(), boxes_N4=np.zeros((0, 4)))), dtype=float)
    assert (np.diff(canvas[:, ::28, 0].mean(axis=0)) > 0).all()
    assert (np.diff(canvas[::28, :, 1].mean(axis=1)) > 0).all()


def test_a_third_of_the_questions_ask_for_what_is_not_there(scenes: list[Scene]) -> None:
    absent = []
    for seed, scene in zip(SEEDS, scenes, strict=True):
        asked = asked_categories(np.random.default_rng(seed), scene)
        assert set(scene.labels) <= set(asked) <= set(LABELS)
        assert len(set(asked)) == len(asked)
        absent.append(len(set(asked) - set(scene.labels)))
    assert set(absent) == {0, 1}
    assert np.mean(absent) == pytest.approx(1 / 3, abs=0.1)


def test_a_longer_split_starts_with_the_shorter(tmp_path: Path) -> None:
    """Lines and pixels; so more data never means other data."""
    short, long = (write_split(tmp_path / str(count), name="train", num_images=count, seed=5) for count in (3, 5))
    assert long.read_text().splitlines()[:3] == short.read_text().splitlines()
    for image in sorted((tmp_path / "3" / "images").iterdir()):
        assert image.read_bytes() == (tmp_path / "5" / "images" / image.name).read_bytes()


def test_many_records_are_drawn_on_all_cores_and_are_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    alone = write_split(tmp_path / "alone", name="train", num_images=4, seed=5)
    monkeypatch.setattr(world, "MIN_RECORDS_SHARED", 4)
    shared = write_split(tmp_path / "shared", name="train", num_images=4, seed=5)
    assert shared.read_text() == alone.read_text()
    for image in sorted((tmp_path / "alone" / "images").iterdir()):
        assert image.read_bytes() == (tmp_path / "shared" / "images" / image.name).read_bytes()


def test_a_killed_process_ends_the_drawing_and_leaves_no_split(tmp_path: Path) -> None:
    """A pool alone would wait for the dead one's share for ever."""

    def kill_one() -> None:
        while not (workers := active_children()) or not list(tmp_path.glob("images/*")):
            time.sleep(0.01)
        os.kill(workers[0].pid or 0, signal.SIGKILL)

    killer = threading.Thread(target=kill_one, daemon=True)
    killer.start()
    with pytest.raises(UserError, match="has ended"):
        write_split(tmp_path, name="train", num_images=2_000, seed=5)
    killer.join(10)
    assert not (tmp_path / "train.jsonl").exists()


def test_a_split_reads_like_any_data_set(tmp_path: Path) -> None:
    """Images decoded, sizes checked, no record bad."""
    file = write_split(tmp_path, name="heldout", num_images=4, seed=5)
    records = read_records(file, decode_images=True, max_bad_fraction=0.0).records
    assert [record.id for record in records] == [f"heldout_{i:06d}" for i in range(4)]
    assert {record.size for record in records} == {(IMAGE_SIDE_PX, IMAGE_SIDE_PX)}
    with Image.open(records[0].image) as image:
        assert image.size == (IMAGE_SIDE_PX, IMAGE_SIDE_PX)
    first = json.loads(file.read_text().splitlines()[0])
    assert [list(thing.bbox or ()) for thing in records[0].objects] == [thing["bbox"] for thing in first["objects"]]


def test_a_mix_holds_as_many_images_of_each_task_and_reads_like_any_data_set(tmp_path: Path) -> None:
    """Tasks take turns; the readers' checks of every task find nothing bad, and pixels are the same again."""
    files = [
        write_split(tmp_path / str(count), name="train", num_images=count, seed=5, tasks=SHAPES_TASKS)
        for count in (3, 6)
    ]
    short, long = (read_records(file, task=None, decode_images=True, max_bad_fraction=0.0).records for file in files)
    assert [record.task for record in long] == 6 * list(SHAPES_TASKS)
    assert [record.objects for record in short] == [record.objects for record in long[:12]]
    for image in sorted((tmp_path / "3" / "images").iterdir()):
        assert image.read_bytes() == (tmp_path / "6" / "images" / image.name).read_bytes()
    for record in long[2::4]:
        truth = {thing.bbox for thing in record.objects}
        assert {thing.label for thing in record.objects} == set(record.categories)
        assert 1 <= len(record.visual_prompt) <= 2
        assert set(record.visual_prompt) <= truth
    assert {record.categories for record in long[3::4]} == {("word",)}


def test_words_stand_apart_and_are_short() -> None:
    """No two boxes of words overlap at all, so no two words read as one."""
    for seed in SEEDS:
        scene = sample_words(np.random.default_rng(seed))
        assert MIN_WORDS <= len(scene.labels) <= MAX_WORDS
        assert all(1 <= len(word) <= MAX_LETTERS and set(word) <= set(LETTERS) for word in scene.labels)
        assert scene.boxes_N4.min() >= 0
        assert scene.boxes_N4.max() < IMAGE_SIDE_PX
        iou_NN = pairwise_iou(scene.boxes_N4, scene.boxes_N4)
        assert iou_NN[~np.eye(len(iou_NN), dtype=bool)].max() == 0


def test_a_word_fills_its_box() -> None:
    """Its ink reaches near all four sides and does not leave the box."""
    for word in ("A", "EX", "TOZ"):
        scene = Scene(labels=(word,), boxes_N4=np.array([[40.0, 60.0, 90.0, 85.0]]))
        noise = np.random.default_rng(0), np.random.default_rng(0)
        bare = np.asarray(draw_words(noise[0], Scene(labels=(), boxes_N4=np.zeros((0, 4)))), dtype=int)
        rows, columns = np.nonzero(np.abs(np.asarray(draw_words(noise[1], scene), dtype=int) - bare).sum(axis=2))
        reach = np.array([columns.min(), rows.min(), columns.max(), rows.max()])
        assert np.abs(reach - [40, 60, 89, 84]).max() <= 1, word
