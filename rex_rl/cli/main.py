"""The command line: `rex-rl train CONFIG [key=value ..]` and its companions.

Exit status: 0 done, 2 the user's mistake (one line on standard error), 130 interrupted, 143 ended by SIGTERM, 1
anything else. Commands that print JSON print nothing else on standard output, whatever the libraries below them do.

`--help` has to be quick, so everything except Typer is imported inside the commands, and help is plain text: with Rich
it takes 0.2 s more.
"""

import json
import os
import sys
from collections.abc import Mapping
from itertools import groupby
from pathlib import Path
from typing import IO, TYPE_CHECKING, Annotated, Any

import typer

from rex_rl.cli.data import data_app
from rex_rl.errors import ConfigError, RexError, Stopped, UserError

if TYPE_CHECKING:
    from rex_rl.config.reference import KeyDoc

DRAWN = (".png", ".jpg", ".jpeg", ".webp")
MIN_TABLE_COLUMNS = 100
TAKES_OVERRIDES = {"ignore_unknown_options": True}
"""So that `--key=value` reaches `_overrides`, which says what to write instead."""

app = typer.Typer(
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Post-train vision-language models that answer with boxes: SFT, then GRPO, on one Ray cluster.",
)
app.add_typer(data_app, name="data")

ConfigFile = Annotated[Path, typer.Argument(metavar="CONFIG", help="YAML file, such as configs/quickstart.yaml.")]
Overrides = Annotated[
    list[str] | None,
    typer.Argument(metavar="KEY=VALUE", help="Keys that override the file, such as grpo.num_steps=10."),
]
Task = Annotated[str, typer.Option(help="What is asked for, such as detection or pointing.")]
RunName = Annotated[str | None, typer.Argument(metavar="[RUN]", help="Name of the run; may be left out for one alone.")]
Address = Annotated[str, typer.Option(help="Address of the Ray cluster; auto: the one of this machine.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, and nothing else, on standard output.")]


def main() -> None:
    """Run the command line; the one place where an error becomes a line and an exit status."""
    try:
        app(prog_name="rex-rl")
    except Stopped as stopped:
        print(f"rex-rl: {stopped}", file=sys.stderr)
        sys.exit(stopped.exit_status)
    except RexError as error:
        # Ray wraps an error of an actor in one that prints the actor's whole traceback; `cause` is the error itself.
        message = str(getattr(error, "cause", None) or error)
        print(f"rex-rl: error: {' '.join(message.split())}", file=sys.stderr)
        sys.exit(error.exit_status)


@app.command(context_settings=TAKES_OVERRIDES)
def train(
    config: ConfigFile,
    overrides: Overrides = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print the resolved configuration and the plan of actors; start nothing.")
    ] = False,
    accept_changes: Annotated[
        bool, typer.Option("--accept-changes", help="Go on with a run under another configuration; says which keys.")
    ] = False,
) -> None:
    """Train, or go on with a run that was interrupted; prints the run's folder."""
    from rex_rl.config.load import dump_config, load_config

    loaded = load_config(config, _overrides(overrides))
    if dry_run:
        from rex_rl.launch import describe_plan

        plan = "\n".join(f"# {line}" for line in describe_plan(loaded).splitlines())
        print(f"{dump_config(loaded)}{plan}")  # the whole output is still YAML
        return
    from rex_rl.launch import train as launch_train

    print(launch_train(loaded, accept_changes=accept_changes))


@app.command()
def config(as_json: AsJson = False) -> None:
    """Print every configuration key with type, default, bounds and meaning."""
    from rex_rl.config.load import config_reference

    docs = config_reference()
    if as_json:
        fields = ("key", "type", "default", "bounds", "meaning")
        print(json.dumps([{field: getattr(doc, field) for field in fields} for doc in docs], indent=2))
    elif sys.stdout.isatty() and os.get_terminal_size(sys.stdout.fileno()).columns >= MIN_TABLE_COLUMNS:
        _print_key_table(docs)
    else:
        for doc in docs:
            bounds = f" ({doc.bounds})" if doc.bounds else ""
            print(f"{doc.key}: {doc.type} = {doc.default}{bounds}\n    {doc.meaning}")


@app.command(name="eval", context_settings=TAKES_OVERRIDES)
def evaluate(
    config: ConfigFile,
    model: Annotated[Path, typer.Option(help="Model folder to evaluate.")],
    overrides: Overrides = None,
    as_json: AsJson = False,
) -> None:
    """Held-out figures of a model folder: greedy decoding, the data and settings of a configuration."""
    from rex_rl.config.load import load_config

    loaded = load_config(config, _overrides(overrides))
    out = _claim_stdout() if as_json else sys.stdout
    from rex_rl.launch import evaluate_model

    figures = evaluate_model(loaded, model)
    if as_json:
        _print_json(figures, out)
    else:
        _print_figures(figures, title=str(model))


@app.command()
def predict(
    model: Annotated[Path, typer.Option(help="Model folder, such as runs/quickstart/model.")],
    image: Annotated[Path, typer.Option(help="Image file.")],
    categories: Annotated[str, typer.Option(help='What to look for, such as "red circle, blue square".')],
    out: Annotated[Path | None, typer.Option(help="Draw the answer into this file.")] = None,
    task: Task = "detection",
    visual_prompt: Annotated[
        list[str] | None, typer.Option(metavar="X0,Y0,X1,Y1", help="An example's box in pixels; may be repeated.")
    ] = None,
    max_answer_tokens: Annotated[int, typer.Option(min=1, help="A longer answer is cut.")] = 4096,
) -> None:
    """Predict the shapes in one image; prints JSON on standard output."""
    from rex_rl.report.prediction import question_about

    asked = tuple(dict.fromkeys(name for part in categories.split(",") if (name := part.strip())))
    question = question_about(image, task=task, categories=asked, visual_prompt=tuple(visual_prompt or ()))
    if out is not None:
        _require_drawable(out)
    stdout = _claim_stdout()
    from rex_rl.launch import predict as launch_predict

    prediction = launch_predict(model, question, max_answer_tokens)
    if out is not None:
        prediction.draw(out)
    _print_json(prediction.as_json(), stdout)


@app.command()
def score(
    records: Annotated[Path, typer.Option(help="Records as JSON lines; images are not read where sizes are given.")],
    answers: Annotated[Path, typer.Option(help='JSON lines {"id": .., "answer": "..text.."}.')],
    reward: Annotated[str, typer.Option(help="matched, paper or official.")] = "matched",
    task: Annotated[str | None, typer.Option(help="Task of all records; default: each record's own.")] = None,
    model: Annotated[Path | None, typer.Option(help="Folder of a tokenizer; default: the shipped one.")] = None,
) -> None:
    """Rewards of given answers, offline: a JSON line each on standard output, the means on standard error."""
    from rex_rl.scoring.score import score_files

    scored = score_files(records, answers, reward=reward, task=task, model=model)
    for line in scored.lines:
        print(json.dumps(line, allow_nan=False))
    sys.stdout.flush()
    print(scored.summary, file=sys.stderr)


@app.command()
def report(run: Annotated[Path, typer.Argument(metavar="RUN", help="Run folder, such as runs/quickstart.")]) -> None:
    """Write report.html of a run anew; prints its path."""
    if not run.is_dir():
        raise UserError(f"{run}: no such run folder")
    from rex_rl.report.run_report import write_run_report

    print(write_run_report(run))


@app.command()
def status(run: RunName = None, address: Address = "auto", as_json: AsJson = False) -> None:
    """Workers, weights, queues and loads of a running job, seen from any shell or host of its cluster."""
    stdout = _claim_stdout()
    from rex_rl.launch import run_status

    found = run_status(address, run)
    if as_json:
        _print_json(found, stdout)
    else:
        print("\n".join(status_lines(found)), file=stdout)


@app.command()
def scale(
    rollouts: Annotated[int, typer.Option(min=0, max=1024, help="Rollout workers from now on; 0 pauses the run.")],
    run: RunName = None,
    address: Address = "auto",
) -> None:
    """Change the number of rollout workers of a running job; shrinking lets them finish what they have."""
    from rex_rl.launch import scale_run

    scale_run(address, run, rollouts)


@app.command()
def control(run: Annotated[Path, typer.Argument(metavar="RUN", help="A finished run of both stages.")]) -> None:
    """Continue a run's SFT for as long as its GRPO took, as the run NAME-control; prints that run's folder."""
    from rex_rl.launch import control as launch_control

    print(launch_control(run))


@app.command()
def compare(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN..", help="Finished runs, such as runs/quickstart.")],
) -> None:
    """Print what GRPO gained over SFT in some runs, beside what their controls gained."""
    from rex_rl.evaluation.comparison import compare as compared
    from rex_rl.evaluation.comparison import table

    for line in table(compared(runs)):
        print(line)


@app.command()
def credits(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN..", help="Runs whose SFT is done; one a seed.")],
    steps: Annotated[int, typer.Option(min=1, help="GRPO steps of every trial.")] = 40,
) -> None:
    """Compare the forms of credit: GRPO under each of them from each run's SFT model, as runs of their own."""
    stdout = _claim_stdout()
    from rex_rl.evaluation.credit_trials import table
    from rex_rl.launch import credits as launch_credits

    print("\n".join(table(launch_credits(runs, steps))), file=stdout, flush=True)


@app.command()
def bench(
    name: Annotated[str, typer.Argument(metavar="NAME", help="rewards, learner, sync, rollout or step.")],
    as_json: AsJson = False,
    shapes: Annotated[str, typer.Option(help="Of the model: tiny; learner also 3b, on a GPU.")] = "tiny",
) -> None:
    """Print measured figures, each beside its baseline of the same run."""
    stdout = _claim_stdout()
    from rex_rl.bench.benches import run_bench
    from rex_rl.bench.figure import lines

    figures = run_bench(name, shapes=shapes)
    if as_json:
        _print_json([figure.as_json() for figure in figures], stdout)
    else:
        print("\n".join(lines(figures)), file=stdout, flush=True)


@app.command(context_settings=TAKES_OVERRIDES)
def plan(
    config: ConfigFile,
    overrides: Overrides = None,
    image_tokens: Annotated[int | None, typer.Option(min=1, help="Of an average image; default: the largest.")] = None,
    answer_tokens: Annotated[int | None, typer.Option(min=1, help="Of an average answer; default: 128.")] = None,
    shapes: Annotated[str, typer.Option(help="3b: sizes of Qwen2.5-VL-3B, without a folder.")] = "",
    as_json: AsJson = False,
) -> None:
    """Memory of each role and time of a step on some GPUs, calculated; says what it assumes."""
    from rex_rl.config.load import load_config
    from rex_rl.plan.plan import lines, plan_run

    planned = plan_run(
        load_config(config, _overrides(overrides)),
        shapes=shapes,
        image_tokens=image_tokens,
        answer_tokens=answer_tokens,
    )
    if as_json:
        _print_json(planned.as_json(), sys.stdout)
    else:
        print("\n".join(lines(planned)))


def status_lines(status: Mapping[str, Any]) -> list[str]:
    """A running job's status for people: one line a worker, then the loads."""
    lines = [f"{status.get('run')}: {status.get('stage') or 'starting'} {status.get('step')}/{status.get('num_steps')}"]
    for worker in status.get("workers", []):
        version = "" if worker["weight_version"] is None else f"weights {worker['weight_version']}"
        lines.append(f"  {worker['name']:12} {worker['state']:9} pid {worker['pid']} on {worker['node']}  {version}")
    balanced = status.get("balanced_rollouts")
    return [
        *lines,
        f"prompts: {status.get('prompts_in_flight')} in flight, {status.get('queued_prompts')} queued; "
        f"{status.get('tokens_per_s')} tokens/s; goodput {status.get('goodput')}",
        f"busy: rollouts {status.get('rollout_busy', 0):.0%}, learner {status.get('learner_busy', 0):.0%} of the time"
        + (f"; {balanced} rollout workers would balance them" if balanced else ""),
    ]


def _overrides(given: list[str] | None) -> list[str]:
    for override in given or []:
        if override.startswith("-"):
            raise ConfigError(
                f"{override}: no such option; configuration keys are set without dashes, such as grpo.num_steps=10"
            )
    return given or []


def _claim_stdout() -> IO[str]:
    """The real standard output; from here on everything else that writes there goes to standard error.

    At the level of file descriptors, because vLLM logs to standard output, Ray forwards its workers' logs there, and
    compiled code bypasses Python. It stays so until the process ends, as Ray prints its last lines late.
    """
    if sys.__stdout__ is None or sys.stdout is not sys.__stdout__:
        return sys.stdout  # a replacement without a file descriptor
    sys.stdout.flush()
    real = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    return real


def _print_json(value: object, out: IO[str]) -> None:
    print(json.dumps(value, allow_nan=False, ensure_ascii=False, indent=2), file=out, flush=True)


def _require_drawable(out: Path) -> None:
    """Check the output file before the engine starts, not after; raises UserError."""
    if out.suffix.lower() not in DRAWN:
        raise UserError(f"--out = {out}: should end in one of {', '.join(DRAWN)}")
    if not out.absolute().parent.is_dir():
        raise UserError(f"--out = {out}: no such folder {out.absolute().parent}")


def _print_key_table(docs: list["KeyDoc"]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table("key", "type = default, bounds", "meaning", header_style="bold")
    table.columns[0].no_wrap, table.columns[1].max_width = True, 30
    for _, group in groupby(docs, key=lambda doc: doc.key.rpartition(".")[0].partition(".")[0]):
        for doc in group:  # as Text: `[sft, grpo]` would be read as markup
            value = f"{doc.type} = {doc.default}" + (f", {doc.bounds}" if doc.bounds else "")
            table.add_row(Text(doc.key), Text(value, overflow="fold"), Text(doc.meaning))
        table.add_section()
    Console().print(table)


def _print_figures(figures: dict[str, float], *, title: str) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table("figure", "value", title=Text(title))
    table.columns[1].justify = "right"
    for name, value in figures.items():
        table.add_row(name, f"{value:.4f}" if isinstance(value, float) else str(value))
    Console().print(table)
