"""Whole runs from each kind of source: taken up again, or refused before anything is written."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from captioner.engine.scripted import ScriptedEngine
from captioner.run.session import caption, run_prepared
from captioner.settings.config import CaptionConfig
from captioner.settings.prepare import prepare_caption
from data.dense.run import read_run
from data.dense.shards import read_rows
from data.errors import UserError
from data.sparse.captions import find_captions
from tests.data.sources.listing import make_dataset, write_table, write_tar
from tests.data.sources.photo_server import serve_photos


@pytest.mark.parametrize("kind", ["tar", "parquet", "streamed"])
def test_whole_runs_take_up_where_they_were_left(
    tmp_path: Path, photos: dict[str, bytes], kind: str
) -> None:
    images: object
    arguments: dict[str, Any] = {"model": "any", "engine": "scripted", "shard_size": 4}
    if kind == "tar":
        write_tar(tmp_path / "x.tar", photos)
        images = tmp_path / "x.tar"
    elif kind == "parquet":
        write_table(tmp_path / "x.parquet", photos, caption=list(photos))
        images = tmp_path / "x.parquet"
    else:
        (tmp_path / "set" / "data").mkdir(parents=True)
        made = make_dataset(photos)
        made.to_parquet(tmp_path / "set" / "data" / "train-00000-of-00001.parquet")
        images, arguments["streaming"] = f"hf:{tmp_path / 'set'}", True
    done: list[int] = []
    prepared = prepare_caption(
        CaptionConfig.of(images=str(images), out=tmp_path / "out", **arguments)
    )
    # Two at a time, so that a stop finds work undone.
    choice = replace(prepared.choice, start=lambda _: ScriptedEngine(window=2))
    first = run_prepared(
        replace(prepared, choice=choice),
        stop=lambda: len(done) > 2,
        on_progress=lambda progress: done.append(progress.done),
    )
    assert first.interrupted and 0 < first.done < 6
    again = caption(images=str(images), out=tmp_path / "out", **arguments)
    assert again.complete and again.generated == 6 - first.done
    rows = read_rows(tmp_path / "out").to_pylist()
    assert len(rows) == 6 and {row["status"] for row in rows} == {"ok"}
    assert read_run(tmp_path / "out")["images_given"] == str(images)
    if kind != "tar":
        assert all(row["captions"] for row in rows)
    with pytest.raises(UserError, match="contains a run of another source"):
        caption(
            images=tmp_path / "photos", out=tmp_path / "out", **(arguments | {"streaming": False})
        )


@pytest.mark.parametrize("kind", ["tar", "parquet", "folder of a data set"])
def test_a_source_that_changed_is_not_gone_on_with(
    tmp_path: Path, photos: dict[str, bytes], kind: str
) -> None:
    """Its rows are found by their place: the others would get each other's texts."""
    arguments: dict[str, Any] = {"model": "any", "engine": "scripted", "out": tmp_path / "out"}
    fewer = dict(list(photos.items())[1:])

    def write(content: dict[str, bytes]) -> str:
        if kind == "tar":
            write_tar(tmp_path / "x.tar", content)
            return str(tmp_path / "x.tar")
        (tmp_path / "set").mkdir(exist_ok=True)
        write_table(tmp_path / "set" / "x.parquet", content)
        return str(tmp_path / "set" / "x.parquet") if kind == "parquet" else f"hf:{tmp_path}/set"

    stopped = caption(images=write(photos), stop=lambda: True, **arguments)
    assert stopped.interrupted
    with pytest.raises(UserError, match="has changed since the run in .* began"):
        caption(images=write(fewer), **arguments)
    assert caption(images=write(photos), **arguments).complete


def test_nothing_to_caption_is_said_before_anything_is_written(
    tmp_path: Path, photos: dict[str, bytes]
) -> None:
    write_table(tmp_path / "none.parquet", {})
    path = tmp_path / "gone.txt"
    path.write_text("a.jpg\nb.jpg\n")
    secret = tmp_path / "secret.txt"
    secret.write_text("http://me:word@host/a.jpg\n")
    for images, message in (
        (tmp_path / "none.parquet", "no image column|contains no images"),
        (path, "none of the 2 files listed in .* exists"),
        (secret, "contains a user name or a password"),
    ):
        with pytest.raises(UserError, match=message) as caught:
            caption(model="any", engine="scripted", images=images, out=tmp_path / "out")
        assert "word@" not in str(caught.value) and not (tmp_path / "out").exists()


def write_project(folder: Path, kind: str, photos: dict[str, bytes], server: str) -> str:
    """A source of this kind in a project's folder; returns what is typed in it."""
    folder.mkdir()
    (folder / "urls.txt").write_text("".join(f"{server}/ok/{n}\n" for n in range(len(photos))))
    (folder / "set").mkdir()
    make_dataset(photos).to_parquet(folder / "set" / "x.parquet")
    write_tar(folder / "x.tar", photos)
    images = folder / "images"
    for name, content in photos.items():
        (images / name).parent.mkdir(parents=True, exist_ok=True)
        (images / name).write_bytes(content)
    (folder / "list.txt").write_text("".join(f"images/{name}\n" for name in photos))
    rows = [{"filename": n, "split": "test", "sentences": [{"raw": "x"}]} for n in photos]
    (images / "set.json").write_text(json.dumps({"images": rows}))
    typed = {"urls": "urls.txt", "list": "list.txt", "json": "images/set.json", "tar": "x.tar"}
    return {**typed, "pattern": "images/**/*.png", "data set": "hf:set"}[kind]


KINDS = ["urls", "list", "json", "pattern", "tar", "data set"]


@pytest.mark.parametrize("kind", KINDS)
def test_a_project_that_was_moved_goes_on(
    tmp_path: Path, photos: dict[str, bytes], kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments: dict[str, Any] = {"model": "any", "engine": "scripted", "out": Path("out")}
    with serve_photos(list(photos.values())) as server:
        arguments["images"] = write_project(tmp_path / "one", kind, photos, server)
        monkeypatch.chdir(tmp_path / "one")
        assert caption(stop=lambda: True, **arguments).interrupted
        # A copy is another project, and its run is not that of the first.
        shutil.copytree(tmp_path / "one", tmp_path / "copy")
        monkeypatch.chdir(tmp_path / "copy")
        if kind != "tar":
            # An archive is known by its contents alone.
            with pytest.raises(UserError, match="contains a run"):
                caption(**arguments)
        (tmp_path / "one").rename(tmp_path / "two")
        monkeypatch.chdir(tmp_path / "two")
        result = caption(**arguments)
        assert result.complete and result.ok == len(photos)
        source = read_run(tmp_path / "two" / "out")["source"]
        assert str(tmp_path / "one") not in json.dumps(source)
        if kind == "urls":
            # As a whole path, too; and nothing is left to do.
            (tmp_path / "two").rename(tmp_path / "three")
            moved = {"images": tmp_path / "three/urls.txt", "out": tmp_path / "three/out"}
            assert caption(**(arguments | moved)).generated == 0


@pytest.mark.parametrize("kind", ["urls", "list", "json", "pattern"])
def test_what_came_since_is_counted(
    tmp_path: Path, photos: dict[str, bytes], kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments: dict[str, Any] = {"model": "any", "engine": "scripted", "out": Path("out")}
    with serve_photos(list(photos.values())) as server:
        fewer = dict(list(photos.items())[:-2])
        arguments["images"] = write_project(tmp_path / "one", kind, fewer, server)
        monkeypatch.chdir(tmp_path / "one")
        assert caption(**arguments).new_images == 0
        shutil.rmtree(tmp_path / "one" / "set")
        write_project(tmp_path / "more", kind, photos, server)
        shutil.copytree(tmp_path / "more", tmp_path / "one", dirs_exist_ok=True)
        result = caption(**arguments)
    assert (result.rows, result.new_images, result.generated) == (len(fewer), 2, 0)


def test_an_image_folder_that_was_renamed_can_be_named(
    tmp_path: Path, photos: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    arguments: dict[str, Any] = {"model": "any", "engine": "scripted", "out": Path("out")}
    assert caption(images="photos", stop=lambda: True, **arguments).interrupted
    Path("photos").rename("renamed")
    first = Path("renamed/0000.png")
    first.rename("aside.png")
    with pytest.raises(UserError, match="1 of its images are missing"):
        caption(images="renamed", **arguments)
    Path("aside.png").rename(first)
    assert caption(images="renamed", **arguments).ok == len(photos)
    # A finished run is told, too.
    Path("renamed").rename("again")
    assert caption(images="again", **arguments).generated == 0
    assert read_run(Path("out"))["images"] == str(tmp_path / "again")


def test_a_folder_is_kept_as_it_was_typed(
    tmp_path: Path, photos: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What lies beside a link is not beside what it leads to."""
    here = tmp_path / "project"
    here.mkdir()
    (here / "link").symlink_to(tmp_path / "photos")
    rows = [{"filename": name, "split": "test", "sentences": [{"raw": "x"}]} for name in photos]
    for folder in (here, tmp_path):
        (folder / "dataset_x.json").write_text(json.dumps({"images": rows}))
    monkeypatch.chdir(here)
    assert find_captions(Path("link")) == Path("dataset_x.json")
    (here / "dataset_x.json").unlink()
    assert find_captions(Path("link")) == tmp_path / "dataset_x.json"
    arguments: dict[str, Any] = {"model": "any", "engine": "scripted", "out": Path("out")}
    assert caption(images="link", stop=lambda: True, **arguments).interrupted
    assert read_run(Path("out"))["images"] == str(here / "link")
    # The same images by another name are the same run.
    assert caption(images=tmp_path / "photos", **arguments).complete
    assert caption(images=f"{here}/../project/link", **arguments).generated == 0
