"""What a bench prints: figures, each beside the baseline measured in the same run.

Machines are shared and noisy, so a speed means nothing without the ratio. Rounds of the two alternate. For short
pure functions the best round of each counts, since noise only adds time; for work in several processes the median.
"""

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Literal


@dataclass(frozen=True, kw_only=True, slots=True)
class Figure:
    """One measured value. `ratio` is baseline / value where less is better, so that more than 1 is a gain; for figures
    with a bound of their own (efficiency, bandwidth, overlap, prefill) it is value / baseline.
    """

    name: str
    value: float
    unit: str
    baseline: float | None
    """The same work done in the way that `baseline_name` says, in the same unit."""
    ratio: float | None
    meaning: str
    """What was measured, and what the baseline is."""

    def as_json(self) -> dict[str, object]:
        """The fields of a `--json` line."""
        fields = asdict(self)
        del fields["meaning"]
        return fields


def time_ms(work: Callable[[], object], baseline: Callable[[], object], *, rounds: int) -> tuple[float, float]:
    """Best wall-clock milliseconds of `work` and of `baseline` over alternating rounds, after one warm-up of each."""
    best_s = [float("inf"), float("inf")]
    work(), baseline()
    for _ in range(rounds):
        for i, call in enumerate((work, baseline)):
            begun = time.perf_counter()
            call()
            best_s[i] = min(best_s[i], time.perf_counter() - begun)
    return best_s[0] * 1e3, best_s[1] * 1e3


def median_s(*works: Callable[[], object], rounds: int) -> list[float]:
    """Median wall-clock seconds of each over alternating rounds, after one warm-up of each."""
    for work in works:
        work()
    seconds: list[list[float]] = [[] for _ in works]
    for _ in range(rounds):
        for taken, work in zip(seconds, works, strict=True):
            begun = time.perf_counter()
            work()
            taken.append(time.perf_counter() - begun)
    return [statistics.median(taken) for taken in seconds]


def faster(
    name: str,
    work: Callable[[], object],
    baseline: Callable[[], object],
    *,
    meaning: str,
    rounds: int,
    per: int = 1,
    unit: Literal["ms", "us"] = "ms",
) -> Figure:
    """A figure in `unit`; `per` divides both sides, such as by the number of answers."""
    scale = {"ms": 1.0, "us": 1e3}[unit] / per
    value, base = (scale * total_ms for total_ms in time_ms(work, baseline, rounds=rounds))
    return Figure(name=name, value=value, unit=unit, baseline=base, ratio=base / value, meaning=meaning)


def lines(figures: Sequence[Figure]) -> list[str]:
    """A Markdown table of figures."""
    rows = ["| figure | value | baseline | ratio | what |", "|---|---|---|---|---|"]
    for one in figures:
        baseline = "" if one.baseline is None else f"{one.baseline:.3g} {one.unit}"
        ratio = "" if one.ratio is None else f"{one.ratio:.3g}"
        rows.append(f"| {one.name} | {one.value:.3g} {one.unit} | {baseline} | {ratio} | {one.meaning} |")
    return rows
