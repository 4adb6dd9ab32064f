"""Building the tree of a Space from indexes and their model."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any

import yaml

from data.errors import UsageError, UserError
from data.files.atomic import to_json
from pipelines.hub.markdown import render
from pipelines.hub.space.names import shorten_names
from pipelines.hub.space.requirements import read_gradio_version, write_requirements
from pipelines.hub.space.wheel import name_wheel, pack_wheel
from pipelines.hub.tree import Tree, make_tree
from pipelines.search_app.pictures import SourceThumbnails, write_thumbnails
from pipelines.search_app.space import ABOUT, FORMAT, MODEL, TEXTS
from pipelines.search_app.texts import (
    collect_texts,
    list_file_names,
    number_places,
    write_packed_texts,
)
from vse.runs.config import CONFIG, TOKENIZER, read_config
from vse.runs.config import MODEL as WEIGHTS
from vse.search.index import Index, write_shared
from vse.search.results import find_indexed_model
from vse.sharing.package import strip_config

APP = '''"""The page of this Space: that of `d2s serve`, of what lies beside this file."""

import sys
import tempfile
import zipfile
from pathlib import Path

HERE = Path(__file__).resolve().parent

if __name__ == "__main__":
    # d2s comes along as a wheel. Unpacked it is found without being installed.
    with tempfile.TemporaryDirectory(prefix="d2s-") as packages:
        zipfile.ZipFile(HERE / "WHEEL").extractall(packages)
        sys.path.insert(0, packages)
        from pipelines.search_app.space import serve_space

        serve_space(HERE)
'''
_CARD = Path(__file__).with_name("card.md.jinja")
_TELL_EVERY = 1000


@dataclass(frozen=True)
class SpaceSettings:
    """The settings of a Space that searches the indexes in `paths`.

    model: by default the one named by the first index; models on the Hub are linked, others copied.
    images_licence: if given, thumbnails are included.
    images: the current location of the images; by default the recorded one.
    dense, captions: texts of the images to include.
    """

    paths: Sequence[Path]
    licence: str
    model: str | None = None
    images_licence: str | None = None
    images: Path | None = None
    dense: Path | None = None
    captions: Path | None = None
    datasets: Sequence[str] = ()
    top: int = 12


def make_space_tree(
    asked: SpaceSettings, work: Path, *, repo: str, say: Callable[[str], None]
) -> Tree:
    """The files of a Space that searches some indexes.

    Args:
        work: an empty folder for files of the tree; it must exist as long as the tree is used.

    Raises:
        UserError: an index is damaged or from another model, a text file cannot be read, or a
            licence is given without images.
    """
    indexes = [Index(path) for path in asked.paths]
    if asked.images_licence is not None and all(index.info.kind != "images" for index in indexes):
        raise UsageError("--images-license requires an index of images")
    name = asked.model or indexes[0].info.model
    folder = find_indexed_model(indexes, asked.model)
    copied = Path(name).is_dir()
    title = repo.partition("/")[2]
    names = shorten_names(indexes)
    packed = _pack_indexes(
        indexes,
        work,
        model=MODEL if copied else name,
        names=names,
        pictured=asked.images_licence is not None,
        images=asked.images,
        say=say,
    )
    texts = _pack_texts(indexes, work / TEXTS, asked, names, say)
    about = {
        "format": FORMAT,
        "title": title,
        "top": asked.top,
        "model": {"name": None if copied else name, "revision": _read_revision(folder, copied)},
        "indexes": packed.entries,
    }
    files: dict[str, bytes | Path] = {
        **(_copy_model(folder) if copied else {}),
        **packed.files,
        **({} if texts is None else {TEXTS: work / TEXTS}),
        "app.py": APP.replace("WHEEL", name_wheel()).encode(),
        name_wheel(): pack_wheel(),
        "requirements.txt": write_requirements(_list_extras(folder)).encode(),
        ABOUT: to_json(about),
    }
    say(f"the Space carries d2s itself: {name_wheel()}")
    head = _write_head(title, asked.licence, [] if copied else [name], asked.datasets)
    body = render(
        _CARD,
        {
            "title": title,
            "indexes": [
                {"rows": len(index), "kind": index.info.kind, "title": entry["title"]}
                for index, entry in zip(indexes, packed.entries, strict=True)
            ],
            "model": PurePath(name).name if copied else name,
            "px": indexes[0].info.px,
            "width": indexes[0].info.width,
            "images_licence": asked.images_licence,
            "pictured": packed.pictures,
            "texts": texts,
            "copied": copied,
            "wheel": name_wheel(),
        },
    )
    return make_tree(files, readme=f"---\n{head}---\n\n{body}")


@dataclass(frozen=True)
class _Packed:
    """Files by path in the Space, entries for space.json, and the total number of thumbnails."""

    files: Mapping[str, Path]
    entries: Sequence[Mapping[str, Any]]
    pictures: int


def _pack_indexes(
    indexes: Sequence[Index],
    work: Path,
    *,
    model: str,
    names: Mapping[str, str],
    pictured: bool,
    images: Path | None,
    say: Callable[[str], None],
) -> _Packed:
    """Write the indexes without local paths and, if `pictured`, their thumbnails."""
    files: dict[str, Path] = {}
    entries, pictures = [], 0
    places = number_places(indexes)
    for number, index in enumerate(indexes):
        entry = {**_name_entry(index, number), "place": places[number]}
        (work / entry["file"]).parent.mkdir(exist_ok=True)
        write_shared(index, work / entry["file"], model=model, names=names)
        files[entry["file"]] = work / entry["file"]
        if pictured and index.info.kind == "images":
            entry["pictures"] = f"pictures-{number}.parquet"
            files[entry["pictures"]] = work / entry["pictures"]
            pictures += _write_pictures(index, images, work / entry["pictures"], say)
        entries.append(entry)
    return _Packed(files, entries, pictures)


def _pack_texts(
    indexes: Sequence[Index],
    path: Path,
    asked: SpaceSettings,
    short: Mapping[str, str],
    say: Callable[[str], None],
) -> int | None:
    """Write the texts of the indexed images; returns their number, None if none were given."""
    if asked.dense is None and asked.captions is None:
        return None
    names = list_file_names(indexes)
    found = collect_texts(indexes, dense=asked.dense, captions=asked.captions)
    texts = write_packed_texts(found, names, path, names=short)
    say(f"texts of {texts:,} of {len(names):,} images")
    for note in found.notes:
        say(note)
    return texts


def _write_pictures(
    index: Index, images: Path | None, path: Path, say: Callable[[str], None]
) -> int:
    def tell(done: int) -> None:
        if done % _TELL_EVERY < 32 or done == len(index):
            say(f"pictures of {done:,} of {len(index):,} images")

    pictures, missing = SourceThumbnails(index, images=images), len(index)
    if pictures.missing is None:
        missing = write_thumbnails(index, pictures, path, on_row=tell)
    if pictures.missing is not None:
        raise UserError(
            f"{index.path} has no pictures: {pictures.missing}; embed its images again, specify "
            "the folder of the old ones with --images, or omit --images-license"
        )
    if missing == len(index):
        raise UserError(
            f"none of the images of {index.path} can be read: specify their folder with --images, "
            "or omit --images-license"
        )
    if missing:
        say(f"{missing:,} images cannot be read and have no thumbnail")
    return len(index) - missing


def _list_extras(folder: Path) -> list[str]:
    """The extras of setup.cfg that the page and its model need."""
    config = read_config(folder)
    assert config is not None  # it was identified
    towers = [config["model"][part]["backbone"] for part in ("image", "text")]
    return ["serve", *(["lora"] if any(tower.get("lora") for tower in towers) else [])]


def _copy_model(folder: Path) -> dict[str, bytes | Path]:
    """Copy the files that rebuild a model, without local paths."""
    config = read_config(folder)
    assert config is not None  # it was identified
    return {
        f"{MODEL}/{CONFIG}": to_json(strip_config(config)),
        f"{MODEL}/{WEIGHTS}": folder / WEIGHTS,
        **{
            f"{MODEL}/{TOKENIZER}/{path.name}": path
            for path in sorted((folder / TOKENIZER).glob("*.json"))
        },
    }


def _name_entry(index: Index, number: int) -> dict[str, Any]:
    """The entry of an index in space.json, with its file's name if that is a simple one."""
    stem = index.path.stem
    plain = re.fullmatch(r"\w[\w.-]{0,80}", stem, re.ASCII)
    title = stem if plain else f"{index.info.kind} {number + 1}"
    file = f"index/{number}-{stem}.parquet" if plain else f"index/{number}.parquet"
    return {"file": file, "title": title, "pictures": None}


def _read_revision(folder: Path, copied: bool) -> str | None:
    """The commit of a model on the Hub, from the name of its cache folder."""
    if copied or not re.fullmatch(r"[0-9a-f]{40}", folder.name):
        return None
    return folder.name


def _write_head(title: str, licence: str, models: Sequence[str], datasets: Sequence[str]) -> str:
    """The YAML head of the README for the Hub."""
    head: dict[str, Any] = {
        "title": title,
        "sdk": "gradio",
        "sdk_version": read_gradio_version(),
        "python_version": f"{sys.version_info.major}.{sys.version_info.minor}",
        "app_file": "app.py",
        "license": licence,
        "tags": ["image-text-retrieval", "d2s-vse"],
    }
    head |= {"models": list(models)} if models else {}
    head |= {"datasets": list(datasets)} if datasets else {}
    return yaml.safe_dump(head, sort_keys=False, allow_unicode=True)
