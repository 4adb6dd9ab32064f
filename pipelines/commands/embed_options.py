"""The options of `d2s embed`, by what they are about."""

from pathlib import Path

import click

from pipelines.console.source_options import IMAGES_HELP, SOURCE

GROUPS = {
    "What": (
        click.option("--images", help=IMAGES_HELP),
        click.option(
            "--texts",
            type=click.Path(path_type=Path),
            help="A text a line (.txt), .jsonl, .csv, .parquet, hf:NAME, captions "
            "(dataset_*.json, captions_*.json, captions.txt), or the folder of a captioning run.",
        ),
        *SOURCE,
        click.option("--text-column", help="Of a table.  [default: the usual names]"),
        click.option("--limit", type=click.IntRange(min=1), help="Only the first so many."),
    ),
    "How": (
        click.option(
            "--model",
            default="runs/stage2",
            show_default=True,
            help="Folder of a training run, or a model of the Hub (OWNER/NAME).",
        ),
        click.option("--device", help="As torch calls it.  [default: the GPU if there is one]"),
        click.option(
            "--dtype",
            default="float32",
            show_default=True,
            type=click.Choice(["float32", "bfloat16", "float16"]),
            help="Of the arithmetic; the last two are for GPUs.",
        ),
        click.option("--batch-size", type=click.IntRange(min=1), default=64, show_default=True),
        click.option(
            "--workers",
            type=click.IntRange(min=1),
            default=4,
            show_default=True,
            help="Threads that read and decode images.",
        ),
    ),
    "Where to": (
        click.option(
            "--out",
            required=True,
            type=click.Path(dir_okay=False, path_type=Path),
            help="The Parquet file.",
        ),
        click.option(
            "--store",
            default="float32",
            show_default=True,
            type=click.Choice(["float32", "float16"]),
            help="How the file keeps a value; float16 halves it.",
        ),
        click.option(
            "--part-size",
            type=click.IntRange(min=1),
            default=1024,
            show_default=True,
            help="What an interruption may cost: finished parts are kept.",
        ),
        click.option("--faiss", is_flag=True, help="Make the graph of `d2s search --faiss`, too."),
        click.option("--dry-run", is_flag=True, help="Say what would be done; write nothing."),
        click.option("--json", "as_json", is_flag=True, help="Print the result as JSON."),
    ),
}
