"""Whole runs from each kind of source: taken up again, or refused before anything is written."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from captioner.engines.scripted import ScriptedEngine
from captioner.prepare import prepare_caption
from captioner.run import caption, run_prepared
from data.errors import UserError
from data.shards import read_captions, read_run
from tests.data.sources.listing import make_dataset, write_table, write_tar


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
    prepared = prepare_caption(images=str(images), out=tmp_path / "out", **arguments)
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
    rows = read_captions(tmp_path / "out").to_pylist()
    assert len(rows) == 6 and {row["status"] for row in rows} == {"ok"}
    assert read_run(tmp_path / "out")["images_given"] == str(images)
    if kind != "tar":
        assert all(row["captions"] for row in rows)
    with pytest.raises(UserError, match="holds a run of another source"):
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
    with pytest.raises(UserError, match="is not what it was when the run in .* began"):
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
        (tmp_path / "none.parquet", "no column of images|holds no images"),
        (path, "none of the 2 files that .* lists is there"),
        (secret, "holds a user name or a password"),
    ):
        with pytest.raises(UserError, match=message) as caught:
            caption(model="any", engine="scripted", images=images, out=tmp_path / "out")
        assert "word@" not in str(caught.value) and not (tmp_path / "out").exists()
