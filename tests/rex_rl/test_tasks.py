"""The task table: official wording verbatim, categories in their order, one image place in a prompt."""

import pytest

from rex_rl.tasks import TASKS, Geometry, Task, chat_prompt


@pytest.mark.parametrize(
    ("task", "question"),
    [
        ("detection", "Detect cat, dog. Output the bounding box coordinates in [x0, y0, x1, y1] format."),
        ("pointing", "Point to cat, dog."),
    ],
)
def test_the_official_wording_is_verbatim(task: str, question: str) -> None:
    """Rex-Omni repository, rex_omni/tasks.py: the released checkpoints know these words."""
    assert TASKS[task].question(("cat", "dog")) == question


@pytest.mark.parametrize("task", TASKS.values(), ids=lambda task: task.name)
def test_wordings_differ_and_name_the_categories_once(task: Task) -> None:
    wordings = [task.question(("cat", "dog"), wording) for wording in range(len(task.wordings))]
    assert len(set(wordings)) == len(wordings) > 1
    assert all(text.count("cat, dog") == 1 for text in wordings)
    assert wordings[0] == task.question(("cat", "dog"))
    assert task.question(("cat",), len(wordings)) == task.question(("cat",), 0)


def test_a_category_may_look_like_a_template() -> None:
    assert "{0} {categories}" in TASKS["detection"].question(("{0} {categories}",))


def test_geometry_says_how_many_numbers_a_shape_has() -> None:
    assert (Geometry.POINT.value, Geometry.BOX.value) == (2, 4)


def test_a_prompt_has_one_image_and_ends_where_the_answer_starts() -> None:
    text = chat_prompt("Point to cat.")
    assert text.count("<|image_pad|>") == 1
    assert text.endswith("Point to cat.<|im_end|>\n<|im_start|>assistant\n")
