"""Which records a run trains on and which it is evaluated on."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rex_rl.config.load import Config
from rex_rl.data.splits import heldout_records, load_split, shapes_files
from rex_rl.errors import DataError
from rex_rl.shapes.world import SceneKind, write_split
from tests.support import fakes
from tests.support.poison import write_poisoned


def config_for(root: Path, *, num_images: int = 200, seed: int = 0, **data: Any) -> Config:
    evaluation = {"num_images": num_images}
    return Config(name="run", run_root=root, model={"path": "tiny"}, data=data, evaluation=evaluation, seed=seed)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("data")
    return {
        name: write_split(folder, name=name, num_images=count, seed=count, kind=SceneKind(max_objects=5))
        for name, count in (("train", 10), ("heldout", 3), ("one", 1))
    }


def ids(records: tuple[Any, ...]) -> list[str]:
    return [record.id for record in records]


def test_a_share_is_held_back_by_seed(files: dict[str, Path], tmp_path: Path) -> None:
    split = load_split(config_for(tmp_path, train=str(files["train"]), heldout_fraction=0.3))
    assert (len(split.train), len(split.heldout), split.bad) == (7, 3, ())
    assert sorted([*ids(split.train), *ids(split.heldout)]) == [f"train_{i:06d}" for i in range(10)]
    again = load_split(config_for(tmp_path, train=str(files["train"]), heldout_fraction=0.3))
    assert ids(again.heldout) == ids(split.heldout)


def test_a_held_out_file_is_used_as_it_is(files: dict[str, Path], tmp_path: Path) -> None:
    split = load_split(config_for(tmp_path, train=str(files["train"]), heldout=files["heldout"], num_images=3))
    assert len(split.train) == 10
    assert ids(split.heldout) == [f"heldout_{i:06d}" for i in range(3)]


def test_of_many_held_out_records_some_are_drawn_all_over_the_file(files: dict[str, Path], tmp_path: Path) -> None:
    """By the run's seed, the same ones every time, in the file's order; a file often is sorted by something."""
    records = [fakes.record(f"{i:04d}") for i in range(1000)]
    drawn = [heldout_records(records, 200, seed=seed) for seed in (0, 1)]
    assert drawn[0] == heldout_records(list(records), 200, seed=0) != drawn[1]
    for kept in drawn:
        assert len(set(ids(kept))) == 200
        assert ids(kept) == sorted(ids(kept))
        places = np.array([int(record.id) for record in kept])
        assert np.bincount(places // 250, minlength=4).min() > 30
    train, heldout = str(files["train"]), files["heldout"]
    splits = [load_split(config_for(tmp_path, seed=i, train=train, heldout=heldout, num_images=2)) for i in range(9)]
    assert len({tuple(ids(split.heldout)) for split in splits}) > 1


@pytest.mark.parametrize("num", [200, 201])
def test_where_no_more_are_held_out_all_are_kept(num: int) -> None:
    """As of the synthetic world's 200."""
    records = tuple(fakes.record(f"{i}") for i in range(200))
    assert heldout_records(records, num, seed=3) == records


def test_what_is_drawn_of_a_task_does_not_depend_on_the_others() -> None:
    boxes, points = ([fakes.record(f"{task}{i}", task=task) for i in range(9)] for task in ("detection", "pointing"))
    mixed = [record for pair in zip(boxes, points, strict=True) for record in pair]
    kept = heldout_records(mixed, 4, seed=0)
    alone = [heldout_records(of, 4, seed=0) for of in (boxes, points)]
    assert sorted(ids(kept)) == sorted(ids(alone[0]) + ids(alone[1]))
    assert ids(kept) == [record.id for record in mixed if record in kept]


def test_one_record_cannot_be_split(files: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(DataError, match="one to train on and one to hold back"):
        load_split(config_for(tmp_path, train=str(files["one"])))


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"nowhere\.jsonl: no such file"):
        load_split(config_for(tmp_path, train=str(tmp_path / "nowhere.jsonl")))


def test_bad_records_of_both_files_are_reported(files: dict[str, Path], tmp_path: Path) -> None:
    broken = tmp_path / "broken.jsonl"
    broken.write_text(files["heldout"].read_text() + '{"id": "x"}\n')
    split = load_split(
        config_for(
            tmp_path,
            train=str(files["train"]),
            heldout=broken,
            heldout_images=files["heldout"].parent,
            max_bad_fraction=0.5,
        )
    )
    assert [(bad.line, bad.id) for bad in split.bad] == [(4, "x")]


def test_shapes_are_made_once_below_the_run_root(tmp_path: Path) -> None:
    """Training and held-out scenes come from seeds of their own; a second run finds them there."""
    config = config_for(tmp_path, train="shapes", shapes={"num_train": 3, "num_heldout": 2})
    split = load_split(config)
    assert ids(split.train) == [f"train_{i:06d}" for i in range(3)]
    assert ids(split.heldout) == ["heldout_000000", "heldout_000001"]
    assert {tuple(one.objects) for one in split.train}.isdisjoint(tuple(one.objects) for one in split.heldout)
    train_file, heldout_file = shapes_files(tmp_path, config.data)
    assert train_file.parent == heldout_file.parent == tmp_path / "data" / "shapes_3_2_0"
    written = train_file.stat().st_mtime_ns
    assert ids(load_split(config).train) == ids(split.train)
    assert train_file.stat().st_mtime_ns == written
    Path(split.train[0].image).write_bytes(b"")  # of what an earlier run drew, every picture is looked at
    with pytest.raises(DataError, match="empty file"):
        load_split(config)


def test_another_size_or_seed_is_another_data_set(tmp_path: Path) -> None:
    folders = {
        shapes_files(tmp_path, config_for(tmp_path, train="shapes", shapes=shapes).data)[0].parent
        for shapes in (
            {"num_train": 1, "num_heldout": 1},
            {"num_train": 2, "num_heldout": 1},
            {"num_train": 1, "num_heldout": 1, "seed": 1},
        )
    }
    assert len(folders) == 3


def test_poison_is_put_aside_counted_by_reason_and_the_rest_is_used(files: dict[str, Path], tmp_path: Path) -> None:
    """One in twenty of each kind that hurts: what is left of 140 records is exactly the good ones."""
    good = json.loads(files["one"].read_text())
    poisoned = write_poisoned(tmp_path, [good], pixels=(files["one"].parent / good["image"]).read_bytes())
    file, images = poisoned.file, poisoned.images
    split = load_split(config_for(tmp_path, train=str(file), images=str(images), max_bad_fraction=0.1))
    assert len(split.train) + len(split.heldout) == 19 * poisoned.num_bad
    assert all(record.id.startswith("good") for record in (*split.train, *split.heldout))
    assert sorted(bad.id or "" for bad in split.bad) == [f"bad_{i}" for i in range(poisoned.num_bad)]
    counts = Counter(bad.kind for bad in split.bad)
    assert counts["image: .. lies outside the images folder .."] == 3
    assert counts["image: empty file .."] == 1
    assert counts["image: #x# is # pixels, more than #: .."] == 1
    assert sum(count for kind, count in counts.items() if "truncated" in kind) == 1
    assert sum(count for kind, count in counts.items() if kind.startswith("bbox")) == 1
    with pytest.raises(DataError, match=r"7 of 140 records are bad, more than max_bad_fraction 0.01"):
        load_split(config_for(tmp_path, train=str(file), images=str(images), max_bad_fraction=0.01))


def test_a_mix_of_tasks_is_read_each_record_by_its_own(tmp_path: Path) -> None:
    """`num_images` counts held-out images of each task; the folder is another than detection's."""
    tasks = ("detection", "pointing", "visual_prompting", "ocr_box")
    config = config_for(tmp_path, train="shapes", tasks=tasks, shapes={"num_train": 2, "num_heldout": 3}, num_images=2)
    split = load_split(config)
    assert Counter(record.task for record in split.train) == dict.fromkeys(tasks, 2)
    assert Counter(record.task for record in split.heldout) == dict.fromkeys(tasks, 2)
    assert shapes_files(tmp_path, config.data)[0].parent.name == "shapes_2_3_0_" + "_".join(tasks)


def test_a_record_of_a_task_that_is_not_asked_for_is_refused_by_name(tmp_path: Path) -> None:
    file = write_split(
        tmp_path, name="train", num_images=2, seed=1, kind=SceneKind(), tasks=("detection", "pointing", "ocr_box")
    )
    with pytest.raises(DataError, match=r"train\.jsonl:3: task: asked for detection, pointing, found 'ocr_box'"):
        load_split(config_for(tmp_path, train=str(file), tasks=("detection", "pointing")))
    with pytest.raises(DataError, match=r"train\.jsonl:2: task: asked for 'detection', found 'pointing'"):
        load_split(config_for(tmp_path, train=str(file)))
