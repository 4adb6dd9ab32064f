"""What a dry run takes for what is left, and which images it tries."""

from pathlib import Path
from typing import Any

import pytest

from captioner.run.forecast import count_remaining, try_images
from captioner.settings.config import CaptionConfig
from captioner.settings.prepare import prepare_caption
from captioner.settings.texts import prepare_texts
from data.sources.dataset import Rows
from tests.captioner.images import write_images
from tests.captioner.run.test_session import run_scripted, shard_bytes
from tests.captioner.run.texts import configure, run_many
from tests.data.sources.listing import make_dataset


def count(folder: Path, **options: Any) -> int:
    config = CaptionConfig.of(
        model="any", engine="scripted", images=folder / "i", out=folder / "out", **options
    )
    return count_remaining(prepare_caption(config, fetch=False))


def test_what_is_in_journals_is_done_and_errors_are_retried(tmp_path: Path) -> None:
    write_images(tmp_path / "i", 40)
    (tmp_path / "i" / "0003.png").write_bytes(b"text")
    seen: list[int] = []
    stopped = run_scripted(
        tmp_path / "i",
        tmp_path / "out",
        stop=lambda: len(seen) > 8,
        on_progress=lambda progress: seen.append(progress.done),
    )
    assert 0 < stopped.done < 40 and stopped.rows == 0
    assert count(tmp_path) == 40 - stopped.done
    run_scripted(tmp_path / "i", tmp_path / "out")
    before = shard_bytes(tmp_path / "out")
    assert (count(tmp_path), count(tmp_path, retry_errors=True)) == (0, 1)
    write_images(tmp_path / "more", 3)
    for path in (tmp_path / "more").iterdir():
        path.rename(tmp_path / "i" / f"more-{path.name}")
    assert count(tmp_path, append=True) == 3
    assert shard_bytes(tmp_path / "out") == before


def test_all_of_a_text_that_is_redone_is_left(tmp_path: Path) -> None:
    write_images(tmp_path / "i", 12)
    run_many(tmp_path, {"dense": "Describe it.", "mood": "Its mood?"})
    texts = {"dense": "Describe it in detail.", "mood": "Its mood?"}
    runs = prepare_texts(configure(tmp_path, texts, redo=True), fetch=False).runs
    assert [count_remaining(run) for run in runs.values()] == [12, 0]


def test_a_stream_is_only_read_as_far_as_needed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = write_images(tmp_path / "i", 40)
    photos = {name: (tmp_path / "i" / name).read_bytes() for name in names}
    (tmp_path / "set").mkdir()
    make_dataset(photos).to_parquet(tmp_path / "set" / "x.parquet")
    read: list[int] = []
    find = Rows.find

    def note(rows: Rows, row: int) -> Any:
        read.append(row)
        return find(rows, row)

    monkeypatch.setattr(Rows, "find", note)
    config = CaptionConfig.of(
        model="any",
        engine="scripted",
        images=f"hf:{tmp_path / 'set'}",
        streaming=True,
        out=tmp_path / "out",
    )
    found = try_images(prepare_caption(config, fetch=False), count=3)
    assert found is not None and found.tried == 3 and read == [0, 1, 2]
