"""The report: one self-contained page that holds the numbers, whatever a run left behind."""

import base64
import io
import math
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from rex_rl.evaluation.figures import METRICS, evaluate
from rex_rl.evaluation.image_result import ImageResult
from rex_rl.report.draw import Series
from rex_rl.report.page import EvalPoint, ReportData, Sample, format_change, format_seconds, render_report, write_report

SFT = {
    "f1_50": 0.576,
    "f1_95": 0.113,
    "f1_miou": 0.5104,
    "precision_50": 0.61,
    "recall_50": 0.5463,
    "duplicate_rate": 0.0312,
    "large_box_rate": 0.0,
    "parse_failure_rate": 0.015,
    "mean_predictions": 17.04,
    "num_images": 200.0,
}
GRPO = SFT | {"f1_miou": 0.5466, "duplicate_rate": 0.0021, "recall_50": 0.5123, "mean_predictions": 15.26}
WALL_S = {"start": 31.5, "sft": 252.0, "grpo": 301.5}
VOID = {"meta", "img"}


def answer(label: str = "cat", faults: tuple[str, ...] = ()) -> ImageResult:
    """Two true boxes; one found, with a duplicate, and one missed."""
    return ImageResult(
        image_id="val_000007",
        width=64,
        height=48,
        truth_labels=(label, label),
        truth_NK=np.array([[4.0, 4, 20, 20], [40, 4, 60, 30]]),
        predicted_labels=(label, label),
        predicted_NK=np.array([[4.0, 4, 20, 21], [4, 4, 20, 21]]),
        faults=faults,
    )


@pytest.fixture
def full(tmp_path: Path) -> ReportData:
    """A run of both stages with two images."""
    path = tmp_path / "image.png"
    Image.new("RGB", (64, 48), (40, 80, 120)).save(path)
    curve = Series(steps=range(1, 31), values=np.linspace(0.4, 0.5537, 30).tolist())
    names = ("reward", "kl", "entropy", "sft/loss", "rewards/f1/mean", "rewards/duplicate/mean")
    return ReportData(
        run_name="quickstart",
        config={"model": "tiny", "grpo.num_steps": 30},
        summary={"sft": SFT, "grpo": GRPO, "wall_s": WALL_S},
        series=dict.fromkeys(names, curve),
        evaluations=[
            EvalPoint(stage="grpo", step=step, metrics={"f1_miou": 0.5 + step / 1000}) for step in (0, 10, 20)
        ],
        samples=[Sample(image=str(path), answers={"sft": answer(), "grpo": answer()})] * 2,
    )


class Checker(HTMLParser):
    """Fails on tags that do not nest; collects tags, attributes and text."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Remember an element and that it is open."""
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Remember an element without content."""
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        """Close the innermost element, which must be this one."""
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        """Collect visible text, the style sheet aside."""
        if self.open and self.open[-1] != "style":
            self.text += data


def read(page: str) -> Checker:
    """Parse a page; every element must be closed."""
    checker = Checker()
    checker.feed(page)
    checker.close()
    assert checker.open == []
    return checker


def test_page_needs_nothing_from_outside(full: ReportData, tmp_path: Path) -> None:
    """No script, no address, no link; every image is data; the page's policy refuses the rest."""
    path = tmp_path / "report.html"
    write_report(path, full)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["image.png", "report.html"]
    page = path.read_text(encoding="utf-8")
    assert not re.search(r"https?:|url\(|@import|//[a-z]", re.sub(r"base64,[^\"]*", "", page))
    parsed = read(page)
    tags = {tag for tag, _ in parsed.tags}
    assert not tags & {"script", "link", "iframe", "object", "base", "a", "form"}
    sources = [attributes["src"] or "" for _, attributes in parsed.tags if "src" in attributes]
    assert len(sources) == 4
    for source in sources:
        picture = Image.open(io.BytesIO(base64.b64decode(source.removeprefix("data:image/jpeg;base64,"))))
        assert max(picture.size) >= 420
    assert "default-src 'none'" in page


def test_page_holds_the_numbers(full: ReportData) -> None:
    """Both stages' figures, their differences with a verdict, wall time, last values and counts are there."""
    text = read(render_report(full)).text
    for shown in ("51.0 %", "54.7 %", "3.12 %", "0.21 %", "17.0", "15.3", "200", "0.5537", "9 min 45 s", "52 %"):
        assert shown in text, shown
    assert "\u2191 3.6 pt better" in text
    assert "\u2193 2.91 pt better" in text
    assert "\u2193 3.4 pt worse" in text
    assert all(name in text for name in METRICS)
    for shown in ("2 true", "1 matched", "1 duplicate", "0 false", "1 missed", "cat 2"):
        assert shown in text
    for heading in ("Reward", "Before and after", "Wall time", "Terms and training", "Held-out images"):
        assert heading in text


def test_sections_stand_in_reading_order(full: ReportData) -> None:
    """What changed comes first, then the reward, the table, the time, the terms and the images."""
    page = render_report(full)
    marks = ('class="head', ">Reward<", ">Before and after<", ">Wall time", ">Terms and training<", ">Held-out images<")
    places = [page.index(mark) for mark in marks]
    assert places == sorted(places)


def test_text_from_outside_is_escaped(full: ReportData) -> None:
    """A category, a run, a config value, a metric and a fault named like tags stay text."""
    evil = "<script>alert('1')</script>"
    sample = Sample(image=full.samples[0].image, answers={"sft": answer(evil, faults=(evil,))})
    missing = Sample(image=f"/{evil}", answers={"grpo": answer(evil)})
    page = render_report(
        ReportData(
            run_name=evil,
            config={evil: evil},
            summary={"sft": SFT | {evil: 1.0}, "wall_s": {evil: 2.0}},
            series={f"rewards/{evil}/mean": Series(steps=[1], values=[1.0])},
            samples=[sample, missing],
        )
    )
    assert "<script" not in page
    assert page.count("&lt;script&gt;") >= 9
    read(page)


def test_one_stage_alone_is_shown_without_change(full: ReportData) -> None:
    """SFT only: its loss is the main curve, no change column, no second picture, nothing called GRPO."""
    samples = [Sample(image=full.samples[0].image, answers={"sft": answer()})]
    series = {"sft/loss": full.series["sft/loss"]}
    parsed = read(
        render_report(
            replace(full, summary={"sft": SFT, "wall_s": WALL_S}, series=series, evaluations=(), samples=samples)
        )
    )
    assert "SFT loss" in parsed.text
    assert "Held-out figures" in parsed.text
    assert "51.0 %" in parsed.text
    assert "Change" not in parsed.text
    assert "GRPO" not in parsed.text
    assert "better" not in parsed.text
    assert sum(tag == "img" for tag, _ in parsed.tags) == 1
    assert sum(tag == "svg" for tag, _ in parsed.tags) == 1


def test_a_run_that_left_nothing_has_a_page(full: ReportData) -> None:
    """No step, no evaluation, no image: the page says so."""
    text = read(render_report(ReportData(run_name="r", config={}, summary={}, series={}))).text
    assert "No held-out evaluation in this run." in text
    assert "No step was logged." in text
    no_steps = {name: Series(steps=[], values=[]) for name in full.series}
    text = read(render_report(replace(full, series=no_steps, evaluations=()))).text
    assert "No step was logged." in text
    assert "no data" in text
    assert "54.7 %" in text


def test_figures_that_are_no_numbers_are_a_dash(full: ReportData) -> None:
    """NaN and None in summary, curves and wall time: a dash, no change, and no NaN in any drawing."""
    summary: dict[str, dict[str, float | None]] = {
        "sft": {**SFT, "f1_miou": math.nan, "recall_50": None},
        "grpo": {**GRPO},
        "wall_s": {"sft": math.nan, "grpo": 5.0},
    }
    series = {"reward": Series(steps=[1, 2, 3], values=[math.nan, 0.5, math.inf])}
    points = [EvalPoint(stage="grpo", step=step, metrics={"f1_miou": math.nan}) for step in (1, 2)]
    parsed = read(render_report(replace(full, summary=summary, series=series, evaluations=points)))
    assert "-\u2192" in parsed.text.replace(" ", "")
    assert "2 not finite" in parsed.text
    assert "5.0 s" in parsed.text
    drawings = [f"{attributes.get('d')}{attributes.get('style')}" for _, attributes in parsed.tags]
    assert not any("nan" in drawing or "inf" in drawing for drawing in drawings)


def test_an_image_that_is_gone_does_not_cost_the_report(full: ReportData, tmp_path: Path) -> None:
    """A missing file and one that is no image are named; counts are shown, other images too."""
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"no image")
    samples = [Sample(image=str(path), answers={"sft": answer()}) for path in (broken, tmp_path / "gone.png")]
    parsed = read(render_report(replace(full, samples=[*samples, *full.samples])))
    assert parsed.text.count("image not shown") == 2
    assert "gone.png" in parsed.text
    assert "broken.png" in parsed.text
    assert sum(tag == "img" for tag, _ in parsed.tags) == 4


def test_figures_of_the_evaluation_fit_the_page(full: ReportData) -> None:
    """What `evaluate` returns is shown as it comes."""
    figures = evaluate([answer()])
    text = read(render_report(replace(full, summary={"sft": figures}))).text
    assert "50.00 %" in text  # the duplicate is half of the predictions
    assert "2.0" in text


@pytest.mark.parametrize(
    ("name", "before", "after", "verdict"),
    [
        ("f1_miou", 0.5, 0.6, "better"),
        ("f1_miou", 0.6, 0.5, "worse"),
        ("duplicate_rate", 0.03, 0.01, "better"),
        ("parse_failure_rate", 0.01, 0.03, "worse"),
        ("recall_50", 0.5, 0.5001, "same"),
    ],
)
def test_verdict_knows_which_way_is_better(name: str, before: float, after: float, verdict: str) -> None:
    """Shares that should fall are better lower; what rounds to nothing is the same; counts have no verdict."""
    assert f'class="{verdict}"' in format_change(name, before, after)
    assert not re.search("better|worse", format_change("mean_predictions", 10.0, 12.0))
    assert format_change("num_images", 1.0, 2.0) == format_change("f1_50", None, 0.5) == ""


def test_durations_read_well() -> None:
    """Seconds, minutes and hours; rounding never gives sixty of the smaller unit."""
    assert [format_seconds(value) for value in (0.04, 59.94, 59.96, 3599.6, 90061)] == [
        "0.0 s",
        "59.9 s",
        "1 min 0 s",
        "1 h 0 min",
        "25 h 1 min",
    ]
