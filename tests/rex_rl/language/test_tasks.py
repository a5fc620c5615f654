"""The task table: official wording verbatim, categories in their order, one image place in a prompt."""

import pytest

from rex_rl.language.tasks import TASKS, Geometry, Task, chat_prompt

BOXES = "Detect cat, dog. Output the bounding box coordinates in [x0, y0, x1, y1] format."
POINTS = "Point to cat, dog."
JOINTS = (
    "Can you detect each cat, dog in the image using a [x0, y0, x1, y1] box format, and then provide the coordinates "
    "of its {} as [x0, y0]? Output the answer in JSON format."
)
OFFICIAL = {
    "detection": BOXES,
    "referring": BOXES,
    "layout": BOXES,
    "pointing": POINTS,
    "affordance": POINTS,
    "spatial_pointing": POINTS,
    "visual_prompting": "Given reference boxes VISUAL indicating one or more objects, find all similar objects in the "
    "image and output their bounding boxes.",
    "keypoint_person": JOINTS.format(
        "nose, left eye, right eye, left ear, right ear, left shoulder, right shoulder, left elbow, right elbow, "
        "left wrist, right wrist, left hip, right hip, left knee, right knee, left ankle, right ankle"
    ),
    "keypoint_animal": JOINTS.format(
        "left eye, right eye, nose, neck, root of tail, left shoulder, left elbow, left front paw, right shoulder, "
        "right elbow, right front paw, left hip, left knee, left back paw, right hip, right knee, right back paw"
    ),
    "keypoint_hand": JOINTS.format(
        "wrist, thumb1, thumb2, thumb3, thumb4, forefinger1, forefinger2, forefinger3, forefinger4, middle finger1, "
        "middle finger2, middle finger3, middle finger4, ring finger1, ring finger2, ring finger3, ring finger4, "
        "pinky finger1, pinky finger2, pinky finger3, pinky finger4"
    ),
    "ocr_box": "Detect all cat, dog and recognize them.",
    "ocr_polygon": "Can you detect all cat, dog in this image in polygon format like [x0, y0, x1, y1, x2, y2 ...] and "
    "then recognize them?",
    "gui_grounding": 'Detect element "cat, dog"" in the image.',
    "gui_pointing": 'Point to element "cat, dog".',
}


@pytest.mark.parametrize(("task", "question"), OFFICIAL.items())
def test_the_official_wording_is_verbatim(task: str, question: str) -> None:
    """Rex-Omni repository, rex_omni/tasks.py: the released checkpoints know these words."""
    prompt = "VISUAL" if TASKS[task].takes_examples else ""
    assert TASKS[task].question(("cat", "dog"), visual_prompt=prompt) == question


def test_every_task_has_its_wording_above() -> None:
    assert list(OFFICIAL) == list(TASKS)
    assert all(task.name == name for name, task in TASKS.items())


@pytest.mark.parametrize("task", TASKS.values(), ids=lambda task: task.name)
def test_wordings_differ_and_name_once_what_they_must(task: Task) -> None:
    """The categories, or what stands for them; and the key points."""

    def asked(wording: int | None = None) -> str:
        return task.question(("cat", "dog"), wording, visual_prompt="VISUAL")

    wordings = [asked(wording) for wording in range(len(task.wordings))]
    assert len(set(wordings)) == len(wordings) > 1
    assert all(text.count("VISUAL" if task.takes_examples else "cat, dog") == 1 for text in wordings)
    assert all(text.count(", ".join(task.keypoints)) == 1 for text in wordings if task.keypoints)
    assert all("{" not in text for text in wordings)
    assert wordings[0] == asked()
    assert asked(len(wordings)) == asked(0)


def test_a_visual_prompt_is_not_forgotten() -> None:
    with pytest.raises(ValueError, match="visual_prompting asks by a visual prompt"):
        TASKS["visual_prompting"].question(("cat",))


def test_a_category_may_look_like_a_template() -> None:
    assert "{0} {categories}" in TASKS["detection"].question(("{0} {categories}",))


def test_geometry_says_how_many_numbers_a_shape_has() -> None:
    assert {geometry.value: geometry.size for geometry in Geometry} == {
        "point": 2,
        "box": 4,
        "polygon": None,
        "keypoints": None,
    }
    assert [TASKS[name].num_numbers for name in ("ocr_box", "pointing", "ocr_polygon", "keypoint_hand")] == [
        *(4, 2, None),
        4 + 2 * 21,
    ]


@pytest.mark.parametrize(("kind", "count"), [("person", 17), ("animal", 17), ("hand", 21)])
def test_key_points_have_names_of_their_own_and_a_sigma_each(kind: str, count: int) -> None:
    skeleton = TASKS[f"keypoint_{kind}"].skeleton
    assert skeleton is not None
    assert len(set(skeleton.names)) == len(skeleton.names) == len(skeleton.sigmas) == count
    assert all(0.01 < sigma < 0.2 for sigma in skeleton.sigmas)


def test_left_and_right_fall_off_alike() -> None:
    """A slip in the order of the constants would show here."""
    for kind in ("person", "animal"):
        skeleton = TASKS[f"keypoint_{kind}"].skeleton
        assert skeleton is not None
        sigma_of = dict(zip(skeleton.names, skeleton.sigmas, strict=True))
        assert all(sigma == sigma_of[name.replace("left", "right")] for name, sigma in sigma_of.items())


def test_a_prompt_has_one_image_and_ends_where_the_answer_starts() -> None:
    text = chat_prompt("Point to cat.")
    assert text.count("<|image_pad|>") == 1
    assert text.endswith("Point to cat.<|im_end|>\n<|im_start|>assistant\n")
