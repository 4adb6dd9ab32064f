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

COLUMNS = ["sample_id", "file_name", "image_sha256", "caption"]


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


def measure(
    run: Path, *, keep_parts: bool = True, rows: int | None = None, images: str | None = None
) -> pa.Table:
    texts = read_rows(run, COLUMNS).slice(0, rows)
    settings = make_pass(run)
    settings = replace(
        settings, images=replace(settings.images, root=images or settings.images.root)
    )
    done: list[int] = []
    table, about = measure_clip(run, texts, settings, keep_parts=keep_parts, on_text=done.append)
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
    photo = run.parent / "photos" / names[4]
    photo.rename(run.parent / "photo")
    table = measure(run)
    errors = table.column("clip_error").to_pylist()
    assert errors[4] == "the file does not exist" and errors.count(None) == 6
    assert table.column("clipscore").to_pylist().count(None) == 1
    (run.parent / "photo").rename(photo)
    assert measure(run).column("clip_error").null_count == 7


def test_parts_of_other_images_are_not_taken(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing else tells them apart if the rows were imported, without hashes."""
    (run.parent / "others").mkdir()
    (run.parent / "others/photos").symlink_to(run.parent / "photos")
    monkeypatch.chdir(run.parent / "others")
    measure(run, images="photos")
    monkeypatch.chdir(run.parent)
    marked = ClipScore(clipscore=9.0)
    monkeypatch.setattr(clip_run, "score_texts", lambda encoder, tasks, **_: [marked] * len(tasks))
    assert set(measure(run, images="photos").column("clipscore").to_pylist()) == {9.0}


@pytest.fixture
def archived(tmp_path: Path) -> Path:
    """photos/ and photos.tar of the same five images."""
    names = write_images(tmp_path / "photos", 5)
    write_tar(tmp_path, names)
    write_clip(tmp_path / "clip")
    return tmp_path


def write_tar(folder: Path, names: list[str]) -> None:
    with tarfile.open(folder / "photos.tar", "w") as archive:
        for name in names:
            archive.add(folder / "photos" / name, name)


def measure_alike(out: Path, *, rows: int | None = None) -> pa.Table:
    """With the same text everywhere: what differs is the way to the pixels."""
    texts = read_rows(out, COLUMNS).slice(0, rows)
    alike = pa.array(["A dog. A cat."] * texts.num_rows)
    texts = texts.set_column(COLUMNS.index("caption"), "caption", alike)
    settings = replace(make_pass(out), images=Source.from_dict(read_run(out)["source"]))
    return measure_clip(out, texts, settings, keep_parts=False, on_text=lambda _: None)[0]


def test_images_in_a_tar_file(archived: Path) -> None:
    tables = []
    for images in ("photos", "photos.tar"):
        out = archived / f"run of {images}"
        caption(model="any", engine="scripted", images=archived / images, out=out, shard_size=2)
        tables.append(measure_alike(out))
        assert tables[-1].column("clipscore").null_count == 0
    assert tables[0].equals(tables[1])


def test_each_sample_is_scored_with_its_own_image(archived: Path) -> None:
    prompts = archived / "prompts.yaml"
    prompts.write_text("one: Describe it.\ntwo: {prompt: Again., samples: 2}\n")
    out = archived / "out"
    caption(model="any", engine="scripted", images=archived / "photos.tar", out=out, shard_size=2,
            prompts=prompts)  # fmt: skip
    (archived / "out/two").rename(archived / "two")
    (archived / "out/one").rename(archived / "one")
    once, twice = measure_alike(archived / "one"), measure_alike(archived / "two")
    expected = [score for score in once.column("clipscore").to_pylist() for _ in range(2)]
    assert twice.column("clipscore").to_pylist() == pytest.approx(expected, rel=1e-5)
    few = measure_alike(archived / "two", rows=4).column("clipscore").to_pylist()
    assert few == pytest.approx(expected[:4], rel=1e-5)


def test_another_image_at_the_same_place_is_an_error(archived: Path) -> None:
    out = archived / "out"
    caption(model="any", engine="scripted", images=archived / "photos.tar", out=out)
    write_tar(archived, ["0001.png", "0000.png", "0002.png", "0003.png", "0004.png"])
    table = measure_alike(out)
    assert table.column("clipscore").null_count == 2
    assert "captioned" in table.column("clip_error")[0].as_py()
