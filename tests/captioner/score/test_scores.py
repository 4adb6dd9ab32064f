"""The table of scores: what is kept of earlier ones, and its figures."""

from pathlib import Path

import pyarrow as pa
import pytest

from captioner.score.clip_score import CLIP_SCHEMA
from captioner.score.objects import load_object_words
from captioner.score.scores import (
    CHAIR_SCHEMA,
    SCORES_SCHEMA,
    combine_scores,
    measure_chair,
    name_scores,
    read_about,
    read_scores,
    summarise_scores,
    write_scores,
)

IDS = ["a", "b", "c", "d"]
SHARDS = {"train-00000-of-00001.parquet": "0" * 64}
CLIP_ROWS = [
    {"clipscore": 0.5, "clipscore_min": 0.2, "worst_sentence": "x", "sentences": 2,
     "cut_sentences": 1},
    {"clipscore": 1.0, "clipscore_min": 1.0, "worst_sentence": "y", "sentences": 1,
     "cut_sentences": 0},
    {},
    {"clip_error": "the file does not exist"},
]  # fmt: skip


def make_texts() -> pa.Table:
    texts = ["A dog and a cat. The cat sleeps.", "A dog.", None, "A lake."]
    return pa.table(
        {
            "file_name": ["a.jpg", "b.jpg", "c.jpg", "d.jpg"],
            "image_id": pa.array([None, "7", None, None], pa.string()),
            "caption": texts,
            "captions": pa.array([None, None, None, ["a cat"]], pa.list_(pa.string())),
        }
    )


def make_chair() -> pa.Table:
    dog: frozenset[str] = frozenset({"dog"})
    known = [dog, dog, frozenset(), frozenset()]
    return measure_chair(make_texts(), known, load_object_words())


def test_chair_of_each_row() -> None:
    table = make_chair()
    assert table.schema.equals(CHAIR_SCHEMA)
    assert table.column("chair_i").to_pylist() == [pytest.approx(2 / 3), 0.0, None, None]
    assert table.column("mentioned_objects").to_pylist() == [
        ["dog", "cat", "cat"], ["dog"], None, [],
    ]  # fmt: skip
    assert table.column("hallucinated_objects").to_pylist() == [["cat", "cat"], [], None, []]


def test_figures() -> None:
    clip = pa.Table.from_pylist(CLIP_ROWS, schema=CLIP_SCHEMA)
    about = {"shards": SHARDS, "clip": {"model": "m"}, "chair": {}}
    table = combine_scores(IDS, {"clip": clip, "chair": make_chair()}, about, earlier=None)
    found = summarise_scores(table)
    assert found["rows"] == 4
    assert found["clip"] == {
        "texts": 2, "clipscore": 0.75, "clipscore_p5": pytest.approx(0.525),
        "clipscore_min": pytest.approx(0.6), "sentences": 3, "cut_sentences": 1, "errors": 1,
    }  # fmt: skip
    # "A lake." mentions nothing, and is one of the three texts that CHAIRs is a share of.
    assert found["chair"] == {
        "texts": 3, "mentions": 4, "hallucinated": 2, "chair_i": 0.5,
        "chair_s": pytest.approx(1 / 3), "most_hallucinated": {"cat": 2},
    }  # fmt: skip
    nothing = combine_scores([], {"clip": clip.slice(0, 0)}, about, earlier=None)
    assert summarise_scores(nothing)["clip"]["clipscore"] is None


def test_what_was_not_measured_now_stays(tmp_path: Path) -> None:
    clip = pa.Table.from_pylist(CLIP_ROWS, schema=CLIP_SCHEMA)
    path = tmp_path / name_scores(None)
    first = combine_scores(
        IDS, {"clip": clip}, {"shards": SHARDS, "clip": {"model": "m"}}, earlier=read_scores(path)
    )
    write_scores(path, first)
    chair = {"chair": make_chair()}
    both = combine_scores(
        IDS, chair, {"shards": SHARDS, "chair": {"o": 1}}, earlier=read_scores(path)
    )
    write_scores(path, both)
    read = read_scores(path)
    assert read is not None and read.schema.equals(SCORES_SCHEMA)
    assert read.column("clipscore").to_pylist() == [0.5, 1.0, None, None]
    assert read.column("chair_i").null_count == 2
    assert read_about(read) == {"shards": SHARDS, "clip": {"model": "m"}, "chair": {"o": 1}}
    # Of other shards or other rows nothing is kept.
    for ids, shards in ((IDS, {"train-00000-of-00001.parquet": "1" * 64}), (IDS[::-1], SHARDS)):
        new = combine_scores(ids, chair, {"shards": shards, "chair": {}}, earlier=read)
        assert new.column("clipscore").null_count == 4 and "clip" not in read_about(new)


def test_what_is_no_table_of_scores_is_none(tmp_path: Path) -> None:
    assert read_scores(tmp_path / "none.parquet") is None
    (tmp_path / "torn.parquet").write_bytes(b"PAR1")
    assert read_scores(tmp_path / "torn.parquet") is None
    write_scores(tmp_path / "other.parquet", pa.table({"sample_id": IDS}))
    assert read_scores(tmp_path / "other.parquet") is None


def test_a_trial_has_a_file_of_its_own() -> None:
    assert name_scores(None) == "scores.parquet" and name_scores(5) == "scores-first-5.parquet"
