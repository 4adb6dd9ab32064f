"""The page of failing queries: which stand on it, in which order, and that nothing is markup."""

import contextlib
import json
import re
import shutil
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path

import pytest

from pipelines.cli import run
from pipelines.pages.failures.page import build_failures
from tests.pipelines.captioned import HOSTILE_TEXT
from tests.pipelines.evaluated import read_ways, write_trained
from vse.embedders.embedder import TrainedEncoder
from vse.evaluation.split import evaluate_split, open_corpus

HOSTILE_FILE = '"onload="pwn()\u202e<b>.png'


class Page(HTMLParser):
    """Tags, attributes and sources; the text of each card, tags left out."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: dict[str, list[str]] = {}
        self.cards: list[str] = []
        self.said = ""
        self.source = path.read_text("utf-8")
        self.feed(self.source)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        for name, value in attrs:
            self.attributes.setdefault(name, []).append(value or "")
        if tag == "article":
            self.cards.append("")

    def handle_data(self, data: str) -> None:
        self.said += data
        if self.cards:
            self.cards[-1] += data


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("trained")
    with contextlib.chdir(folder):
        yield write_trained(folder)


def test_failing_queries_worst_first(trained: Path) -> None:
    assert run(["evaluate", "--failures", "e.html", "--ranks", "r.parquet"]) == 0
    page, ways = Page(Path("e.html")), read_ways(Path("r.parquet"))
    failing = [
        sorted((row for row in ways[way] if row["rank"] > 0), key=lambda row: -row["rank"])
        for way in ("t2i", "i2t")
    ]
    assert len(page.cards) == len(failing[0]) + len(failing[1]) > 4
    for card, row in zip(page.cards, [*failing[0], *failing[1]], strict=True):
        own = "correct image" if row["direction"] == "t2i" else "best correct caption"
        total = 8 if row["direction"] == "t2i" else 24
        assert f"{own} at rank {row['rank'] + 1} of {total}" in card and row["query"] in card
        assert row["query_id"] in card
        for score in row["retrieved_scores"][:5]:
            assert f"{score:.3f}" in card
    first = page.cards[0]
    names = [f"test/{int(name) - 56:03d}.png" for name in failing[0][0]["retrieved_ids"][:5]]
    assert all(name in first for name in names)
    said = re.sub(r"\s+", " ", page.said)
    assert f"{len(failing[0])}of 24 captions that do not find their image first" in said
    assert "test split at 16 px" in said
    pictures = [source for source in page.attributes["src"]]
    assert len(pictures) == 6 * len(failing[0]) + len(failing[1])
    assert all(source.startswith("data:image/jpeg;base64,") for source in pictures)


def test_the_page_is_bounded(trained: Path) -> None:
    assert run(["evaluate", "--failures", "few.html", "--failures-limit", "2"]) == 0
    assert len(Page(Path("few.html")).cards) == 4
    encoder = TrainedEncoder.load(Path("runs/stage2"), name="m")
    corpus, _, _ = open_corpus(encoder.embedder.config, split="test")
    result = evaluate_split(encoder, corpus, split="test", keep=10)
    summary = result.summary(encoder)
    page = build_failures(result, summary, limit=2, picture_bytes=0)
    assert page.failed_captions[0].own.missing == "omitted to keep the page small"
    assert page.failed_captions[0].own.thumbnail is None
    # What went away since it was encoded is told, too.
    lost = [sample.path for sample in result.samples]
    kept = [path.read_bytes() for path in lost]
    for path in lost:
        path.unlink()
    page = build_failures(result, summary, limit=1)
    for path, content in zip(lost, kept, strict=True):
        path.write_bytes(content)
    assert page.failed_images[0].own.missing == "the file does not exist"


def test_names_and_captions_are_text(trained: Path, tmp_path: Path) -> None:
    shutil.copytree("world", tmp_path / "world")
    source = tmp_path / "world/dataset_world.json"
    rows = json.loads(source.read_text())
    for row in rows["images"]:
        if row["split"] == "test":
            for sentence in row["sentences"]:
                sentence["raw"] = HOSTILE_TEXT + sentence["raw"] + "\ud800"
    (tmp_path / "world/test/000.png").rename(tmp_path / "world/test" / HOSTILE_FILE)
    rows["images"][56]["filename"] = HOSTILE_FILE
    source.write_text(json.dumps(rows))
    page_path, ranks = tmp_path / "e.html", tmp_path / "r.parquet"
    options = ["--images", str(tmp_path / "world"), "--out", str(tmp_path / "x.json")]
    options += ["--failures", str(page_path), "--ranks", str(ranks)]
    assert run(["evaluate", *options]) == 0
    page = Page(page_path)
    assert "script" not in page.tags and page.tags.count("style") == 1 and "b" in page.tags
    assert page.tags.count("img") == len(page.attributes["src"])
    assert all(source.startswith("data:image/jpeg;base64,") for source in page.attributes["src"])
    assert not [name for name in page.attributes if name.startswith("on") or name == "style"]
    told = " ".join(HOSTILE_TEXT.split())
    shown = HOSTILE_FILE.replace("\u202e", "\\u202e")
    assert shown in page.said and "\u202e" not in page.said and told in page.said
    policy = page.attributes["content"][0]
    assert policy.startswith("default-src 'none'; img-src data:; style-src 'sha256-")
    assert "script-src 'none'" in policy and "unsafe" not in policy
    assert read_ways(ranks)["t2i"][0]["query"].endswith("?")  # half a character, in the JSON


def test_the_same_evaluation_gives_the_same_bytes(trained: Path) -> None:
    for name in ("one", "two"):
        pages = ["--failures", f"{name}.html", "--ranks", f"{name}.parquet"]
        assert run(["evaluate", *pages]) == 0
    assert Path("one.html").read_bytes() == Path("two.html").read_bytes()
    assert Path("one.parquet").read_bytes() == Path("two.parquet").read_bytes()
