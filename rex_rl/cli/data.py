"""`rex-rl data`: look at a data set, or make one."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from rex_rl.errors import UserError

data_app = typer.Typer(rich_markup_mode=None, no_args_is_help=True, help="Look at a data set, or make one.")


@data_app.command()
def check(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="COCO JSON (.json) or record JSONL (.jsonl).")],
    images: Annotated[Path | None, typer.Option(help="Folder of the images; default: the file's own.")] = None,
    task: Annotated[str, typer.Option(help="Task of all records; all: each record's own.")] = "detection",
    max_bad_fraction: Annotated[float, typer.Option(min=0, max=1, help="More bad records are status 2.")] = 0.01,
    headers_only: Annotated[bool, typer.Option("--headers-only", help="Do not decode the images' pixels.")] = False,
) -> None:
    """Read a data file as training does: names every bad record, counts the good ones."""
    from rex_rl.data.coco import read_dataset
    from rex_rl.data.records import check_report

    # All bad records are wanted, so the limit comes after the report.
    record_set = read_dataset(
        file,
        images=images,
        task=None if task == "all" else task,
        max_bad_fraction=1.0,
        decode_images=not headers_only,
    )
    for line in check_report(record_set):
        print(line)
    sys.stdout.flush()
    record_set.require_good(max_bad_fraction)


@data_app.command()
def shapes(
    out: Annotated[Path, typer.Argument(metavar="OUT", help="Folder for images/, train.jsonl and heldout.jsonl.")],
    num_train: Annotated[int, typer.Option(min=1, help="Training images of each task.")] = 3000,
    num_heldout: Annotated[int, typer.Option(min=1, help="Held-out images of each task.")] = 200,
    seed: Annotated[int, typer.Option(min=0, help="The same seed gives the same images.")] = 0,
    task: Annotated[
        list[str] | None, typer.Option(help="What is asked about an image; several take turns. Default: detection.")
    ] = None,
) -> None:
    """Write the synthetic data set: crowded pictures of outlined shapes, or of words to read (ocr_box)."""
    from rex_rl.config.schema import SHAPES_TASKS
    from rex_rl.data.splits import HELDOUT_SEED_OFFSET
    from rex_rl.shapes.world import write_split

    tasks = tuple(task or ("detection",))
    if foreign := [name for name in tasks if name not in SHAPES_TASKS]:
        raise UserError(f"--task = {foreign[0]}: the synthetic world has {', '.join(SHAPES_TASKS)}")
    for name, count, first in (("train", num_train, seed), ("heldout", num_heldout, seed + HELDOUT_SEED_OFFSET)):
        print(write_split(out, name=name, num_images=count, seed=first, tasks=tasks))
