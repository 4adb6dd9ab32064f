"""Several named texts of each image: sampled, all at once, or in the place of captions."""

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file

from data.dense.receipts import append_receipt
from data.dense.shards import make_receipt
from data.errors import UserError
from tests.vse.runs import make, run, run_and_die
from tests.vse.world import dense_of, write_dense
from vse.model.tokenizer.tokenizer import load
from vse.runs.config import read_config
from vse.samples.dense import read_dense
from vse.samples.sampler import StepSampler
from vse.training.spec import RunSpec

DRAWN = "data.texts=[dense, condensed]"


@pytest.fixture
def several(project: Path) -> Path:
    """dense/world holds two texts of each image, the short one without the ground."""
    return write_texts(project)


def write_texts(project: Path, **texts: Mapping[str, str | None]) -> Path:
    folder, world = project / "dense/world", project / "world"
    shutil.rmtree(folder)
    folder.mkdir()
    full = dense_of(world)
    short = {name: f"a {text.split()[4]} square" for name, text in full.items()}
    texts = {"dense": full, "condensed": short, **texts}
    for name, said in texts.items():
        write_dense(folder / name, world, said)
    lines = "".join(f"- {{name: {name}}}\n" for name in texts)
    (folder / "texts.yaml").write_text(f"texts:\n{lines}")
    return folder


def read(spec: RunSpec, monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, Any]]:
    """Train; returns each step's batch with its number."""
    from vse.samples.batches import TrainBatches

    seen: list[tuple[int, Any]] = []
    fetch = TrainBatches.__getitem__

    def note(self: TrainBatches, step: int) -> Any:
        batch = fetch(self, step)
        seen.append((step, batch))
        return batch

    monkeypatch.setattr(TrainBatches, "__getitem__", note)
    run(spec)
    return seen


def count_words(out: str, batches: list[tuple[int, Any]], part: str = "text") -> list[list[bool]]:
    """For each step of each text whether it is the long one."""
    tokenizer = load(Path(out) / "tokenizer")
    word = tokenizer.backend.token_to_id("image")
    return [(getattr(batch, part).ids == word).any(dim=1).tolist() for _, batch in batches]


def test_an_epoch_draws_one_of_the_names(several: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = make("1", out=Path("runs/a"), overrides=(DRAWN, "data.word_mask=0"), steps=12)
    batches = read(spec, monkeypatch)
    long = count_words("runs/a", batches)
    sampler = StepSampler(48, batch_size=16, seed=0)
    drawn: dict[int, set[bool]] = {}
    for (step, _), kinds in zip(batches, long, strict=True):
        for item, kind in zip(sampler.batch(step), kinds, strict=True):
            drawn.setdefault(int(item), set()).add(kind)
    both = [kinds for kinds in drawn.values() if len(kinds) == 2]
    assert len(drawn) == 48 and len(both) > 24  # in four epochs
    # Killed and taken up, it ends in the same weights.
    again = make("1", out=Path("runs/b"), overrides=(DRAWN, "data.word_mask=0"), steps=12)
    monkeypatch.undo()
    monkeypatch.chdir(several.parent.parent)
    run_and_die(again, at=7)
    run(again)
    weights = [load_file(f"runs/{name}/model.safetensors") for name in "ab"]
    for name, value in weights[0].items():
        assert torch.equal(value, weights[1][name]), name


def test_all_names_are_positives_at_once(several: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = (DRAWN, "data.texts_per_step=2", "loss.positives=supcon", "data.word_mask=0")
    batches = read(make("1", out=Path("runs/a"), overrides=settings, steps=2), monkeypatch)
    for kinds in count_words("runs/a", batches):
        pairs = list(zip(kinds[::2], kinds[1::2], strict=True))
        assert len(pairs) == 16 and all(one != other for one, other in pairs)


def test_sentences_are_texts_of_their_own(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    full = dense_of(project / "world")
    texts = {name: f"Here is a square. {text} It is a drawing." for name, text in full.items()}
    write_dense(project / "dense/more", project / "world", texts)
    shutil.rmtree(project / "dense/world")
    settings = ("data.split_dense=true", "data.texts_per_step=3", "data.word_mask=0")
    spec = make("1", out=Path("runs/a"), overrides=settings, steps=2)
    for _, batch in read(spec, monkeypatch):
        stop = load(Path("runs/a/tokenizer")).backend.token_to_id(".")
        assert ((batch.text.ids == stop).sum(dim=1) == 1).all()
        for rows in batch.text.ids.view(16, 3, -1):
            assert len({tuple(row.tolist()) for row in rows}) == 3
    with pytest.raises(UserError, match="split_dense"):
        make("1", out=Path("runs/b"), overrides=(*settings, "data.sentences=2"))


@pytest.mark.parametrize("mode", ["cached", "online-eval"])
def test_stage_2_is_drawn_to_either_text(
    several: Path, mode: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(make("1", out=Path("runs/stage1"), overrides=(DRAWN,), steps=2))
    settings = (DRAWN, f"teacher.mode={mode}", "data.word_mask=0")
    spec = make("2", out=Path("runs/b"), init=Path("runs/stage1"), overrides=settings, steps=9)
    batches = read(spec, monkeypatch)
    if mode == "cached":
        sampler = StepSampler(48, batch_size=16, seed=0)
        seen: dict[int, set[tuple[float, ...]]] = {}
        for step, batch in batches:
            for item, row in zip(sampler.batch(step), batch.teacher, strict=True):
                seen.setdefault(int(item), set()).add(tuple(row.tolist()))
        assert max(map(len, seen.values())) == 2
    else:
        flat = [kind for kinds in count_words("runs/b", batches, "dense") for kind in kinds]
        assert 0 < sum(flat) < len(flat)


def test_a_name_with_several_samples_is_drawn_as_often_as_one_with_one(
    several: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    [path] = (several / "condensed").glob("*.parquet")
    table = pq.read_table(path)
    rows = [row | {"sample": n} for row in table.to_pylist() for n in range(3)]
    rows = [row | {"text_name": "condensed", "caption": f"{row['caption']} again" if row["sample"]
            else row["caption"]} for row in rows]  # fmt: skip
    schema = table.schema.append(pa.field("text_name", pa.string()))
    schema = schema.append(pa.field("sample", pa.int32()))
    pq.write_table(pa.Table.from_pylist(rows, schema=schema), path)
    (several / "condensed/receipts.jsonl").unlink()
    append_receipt(several / "condensed", make_receipt(path, index=0))
    told = read_dense(several, ("dense", "condensed")).texts["train/000.png"]
    assert [len(samples) for samples in told] == [1, 3]
    spec = make("1", out=Path("runs/a"), overrides=(DRAWN, "data.word_mask=0"), steps=30)
    flat = [kind for kinds in count_words("runs/a", read(spec, monkeypatch)) for kind in kinds]
    assert 0.4 < sum(flat) / len(flat) < 0.6


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (("data.texts=[dense, sharp]",), "sharp"),
        (("data.sparse_text=sharp",), "sharp"),
        (("data.texts=[dense, dense]",), "different"),
        (("data.texts=[]",), "different"),
        (("data.texts=['']",), "different"),
        (("data.sparse_text=''",), "sparse_text is empty"),
        (("loss.positives=supcon", "loss.align=hinge"), "positives"),
    ],
)
def test_names_that_are_not_there_are_named(
    several: Path, settings: tuple[str, ...], said: str
) -> None:
    with pytest.raises(UserError, match=said):
        make("1", out=Path("runs/a"), overrides=settings)


def test_an_image_without_one_of_the_texts_is_left_out_and_the_text_named(project: Path) -> None:
    full = dense_of(project / "world")
    short: dict[str, str | None] = {name: "a square" for name in full if name != "train/003.png"}
    write_texts(project, condensed={**short, "train/004.png": None})
    spec = make("1", out=Path("runs/a"), overrides=(DRAWN,))
    names = {sample.name for sample in spec.corpus.splits["train"]}
    assert len(names) == 46 and not names & {"train/003.png", "train/004.png"}
    assert all("condensed" in image.reason for image in spec.corpus.left_out)
    few = {name: text for name, text in short.items() if name < "train/020"}
    write_texts(project, condensed=few)
    with pytest.raises(UserError, match=r"no text in .*condensed.*train/020.png"):
        make("1", out=Path("runs/a"), overrides=(DRAWN,))


def test_what_is_no_run_is_named(several: Path) -> None:
    (several / "texts.yaml").write_text("texts: [{name: dense}, {name: short}]")
    with pytest.raises(UserError, match=r"short.*run\.json"):
        make("1", out=Path("runs/a"), overrides=("data.texts=[dense, short]",))
    for damaged in ("texts: [{name: ../../etc}]", "texts: 3", "texts: [dense, dense]", "[", "a: b"):
        (several / "texts.yaml").write_text(damaged)
        with pytest.raises(UserError, match=r"texts\.yaml"):
            make("1", out=Path("runs/a"), overrides=(DRAWN,))


def test_of_texts_without_a_list_the_folders_are_the_names(several: Path) -> None:
    (several / "texts.yaml").unlink()
    spec = make("1", out=Path("runs/a"))
    assert spec.recipe.data.texts == ("dense",)  # the one so called, where none is named
    for said in spec.corpus.splits["train"]:
        assert "The image shows" in said.dense[0] and len(said.dense) == 1


def test_texts_of_which_none_is_called_dense_have_to_be_named(project: Path) -> None:
    folder = write_texts(project)
    (folder / "dense").rename(folder / "long")
    (folder / "texts.yaml").unlink()
    with pytest.raises(UserError, match=r"condensed, long.*data\.texts"):
        make("1", out=Path("runs/a"))
    spec = make("1", out=Path("runs/a"), overrides=("data.texts=[long]",), steps=1)
    run(spec)
    config = read_config(Path("runs/a"))
    assert config is not None and config["recipe"]["data"]["texts"] == ["long"]


def test_one_text_has_no_names(project: Path) -> None:
    with pytest.raises(UserError, match=r"data\.texts"):
        make("1", out=Path("runs/a"), overrides=(DRAWN,))
