"""Each benchmark in its published layout: read, measured, and refused where it is another one."""

import json
import zipfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from data.errors import UserError
from tests.vse.evaluation.published import (
    COUNT,
    NumberEncoder,
    declare_small,
    say,
    write_published,
)
from vse.evaluation.benchmarks.declaration import (
    SHIPPED,
    Benchmark,
    read_benchmark,
    shipped_benchmarks,
)
from vse.evaluation.benchmarks.measure import CHUNK, MAIN, Embeddings, measure_benchmark
from vse.evaluation.benchmarks.opening import Opened, check_record, open_benchmark
from vse.evaluation.benchmarks.report import tabulate, write_mteb
from vse.evaluation.benchmarks.rows import Example
from vse.evaluation.comparison import write_text
from vse.evaluation.ground_truth import GroundTruth

EVERY = pytest.mark.parametrize("name", shipped_benchmarks())
SETS = [
    *("coco", "cxc", "dci", "docci", "eccv-caption", "flickr30k", "iiw", "sharegpt4v-10k"),
    *("sharegpt4v-1k", "sugarcrepe", "urban1k", "winoground", "xm3600"),
]
# What a model without any idea gets of twenty examples, generously.
CHANCE = {"recall": (0, 35), "eccv": (0, 35), "cxc": (0, 45), "pairs": (15, 85),
          "winoground": (0, 50)}  # fmt: skip


def measure(
    name: str, tmp_path: Path, encoder: NumberEncoder, limit: int | None = None
) -> dict[str, Any]:
    folder = tmp_path / "set"
    if not folder.exists():
        write_published(name, folder)
    declared = read_benchmark(str(declare_small(name, tmp_path)))
    with open_benchmark(declared, data=folder, limit=limit) as opened:
        return measure_benchmark(encoder, opened)


def test_the_sets_are_those_of_the_field_and_each_is_short_and_says_where_it_was_checked() -> None:
    assert shipped_benchmarks() == SETS
    for name in SETS:
        found = read_benchmark(name)
        assert found.name == name and found.papers and found.checked and found.license and found.get
        assert len((SHIPPED / f"{name}.yaml").read_text().splitlines()) <= 40
        assert all(len(one) == 64 for one in found.sha256.values())


@EVERY
def test_equal_embeddings_are_all_right_and_others_are_chance(name: str, tmp_path: Path) -> None:
    result = measure(name, tmp_path, NumberEncoder())
    # By ECCV Caption and CxC the next image is right, too, and R@1 needs one of them alone.
    half = name == "eccv-caption"
    main = result["scores"][MAIN[result["metric"]]]
    assert 50 <= main < 100 if half else main == 100
    assert not half or result["scores"]["i2t_r1"] == result["scores"]["t2i_r1"] == 100
    low, high = CHANCE[result["metric"]]
    by_chance = measure(name, tmp_path, NumberEncoder(perfect=False))
    assert low <= by_chance["scores"][MAIN[result["metric"]]] <= high
    (table, *_) = tabulate([result, by_chance])
    assert name in write_text([table]) and "numbers" in write_text([table])


def test_what_is_read_of_a_row(tmp_path: Path) -> None:
    texts = {}
    for name in ("docci", "dci", "iiw", "urban1k", "sharegpt4v-1k", "xm3600"):
        write_published(name, tmp_path / name)
        declared = read_benchmark(str(declare_small(name, tmp_path)))
        with open_benchmark(declared, data=tmp_path) as opened:
            texts[name] = [example.texts for example in opened.examples]
            assert len(opened.examples) == COUNT * len(declared.languages)
    assert texts["docci"][3] == (say(3, "and much more."),)
    # In the order of the splits: train, valid, test.
    assert texts["dci"][0] == (say(5, "a wall, a tree"),)
    assert texts["iiw"][14] == (say(14, "in detail"),)
    assert texts["urban1k"][10] == (say(10, "in a street"),)
    assert texts["sharegpt4v-1k"][1] == (say(1, "The image captures more."),)
    assert texts["xm3600"][0] == (say(0, "ar 0"), say(0, "ar 1"))


def test_recall_by_language_and_accuracy_by_category(tmp_path: Path) -> None:
    result = measure("xm3600", tmp_path / "a", _made(tmp_path / "a"))
    assert len(result["groups"]) == 36 and result["groups"]["quz"]["i2t_r1"] == 100
    assert (result["images"], result["texts"]) == (COUNT, 36 * COUNT * 2)
    result = measure("sugarcrepe", tmp_path / "b", _made(tmp_path / "b"))
    assert result["groups"]["swap_obj"] == {"accuracy": 100, "pairs": 2}
    assert result["scores"]["pairs"] == COUNT


def _made(folder: Path) -> NumberEncoder:
    folder.mkdir()
    return NumberEncoder()


def test_folds_of_coco(tmp_path: Path) -> None:
    folds = measure("coco", tmp_path, NumberEncoder())["scores"]["folds"]
    assert folds["images"] == [4] * 5 and folds["mean"]["i2t_r1"] == 100


class TableEncoder(NumberEncoder):
    """Embeddings as they are written down, in the order of images and texts."""

    def __init__(self, images: list[list[float]], texts: list[list[float]]) -> None:
        super().__init__()
        self.tables = np.array(images, np.float32), np.array(texts, np.float32)

    def embed_files(self, paths: Any, *, report: Any) -> Any:
        return self.tables[0], {}

    def embed_captions(self, captions: Any, *, report: Any) -> np.ndarray:
        return self.tables[1]


def open_by_hand(metric: str, examples: list[Example], **more: Any) -> Opened:
    declared = Benchmark("x", "", (), (), "", (), metric, len(examples), **more)  # type: ignore[arg-type]
    return Opened(declared, Path(), examples, {}, "")


def test_several_right_answers_by_hand() -> None:
    # Scores of the two images with the four texts: (9, 2, 8, 1) and (7, 6, 5, 0).
    encoder = TableEncoder([[9, 2, 8, 1], [7, 6, 5, 0]], np.eye(4).tolist())
    examples = [Example(("a",), ("p", "q")), Example(("b",), ("r", "s"))]
    scores = measure_benchmark(encoder, open_by_hand("recall", examples))["scores"]
    # a finds p first. b's best own text, r, is third.
    assert scores["i2t_r1"] == 50 and scores["i2t_mean_rank"] == 2
    # p finds a (9 > 7); q finds b (6 > 2) first; r finds a (8 > 5); s finds a (1 > 0).
    assert scores["t2i_r1"] == 25 and scores["r1"] == 37.5


def test_several_right_answers_of_ground_truth_by_hand() -> None:
    # Three images, three texts; a's right texts are x and z.
    encoder = TableEncoder([[5, 9, 7], [1, 3, 2], [6, 4, 8]], np.eye(3).tolist())
    examples = [
        Example((name,), (text,), "", name, (text,))
        for name, text in zip("abc", "xyz", strict=True)
    ]
    texts = {"a": ("x", "z"), "b": ("y",), "c": ("z",)}
    images = {"x": ("a",), "y": ("b",), "z": ("a", "c")}
    truth = GroundTruth(texts, images)
    opened = open_by_hand("cxc", examples)
    cxc = measure_benchmark(
        encoder, Opened(opened.benchmark, Path(), examples, {}, "", truth=truth)
    )
    # a finds y, z, x: one of its two is second; b finds y, c finds z.
    assert cxc["scores"]["i2t_r1"] == pytest.approx(66.6667) and cxc["scores"]["i2t_r5"] == 100
    # x finds c first (6 > 5); y finds a (9); z finds c, which is right.
    assert cxc["scores"]["t2i_r1"] == pytest.approx(33.3333)
    opened = open_by_hand("eccv", examples)
    eccv = measure_benchmark(
        encoder, Opened(opened.benchmark, Path(), examples, {}, "", truth=truth)
    )
    # a: R = 2, places 1 and 2: AP@R = (0 + 1/2) / 2, R-Precision 1/2; b and c: 1.
    assert eccv["scores"]["i2t_map_at_r"] == pytest.approx(100 * (0.25 + 2) / 3, abs=1e-3)
    assert eccv["scores"]["i2t_r_precision"] == pytest.approx(100 * 2.5 / 3, abs=1e-3)


def test_winoground_by_hand_and_ties_are_wrong() -> None:
    # Scores s(image, text): right both ways; text right, image not; a tie.
    three = [[[3, 1], [1, 3]], [[3, 2], [5, 6]], [[2, 2], [1, 3]]]
    images = [[0.0] * 6 for _ in range(6)]
    for at, scores in enumerate(three):
        for image in range(2):
            images[2 * at + image][2 * at : 2 * at + 2] = scores[image]
    examples = [Example((f"{n}a", f"{n}b"), (f"{n}x", f"{n}y")) for n in range(3)]
    encoder = TableEncoder(images, np.eye(6).tolist())
    scores = measure_benchmark(encoder, open_by_hand("winoground", examples))["scores"]
    assert scores == pytest.approx({"text": 66.6667, "image": 66.6667, "group": 33.3333})
    pairs = [Example((example.images[0],), example.texts) for example in examples]
    encoder = TableEncoder(images[::2], np.eye(6).tolist())
    accuracy = measure_benchmark(encoder, open_by_hand("pairs", pairs))["scores"]["accuracy"]
    assert accuracy == pytest.approx(66.6667)


def test_texts_come_in_chunks_and_are_embedded_once_for_sets_that_share_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vse.evaluation.benchmarks.measure.CHUNK", 30)
    write_published("cxc", tmp_path / "coco")
    encoder, last = NumberEncoder(), Embeddings()
    for name in ("coco", "eccv-caption", "cxc"):
        declared = read_benchmark(str(declare_small(name, tmp_path)))
        with open_benchmark(declared, data=tmp_path / "coco") as opened:
            measure_benchmark(encoder, opened, last=last)
    assert encoder.seen == [30, 30, 30, 10] and CHUNK > 30


def test_a_part_is_marked(tmp_path: Path) -> None:
    result = measure("coco", tmp_path, NumberEncoder(), limit=7)
    assert (result["partial"], result["examples"], result["texts"]) == (True, 7, 35)
    assert "folds" not in result["scores"] and "not comparable" in tabulate([result])[0].title
    assert write_mteb(result, read_benchmark("coco"), tmp_path / "mteb") is None
    whole = measure("coco", tmp_path, NumberEncoder(), limit=COUNT)
    assert not whole["partial"] and whole["inputs_sha256"] != result["inputs_sha256"]


def test_what_mteb_reads(tmp_path: Path) -> None:
    result = measure("xm3600", tmp_path, NumberEncoder())
    path = write_mteb(result, read_benchmark("xm3600"), tmp_path / "mteb")
    assert path == tmp_path / "mteb/numbers" / ("0" * 64) / "xm3600.json"
    found = json.loads(path.read_text())
    assert found["task_name"] == "xm3600" and found["dataset_revision"]
    by_name = {entry["hf_subset"]: entry for entry in found["scores"]["test"]}
    assert by_name["te"]["languages"] == ["tel-Telu"] and by_name["te"]["main_score"] == 1
    assert by_name["te"]["i2t_r5"] == 1 and by_name["te"]["i2t_mean_rank"] == 1


CHANGES = {
    "another size": ({"examples": COUNT + 1}, "which has 21"),
    "other texts": ({"texts": 3}, "20 texts"),
    "a wrong hash": ({"sha256": {"docci_descriptions.jsonlines": "0" * 64}}, "SHA-256"),
    "a wrong order": ({"order_sha256": "0" * 64}, "another order"),
}


@pytest.mark.parametrize("what", CHANGES)
def test_another_version_is_refused(what: str, tmp_path: Path) -> None:
    changes, said = CHANGES[what]
    write_published("docci", tmp_path / "docci")
    declared = read_benchmark(str(declare_small("docci", tmp_path, **changes)))
    with pytest.raises(UserError, match=said), open_benchmark(declared, data=tmp_path):
        raise AssertionError("it was opened")


def test_what_was_first_seen_is_kept_to(tmp_path: Path) -> None:
    write_published("docci", tmp_path / "docci")
    declared = read_benchmark(str(declare_small("docci", tmp_path)))
    record = tmp_path / "out/record.json"
    with open_benchmark(declared, data=tmp_path) as opened:
        check_record(opened, record)
        opened.record(record)
    with open_benchmark(declared, data=tmp_path) as opened:
        check_record(opened, record)
    file = tmp_path / "docci/docci_descriptions.jsonlines"
    file.write_text("".join(reversed(file.read_text().splitlines(keepends=True))))
    with (
        open_benchmark(declared, data=tmp_path) as opened,
        pytest.raises(UserError, match="previous measurement"),
    ):
        check_record(opened, record)


def test_what_several_runs_record_at_once_is_all_kept(tmp_path: Path) -> None:
    opened = open_by_hand("recall", [])
    names = [f"set {number}" for number in range(40)]

    def record(name: str) -> None:
        mine = replace(opened, benchmark=replace(opened.benchmark, name=name))
        mine.record(tmp_path / "out/record.json")

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(record, names))
    assert set(json.loads((tmp_path / "out/record.json").read_text())) == set(names)


def test_images_that_are_missing_or_broken_are_refused(tmp_path: Path) -> None:
    places = {"docci": "images/test_00007.jpg", "coco": f"val2014/COCO_val2014_{7:012d}.jpg"}
    for name, place in places.items():
        write_published(name, tmp_path / name)
        declared = read_benchmark(str(declare_small(name, tmp_path)))
        (tmp_path / name / place).write_bytes(b"no image")
        with (
            open_benchmark(declared, data=tmp_path) as opened,
            pytest.raises(UserError, match="cannot be read"),
        ):
            measure_benchmark(NumberEncoder(), opened)
        (tmp_path / name / place).unlink()
        with pytest.raises(UserError, match="7.jpg"), open_benchmark(declared, data=tmp_path):
            raise AssertionError("it was opened")


SHAREGPT = "share-captioner_coco_lcs_sam_1246k_1107.json"
LISTED = "densely_captioned_images/splits.json"
AWAY = {"image_0": "../../../x", "image_1": "y", "caption_0": "a", "caption_1": "b"}
LAYOUTS = {
    "docci": ("docci_descriptions.jsonlines", '{"split": "test", "image": "a.jpg"}\n', "has no"),
    "sharegpt4v-1k": (SHAREGPT, "[3]", "an object"),
    "sharegpt4v-10k": (SHAREGPT, '[{"id": 1', "JSON"),
    "winoground": ("data/examples.jsonl", json.dumps(AWAY), "elsewhere"),
    "urban1k": ("Urban1k/caption/1.txt", "\n", "empty text"),
    "dci": (LISTED, '{"test": ["none.json"]}', "none.json is missing"),
}


@pytest.mark.parametrize("name", LAYOUTS)
def test_another_layout_is_one_line(name: str, tmp_path: Path) -> None:
    file, content, said = LAYOUTS[name]
    write_published(name, tmp_path / name)
    (tmp_path / name / file).write_text(content)
    declared = read_benchmark(str(declare_small(name, tmp_path)))
    with pytest.raises(UserError, match=said) as caught, open_benchmark(declared, data=tmp_path):
        raise AssertionError("it was opened")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "file", "content", "said"),
    [
        ("winoground", "data/examples.jsonl", json.dumps(AWAY | {"caption_0": None}), "empty text"),
        ("dci", LISTED, '["none.json"]', "none.json is missing"),
        ("dci", LISTED, '{"test": 4}', "does not list"),
        ("dci", LISTED, '{"test": [4]}', "does not list"),
        ("sharegpt4v-1k", SHAREGPT, "7", "objects should be"),
        ("sharegpt4v-1k", SHAREGPT, '["\udcff"]', "cannot be read as JSON"),
    ],
)
def test_values_that_are_no_texts_and_no_lists(
    tmp_path: Path, name: str, file: str, content: str, said: str
) -> None:
    """A null is never measured as the text None."""
    write_published(name, tmp_path / name)
    (tmp_path / name / file).write_bytes(content.encode("utf-8", "surrogateescape"))
    declared = read_benchmark(str(declare_small(name, tmp_path)))
    with pytest.raises(UserError, match=said), open_benchmark(declared, data=tmp_path):
        raise AssertionError("it was opened")


def test_declarations_that_cannot_be_measured(tmp_path: Path) -> None:
    for changes, said in (
        ({"metric": "pairs"}, "2 texts"),
        ({"metric": "eccv"}, "captions"),
        ({"captions": "x.json"}, "either"),
        ({"metric": "bleu"}, "one of"),
        ({"name": "../x"}, "name"),
        ({"resize": "crop"}, "one of"),
        ({"examples": 0}, "positive"),
        ({"rows": [{"file": "/x.jsonl", "images": ["a"], "texts": ["b"]}]}, "below the folder"),
        ({"rows": [{"file": "x.jsonl", "images": ["a"], "texts": ["{b"]}]}, "do not pair"),
    ):
        with pytest.raises(UserError, match=said):
            read_benchmark(str(declare_small("docci", tmp_path, **changes)))
    with pytest.raises(UserError, match="no benchmark"):
        read_benchmark("nothing")


def test_an_archive_overwrites_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The files of the Hub are links into its cache."""
    write_published("winoground", tmp_path / "cache")
    rows, packed = (tmp_path / "cache/data" / name for name in ("examples.jsonl", "images.zip"))
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr(rows.name, "changed")
    monkeypatch.setattr(
        "huggingface_hub.hf_hub_download", lambda repo, file, **_: str(tmp_path / "cache" / file)
    )
    before = rows.read_bytes()
    # In whatever order they are declared.
    names = ["data/examples.jsonl", "data/images.zip"]
    for files in (names, names[::-1]):
        hub = {"repo": "me/wino", "files": files, "revision": "abc"}
        declared = read_benchmark(str(declare_small("winoground", tmp_path, hub=hub)))
        with pytest.raises(UserError, match="twice"), open_benchmark(declared):
            raise AssertionError("it was opened")
        assert rows.read_bytes() == before
