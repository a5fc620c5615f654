"""Questions to the small base about a picture, in plain text: the grammar of an answer is left to SFT.

About shapes: where the only object of a label is, or the leftmost of each that the user names ("no" where there is
none), what stands at a point, which object of a label comes next to the right of one, and a description of everything,
from left to right or name by name. About words: what is written at a point, where a word stands, and all of them.
"""

import numpy as np

from rex_rl.language.grid import quantise
from rex_rl.shapes.world import IMAGE_SIDE_PX, LABELS, Scene

QUESTION, READ = "Describe the picture.", "Read the words."
TURNS = (f"{QUESTION} {{}}.", "{}: where is the leftmost?", "The leftmost {}.", "Leftmost of each: {}. Then the rest.")
NAME_START, NAME_END = "<|object_ref_start|>", "<|object_ref_end|>"
NUM_NEXT = 3
NUM_WORDS_ASKED = 4
CAPTION_SHARE = 0.25
"""Share of captions from left to right; the others go by name, and only these teach a model to pass over labels."""
Question = tuple[str, str]
"""(given, wanted) texts; only the wanted one is learned."""
Asked = tuple[str, list[Question]]
"""(the user's turn, what is asked under it)."""


def describe(scene: Scene) -> str:
    """The caption of a scene: label and box of every object, from left to right.

    >>> describe(Scene(labels=("red circle",), boxes_N4=np.array([[0.0, 0.0, 98.0, 196.0]])))
    'red circle<0><0><500><999>'
    """
    boxes = coordinates(scene)
    return ", ".join(scene.labels[i] + boxes[i] for i in left_to_right(scene))


def describe_by_name(rng: np.random.Generator, scene: Scene) -> str:
    """The caption of all objects, label after label in random order, each label's from left to right."""
    boxes, order = coordinates(scene), left_to_right(scene)
    names = [str(name) for name in rng.permutation(sorted(set(scene.labels)))]
    return ". ".join(name + ", ".join(boxes[i] for i in order if scene.labels[i] == name) for name in names)


def grid_boxes(scene: Scene) -> np.ndarray:
    """[N, 4] the boxes in bins."""
    return quantise(scene.boxes_N4, (IMAGE_SIDE_PX, IMAGE_SIDE_PX))


def coordinates(scene: Scene) -> list[str]:
    """The box of each object as four coordinate tokens."""
    return ["".join(f"<{value}>" for value in bins_4) for bins_4 in grid_boxes(scene)]


def left_to_right(scene: Scene) -> list[int]:
    """The objects by x0; ties stay in the scene's order, which is random."""
    return list(np.argsort(grid_boxes(scene)[:, 0], kind="stable").tolist())


def ask_names(rng: np.random.Generator, scene: Scene) -> Asked:
    """Where is the only object of a label; at least one question a scene, about the description if need be."""
    boxes = zip(scene.labels, coordinates(scene), strict=True)
    asked = [(f"the {label}", box) for label, box in boxes if is_alone(scene, label)]
    return QUESTION, asked or [("", describe(scene))]


def ask_everything(rng: np.random.Generator, scene: Scene) -> Asked:
    """What is at a point, what comes next, the description, and where the leftmost of each name in the user's turn is.

    The names teach reading: a model that always gets the same question learns to ignore it. A name in the answer
    stands between Qwen's own delimiters (`<|object_ref_start|>`), which a real base has seen too; with a delimiter of
    ours it was learned just as well and then not used (150 SFT steps named the right label 3 times in 10).
    """
    boxes, bins_N4 = coordinates(scene), grid_boxes(scene)
    i = rng.integers(len(scene.labels))
    x0, y0, x1, y1 = bins_N4[i]
    x, y = (int(low + (high - low) * rng.uniform(0.3, 0.7)) for low, high in ((x0, x1), (y0, y1)))
    names = [str(name) for name in rng.permutation(LABELS)[: rng.integers(1, len(LABELS) + 1)]]
    leftmost = {scene.labels[at]: boxes[at] for at in np.argsort(-bins_N4[:, 0], kind="stable")}
    named = [f"{name}{NAME_END}{leftmost.get(name, ' no')}" for name in names]
    turn = str(rng.choice(TURNS)).format(", ".join(names))
    return turn, [
        (f"at<{x}><{y}>", f" {scene.labels[i]}{boxes[i]}"),
        *(ask_next(rng, scene, boxes) for _ in range(NUM_NEXT)),
        (NAME_START, f", {NAME_START}".join(named)),
        ("", describe(scene)) if rng.random() < CAPTION_SHARE else ("by name: ", describe_by_name(rng, scene)),
    ]


def ask_next(rng: np.random.Generator, scene: Scene, boxes: list[str]) -> Question:
    """Which object of a label comes next, to the right of a given one."""
    i = int(rng.integers(len(scene.labels)))
    label = scene.labels[i] if rng.random() < 0.7 else str(rng.choice(LABELS))
    order = left_to_right(scene)
    behind = [j for j in order[order.index(i) + 1 :] if scene.labels[j] == label]
    return f"right of{boxes[i]} {label}", boxes[behind[0]] if behind else " no"


def ask_words(rng: np.random.Generator, scene: Scene) -> Asked:
    """What is written at a point, where a word stands that is there once, and all words from left to right."""
    boxes, bins_N4 = coordinates(scene), grid_boxes(scene)
    asked = []
    for i in rng.integers(len(scene.labels), size=NUM_WORDS_ASKED):
        x0, y0, x1, y1 = bins_N4[i]
        asked.append((f"at<{(x0 + x1) // 2}><{(y0 + y1) // 2}>", f" {scene.labels[i]}{boxes[i]}"))
    once = [(f"the word {word}", box) for word, box in zip(scene.labels, boxes, strict=True) if is_alone(scene, word)]
    return READ, [*asked, *once[:2], ("", describe(scene))]


def ask_by_kind(rng: np.random.Generator, scene: Scene) -> Asked:
    """Questions about words for a scene of words, about shapes for any other."""
    return ask_words(rng, scene) if is_written(scene) else ask_everything(rng, scene)


def is_written(scene: Scene) -> bool:
    """Whether the scene holds words."""
    return scene.labels[0] not in LABELS


def is_alone(scene: Scene, label: str) -> bool:
    """Whether the scene holds one object of the label."""
    return scene.labels.count(label) == 1
