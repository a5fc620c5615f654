"""The predictions of a model for one image: in pixels, as JSON and as a picture, for every task."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rex_rl.data.images import image_size, open_image
from rex_rl.data.record_checks import asked_categories
from rex_rl.data.record_checks import visual_prompt as visual_prompt_of
from rex_rl.data.records import object_fields
from rex_rl.errors import DataError, UserError
from rex_rl.language.grid import objects_of
from rex_rl.language.tasks import TASKS
from rex_rl.report.draw import draw_objects
from rex_rl.types import Object, Record, Shapes


@dataclass(frozen=True, kw_only=True, slots=True)
class Prediction:
    """A question about an image, as a record without objects, and the answer."""

    record: Record
    shapes: Shapes

    @property
    def objects(self) -> tuple[Object, ...]:
        """The predictions, in pixels of the image."""
        return objects_of(self.shapes, TASKS[self.record.task], self.record.size)

    def as_json(self) -> dict[str, Any]:
        """Image, objects as record files hold them (to a hundredth of a pixel), absent categories, faults."""
        return {
            "image": self.record.image,
            "width": self.record.width,
            "height": self.record.height,
            "task": self.record.task,
            "objects": [_rounded(object_fields(thing)) for thing in self.objects],
            "absent": list(self.shapes.absent),
            "faults": list(self.shapes.faults),
        }

    def draw(self, out: Path) -> None:
        """Draw the answer into an image file; raises UserError where it cannot be written."""
        drawn = draw_objects(open_image(self.record.image), self.objects, self.record.visual_prompt)
        try:
            drawn.save(out)
        except OSError as error:
            raise UserError(f"--out = {out}: cannot be written: {error.strerror or error}") from error


def question_about(
    image: Path, *, task: str, categories: tuple[str, ...], visual_prompt: tuple[str, ...] = ()
) -> Record:
    """A record that asks about an image, from the options of a command line.

    Raises:
        UserError: an unknown task, no category or one too many, a visual prompt that is missing, too much, or no box.
    """
    if task not in TASKS:
        raise UserError(f"--task = {task}: should be one of {', '.join(TASKS)}")
    about = TASKS[task]
    if not categories:
        raise UserError("--categories: names nothing to look for")
    if about.takes_examples != bool(visual_prompt):
        what = "needs at least one box" if about.takes_examples else f"is not what {task} asks by"
        raise UserError(f"--visual-prompt: {what}")
    width, height = image_size(image)
    try:
        asked = asked_categories({"categories": list(categories)}, (), about)
        examples = visual_prompt_of({"visual_prompt": list(map(_corners, visual_prompt))}, about, (width, height))
    except DataError as error:
        raise _as_option(error, categories=", ".join(categories), visual_prompt=" ".join(visual_prompt)) from error
    return Record(
        id=image.name,
        image=str(image.absolute()),
        task=task,
        categories=asked,
        objects=(),
        width=width,
        height=height,
        source=str(image),
        visual_prompt=examples,
    )


def _corners(text: str) -> list[float]:
    try:
        return [float(number) for number in text.split(",")]
    except ValueError as error:
        raise UserError(f"--visual-prompt = {text}: should be x0,y0,x1,y1 in pixels ({error})") from error


def _as_option(error: DataError, **options: object) -> UserError:
    """A check's `field: reason` about what an option gave."""
    field, _, reason = str(error).partition(": ")
    return UserError(f"--{field.replace('_', '-')} = {options[field]}: {reason}")


def _rounded(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _rounded(one) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [_rounded(one) for one in value]
    return round(value, 2) if isinstance(value, float) else value
