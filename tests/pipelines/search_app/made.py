"""A tiny world with its model and indexes, as a user's folder has them, and hostile names in it."""

from __future__ import annotations

import json
from pathlib import Path

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
