"""The tasks a record can ask for: prompt, geometry and how a question is worded.

Templates are the official inference prompts, verbatim (Rex-Omni repository, rex_omni/tasks.py); paraphrases for
training are the project's own. Adding a task is one entry here.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

SYSTEM_PROMPT = "You are a helpful assistant"
"""The system prompt of official inference (rex_omni/wrapper.py), without a full stop."""


class Geometry(Enum):
    """Shape an answer is made of; the value is how many numbers one shape has."""

    POINT = 2
    BOX = 4


@dataclass(frozen=True, kw_only=True, slots=True)
class Task:
    """One entry of the table."""

    name: str
    geometry: Geometry
    template: str
    paraphrases: tuple[str, ...]

    def question(self, categories: Sequence[str], wording: int | None = None) -> str:
        """The user's turn for `categories`, in that order; `wording` picks a paraphrase, None the official text."""
        template = self.template if wording is None else self.wordings[wording % len(self.wordings)]
        return template.format(categories=", ".join(categories))

    @property
    def wordings(self) -> tuple[str, ...]:
        """All ways to ask: the official one first."""
        return (self.template, *self.paraphrases)


TASKS = {
    task.name: task
    for task in (
        Task(
            name="detection",
            geometry=Geometry.BOX,
            template="Detect {categories}. Output the bounding box coordinates in [x0, y0, x1, y1] format.",
            paraphrases=("Detect every {categories}.", "Find all of these and box them: {categories}."),
        ),
        Task(
            name="pointing",
            geometry=Geometry.POINT,
            template="Point to {categories}.",
            paraphrases=("Point at every {categories}.", "Give one point on each of these: {categories}."),
        ),
    )
}


def chat_prompt(question: str) -> str:
    """The whole prompt of one image and one question, up to where the answer starts (official inference layout).

    The image stands as one `<|image_pad|>`, which engine and learner each widen to the image's own patch count.
    """
    return (
        f"<|im_start|>system\n{SYSTEM_PROMPT}<|im_end|>\n<|im_start|>user\n"
        f"<|vision_start|><|image_pad|><|vision_end|>{question}<|im_end|>\n<|im_start|>assistant\n"
    )
