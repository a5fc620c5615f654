"""`report.html`: what a run changed, on one page without any other file, script or font.

The page is made of small pure functions from data to HTML. Every text from outside goes through `html.escape`, and the
page's own policy forbids scripts and requests.
"""

import base64
import io
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

from rex_rl.data.images import open_image
from rex_rl.errors import DataError
from rex_rl.evaluation.figures import METRICS
from rex_rl.evaluation.image_result import ImageResult
from rex_rl.report.draw import LEGEND, Series, count_kinds, finite_points, line_chart, overlay
from rex_rl.report.sheet import drawing_scale

STAGES = {"sft": "SFT", "grpo": "GRPO"}
"""Keys of `summary.json` that hold figures, in the order of a run, and how the page calls them."""
SAMPLE_SIDE_PX = 800
JPEG_QUALITY = 86

_SHARES = {
    "f1_50": (1, 1, "at IoU 0.5"),
    "f1_95": (1, 1, "at IoU 0.95"),
    "f1_miou": (1, 1, "mean over IoU 0.5 to 0.95"),
    "precision_50": (1, 1, "of the predicted boxes, matched"),
    "recall_50": (1, 1, "of the true boxes, found"),
    "duplicate_rate": (-1, 2, "duplicates among predicted boxes"),
    "large_box_rate": (-1, 2, "images with a box over 95 % of the area"),
    "parse_failure_rate": (-1, 2, "answers with any fault"),
    "text_similarity": (1, 1, "similarity of predicted and true text"),
}
"""Shares by name: which way is better, decimals of the percentage, what it means. Other figures are plain numbers.

A task may stand before the name: `pointing/f1_50`."""
_KINDS = {
    "true": "annotated; thin where it was found",
    "matched": "predicted, and a true box of its label agrees (IoU 0.5 or more)",
    "duplicate": "predicted again over an earlier box, matches nothing",
    "false": "predicted, no free true box there",
    "missed": "true, not predicted",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class EvalPoint:
    """One held-out evaluation: `EvalPoint(stage="grpo", step=20, metrics={"f1_miou": 0.52})`."""

    stage: str
    step: int
    metrics: Mapping[str, float]


@dataclass(frozen=True, kw_only=True, slots=True)
class Sample:
    """One held-out image with the answers of the stages: `answers` is a key of `STAGES` -> result."""

    image: str
    """Path of the image file."""
    answers: Mapping[str, ImageResult]


@dataclass(frozen=True, kw_only=True, slots=True)
class ReportData:
    """All that a report shows; anything may be empty, and the page then says so or leaves it out."""

    run_name: str
    config: Mapping[str, object]
    """Key facts of the run, shown as they are: `{"model": "tiny", "grpo.num_steps": 45}`."""
    summary: Mapping[str, Mapping[str, float | None]]
    """`summary.json`: figures under "sft" and "grpo", seconds of disjoint parts under "wall_s"."""
    series: Mapping[str, Series]
    """Metric name -> curve: `reward`, `reward/<task>`, `kl`, `entropy`, `sft/loss`, `rewards/<term>/mean`."""
    evaluations: Sequence[EvalPoint] = ()
    samples: Sequence[Sample] = ()


def write_report(path: Path, data: ReportData) -> None:
    """Write the page, replacing an older one only when the new one is whole."""
    page = render_report(data)
    beside = path.with_name(path.name + ".tmp")
    beside.write_text(page, encoding="utf-8")
    os.replace(beside, path)


def render_report(data: ReportData) -> str:
    """The whole page as text."""
    name = escape(data.run_name)
    policy = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
    sections = (
        _headline(data),
        _progress(data),
        _table(data),
        _wall_time(data.summary.get("wall_s", {})),
        _curves(data.series),
        _samples(data.samples),
    )
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{name}</title>\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n<style>{_CSS}</style></head>\n<body><main>\n'
        f'<header><p class="kicker">rex-rl report</p><h1>{name}</h1>{_facts(data.config)}</header>\n'
        + "\n".join(section for section in sections if section)
        + "\n<footer>Held-out figures (defined in rex_rl/evaluation/figures.py) use the untouched truth.</footer>"
        "\n</main></body></html>\n"
    )


def _facts(config: Mapping[str, object]) -> str:
    items = "".join(f"<div><dt>{escape(key)}</dt><dd>{escape(str(value))}</dd></div>" for key, value in config.items())
    return f'<dl class="facts">{items}</dl>' if items else ""


def _columns(data: ReportData) -> list[tuple[str, Mapping[str, float | None]]]:
    """What is compared: the stages in the summary."""
    return [(title, data.summary[stage]) for stage, title in STAGES.items() if data.summary.get(stage)]


def _number(value: float | None) -> float:
    return math.nan if value is None else float(value)


def _figure_of(name: str) -> str:
    """A figure's name without the task it is of."""
    return name.rpartition("/")[2]


def format_figure(name: str, value: float | None) -> str:
    """A figure as the page shows it: shares in percent, others as they are, a dash for NaN and None.

    >>> format_figure("f1_miou", 0.5187), format_figure("mean_predictions", 17.04), format_figure("f1_50", None)
    ('51.9 %', '17.0', '-')
    """
    name, number = _figure_of(name), _number(value)
    if not math.isfinite(number):
        return "-"
    if name in _SHARES:
        return f"{100 * number:.{_SHARES[name][1]}f} %"
    return f"{number:.0f}" if name == "num_images" else f"{number:.1f}"


def format_change(name: str, before: float | None, after: float | None) -> str:
    """The difference with an arrow and a verdict, as HTML; empty where one side is missing.

    >>> format_change("duplicate_rate", 0.0312, 0.0121)
    '<span class="better">\u2193 1.91 pt <small>better</small></span>'
    """
    name, change = _figure_of(name), _number(after) - _number(before)
    if not math.isfinite(change) or name == "num_images":
        return ""
    direction, decimals, _ = _SHARES.get(name, (0, 1, ""))
    shown = f"{abs(change) * (100 if name in _SHARES else 1):.{decimals}f}"
    if float(shown) == 0:
        return '<span class="same">= <small>same</small></span>'
    arrow, unit = "\u2191" if change > 0 else "\u2193", " pt" if name in _SHARES else ""
    verdict = "" if not direction else "better" if change * direction > 0 else "worse"
    return f'<span class="{verdict or "same"}">{arrow} {shown}{unit} <small>{verdict}</small></span>'


def _headline(data: ReportData) -> str:
    columns = _columns(data)
    if not columns:
        return '<section><p class="note">No held-out evaluation in this run.</p></section>'
    cards = []
    for name, title in (("f1_miou", "F1, mean over IoU"), ("duplicate_rate", "Duplicate boxes")):
        figures = [metrics.get(name) for _, metrics in columns]
        shown = " <i>&rarr;</i> ".join(f"<b>{format_figure(name, value)}</b>" for value in figures)
        change = f'<p class="delta">{format_change(name, figures[0], figures[-1])}</p>' if len(figures) > 1 else ""
        num_images = format_figure("num_images", columns[-1][1].get("num_images"))
        stages = " &rarr; ".join(title for title, _ in columns) + f", {num_images} images"
        cards.append(f'<div><p>{title} <small>{stages}</small></p><p class="big">{shown}</p>{change}</div>')
    return f'<section class="head cols">{"".join(cards)}</section>'


def _main_curve(series: Mapping[str, Series]) -> str | None:
    return next((name for name in ("reward", "sft/loss") if name in series and len(finite_points(series[name]))), None)


def _progress(data: ReportData) -> str:
    """The main curve: the reward, or the SFT loss where there was no GRPO; below it the held-out figures by step."""
    main = _main_curve(data.series)
    title = "SFT loss" if main == "sft/loss" else "Reward"
    body = line_chart(main, data.series[main], is_large=True) if main else '<p class="note">No step was logged.</p>'
    held_out = {}
    for stage, stage_title in STAGES.items():
        points = sorted((point for point in data.evaluations if point.stage == stage), key=lambda point: point.step)
        for name in ("f1_miou", "duplicate_rate"):
            values = [_number(point.metrics.get(name)) for point in points]
            held_out[f"held out, {stage_title}: {name}"] = Series(steps=[point.step for point in points], values=values)
    charts = [line_chart(name, series) for name, series in held_out.items() if len(finite_points(series)) > 1]
    return f'<section><h2>{title}</h2>{body}<div class="cols">{"".join(charts)}</div></section>'


def _table(data: ReportData) -> str:
    columns = _columns(data)
    if not columns:
        return ""
    names = dict.fromkeys(METRICS) | dict.fromkeys(name for _, metrics in columns for name in metrics)
    rows = []
    for name in names:
        figures = [metrics.get(name) for _, metrics in columns]
        meaning = _SHARES.get(_figure_of(name), (0, 0, ""))[2]
        cells = "".join(f'<td title="{escape(str(value))}">{format_figure(name, value)}</td>' for value in figures)
        change = f"<td>{format_change(name, figures[0], figures[-1])}</td>" if len(figures) > 1 else ""
        rows.append(f'<tr><th scope="row">{escape(name)}<small>{meaning}</small></th>{cells}{change}</tr>')
    heads = "".join(f'<th scope="col">{title}</th>' for title, _ in columns)
    heads += '<th scope="col">Change</th>' if len(columns) > 1 else ""
    title = "Before and after" if len(columns) > 1 else "Held-out figures"
    head = f'<thead><tr><th scope="col">Held out</th>{heads}</tr></thead>'
    return f"<section><h2>{title}</h2><table>{head}<tbody>{''.join(rows)}</tbody></table></section>"


def format_seconds(seconds: float) -> str:
    """A duration in its two largest units.

    >>> format_seconds(8.25), format_seconds(252), format_seconds(7384)
    ('8.2 s', '4 min 12 s', '2 h 3 min')
    """
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def _wall_time(wall_s: Mapping[str, float | None]) -> str:
    parts = {name: value for name, value in ((name, _number(value)) for name, value in wall_s.items()) if value > 0}
    total = sum(parts.values())
    if not math.isfinite(total) or total <= 0:
        return ""
    bars, items = [], []
    for index, (name, seconds) in enumerate(parts.items()):
        shade = f"--shade:{1 - 0.75 * index / max(1, len(parts) - 1):.2f}"
        bars.append(f'<i style="flex-grow:{seconds / total:.5f};{shade}"></i>')
        share = f"{format_seconds(seconds)}, {100 * seconds / total:.0f} %"
        items.append(f'<li><i style="{shade}"></i>{escape(name)} <span>{share}</span></li>')
    return (
        f"<section><h2>Wall time <span>{format_seconds(total)}</span></h2>"
        f'<div class="bar">{"".join(bars)}</div><ul class="parts">{"".join(items)}</ul></section>'
    )


def _curves(series: Mapping[str, Series]) -> str:
    terms = sorted(name for name in series if name.startswith(("reward/", "rewards/")))
    others = [name for name in ("kl", "entropy", "sft/loss") if name in series and name != _main_curve(series)]
    charts = "".join(line_chart(name, series[name]) for name in terms + others)
    return f'<section><h2>Terms and training</h2><div class="cols fill">{charts}</div></section>' if charts else ""


def _samples(samples: Sequence[Sample]) -> str:
    if not samples:
        return ""
    legend = "".join(
        f'<li><i class="{kind}" style="--kind:{LEGEND[kind]}"></i><b>{kind}</b> {meaning}</li>'
        for kind, meaning in _KINDS.items()
    )
    figures = "".join(_sample(sample) for sample in samples)
    return f'<section><h2>Held-out images</h2><ul class="legend">{legend}</ul>{figures}</section>'


def _sample(sample: Sample) -> str:
    answers = [(title, sample.answers[stage]) for stage, title in STAGES.items() if stage in sample.answers]
    if not answers:
        return ""
    truth = answers[0][1]
    labels = {label: truth.truth_labels.count(label) for label in truth.truth_labels}
    asked = " \u00b7 ".join(f"{escape(label)} {count}" for label, count in labels.items())
    pictures = "".join(f"<figure>{_picture(sample.image, title, result)}</figure>" for title, result in answers)
    head = f"<h3>{escape(truth.image_id)} <small>{escape(truth.task)}: {asked}</small></h3>"
    return f'<article>{head}<div class="pair">{pictures}</div></article>'


def _picture(path: str, title: str, result: ImageResult) -> str:
    counts = count_kinds(result)
    shown = " ".join(
        f'<span class="{"" if counts[kind] else "none"}"><i class="{kind}" style="--kind:{LEGEND[kind]}"></i>'
        f"{counts[kind]} {kind}</span>"
        for kind in _KINDS
    )
    faults = f' <span class="worse">{escape(", ".join(result.faults))}</span>' if result.faults else ""
    caption = f"<figcaption><b>{title}</b> {shown}{faults}</figcaption>"
    try:
        image = open_image(path)
    except DataError as error:
        return f'<p class="note">image not shown: {escape(str(error))}</p>{caption}'
    drawn = overlay(image, result, scale=drawing_scale(image.size, max_side_px=SAMPLE_SIDE_PX))
    file = io.BytesIO()
    drawn.save(file, "JPEG", quality=JPEG_QUALITY, subsampling=0)
    data = base64.b64encode(file.getvalue()).decode("ascii")
    spoken = escape(f"{result.image_id}, {title}: " + ", ".join(f"{count} {kind}" for kind, count in counts.items()))
    size = f'width="{drawn.width}" height="{drawn.height}"'
    return f'<img src="data:image/jpeg;base64,{data}" {size} alt="{spoken}">{caption}'


_CSS = """
:root { color-scheme: light dark; --page: #fbfbfa; --ink: #1b1f23; --soft: #626b74; --rule: #e3e5e7;
  --accent: #0b7a75; --worse: #b3541e; }
@media (prefers-color-scheme: dark) {
  :root { --page: #14171a; --ink: #e7eaec; --soft: #98a2ab; --rule: #2b3137; --accent: #4fc4bb; --worse: #eb9a63; } }
* { box-sizing: border-box; margin: 0; }
body { background: var(--page); color: var(--ink); -webkit-text-size-adjust: 100%;
  font: 16px/1.5 Inter, system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", sans-serif; }
main { max-width: 1040px; margin: 0 auto; padding: 56px 24px 40px; } section { margin-top: 56px; }
h1 { font-size: 34px; line-height: 1.2; letter-spacing: -.02em; font-weight: 650; overflow-wrap: anywhere; }
h2 { font-size: 20px; letter-spacing: -.01em; font-weight: 600; margin-bottom: 18px; }
h3 { font-size: 15px; font-weight: 600; margin-bottom: 8px; overflow-wrap: anywhere; }
small { font-size: 13px; } h2 span, small { color: var(--soft); font-weight: 400; }
.kicker { color: var(--accent); font-size: 13px; font-weight: 600; letter-spacing: .04em; margin-bottom: 4px; }
.facts { display: flex; flex-wrap: wrap; gap: 12px 32px; margin-top: 20px; font-size: 14px; overflow-wrap: anywhere; }
dt { color: var(--soft); font-size: 12.5px; } .note { color: var(--soft); font-size: 14px; padding: 12px 0; }
.better { color: var(--accent); } .worse { color: var(--worse); } .same { color: var(--soft); }
span > small { color: inherit; }
.cols { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 280px), 1fr)); gap: 28px 40px; }
.fill { grid-template-columns: repeat(auto-fill, minmax(min(100%, 280px), 1fr)); }
.head { border-block: 1px solid var(--rule); padding: 28px 0; margin-top: 36px; }
.big { font-size: clamp(28px, 5vw, 42px); line-height: 1.2; letter-spacing: -.025em; color: var(--soft);
  font-variant-numeric: tabular-nums; margin: 4px 0; white-space: nowrap; } .delta { font-weight: 600; }
.big b { font-weight: 400; } .big b:last-child { color: var(--ink); font-weight: 650; }
.big i { font-style: normal; font-size: .7em; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th, td { padding: 9px 0 9px 16px; text-align: right; border-bottom: 1px solid var(--rule); white-space: nowrap; }
thead th { color: var(--soft); font-size: 13px; font-weight: 500; }
th:first-child { text-align: left; padding-left: 0; font-weight: 500; white-space: normal;
  overflow-wrap: anywhere; }
th[scope=row] small { margin-left: 10px; }
.bar { display: flex; gap: 2px; height: 22px; border-radius: 4px; overflow: hidden; }
.bar i, .parts i { background: var(--accent); opacity: var(--shade); min-width: 2px; }
ul { list-style: none; padding: 0; display: flex; flex-wrap: wrap; gap: 6px 28px; font-size: 14px; }
.parts { margin-top: 14px; } .parts span { color: var(--soft); font-variant-numeric: tabular-nums; }
.parts i { display: inline-block; width: 10px; height: 10px; border-radius: 2px; margin-right: 7px; }
.chart figcaption { display: flex; flex-wrap: wrap; gap: 0 10px; align-items: baseline; margin-bottom: 10px;
  font: 13px/1.5 ui-monospace, "SF Mono", Menlo, Consolas, monospace; }
.chart b { margin-left: auto; font-weight: 600; }
.plot { position: relative; height: 96px; margin: 0 0 24px 44px; }
.large .plot { height: 260px; margin-bottom: 52px; } .plot svg { width: 100%; height: 100%; overflow: visible; }
.plot path { fill: none; vector-effect: non-scaling-stroke; stroke-linecap: round; stroke-linejoin: round; }
.rule { stroke: var(--rule); stroke-width: 1; } .line { stroke: var(--accent); stroke-width: 2; }
.dots { stroke: var(--accent); stroke-width: 4; opacity: .35; } .few .dots { stroke-width: 7; opacity: 1; }
.plot span { position: absolute; font-size: 11.5px; line-height: 1; color: var(--soft); white-space: nowrap; }
.plot .y { right: calc(100% + 9px); transform: translateY(-50%); }
.plot .x { top: calc(100% + 9px); left: var(--x); transform: translateX(calc(-1 * var(--x))); }
.large .x { transform: translateX(-50%); }
.legend { gap: 6px 32px; color: var(--soft); } .legend b { color: var(--ink); font-weight: 600; }
.legend i, .pair i { display: inline-block; width: 17px; height: 13px; margin-right: 6px; vertical-align: -2px;
  background: #3a4148; border: 2px solid var(--kind); outline: 1px solid #23282d; }
i.true { border-width: 1px !important; } i.duplicate { border-style: dashed !important; }
i.missed { border-style: dotted !important; } .pair .none { opacity: .4; } article { margin-top: 32px; }
.pair { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 320px), 1fr)); gap: 20px; }
.pair figure { max-width: 800px; } .pair img { display: block; width: 100%; height: auto; border-radius: 4px; }
.pair figcaption { font-size: 13px; margin-top: 8px; display: flex; flex-wrap: wrap; gap: 3px 12px; }
footer { margin-top: 64px; padding-top: 16px; border-top: 1px solid var(--rule); color: var(--soft); font-size: 13px; }
@media (max-width: 560px) { main { padding: 32px 16px; } th[scope=row] small { display: block; margin: 0; }
  th, td { font-size: 14px; padding-left: 10px; } td small { display: none; } .large .plot { height: 200px; } }
"""
