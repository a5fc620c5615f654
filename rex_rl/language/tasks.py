"""The tasks a record can ask for: how a question is worded, and what an answer to it is made of.

Templates are the official inference prompts, verbatim (Rex-Omni repository, rex_omni/tasks.py); paraphrases for
training are the project's own. Adding a task is one entry here; its geometry says how codec.py reads and writes it.

Axes: J key points of a task, in its order.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

SYSTEM_PROMPT = "You are a helpful assistant"
"""The system prompt of official inference (rex_omni/wrapper.py), without a full stop."""
EXAMPLE_PHRASE = "object_1"
"""The name of what a visual prompt shows (rex_omni/wrapper.py); answers use it in place of the category."""


class Geometry(Enum):
    """Shape an answer is made of."""

    POINT = "point", 2
    BOX = "box", 4
    POLYGON = "polygon", None
    KEYPOINTS = "keypoints", None
    """A box and the named points in it."""

    size: int | None
    """How many numbers one shape has; None where that differs between shapes or tasks."""

    def __new__(cls, value: str, size: int | None) -> "Geometry":
        """The name is the value."""
        member = object.__new__(cls)
        member._value_, member.size = value, size
        return member


@dataclass(frozen=True, kw_only=True, slots=True)
class Skeleton:
    """The key points of a kind of thing."""

    names: tuple[str, ...]
    """[J] as prompts and answers write them, in the order of both."""
    sigmas: tuple[float, ...]
    """[J] fall-off of each in object key point similarity."""


PERSON = Skeleton(
    names=(
        *("nose", "left eye", "right eye", "left ear", "right ear", "left shoulder", "right shoulder", "left elbow"),
        *("right elbow", "left wrist", "right wrist", "left hip", "right hip", "left knee", "right knee"),
        *("left ankle", "right ankle"),
    ),
    sigmas=(
        *(0.026, 0.025, 0.025, 0.035, 0.035, 0.079, 0.079, 0.072, 0.072),
        *(0.062, 0.062, 0.107, 0.107, 0.087, 0.087, 0.089, 0.089),
    ),
)
"""COCO's 17, in COCO's order; sigmas of COCO's evaluation (pycocotools, cocoeval.py)."""
ANIMAL = Skeleton(
    names=(
        *("left eye", "right eye", "nose", "neck", "root of tail", "left shoulder", "left elbow", "left front paw"),
        *("right shoulder", "right elbow", "right front paw", "left hip", "left knee", "left back paw", "right hip"),
        *("right knee", "right back paw"),
    ),
    sigmas=(
        *(0.025, 0.025, 0.026, 0.035, 0.035, 0.079, 0.072, 0.062),
        *(0.079, 0.072, 0.062, 0.107, 0.087, 0.089, 0.107, 0.087, 0.089),
    ),
)
"""AP-10K's 17, in its order (rex_omni/tasks.py); sigmas of mmpose's ap10k.py, which follow COCO's."""
HAND = Skeleton(
    names=(
        "wrist",
        *(
            f"{finger}{joint}"
            for finger in ("thumb", "forefinger", "middle finger", "ring finger", "pinky finger")
            for joint in (1, 2, 3, 4)
        ),
    ),
    sigmas=(
        *(0.029, 0.022, 0.035, 0.037, 0.047, 0.026, 0.025, 0.024, 0.035, 0.018, 0.024),
        *(0.022, 0.026, 0.017, 0.021, 0.021, 0.032, 0.020, 0.019, 0.022, 0.031),
    ),
)
"""COCO-WholeBody's 21: the wrist, then thumb to little finger, each from the palm (1) to the tip (4).

The official code promises hands and has no names for them; these are the project's. Sigmas are COCO-WholeBody's.
"""


@dataclass(frozen=True, kw_only=True, slots=True)
class Task:
    """One entry of the table."""

    name: str
    geometry: Geometry
    template: str
    paraphrases: tuple[str, ...]
    """Each names what the template names: `{categories}`, `{keypoints}`, `{visual_prompt}`."""
    is_single: bool = False
    """Only one category can be asked for at a time."""
    reads_text: bool = False
    """An answer's phrases are recognised text; the asked category says what counts as one text."""
    choices: tuple[str, ...] = ()
    """The only categories that can be asked for; empty: any."""
    skeleton: Skeleton | None = None
    """The key points of `Geometry.KEYPOINTS`."""
    takes_examples: bool = False
    """Asks by a visual prompt: boxes of examples stand for the category, whose name does not appear."""

    def question(self, categories: Sequence[str], wording: int | None = None, *, visual_prompt: str = "") -> str:
        """The user's turn for `categories`, in that order; `wording` picks a paraphrase, None the official text.

        A task that takes examples also needs the text of its `visual_prompt`: `codec.question_of` knows it.
        """
        if self.takes_examples and not visual_prompt:
            raise ValueError(f"{self.name} asks by a visual prompt, and there is none")
        template = self.template if wording is None else self.wordings[wording % len(self.wordings)]
        return template.format(
            categories=", ".join(categories), keypoints=", ".join(self.keypoints), visual_prompt=visual_prompt
        )

    def phrases(self, categories: Sequence[str]) -> tuple[str, ...]:
        """What an answer calls each of `categories`."""
        return (EXAMPLE_PHRASE,) * len(categories) if self.takes_examples else tuple(categories)

    @property
    def wordings(self) -> tuple[str, ...]:
        """All ways to ask: the official one first."""
        return (self.template, *self.paraphrases)

    @property
    def keypoints(self) -> tuple[str, ...]:
        """[J] names of the key points; none where shapes have none."""
        return self.skeleton.names if self.skeleton else ()

    @property
    def num_numbers(self) -> int | None:
        """K, the numbers one shape has; None for polygons, which differ."""
        return 4 + 2 * len(self.keypoints) if self.geometry is Geometry.KEYPOINTS else self.geometry.size


_DETECT = "Detect {categories}. Output the bounding box coordinates in [x0, y0, x1, y1] format."
_POINT = "Point to {categories}."
_KEYPOINTS = (
    "Can you detect each {categories} in the image using a [x0, y0, x1, y1] box format, and then provide the "
    "coordinates of its {keypoints} as [x0, y0]? Output the answer in JSON format."
)
_KEYPOINT_PARAPHRASES = (
    "Box each {categories} and give the place of its {keypoints}. Answer in JSON format.",
    "Find every {categories} in the image. For each, output in JSON its box and these points: {keypoints}.",
)


def _keypoint_task(name: str, skeleton: Skeleton) -> Task:
    return Task(
        name=name,
        geometry=Geometry.KEYPOINTS,
        template=_KEYPOINTS,
        paraphrases=_KEYPOINT_PARAPHRASES,
        skeleton=skeleton,
    )


TASKS = {
    task.name: task
    for task in (
        Task(
            name="detection",
            geometry=Geometry.BOX,
            template=_DETECT,
            paraphrases=("Detect every {categories}.", "Find all of these and box them: {categories}."),
        ),
        Task(
            name="referring",
            geometry=Geometry.BOX,
            template=_DETECT,
            paraphrases=(
                "Box what is described as {categories}.",
                "Which objects are meant by {categories}? Box them.",
            ),
        ),
        Task(
            name="layout",
            geometry=Geometry.BOX,
            template=_DETECT,
            paraphrases=("Mark these parts of the page with boxes: {categories}.", "Find the page's {categories}."),
        ),
        Task(
            name="pointing",
            geometry=Geometry.POINT,
            template=_POINT,
            paraphrases=("Point at every {categories}.", "Give one point on each of these: {categories}."),
        ),
        Task(
            name="affordance",
            geometry=Geometry.POINT,
            template=_POINT,
            paraphrases=("Where would you touch to {categories}? Answer with a point.", "Point where to {categories}."),
        ),
        Task(
            name="spatial_pointing",
            geometry=Geometry.POINT,
            template=_POINT,
            paraphrases=("Mark this place with a point: {categories}.", "Where is {categories}? Answer with a point."),
        ),
        Task(
            name="visual_prompting",
            geometry=Geometry.BOX,
            template="Given reference boxes {visual_prompt} indicating one or more objects, find all similar objects "
            "in the image and output their bounding boxes.",
            paraphrases=(
                "The boxes {visual_prompt} show examples. Box everything of their kind in the image.",
                "Find all objects that look like those in {visual_prompt} and output their boxes.",
            ),
            is_single=True,
            takes_examples=True,
        ),
        _keypoint_task("keypoint_person", PERSON),
        _keypoint_task("keypoint_animal", ANIMAL),
        _keypoint_task("keypoint_hand", HAND),
        Task(
            name="ocr_box",
            geometry=Geometry.BOX,
            template="Detect all {categories} and recognize them.",
            paraphrases=("Read every {categories} and box it.", "Box each {categories} and write what it says."),
            is_single=True,
            reads_text=True,
            choices=("word", "text line"),
        ),
        Task(
            name="ocr_polygon",
            geometry=Geometry.POLYGON,
            template="Can you detect all {categories} in this image in polygon format like "
            "[x0, y0, x1, y1, x2, y2 ...] and then recognize them?",
            paraphrases=(
                "Read every {categories} and outline it with a polygon.",
                "Outline each {categories} as [x0, y0, x1, y1, x2, y2 ...] and write what it says.",
            ),
            is_single=True,
            reads_text=True,
            choices=("word", "text line"),
        ),
        Task(
            name="gui_grounding",
            geometry=Geometry.BOX,
            template='Detect element "{categories}"" in the image.',  # the stray quote is theirs
            paraphrases=('Box the element "{categories}" on this screen.', 'Where on the screen is "{categories}"?'),
            is_single=True,
        ),
        Task(
            name="gui_pointing",
            geometry=Geometry.POINT,
            template='Point to element "{categories}".',
            paraphrases=('Where would you click for "{categories}"?', 'Give the point to click for "{categories}".'),
            is_single=True,
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
