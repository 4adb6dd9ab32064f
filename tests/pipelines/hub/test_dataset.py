"""`d2s publish dataset` against the stand-in, over HTTP, in a process of its own."""

import html
import json
import os
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from markdown_it import MarkdownIt

from captioner.score.clip_score import CLIP_SCHEMA
from captioner.score.scores import CHAIR_SCHEMA, combine_scores, describe_shards, write_scores
from captioner.text.quality import FLAGS as ALL_FLAGS
from data.dense.schema import CAPTION_SCHEMA
from pipelines.hub.dataset.card import COLUMNS, FLAGS
from tests.captioner.finished_run import write_finished
from tests.hub.faults import Fault
from tests.hub.state import Commit, Repository
from tests.json_outputs import check_json
from tests.pipelines.hub.hub import READER, TOKEN, Place, open_place, write_photos
from tests.waiting import HANG_SECONDS

DENSE = "A brown dog runs over a wide green field while two children watch it from the fence."
LICENSE = ("--license", "cc-by-4.0")


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    folder = tmp_path_factory.mktemp("publish")
    write_photos(folder / "photos", 5)
    with open_place(folder) as place:
        done = place.commands.run(
            *("caption", "--engine", "scripted", "--model", folder / "any"),
            *("--shard-size", "2", "--images", folder / "photos", "--out", "run"),
        )
        assert done.code == 0, done.err
        yield place


@pytest.fixture
def place(kept: Place) -> Place:
    kept.clear()
    return kept


def read_rows(run: Path) -> list[dict[str, Any]]:
    shards = sorted(run.glob("train-*.parquet"))
    return [row for shard in shards for row in pq.read_table(shard).to_pylist()]


def split_card(card: str) -> tuple[dict[str, Any], str]:
    _, head, body = re.split(r"^---$", card, maxsplit=2, flags=re.MULTILINE)
    return yaml.safe_load(head), body


def is_whole(place: Place, name: str = "me/set") -> bool:
    """All files there, their content as in the run, and one tag on them."""
    repository = place.hub.find("dataset", name)
    assert repository is not None
    files = place.hub.read("dataset", name)
    shards = sorted((place.folder / "run").glob("train-*.parquet"))
    wanted = {"README.md", "run.json", "receipts.jsonl", *(f"data/{s.name}" for s in shards)}
    tags = [sha for ref, sha in repository.refs.items() if ref != "main"]
    return (
        set(files) == wanted
        and all(files[f"data/{s.name}"] == s.read_bytes() for s in shards)
        and tags == [repository.refs["main"]]
    )


_READER = """
import json, sys
from datasets import load_dataset
whole = load_dataset("me/set", split="train")
streamed = load_dataset("me/set", split="train", streaming=True)
print(json.dumps([list(whole), list(streamed), whole.info.splits["train"].num_examples]))
"""


def test_published_it_is_read_back_by_others(place: Place) -> None:
    done = place.publish("dataset", "run", "--repo", "me/set", *LICENSE, "--private", "--json")
    assert done.code == 0, done.err
    assert is_whole(place)
    told = json.loads(done.out)
    check_json("publish dataset", told)
    assert told["uploaded"][-1] == "README.md" and told["unchanged"] == told["besides"] == []
    repository = place.hub.find("dataset", "me/set")
    assert repository is not None and repository.private
    assert repository.refs[told["tag"]] == told["commit"] == repository.refs["main"]
    # Data first, the README last.
    kinds = [set(commit.files) for commit in repository.commits.values()]
    assert "README.md" not in kinds[-2] and kinds[-1] - kinds[-2] == {"README.md"}
    read = subprocess.run(
        [sys.executable, "-c", _READER],
        env={**os.environ, **place.server.environment(place.folder / "reader", token=TOKEN)},
        capture_output=True,
        text=True,
    )
    assert read.returncode == 0, read.stderr[-3000:]
    whole, streamed, count = json.loads(read.stdout.splitlines()[-1])
    assert whole == streamed == read_rows(place.folder / "run") and count == 5
    # As a run again, for training.
    _, body = split_card(place.hub.read("dataset", "me/set")["README.md"].decode())
    words = shlex.split(next(line for line in body.splitlines() if line.startswith("d2s import ")))
    back = place.commands.run(*words[1:])
    assert back.code == 0, back.err
    texts = [[row["file_name"], row["caption"]] for row in read_rows(place.folder / "dense/set")]
    assert texts == [[row["file_name"], row["caption"]] for row in whole]


WAIT = {"Retry-After": "30"}


@pytest.mark.parametrize(
    "fault",
    [
        Fault("whoami", status=429, headers=WAIT),
        Fault("repos/create", what="lose"),
        Fault("preupload", status=503),
        Fault("PUT", what="drop", times=2),
        Fault("PUT", status=429, headers=WAIT),
        Fault("commit/main", status=429, headers=WAIT),
        Fault("commit/main", what="lose", then=Fault("commit/main", what="lose")),
        Fault("tree/main", status=503, times=2),
        Fault("tag/", what="lose"),
    ],
    ids=lambda fault: f"{fault.pattern} {fault.what} {fault.status}",
)
def test_each_fault_ends_complete_and_nothing_is_sent_twice(place: Place, fault: Fault) -> None:
    wishes = bool(fault.headers)
    place.server.faults.add(fault)
    done = place.publish("dataset", "run", "--repo", "me/set", *LICENSE)
    assert done.code == 0, done.err
    assert is_whole(place)
    assert set(place.hub.received.values()) == {1} and len(place.hub.received) == 3
    assert (31.0 in done.waits) == wishes and done.waits
    repository = place.hub.find("dataset", "me/set")
    # Two of a new repository, then the data and the README.
    assert repository is not None and len(repository.commits) == 4
    # Again: nothing is left to do.
    place.server.requests.clear()
    again = place.publish("dataset", "run", "--repo", "me/set", *LICENSE, "--json")
    assert again.code == 0 and json.loads(again.out)["uploaded"] == []
    writes = r"PUT|POST .*(commit|tag/|create|objects/batch|preupload)"
    assert not [line for line in place.server.requests if re.match(writes, line)]


def test_many_files_are_several_commits_and_those_that_are_done_stay(place: Place) -> None:
    write_photos(place.folder / "many", 52)
    caption = ("caption", "--engine", "scripted", "--model", "any", "--shard-size", "1")
    made = place.commands.run(*caption, "--images", place.folder / "many", "--out", "many-run")
    assert made.code == 0, made.err
    share = ("dataset", "many-run", "--repo", "me/many", *LICENSE)
    # The first commit passes, the network goes at the second.
    gone = Fault("PUT", what="drop", times=10**6)
    place.server.faults.add(Fault("commit/main", what="lose", then=gone))
    first = place.publish(*share)
    assert first.code == 1 and "50 of 55 files are known to be in me/many" in first.err
    place.server.faults.clear()
    again = place.publish(*share, "--json")
    assert again.code == 0, again.err
    told = json.loads(again.out)
    assert (len(told["unchanged"]), len(told["uploaded"])) == (50, 5)
    assert set(place.hub.received.values()) == {1} and len(place.hub.received) == 52
    assert len(place.hub.read("dataset", "me/many")) == 55


def test_the_network_goes_and_comes_again(place: Place) -> None:
    gone = Fault(".", what="drop", times=10**6)
    place.server.faults.add(Fault("PUT", what="drop", times=10**6))
    first = place.publish("dataset", "run", "--repo", "me/set", *LICENSE)
    assert first.code == 1 and first.out == ""
    last = first.err.splitlines()[-1]
    assert "the Hub cannot be reached" in last and "0 of 6 files are known to be in me/set" in last
    assert "run the same command again to continue" in last
    place.server.faults.clear()
    # The commit arrives, its answer does not, and nothing does after that.
    place.server.faults.add(Fault("commit/main", what="lose", then=gone))
    second = place.publish("dataset", "run", "--repo", "me/set", *LICENSE)
    assert second.code == 1 and "its README.md not yet" in second.err
    place.server.faults.clear()
    third = place.publish("dataset", "run", "--repo", "me/set", *LICENSE, "--json")
    assert third.code == 0 and json.loads(third.out)["uploaded"] == ["README.md"]
    assert is_whole(place) and set(place.hub.received.values()) == {1}


def test_of_a_run_that_has_grown_only_what_is_new_is_sent(place: Place) -> None:
    write_photos(place.folder / "growing", 3)
    caption = ("caption", "--engine", "scripted", "--model", "any", "--shard-size", "2")
    caption = (*caption, "--images", place.folder / "growing", "--out", "grown")
    share = ("dataset", "grown", "--repo", "me/set", *LICENSE, "--json")
    assert place.commands.run(*caption).code == 0
    assert place.publish(*share).code == 0
    old = {"data/train-00000-of-00002.parquet", "data/train-00001-of-00002.parquet"}
    assert set(place.hub.received.values()) == {1} and len(place.hub.received) == len(old)
    write_photos(place.folder / "more", 5)
    for name in ("3.jpg", "4.jpg"):
        (place.folder / "more" / name).rename(place.folder / "growing" / name)
    assert place.commands.run(*caption, "--append").code == 0
    refused = place.publish(*share)
    assert refused.code == 1 and "--overwrite" in refused.err
    done = place.publish(*share, "--overwrite")
    assert done.code == 0, done.err
    new = "data/train-00002-of-00003.parquet"
    told = json.loads(done.out)
    assert set(told["uploaded"]) == {new, "receipts.jsonl", "run.json", "README.md"}
    assert old <= set(told["unchanged"]) and told["besides"] == []
    # The store was asked for the new shard's bytes alone.
    assert set(place.hub.received.values()) == {1} and len(place.hub.received) == len(old) + 1
    _, body = split_card(place.hub.read("dataset", "me/set")["README.md"].decode())
    assert "| Added later | 2 images |" in body
    read = subprocess.run(
        [sys.executable, "-c", _READER],
        env={**os.environ, **place.server.environment(place.folder / "reader", token=TOKEN)},
        capture_output=True,
        text=True,
    )
    assert read.returncode == 0, read.stderr[-3000:]
    whole, streamed, count = json.loads(read.stdout.splitlines()[-1])
    assert whole == streamed == read_rows(place.folder / "grown") and count == 5


def test_interrupted_it_says_what_is_there(place: Place) -> None:
    place.server.faults.add(Fault("commit/main", status=429, headers={"Retry-After": "3600"}))
    environment = place.server.environment(place.folder / "hf", token=TOKEN)
    process = subprocess.Popen(
        [sys.executable, "-m", "pipelines.cli", "publish", "dataset", str(place.folder / "run"),
         "--repo", "me/set", *LICENSE],
        env={**os.environ, **environment},
        stderr=subprocess.PIPE,
        text=True,
    )  # fmt: skip
    assert process.stderr is not None
    said = ""
    while "retrying in 3601 s" not in said:
        line = process.stderr.readline()
        assert line, said
        said += line
    process.send_signal(signal.SIGINT)
    rest = process.communicate(timeout=HANG_SECONDS)[1]
    assert process.returncode == 130 and TOKEN not in said + rest
    assert "interrupted; 0 of 6 files are known to be in me/set" in rest
    assert place.publish("dataset", "run", "--repo", "me/set", *LICENSE).code == 0
    assert is_whole(place) and set(place.hub.received.values()) == {1}


def test_what_is_listed_is_what_is_written_and_uploaded(place: Place) -> None:
    listed = json.loads(
        place.publish("dataset", "run", "--repo", "me/set", *LICENSE, "--dry-run", "--json").out
    )
    for name in ("one", "two"):
        done = place.publish("dataset", "run", "--repo", "me/set", *LICENSE, "--to-dir", name)
        assert done.code == 0 and f"written to {name}" in done.out
    assert place.server.requests == []
    assert place.publish("dataset", "run", "--repo", "me/set", *LICENSE).code == 0
    uploaded = place.hub.read("dataset", "me/set")
    paths = [file["path"] for file in listed["files"]]
    assert paths[-1] == "README.md" and sorted(paths) == sorted(uploaded)
    for path, content in uploaded.items():
        for name in ("one", "two"):
            assert (place.folder / name / path).read_bytes() == content, path
        assert str(place.folder).encode() not in content, path
    (place.folder / "one/mine.txt").write_text("mine")
    done = place.publish("dataset", "run", "--repo", "me/set", *LICENSE, "--to-dir", "one")
    assert done.code == 1 and "other files ('mine.txt')" in done.err


def test_the_head_agrees_with_the_footers_and_the_body_with_the_record(place: Place) -> None:
    place.publish("dataset", "run", "--repo", "me/set", *LICENSE, "--to-dir", "tree",
                  "--source-dataset", "them/photos")  # fmt: skip
    head, body = split_card((place.folder / "tree/README.md").read_text())
    info = head["dataset_info"]
    footers = [pq.read_metadata(path) for path in sorted((place.folder / "tree/data").iterdir())]
    groups = [f.row_group(n).total_byte_size for f in footers for n in range(f.num_row_groups)]
    rows = sum(footer.num_rows for footer in footers)
    split = {"name": "train", "num_bytes": sum(groups), "num_examples": rows}
    assert info["splits"] == [split] and rows == 5
    sizes = [path.stat().st_size for path in (place.folder / "tree/data").iterdir()]
    assert info["download_size"] == sum(sizes) and info["dataset_size"] == sum(groups)
    assert [feature["name"] for feature in info["features"]] == CAPTION_SCHEMA.names
    assert head["license"] == "cc-by-4.0" and head["size_categories"] == ["n<1K"]
    assert head["source_datasets"] == ["extended|them/photos"]
    pattern = head["configs"][0]["data_files"][0]["path"]
    assert pattern == "data/train-*-of-00003.parquet"
    # Pages can be found without reading all, and the viewer's limit is far.
    chunk = footers[0].row_group(0).column(0)
    assert chunk.has_offset_index and max(groups) < 100 * 2**20
    of_hub = change(place, "of-hub", source={"kind": "dataset", "options": {"name": "a/b"}})
    place.publish("dataset", of_hub, "--repo", "me/set", *LICENSE, "--to-dir", "of-hub-tree",
                  "--source-dataset", "them/photos")  # fmt: skip
    more, _ = split_card((place.folder / "of-hub-tree/README.md").read_text())
    assert more["source_datasets"] == ["extended|a/b", "extended|them/photos"]
    run = json.loads((place.folder / "run/run.json").read_text())
    command = "d2s caption --engine scripted --model any --shard-size 2 --images photos --out run"
    assert command in body and f"| Run | {run['run_id']} |" in body
    for row in read_rows(place.folder / "run"):
        assert f"> {row['caption']}" in body
    assert "come from an engine for tests" in body


HOSTILE = {
    "a'b\"c\n\u202egpj.x.jpg": "---\nlicense: other\n---\n# Pwned {{ 7*7 }} {% raw %}",
    "</td><img src=x onerror=alert(1)>.jpg": "<script>alert(1)</script> | a | b | `x` ``` ~~~",
    "[x](javascript:1).jpg": "**bold** _it_ $x$ [a](http://evil.test) ![b](c) <!-- gone",
    "{{ title }}.jpg": "- list\n1. one\n> quote http://evil.test www.evil.test me@evil.test",
    "# head.jpg": "&lt;b&gt; \\ \u2028 {{ rows }} {# gone #} " + DENSE,
}

TABLE = ("table", "thead", "tbody", "tr", "th", "td")


def test_what_others_wrote_stays_text(place: Place) -> None:
    run = write_finished(place.folder / "hostile", place.folder / "photos", HOSTILE)
    record = json.loads((run / "run.json").read_text())
    record |= {"model": "<script>|x` {{ 7*7 }}", "prompt": "```\n</code><script>\n# {{ 7*7 }}"}
    record |= {"revision": "\udcff\n---\nlicense: other"}
    (run / "run.json").write_text(json.dumps(record))
    done = place.publish("dataset", run, "--repo", "me/hostile", *LICENSE, "--max-flagged", "1")
    assert done.code == 0, done.err
    files = place.hub.read("dataset", "me/hostile")
    assert json.loads(files["run.json"])["revision"] == record["revision"]
    card = files["README.md"].decode()
    head, body = split_card(card)
    assert head["license"] == "cc-by-4.0" and head["dataset_info"]["splits"][0]["num_examples"] == 5
    page = MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"]).render(body)
    tags = set(re.findall(r"<(\w+)", page))
    assert tags <= {"h1", "h2", "p", "pre", "code", "blockquote", "strong", *TABLE}, tags
    assert html.escape(record["prompt"].replace("'", ""), quote=False) in page
    assert html.escape(record["model"], quote=False) in page and "49" not in body
    examples = page[page.index("Some of the texts</h2>") + 22 : page.index("<h2>Known failures")]
    assert set(re.findall(r"<(\w+)", examples)) == {"p", "blockquote"}
    for text in (*HOSTILE, *HOSTILE.values()):
        shown = html.escape(" ".join(text.split()), quote=False).replace('"', "&quot;")
        assert shown.replace("\u202e", "\\u202e") in examples, text
    assert "\u202e" not in card


def test_the_split_of_all_rows_names_the_files(place: Place) -> None:
    texts = [{"file_name": f"{number}.jpg", "text": f"{DENSE} {number}."} for number in range(3)]
    (place.folder / "texts.jsonl").write_text("\n".join(json.dumps(text) for text in texts))
    done = place.commands.run(
        *("import", "texts.jsonl", "--text-column", "text", "--split", "test"),
        *("--model-name", "m", "--out", "tested"),
    )
    assert done.code == 0, done.err
    place.publish("dataset", "tested", "--repo", "me/set", *LICENSE, "--to-dir", "test-tree")
    name = "data/test-00000-of-00001.parquet"
    assert (place.folder / "test-tree" / name).is_file()
    assert json.loads((place.folder / "test-tree/receipts.jsonl").read_text())["shard"] == name
    head, body = split_card((place.folder / "test-tree/README.md").read_text())
    files = [{"split": "test", "path": "data/test-*-of-00001.parquet"}]
    assert head["configs"][0]["data_files"] == files
    assert head["dataset_info"]["splits"][0]["name"] == "test"
    assert 'load_dataset("me/set", split="test")' in body and "were imported" in body


def test_scores_are_on_the_card_if_they_are_of_these_shards(place: Place) -> None:
    run = change(place, "scored")
    names = [row["sample_id"] for row in read_rows(run)]
    clip = pa.Table.from_pylist(
        [{"clipscore": 0.2 + number / 10, "sentences": 2} for number in range(5)],
        schema=CLIP_SCHEMA,
    )
    named = {"mentioned_objects": ["cat", "dog"], "hallucinated_objects": ["cat"], "chair_i": 0.5}
    chair = pa.Table.from_pylist([named] * 5, schema=CHAIR_SCHEMA)
    about = {"shards": describe_shards(run), "clip": {}, "chair": {}}
    for shards, shown in ((about["shards"], True), ({"other": "0"}, False)):
        scores = combine_scores(
            names, {"clip": clip, "chair": chair}, about | {"shards": shards}, earlier=None
        )
        write_scores(run / "scores.parquet", scores)
        out = f"scored-{shown}"
        done = place.publish("dataset", run, "--repo", "me/set", *LICENSE, "--to-dir", out)
        assert done.code == 0, done.err
        _, body = split_card((place.folder / out / "README.md").read_text())
        for words in ("CLIPScore of 5 texts: mean 0.400", "50.0% of the", "often: cat (5)."):
            assert (words in body) == shown
        assert ("belong to other shards: the card omits them" in done.err) != shown


def test_every_column_and_flag_is_explained() -> None:
    # The last ones are those of several texts.
    several = {"text_name", "sample", "answer"}
    assert [name for name in COLUMNS if name not in several] == CAPTION_SCHEMA.names
    assert several < set(COLUMNS)
    assert set(FLAGS) == set(ALL_FLAGS)


def change(place: Place, name: str, **changed: object) -> Path:
    """A copy of the run whose run.json says something else."""
    run = place.folder / name
    if not run.exists():
        run.mkdir()
        for path in (place.folder / "run").iterdir():
            if path.is_file():
                (run / path.name).write_bytes(path.read_bytes())
        record = json.loads((run / "run.json").read_text())
        (run / "run.json").write_text(json.dumps({**record, **changed}))
    return run


def test_runs_that_are_refused(place: Place) -> None:
    changed = change(place, "changed")
    with (changed / "train-00001-of-00003.parquet").open("ab") as file:
        file.write(b"more")
    mixed = {"a.jpg": DENSE, "b.jpg": None, "c.jpg": "short", "d.jpg": DENSE + " It is late."}
    errors = write_finished(place.folder / "mixed", place.folder / "photos", mixed)
    address = "https://me:secret@photos.test/1.jpg"
    locked = write_finished(place.folder / "locked", place.folder / "photos", {address: DENSE})
    for run, more, line in (
        (locked, LICENSE, "a user's name or password in them (rows: 1), which would be"),
        (changed, LICENSE, "train-00001-of-00003.parquet was changed: its SHA-256 is not that"),
        (change(place, "open", complete=False), LICENSE, "is not finished: run the same `d2s capt"),
        (errors, LICENSE, "1 of 4 rows are errors (25.0%, --max-errors allows 1.0%): review"),
        (
            errors,
            (*LICENSE, "--max-errors", "0.3"),
            "1 of 3 texts are flagged (33.3%, --max-flagged allows 25.0%): review",
        ),
        (place.folder / "photos", LICENSE, "is not the folder of a captioning run"),
        (place.folder / "run", (), "--license is missing: specify the license"),
        (place.folder / "run", ("--license", "My own!"), "is not the name of a license on the Hub"),
    ):
        done = place.publish("dataset", run, "--repo", "me/set", *more)
        assert done.code in (1, 2) and done.out == ""
        assert line in done.err and len(done.err.splitlines()) == 1, done.err
        assert "secret" not in done.err
    assert place.server.requests == []
    done = place.publish("dataset", errors, "--repo", "me/set", *LICENSE, "--max-errors", "0.3",
                         "--max-flagged", "0.5")  # fmt: skip
    assert done.code == 0, done.err
    _, body = split_card(place.hub.read("dataset", "me/set")["README.md"].decode())
    assert "| ok | 3 | 75.0% |" in body and "| short | 1 | 33.3% |" in body
    assert "| damaged | 1 |" in body


@pytest.mark.parametrize(
    ("repo", "more", "environment", "line"),
    [
        ("me/set", (), {"HF_TOKEN": ""}, "there is no token for the Hub: run `hf auth login`"),
        ("me/set", (), {"HF_TOKEN": "hf_wrongwrong"}, "the Hub does not accept the token"),
        ("me/set", (), {"HF_TOKEN": READER}, "you may not write to me/set"),
        ("them/set", (), {}, "you may not write to them/set"),
        ("them/there", (), {}, "you may not write to them/there"),
        ("me/there", ("--private",), {}, "me/there is there and is public: change that"),
        ("me/there", (), {}, "me/there has different content in README.md: use --overwrite"),
        (
            "me/set",
            ("--license", "beer"),
            {},
            'the Hub rejects the metadata of README.md: "license"',
        ),
        ("me/a--b", (), {}, "--repo 'me/a--b' is not a name for a repository"),
        ("me/a b", (), {}, "--repo 'me/a b' is not a name for a repository"),
        ("set", (), {}, "--repo set has no owner: use OWNER/NAME"),
        ("me/set", ("--tag", "a b"), {}, "--tag 'a b' is not a name for a tag"),
    ],
)
def test_what_the_hub_would_refuse(
    place: Place, repo: str, more: tuple[str, ...], environment: dict[str, str], line: str
) -> None:
    for name in ("them/there", "me/there"):
        place.hub.create(name, {"README.md": b"of others"})
    done = place.publish("dataset", "run", "--repo", repo, *LICENSE, *more, **environment)
    assert done.code == (2 if repo == "set" or "is not a name" in line else 1) and done.out == ""
    assert line in done.err and "wrongwrong" not in done.err
    assert len(done.err.splitlines()) == 1, done.err
    assert set(place.hub.repositories) == {("dataset", "them/there"), ("dataset", "me/there")}
    assert place.hub.read("dataset", repo if "there" in repo else "me/there") == {
        "README.md": b"of others"
    }


def test_files_of_others_are_left_and_replaced_when_asked(place: Place) -> None:
    old = "data/train-00000-of-00001.parquet"
    place.hub.create("me/set", {"README.md": b"mine", "notes.txt": b"mine", old: b"old"})
    done = place.publish("dataset", "run", "--repo", "me/set", *LICENSE, "--overwrite", "--json")
    assert done.code == 0, done.err
    assert f"other files in the repository, which are kept: {old}, notes.txt" in done.err
    assert "replacing README.md" in done.err
    assert json.loads(done.out)["besides"] == [old, "notes.txt"]
    files = place.hub.read("dataset", "me/set")
    assert files["notes.txt"] == b"mine" and files[old] == b"old"
    head, _ = split_card(files["README.md"].decode())
    assert head["configs"][0]["data_files"][0]["path"] == "data/train-*-of-00003.parquet"
    # A tag stays where it is.
    repository = place.hub.find("dataset", "me/set")
    assert repository is not None
    first = repository.find("main")
    assert first is not None
    repository.refs["v1"] = next(iter(repository.commits))
    done = place.publish("dataset", "run", "--repo", "me/set", *LICENSE, "--tag", "v1")
    assert done.code == 1 and "has a tag v1 on different content: use another --tag" in done.err
    other = ("--license", "mit", "--overwrite", "--tag", "v1")
    done = place.publish("dataset", "run", "--repo", "me/set", *other)
    assert done.code == 1 and "replacing" not in done.err and "nothing was uploaded" in done.err


def test_what_arrives_otherwise_is_noticed(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    commit = Repository.commit

    def spoil(self: Repository, added: dict[str, bytes], **options: Any) -> Commit:
        spoilt = {name: b"{ }" if name == "run.json" else added[name] for name in added}
        return commit(self, spoilt, **options)

    monkeypatch.setattr(Repository, "commit", spoil)
    done = place.publish("dataset", "run", "--repo", "me/set", *LICENSE)
    assert done.code == 1 and "run.json differs in me/set after the upload" in done.err
    repository = place.hub.find("dataset", "me/set")
    assert repository is not None and set(repository.refs) == {"main"}
