"""CLIPScores of a run: shard by shard, kept when interrupted, nothing scored twice."""

import tarfile
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pytest

from captioner.run.session import caption
from captioner.score import clip_run
from captioner.score.clip_model import ClipChoice
from captioner.score.clip_run import PARTS_NAME, ClipPass, drop_parts, measure_clip
from captioner.score.clip_score import CLIP_SCHEMA, ClipScore
from data.dense.run import read_run
from data.dense.shards import read_rows
from data.sources import Source
from tests.captioner.images import write_images
from tests.captioner.score.clip import write_clip


@pytest.fixture
def run(tmp_path: Path) -> Path:
    write_images(tmp_path / "photos", 7, prefix="a b/")
    caption(model="any", engine="scripted", images=tmp_path / "photos", out=tmp_path / "run",
            shard_size=3)  # fmt: skip
    write_clip(tmp_path / "clip")
    return tmp_path / "run"


def make_pass(run: Path, **changes: object) -> ClipPass:
    choice = ClipChoice(str(run.parent / "clip/whole"))
    source = Source("folder", str(run.parent / "photos"))
    return ClipPass(choice, source, device="cpu", **changes)  # type: ignore[arg-type]


def measure(run: Path, *, keep_parts: bool = True, rows: int | None = None) -> pa.Table:
    texts = read_rows(run, ["sample_id", "file_name", "caption"]).slice(0, rows)
    done: list[int] = []
    table, about = measure_clip(
        run, texts, make_pass(run), keep_parts=keep_parts, on_text=done.append
    )
    assert done == sorted(done) and done[-1] == texts.num_rows
    assert about["prompt"] == "A photo depicts " and len(about["weights_sha256"]) == 64
    return table


def test_every_row_is_scored(run: Path) -> None:
    table = measure(run)
    assert table.schema.equals(CLIP_SCHEMA) and table.num_rows == 7
    assert table.column("clipscore").null_count == 0
    assert table.column("clip_error").null_count == 7
    assert [path.name for path in sorted((run / PARTS_NAME).iterdir())] == [
        f"{number:05d}.parquet" for number in range(3)
    ]
    drop_parts(run)
    assert not (run / PARTS_NAME).exists()
    # Of fewer rows, batches are smaller, and sums are added up in another order.
    few, scores = measure(run, rows=4), ["clipscore", "clipscore_min"]
    assert few.drop_columns(scores).equals(table.slice(0, 4).drop_columns(scores))
    for name in scores:
        same = pytest.approx(table.slice(0, 4).column(name).to_pylist(), rel=1e-5)
        assert few.column(name).to_pylist() == same


def test_an_interrupted_pass_goes_on(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = measure(run, keep_parts=False)
    assert not (run / PARTS_NAME).exists()
    real, scored = clip_run.score_texts, []

    def stop_after_first(encoder, tasks, **options):  # type: ignore[no-untyped-def]
        if scored:
            raise KeyboardInterrupt
        scored.append(len(tasks))
        return real(encoder, tasks, **options)

    monkeypatch.setattr(clip_run, "score_texts", stop_after_first)
    with pytest.raises(KeyboardInterrupt):
        measure(run)

    def count(encoder, tasks, **options):  # type: ignore[no-untyped-def]
        scored.append(len(tasks))
        return real(encoder, tasks, **options)

    monkeypatch.setattr(clip_run, "score_texts", count)
    assert measure(run).equals(whole)
    assert scored == [3, 3, 1]
    # All is known now: not even the model is loaded.
    monkeypatch.setattr(clip_run, "load_clip", None)
    assert measure(run).equals(whole)


def test_parts_of_another_model_or_text_are_not_taken(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    measure(run)
    marked = ClipScore(clipscore=9.0)
    monkeypatch.setattr(clip_run, "score_texts", lambda encoder, tasks, **_: [marked] * len(tasks))
    assert 9.0 not in measure(run).column("clipscore").to_pylist()
    weights = run.parent / "clip/whole/open_clip_model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    assert set(measure(run).column("clipscore").to_pylist()) == {9.0}
    damaged = run / PARTS_NAME / "00000.parquet"
    damaged.write_bytes(damaged.read_bytes()[:-9])
    monkeypatch.undo()
    values = measure(run).column("clipscore").to_pylist()
    assert 9.0 not in values[:3] and values[3:] == [9.0] * 4


def test_an_image_that_is_gone_is_an_error_of_its_row(run: Path) -> None:
    names = read_rows(run, ["file_name"]).column(0).to_pylist()
    (run.parent / "photos" / names[4]).unlink()
    table = measure(run)
    errors = table.column("clip_error").to_pylist()
    assert errors[4] == "the file does not exist" and errors.count(None) == 6
    assert table.column("clipscore").to_pylist().count(None) == 1


def test_images_in_a_tar_file(tmp_path: Path) -> None:
    names = write_images(tmp_path / "photos", 5)
    with tarfile.open(tmp_path / "photos.tar", "w") as archive:
        for name in names:
            archive.add(tmp_path / "photos" / name, name)
    write_clip(tmp_path / "clip")
    tables = []
    for images in ("photos", "photos.tar"):
        out = tmp_path / "out" / images
        caption(model="any", engine="scripted", images=tmp_path / images, out=out, shard_size=2)
        texts = read_rows(out, ["sample_id", "file_name", "caption"])
        # The same text everywhere: what differs is the way to the pixels.
        texts = texts.set_column(2, "caption", pa.array(["A dog. A cat."] * 5))
        settings = replace(make_pass(out.parent), images=Source.from_dict(read_run(out)["source"]))
        table, _ = measure_clip(out, texts, settings, keep_parts=False, on_text=lambda _: None)
        assert table.column("clipscore").null_count == 0
        tables.append(table)
    assert tables[0].equals(tables[1])
