"""A tiny world with its model and indexes, as a user's folder has them, and hostile names in it."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.cli import run
from tests.vse.models import write_model
from tests.vse.world import dense_of, write_dense, write_world

# What would run if a page took a caption for markup, for a template or for a script.
HOSTILE = (
    '<img src=x onerror="window.pwned=1"><script>window.pwned=2</script>'
    "${window.pwned=3}{{#with this}}{{constructor}}{{/with}}`\\"
)
HOSTILE_FILE = "test/<b>&'003.png"


def write_project(folder: Path) -> Path:
    """world/, dense/world/, runs/stage2/, images.parquet and texts.parquet in `folder`."""
    world = folder / "world"
    write_world(world, train=8, val=2, test=4)
    captions = world / "dataset_world.json"
    given = json.loads(captions.read_text())
    last = given["images"][-1]
    assert last["filename"] == "003.png"
    (world / "test/003.png").rename(world / HOSTILE_FILE)
    last["filename"] = Path(HOSTILE_FILE).name
    last["sentences"][0]["raw"] = HOSTILE
    captions.write_text(json.dumps(given))
    write_dense(folder / "dense/world", world, {**dense_of(world), HOSTILE_FILE: HOSTILE})
    model = str(write_model(folder / "runs/stage2", world))
    for kind, source, name in (
        ("--images", world, "images.parquet"),
        ("--texts", captions, "texts.parquet"),
    ):
        embed = ["embed", "--model", model, kind, str(source), "--out", str(folder / name)]
        assert run(embed) == 0
    return folder


def embed_other_world(project: Path, folder: Path) -> Path:
    """An index of other images, three of which have names of the project's."""
    write_world(folder / "other", train=1, val=1, test=1)
    return embed(project, folder / "other", folder / "other.parquet")


def embed_table(project: Path, folder: Path) -> tuple[Path, Path]:
    """An index of the images in a Parquet file, and that file."""
    images = sorted((project / "world/train").iterdir())
    columns = {
        "file_name": [path.name for path in images],
        "image": [path.read_bytes() for path in images],
    }
    table = folder / "photos.parquet"
    pq.write_table(pa.table(columns), table)
    return embed(project, table, folder / "index.parquet"), table


def embed(project: Path, images: Path, out: Path) -> Path:
    """An index of some images, by the project's model."""
    model = str(project / "runs/stage2")
    assert run(["embed", "--model", model, "--images", str(images), "--out", str(out)]) == 0
    return out
