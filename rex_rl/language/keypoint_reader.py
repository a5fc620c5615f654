r"""Reads and writes the answers of key point tasks: JSON in a fence, as the official code wants it.

```json
{"person1": {"bbox": " <1> <36> <987> <984> ", "keypoints": {"nose": " <540> <351> ", "right eye": "unvisible"}}}
```
(Rex-Omni repository, rex_omni/parser.py.) Every key point is named, in the task's order; the fence may be missing. The
official form has no word for a category that is not in the image: ours is `"cat": "None"` among the instances.

An instance begins wherever a name, a colon and an opening brace stand. It is read from the pairs of texts after it, so
whatever is broken, cut or missing in one does not touch the next.

Axes: T tokens, J key points.
"""

import contextlib
import json
import re
import unicodedata
from bisect import bisect_left
from collections.abc import Iterable, Mapping, Sequence
from itertools import accumulate

from rex_rl.language.answer_reader import ABSENT, END, UNDEFINED, Remarks
from rex_rl.language.grid import UNSEEN_BIN
from rex_rl.language.vocabulary import text_of

UNSEEN = "unvisible"
"""The official word for a key point that cannot be seen."""

_STRING = r'"((?:[^"\\]|\\.){0,200}+)"'  # bounded: a text of nothing but escaped quotes would take quadratic time
_HEAD = re.compile(_STRING + r"\s*:\s*\{")
_PAIR = re.compile(_STRING + r"\s*:\s*" + _STRING)
_CLOSE = re.compile(r"(?:\s*\}){0,2}")
_FENCE = re.compile(r"\s*+(?:```(?:json)?)?\s*+(?:```)?\s*+")  # possessive: 4,096 spaces would take minutes
_COORDINATE = re.compile("[\u0100-\uffff]")
_DIGITS = "0123456789"


class KeypointReader:
    """Reads answers one after the other; their shapes gather in the attributes, spans count all tokens."""

    def __init__(self, keypoints: Sequence[str], texts: Sequence[str]) -> None:
        """`texts` as in `TokenTable`."""
        self._place_of = {name: place for place, name in enumerate(keypoints)}
        self._texts = texts
        self.labels: list[str] = []
        self.bins: list[list[int]] = []
        """[4 + 2 J] each."""
        self.starts: list[int] = []
        self.ends: list[int] = []

    def read(self, places: Sequence[int], kinds: bytes, at: int, stop: int, names: Mapping[str, str]) -> Remarks:
        """Read the answer from token `at` to its end token, or to `stop` where it has none.

        `places` is where in `texts` each token stands; `names` maps a phrase to its category.
        """
        self._names = names
        self._remarks: list[str] = []
        self._absent: list[str] = []
        self._faults: set[str] = set()
        end = kinds.find(END, at, stop)
        stop = stop if end < 0 else end
        if kinds.find(UNDEFINED, at, stop) >= 0:
            self._faults.add("undefined_id")
        parts = [self._texts[place] for place in places[at:stop]]
        text = "".join(parts)
        heads = [head for head in _HEAD.finditer(text) if head[1] != "keypoints"]
        self._read_absent(_PAIR.finditer(text, 0, heads[0].start() if heads else len(text)))
        if heads:
            self._read_instances(heads, [*accumulate(map(len, parts), initial=0)], at, is_cut=end < 0)
        if end < 0:
            self._faults.add("truncated")
        else:
            self._check_form(text, [*(head[1] for head in heads), *self._absent])
        self.labels += [names.get(label, label) for label in self._remarks]
        # What an entry says is known for certain only at the answer's end, as JSON may be broken anywhere behind it.
        phrases = dict(enumerate([*dict.fromkeys(self._remarks), *self._absent], stop))
        return Remarks(phrases, dict(enumerate(self._absent, stop)), dict.fromkeys(self._faults, stop))

    def _read_instances(self, heads: list[re.Match[str]], offsets: list[int], origin: int, *, is_cut: bool) -> None:
        """`offsets` is where in the text each token begins; `is_cut` is whether the limit cut the last instance."""
        at = heads[0].start()
        edges = [*(head.start() for head in heads[1:]), offsets[-1]]
        for head, edge in zip(heads, edges, strict=True):
            until = self._read_instance(head, edge, is_cut=is_cut and edge == offsets[-1])
            if until is not None:
                self.starts.append(origin + bisect_left(offsets, at))
                self.ends.append(origin + bisect_left(offsets, until))
                at = until

    def _read_instance(self, head: re.Match[str], edge: int, *, is_cut: bool) -> int | None:
        """Returns where the instance ends in the text, or None where it is left out."""
        box: list[int] = []
        num_boxes, points = 0, [UNSEEN_BIN] * (2 * len(self._place_of))
        told: set[str] = set()
        faults: set[str] = set()
        until, pairs = head.end(), []
        for pair in _PAIR.finditer(head.string, head.end(), edge):
            name, value = pair.groups()
            if name == "bbox":
                box, rest = _numbers(value)
                num_boxes += 1
                box = [] if rest else box
            elif (place := self._place_of.get(name)) is not None and name not in told:
                told.add(name)
                if value != UNSEEN:
                    point, rest = _numbers(value)
                    if len(point) == 2 and not rest:
                        points[2 * place : 2 * place + 2] = point
                    elif point or rest != UNSEEN:
                        faults.add("bad_keypoint")
            else:
                pairs.append(pair)
                continue
            until = pair.end()
        if is_cut and len(told) < len(self._place_of):  # an instance that the limit cut is no second fault
            return None
        self._read_absent(pairs)
        if len(box) != 4 or num_boxes != 1:
            self._faults.add("bad_count")
            return None
        if len(told) < len(self._place_of):
            faults.add("bad_keypoint")
        self._faults |= faults
        self._remarks.append(self._category_of(head[1]))
        self.bins.append(box + points)
        closing = _CLOSE.match(head.string, until, edge)
        return until if closing is None else closing.end()

    def _read_absent(self, pairs: Iterable[re.Match[str]]) -> None:
        """Read pairs that belong to no instance: a category with `None`; any other is a fault."""
        for pair in pairs:
            if text_of(pair[2]).strip() == ABSENT:
                self._absent.append(_unescaped(pair[1]))
            else:
                self._faults.add("bad_keypoint")

    def _category_of(self, key: str) -> str:
        """`person` of `person1`: the longest name asked for that leaves only digits, else all before the digits."""
        unescaped = _unescaped(key)
        return next(
            (
                name
                for name in sorted(self._names, key=len, reverse=True)
                if unescaped.startswith(name) and not unescaped[len(name) :].strip(_DIGITS + " ")
            ),
            unescaped.rstrip(_DIGITS),
        )

    def _check_form(self, text: str, entries: list[str]) -> None:
        """Whether the whole text is the JSON it should be, with these entries and no more."""
        first, last = text.find("{"), text.rfind("}") + 1
        if not _FENCE.fullmatch(text[:first] + text[last:] if 0 <= first < last else text):
            self._faults.add("stray_tokens")
        if len(set(entries)) < len(entries):
            self._faults.add("repeated_label")
        if not _is_official(text[first:last], len(set(entries))):
            self._faults.add("broken_segment")


def write_keypoints(instances: Mapping[str, tuple[Sequence[int], Mapping[str, Sequence[int] | None]] | None]) -> str:
    """The answer that names these instances: key -> (box, key point -> bins or None), or None for an absent category.

    >>> print(write_keypoints({"cat1": ((1, 2, 3, 4), {"nose": (2, 3), "neck": None}), "dog": None}))
    ```json
    {"cat1": {"bbox": " <1> <2> <3> <4> ", "keypoints": {"nose": " <2> <3> ", "neck": "unvisible"}}, "dog": "None"}
    ```
    """

    def as_json(numbers: Sequence[int] | None) -> str:
        return UNSEEN if numbers is None else f" {' '.join(f'<{number}>' for number in numbers)} "

    value = {
        key: ABSENT
        if instance is None
        else {"bbox": as_json(instance[0]), "keypoints": {name: as_json(point) for name, point in instance[1].items()}}
        for key, instance in instances.items()
    }
    return f"```json\n{json.dumps(value, ensure_ascii=False)}\n```"


def _numbers(value: str) -> tuple[list[int], str]:
    """The coordinates in a text, and the rest of it.

    >>> _numbers(" \u0101 \u0103 "), _numbers("unvisible")
    (([1, 3], ''), ([], 'unvisible'))
    """
    letters, rest = _COORDINATE.findall(value), _COORDINATE.sub("", value)
    return [ord(letter) - 256 for letter in letters], rest.strip()


def _unescaped(raw: str) -> str:
    """The inside of a JSON text, read as phrases are: NFC, no space at its ends."""
    text = text_of(raw)
    if "\\" in text:
        with contextlib.suppress(ValueError):
            text = str(json.loads(f'"{text}"'))
    return unicodedata.normalize("NFC", text).strip()


def _is_official(text: str, num_entries: int) -> bool:
    """Whether a text is JSON of the form above, with as many entries as were found in it."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return False
    return isinstance(value, dict) and len(value) == num_entries and all(map(_is_entry, value.values()))


def _is_entry(entry: object) -> bool:
    if not isinstance(entry, dict):
        return isinstance(entry, str) and entry.strip() == ABSENT
    if list(entry) != ["bbox", "keypoints"] or not isinstance(entry["keypoints"], dict):
        return False
    return all(isinstance(value, str) for value in (entry["bbox"], *entry["keypoints"].values()))
