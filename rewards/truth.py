"""The ground truth of one prompt: checked once, and free of shapes that no answer could tell apart.

Axes: B true shapes, K numbers of a shape, J key points of an instance.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
import shapely

from rewards.geometry.boxes import BOX, POINT, FloatArray, IntArray
from rewards.geometry.keypoints import split
from rewards.geometry.masks import Mask, mask_areas
from rewards.geometry.polygons import region_iou, regions

GEOMETRIES = ("box", "point", "polygon", "keypoints")
"""What a shape can be."""


@dataclass(frozen=True, slots=True, eq=False)
class Truth:
    """The ground truth of one prompt, on the grid.

    Shapes of one label that coincide on the grid are one: of equal numbers, polygons of equal area. Of points that
    coincide, the one with the smallest box or mask to hit stays. All fields hold what stayed.

    Raises ValueError when the parts do not fit together or a shape has no area: then no answer could be perfect.

    >>> truth = Truth(("cat", "cat", "dog"), np.array([[0, 0, 9, 9]] * 3), ("cat", "dog"))
    >>> truth.labels, truth.places_B.tolist()
    (('cat', 'dog'), [0, 2])
    """

    labels: tuple[str, ...]
    """[B] label of each true shape."""
    bins_NK: np.ndarray
    """[B, K]: boxes [B, 4] with x0 < x1 and y0 < y1; points [B, 2]; polygons [B, 2 V], x and y of at least three
    vertices, the last one repeated in the shorter ones; key points [B, 4 + 2 J], a box and J points, both numbers -1
    for one that is not visible. (0, K) for none."""
    categories: tuple[str, ...]
    """What was asked for."""
    geometry: str = ""
    """One of GEOMETRIES; left empty, K decides between box and point."""
    boxes_N4: np.ndarray | None = None
    """[B, 4], only with geometry "point": where set, a predicted point is right inside the box."""
    masks: tuple[Mask, ...] = ()
    """[B], only with geometry "point": where set, a predicted point is right inside the mask, not the box."""
    reads_text: bool = False
    """Labels are recognised text, not the asked categories: a pair's value is multiplied by the texts' similarity."""
    sigmas_J: np.ndarray | None = None
    """[J] OKS fall-off of each key point; None where COCO's constants are not known: 0.05 for all."""
    places_B: IntArray = field(init=False)
    """[B] place of each shape among those that were given, ascending."""

    def __post_init__(self) -> None:
        """Set the geometry, check the shapes once, so that no reward has to, and join those that coincide."""
        num, shape = len(self.labels), np.shape(self.bins_NK)
        if len(shape) != 2 or shape[0] != num:
            raise ValueError(f"truth: {num} labels and bins of shape {shape}; expected [{num}, K]")
        geometry = self.geometry or {BOX: "box", POINT: "point"}.get(shape[1], "")
        object.__setattr__(self, "geometry", geometry)
        if geometry not in GEOMETRIES:
            raise ValueError(
                f"truth: bins of shape {shape} and geometry {geometry!r}; known are {', '.join(GEOMETRIES)}"
            )
        if not _has_size(geometry, shape[1]):
            raise ValueError(f"truth: bins of shape {shape} are not of geometry {geometry!r}")
        if not _areas(geometry, self.bins_NK).all():
            raise ValueError(f"truth: a {geometry} has no area (x0 < x1 and y0 < y1 are expected)")
        self._check_targets(num)
        self._check_key_points()
        self._join_coincident()

    def _check_targets(self, num: int) -> None:
        """Check the boxes and masks that points must hit."""
        if (self.masks or self.boxes_N4 is not None) and self.geometry != "point":
            raise ValueError(f"truth: boxes or masks to hit go with points, not with geometry {self.geometry!r}")
        if self.masks and len(self.masks) != num:
            raise ValueError(f"truth: {num} points and {len(self.masks)} masks")
        if self.boxes_N4 is not None and np.shape(self.boxes_N4) != (num, BOX):
            raise ValueError(f"truth: {num} points and boxes of shape {np.shape(self.boxes_N4)}")

    def _check_key_points(self) -> None:
        """Check fall-offs and half-visible points."""
        if self.geometry != "keypoints":
            return
        _, points_BJ2, visible_BJ = split(self.bins_NK)
        if ((points_BJ2 < 0).any(axis=-1) & (points_BJ2 != -1).any(axis=-1)).any():
            raise ValueError("truth: a key point has one number below 0; both are -1 where it is not visible")
        sigmas_J = self.sigmas_J
        if sigmas_J is not None and (np.shape(sigmas_J) != visible_BJ.shape[1:] or not (sigmas_J > 0).all()):
            raise ValueError(
                f"truth: sigmas of shape {np.shape(sigmas_J)} for {visible_BJ.shape[1]} key points, or not > 0"
            )

    def _join_coincident(self) -> None:
        """Leave one shape of those that coincide."""
        num = len(self.labels)
        shape_B = _region_numbers(self.labels, self.bins_NK) if self.geometry == "polygon" else self.bins_NK.tolist()
        keys_B = [(label, *shape) for label, shape in zip(self.labels, shape_B, strict=True)]
        places_B = np.arange(num)
        if len(set(keys_B)) < num:
            places_B = np.array(_firsts(keys_B, np.lexsort(self._targets()[::-1]).tolist()))
            object.__setattr__(self, "labels", tuple(self.labels[place] for place in places_B))
            object.__setattr__(self, "bins_NK", self.bins_NK[places_B])
            object.__setattr__(self, "masks", tuple(self.masks[place] for place in places_B) if self.masks else ())
            object.__setattr__(self, "boxes_N4", None if self.boxes_N4 is None else self.boxes_N4[places_B])
        object.__setattr__(self, "places_B", places_B)

    def _targets(self) -> list[FloatArray]:
        """[B] area of the mask or box that each point must hit, then what tells boxes of one area apart; or zeros."""
        if self.masks:
            width_height_B2 = np.array([mask.size for mask in self.masks], dtype=np.float64)
            return [np.asarray(mask_areas(self.masks) / width_height_B2.prod(axis=1))]
        if self.boxes_N4 is None:
            return [np.zeros(len(self.labels))]
        sides_B2 = self.boxes_N4[:, 2:] - self.boxes_N4[:, :2]
        return [sides_B2.prod(axis=1).astype(np.float64), *self.boxes_N4.T]

    @property
    def empty_categories(self) -> tuple[str, ...]:
        """Asked categories without a true shape: the right answer to each is `None`.

        Where labels are recognised text, a text's category is not known: then all categories where there is no text,
        else none.
        """
        if self.reads_text:
            return () if self.labels else self.categories
        given = set(self.labels)
        return tuple(name for name in self.categories if name not in given)


def _has_size(geometry: str, num_coordinates: int) -> bool:
    """Whether a shape of this geometry can have this many numbers."""
    if geometry in ("box", "point"):
        return num_coordinates == {"box": BOX, "point": POINT}[geometry]
    return num_coordinates >= 6 and num_coordinates % 2 == 0


def _areas(geometry: str, bins_NK: np.ndarray) -> np.ndarray:
    """[B] whether each shape has the area it needs."""
    if geometry == "point":
        return np.ones(len(bins_NK), dtype=np.bool_)
    if geometry == "polygon":
        return np.asarray(shapely.area(regions(bins_NK)) > 0.0)
    return np.asarray((bins_NK[:, :2] < bins_NK[:, 2:BOX]).all(axis=1))


def _region_numbers(labels: Sequence[str], bins_NK: np.ndarray) -> list[tuple[int]]:
    """[B] the first polygon of the label that encloses the same area as each."""
    regions_B, number_B = regions(bins_NK), list(range(len(labels)))
    bounds_B = shapely.bounds(regions_B).round(3).tolist()
    alike: dict[tuple[object, ...], list[int]] = {}
    for place, (label, bounds) in enumerate(zip(labels, bounds_B, strict=True)):
        earlier = alike.setdefault((label, *bounds), [])
        iou_L = region_iou(regions_B[[place] * len(earlier)], regions_B[earlier]) if earlier else np.zeros(0)
        number_B[place] = earlier[int(iou_L.argmax())] if iou_L.max(initial=0.0) == 1.0 else place
        earlier += [place] if number_B[place] == place else []
    return [(number,) for number in number_B]


def _firsts(keys_B: Sequence[object], order_B: Iterable[int]) -> list[int]:
    """Ascending places of the first of each key, in the given order."""
    first_of: dict[object, int] = {}
    for place in order_B:
        first_of.setdefault(keys_B[place], place)
    return sorted(first_of.values())
