"""The texts of the tiny world as the released code's files."""

from __future__ import annotations

import json
from pathlib import Path

from data.sparse.released import format_dense_line
from tests.vse.world import dense_of

NAMES = {"train": "train", "val": "dev", "test": "test"}


def write_released(folder: Path, world: Path) -> Path:
    """Every split of `world` (see `world.write_world`): ids, captions, dense text, id_mapping."""
    rows, dense = json.loads((world / "dataset_world.json").read_text())["images"], dense_of(world)
    mapping = {str(row["imgid"]): f"{row['filepath']}/{row['filename']}" for row in rows}
    for split, name in NAMES.items():
        part = [row for row in rows if row["split"] == split]
        captions = [tuple(sentence["raw"] for sentence in row["sentences"]) for row in part]
        ids = [str(row["imgid"]) for row in part]
        write_split(folder, name, ids, captions, [dense[mapping[i]] for i in ids])
    (folder / "id_mapping.json").write_text(json.dumps(mapping))
    return folder


def write_split(
    folder: Path, name: str, ids: list[str], captions: list[tuple[str, ...]], dense: list[str]
) -> None:
    """One split as the released code has it."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}_ids.txt").write_text("".join(f"{i}\n" for i in ids))
    lines = [f"{line}\n" for of_image in captions for line in of_image]
    (folder / f"{name}_caps.txt").write_text("".join(lines))
    texts = [format_dense_line(text, model_id="llava") + "\n" for text in dense]
    (folder / f"f30k_{name}.jsonl").write_text("".join(texts))
