"""A folder with everything that the documents' commands speak of, tiny, and really there."""

from __future__ import annotations

import json
import shutil
import tarfile
from pathlib import Path

from PIL import Image

from tests.documents import ROOT, read_blocks
from tests.vse.evaluation.test_eccv import write_truth
from tests.vse.models import write_model
from tests.vse.released_world import write_split
from tests.vse.world import COLOURS, TINY, dense_of, write_world

# Of a width that tells the released code's number of attention heads.
_SIZES = {"hidden_size": 64, "num_attention_heads": 1}
_ARCHIVES = 100
# The released code's files of a split: a source of captions wherever they lie, so in a folder that
# no command looks into.
RELEASED = "released"


def write_documented(folder: Path) -> Path:
    """Photos under the data sets' names, their captions, texts of others, models, archives."""
    world = folder / "world"
    write_world(world, train=12, val=2, test=8)
    for name in ("coco", "photos", "flickr30k-images", "f30k"):
        for split in ("train", "val", "test"):
            shutil.copytree(world / split, folder / name / split)
    for name, colour in (("a", "red"), ("b", "blue")):
        Image.new("RGB", (40, 30), COLOURS[colour]).save(folder / f"coco/{name}.jpg")
    shutil.copy(world / "dataset_world.json", folder / "dataset_coco.json")
    shutil.copy(world / "dataset_world.json", folder / "f30k/dataset_f30k.json")
    _write_texts(folder, world)
    _write_truth(folder / "truth", world)
    _write_archives(folder / "shards", world)
    _write_models(folder / "runs", world)
    (block,) = (b for b in read_blocks(ROOT / "docs/reproduce.md") if b.startswith("title: "))
    (folder / "mine.yaml").write_text(block)
    (block,) = (b for b in read_blocks(ROOT / "docs/captioning.md") if b.startswith("source: "))
    (folder / "run.yaml").write_text(block.replace("llava-1.5-7b", "llava-scenes"))
    (block,) = (b for b in read_blocks(ROOT / "docs/texts.md") if b.startswith("dense: "))
    (folder / "prompts.yaml").write_text(block.replace("qwen3-vl-4b", "llava-scenes"))
    return folder


def _write_models(folder: Path, world: Path) -> None:
    """Both stages, as trained on coco/."""
    changes = {part: {"config": TINY[part]["config"] | _SIZES} for part in ("image", "text")}
    changes["decoder"] = {"heads": 4, "placement": "prefix"}
    for stage in ("1", "2"):
        model = write_model(folder / f"stage{stage}", world, stage=stage, **changes)
        config = json.loads((model / "config.json").read_text())
        config["data"] |= {
            "images": str((folder.parent / "coco").resolve()),
            "captions": str((folder.parent / "dataset_coco.json").resolve()),
        }
        (model / "config.json").write_text(json.dumps(config))


def _write_texts(folder: Path, world: Path) -> None:
    """Dense text as others have it, and the objects that the pictures show."""
    rows = json.loads((world / "dataset_world.json").read_text())["images"]
    dense, names = dense_of(world), {r["imgid"]: f"{r['filepath']}/{r['filename']}" for r in rows}
    test = [row for row in rows if row["split"] == "test"]
    captions = [tuple(s["raw"] for s in row["sentences"]) for row in test]
    write_split(
        folder / RELEASED,
        "test",
        [str(r["imgid"]) for r in test],
        captions,
        [r["dense"] for r in test],
    )
    (folder / "id_mapping.json").write_text(json.dumps(names))
    train = [i for i, name in names.items() if name.startswith("train")]
    (folder / "train_ids.txt").write_text("".join(f"{i}\n" for i in train))
    lines = [{"id": i, "file_name": name, "caption": dense[name]} for i, name in names.items()]
    (folder / "texts.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    talks = [
        {
            "id": str(i),
            "image": name,
            "conversations": [
                {"from": "human", "value": "<image>\nDescribe."},
                {"from": "gpt", "value": dense[name]},
            ],
        }
        for i, name in names.items()
    ]
    (folder / "sharegpt4v.json").write_text(json.dumps(talks))
    (folder / "annotations").mkdir()
    objects = {name: ["cat"] for name in dense}
    (folder / "annotations/instances_train2017.json").write_text(json.dumps(objects))


def _write_truth(folder: Path, world: Path) -> None:
    rows = json.loads((world / "dataset_world.json").read_text())["images"]
    texts = {
        str(row["imgid"]): [str(s["sentid"]) for s in row["sentences"]]
        for row in rows
        if row["split"] == "test"
    }
    images = {text: [image] for image, own in texts.items() for text in own}
    folder.mkdir()
    for name in ("eccv", "cxc"):
        write_truth(folder, name, texts, images)


def _write_archives(folder: Path, world: Path) -> None:
    folder.mkdir()
    pictures = sorted(world.rglob("*.png"))
    for number in range(_ARCHIVES):
        with tarfile.open(folder / f"x-{number:03d}.tar", "w") as archive:
            archive.add(pictures[number % len(pictures)], f"{number:06d}.png")
