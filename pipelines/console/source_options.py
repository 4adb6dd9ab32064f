"""The options beside `--images`, for every command that takes images from anywhere."""

from pathlib import Path

import click

IMAGES_HELP = (
    "A folder (read with its subfolders), a pattern ('coco/**/*.jpg'), a list of paths or "
    "addresses (.txt), COCO's or Karpathy's .json, .tar files ('x-{000..012}.tar'), .parquet "
    "files, or hf:NAME for a data set."
)
SOURCE = (
    click.option(
        "--image-root",
        type=click.Path(file_okay=False, path_type=Path),
        help="Where the files of a list or a .json lie.  [default: beside it]",
    ),
    click.option("--split", help="Only this split of a .json; the split of a data set."),
    click.option("--dataset-config", help="The configuration of a data set."),
    click.option(
        "--streaming", is_flag=True, help="Read a data set from front to back, fetching no more."
    ),
    click.option(
        "--image-column",
        help="Of .parquet and data sets; addresses in it are fetched if you name it.  [default: "
        "the usual names]",
    ),
    click.option("--id-column", help="The images' ids.  [default: the usual names]"),
)
