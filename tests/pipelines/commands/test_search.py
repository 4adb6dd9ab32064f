"""`d2s embed` and `d2s search`: from a folder and a sentence to the right picture."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import vse
from pipelines.cli import run
from tests.json_outputs import check_json
from tests.vse.models import write_model
from tests.vse.world import write_world
from tests.waiting import HANG_SECONDS, wait_until


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("search")
    write_world(folder / "world", train=12, val=2, test=4)
    write_model(folder / "runs/stage2", folder / "world")
    return folder


@pytest.fixture
def project(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The world and the model, in a folder whose indexes are the test's own."""
    for name in ("world", "runs"):
        (tmp_path / name).symlink_to(made / name)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def results(said: str) -> list[dict[str, Any]]:
    check_json("search", json.loads(said))
    found: list[dict[str, Any]] = json.loads(said)["results"]
    return found


def test_images_by_text_and_by_image(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["embed", "--images", "world", "--out", "idx/a.parquet", "--json"]) == 0
    said = capsys.readouterr()
    summary = json.loads(said.out)
    check_json("embed", summary)
    assert (summary["rows"], summary["width"], summary["px"]) == (18, 32, 16)
    assert "images    18 in world" in said.err and "embed: 18 of 18 images" in said.err
    query = ["--index", "idx/a.parquet", "a red square", "--image", "world/test/001.png"]
    assert run(["search", *query, "--top", "4", "--json"]) == 0
    by_text, by_image = results(capsys.readouterr().out)
    model = vse.load("runs/stage2")
    table = pq.read_table("idx/a.parquet")
    vectors = np.vstack(table.column("embedding").to_numpy()).astype(np.float64)
    names = table.column("file_name").to_pylist()
    for answer, vector in (
        (by_text, model.encode_text(["a red square"])),
        (by_image, model.encode_image(["world/test/001.png"])),
    ):
        scores = vectors @ vector[0]
        order = np.argsort(-scores.round(6), kind="stable")[:4]
        assert [hit["score"] for hit in answer["hits"]] == pytest.approx(scores[order], abs=1e-5)
        assert {hit["file_name"] for hit in answer["hits"]} <= set(names)
    assert by_image["hits"][0]["score"] == pytest.approx(1, abs=1e-5)
    assert by_image["query"] == {"image": "world/test/001.png"}
    assert run(["search", *query, "--top", "2"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == '"a red square": 2 of 18 images' and len(lines) == 6
    assert lines[4].startswith("   1   1.0000  ")
    # A query that is not UTF-8, as the shell hands it over.
    assert run(["search", "--index", "idx/a.parquet", "caf\udce9", "--top", "1"]) == 0
    assert r"caf\udce9" in capsys.readouterr().out


def test_texts_by_image_and_the_graph(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    captions = "world/dataset_world.json"
    assert run(["embed", "--texts", captions, "--out", "t.parquet", "--faiss"]) == 0
    assert Path("t.parquet.faiss").is_file()
    capsys.readouterr()
    query = ["search", "--index", "t.parquet", "--image", "world/test/000.png", "--json"]
    assert run(query) == 0
    [exact] = results(capsys.readouterr().out)
    stamp = Path("t.parquet.faiss").stat().st_mtime_ns
    assert run([*query, "--faiss"]) == 0
    [near] = results(capsys.readouterr().out)
    assert Path("t.parquet.faiss").stat().st_mtime_ns == stamp
    assert [h["score"] for h in near["hits"]] == pytest.approx([h["score"] for h in exact["hits"]])
    assert len(exact["hits"]) == 10 and all(hit["text"] for hit in exact["hits"])
    Path("t.parquet.faiss").unlink()
    assert run([*query, "--faiss"]) == 0 and Path("t.parquet.faiss").is_file()


def test_the_number_of_hits_is_that_of_the_rows_at_most(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["embed", "--images", "world", "--out", "a.parquet"]) == 0
    capsys.readouterr()
    query = ["search", "--index", "a.parquet", "red", "--top", str(10**12), "--json"]
    assert run(query) == 0
    [answer] = results(capsys.readouterr().out)
    assert len(answer["hits"]) == 18


def test_a_query_does_not_depend_on_those_beside_it(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Converted models read the padding that longer queries bring."""
    model = str(write_model(Path("padded"), Path("world"), decoder={"attend_padding": True}))
    long = "the image shows a blue square at the top of a white one " * 3
    together, alone = vse.load(model).encode_text(["red", long]), vse.load(model).encode_text("red")
    assert not np.allclose(together[0], alone[0], atol=1e-4)
    assert run(["embed", "--model", model, "--images", "world", "--out", "a.parquet"]) == 0
    capsys.readouterr()
    answers = []
    for texts in (["red"], ["red", long]):
        assert run(["search", "--index", "a.parquet", *texts, "--json"]) == 0
        answers.append(results(capsys.readouterr().out)[0])
    assert answers[0] == answers[1]


def test_a_graph_is_not_first_missed_when_everything_is_embedded(
    project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    typed = ["embed", "--images", "world", "--out", "a.parquet", "--faiss"]
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "faiss", None)
        for more in (["--dry-run"], []):
            assert run([*typed, *more]) == 1
            assert "pip install 'faiss-cpu" in capsys.readouterr().err
    assert not list(project.glob("a.parquet*"))
    # What is embedded is told, even if the graph cannot be written.
    Path("a.parquet.faiss").mkdir()
    Path("a.parquet.faiss/x").touch()
    assert run([*typed, "--json"]) == 1
    said = capsys.readouterr()
    assert json.loads(said.out)["rows"] == 18 and "a.parquet.faiss" in said.err


def test_broken_pictures_are_told_and_the_exit_code_is_3(
    tmp_path: Path, made: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    write_world(tmp_path / "world", train=4, val=1, test=1)
    Path("world/train/\x1b[2Jbad.png").write_bytes(b"no image")
    embed = ["embed", "--model", str(made / "runs/stage2"), "--images", "world"]
    assert run([*embed, "--out", "a.parquet"]) == 3
    said = capsys.readouterr()
    assert "a.parquet: 6 images of 32 values, 1 left out" in said.out
    assert r"train/\x1b[2Jbad.png: not an image" in said.err and "\x1b" not in said.err
    # Again: nothing to do, and still not all of them.
    assert run([*embed, "--out", "a.parquet", "--json"]) == 3
    said = capsys.readouterr()
    assert "there is nothing to do" in said.err
    assert json.loads(said.out)["left_out"][0]["error"].startswith("not an image")


def test_an_index_of_another_model_is_refused(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_model(Path("other"), Path("world"), seed=5)
    assert run(["embed", "--model", "other", "--images", "world", "--out", "a.parquet"]) == 0
    capsys.readouterr()
    assert run(["search", "--index", "a.parquet", "--model", "runs/stage2", "red"]) == 1
    said = capsys.readouterr().err
    assert "was made by another model (other, weights" in said and "--model other" in said
    Path("other").rename("moved")
    assert run(["search", "--index", "a.parquet", "red"]) == 1
    said = capsys.readouterr().err
    assert "made by the model other: other contains no trained model" in said
    assert "specify it with --model" in said
    # What is wrong with a model that is there is told, too.
    Path("other").mkdir()
    Path("other/model.pt").touch()
    assert run(["search", "--index", "a.parquet", "red"]) == 1
    assert "pickled weights" in capsys.readouterr().err
    assert run(["search", "--index", "a.parquet", "--model", "moved", "red"]) == 0


def test_the_page_shows_pictures_and_escapes_names(
    tmp_path: Path, made: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    write_world(tmp_path / "world", train=3, val=1, test=1)
    Path("world/train/000.png").rename("world/train/<script>alert(1)&.png")
    model = str(made / "runs/stage2")
    assert run(["embed", "--model", model, "--images", "world", "--out", "a.parquet"]) == 0
    query = ["search", "--index", "a.parquet", "<b>red</b>", "--image", "world/test/000.png"]
    assert run([*query, "--html", "out/hits.html"]) == 0
    page = Path("out/hits.html").read_text()
    assert page.count("data:image/jpeg;base64,") == 11  # five hits each, and the query's own
    assert "<script>alert" not in page and "<b>red" not in page
    assert "&lt;script&gt;alert(1)&amp;.png" in page and "&lt;b&gt;red" in page
    assert "script-src" in page and "rank 5" in page
    # Moved pictures: told where they were expected, found where they are named.
    Path("world").rename("elsewhere")
    query[-1] = "elsewhere/test/000.png"
    assert run([*query, "--html", "b.html"]) == 0
    assert "no picture: the file does not exist" in Path("b.html").read_text()
    assert run([*query, "--html", "c.html", "--images", "elsewhere"]) == 0
    assert Path("c.html").read_text().count("data:image/jpeg;base64,") == 11


def test_a_table_that_was_written_again_has_no_pictures(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    photos = {path.name: path.read_bytes() for path in sorted(Path("world/train").iterdir())}
    table = pa.table({"file_name": list(photos), "image": list(photos.values())})
    pq.write_table(table, "photos.parquet")
    assert run(["embed", "--images", "photos.parquet", "--out", "a.parquet"]) == 0
    query = ["search", "--index", "a.parquet", "red", "--top", "3"]
    assert run([*query, "--html", "a.html"]) == 0
    assert Path("a.html").read_text().count("data:image/jpeg;base64,") == 3
    Path("moved").mkdir()
    Path("photos.parquet").rename("moved/photos.parquet")
    pq.write_table(table.slice(1), "photos.parquet")
    assert run([*query, "--html", "b.html"]) == 0
    page = Path("b.html").read_text()
    assert "data:image/jpeg" not in page and page.count("photos.parquet has changed") == 3
    assert run([*query, "--html", "c.html", "--images", "moved"]) == 0
    assert Path("c.html").read_text().count("data:image/jpeg;base64,") == 3


def test_texts_have_no_pictures(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["embed", "--texts", "world/dataset_world.json", "--out", "t.parquet"]) == 0
    query = ["search", "--index", "t.parquet", "red", "--html", "t.html"]
    assert run([*query, "--images", "world"]) == 2
    assert "an index of images" in capsys.readouterr().err and not Path("t.html").exists()
    assert run(query) == 0


def test_dry_run_and_what_does_not_go_together(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["embed", "--images", "world", "--out", "a.parquet", "--dry-run"]) == 0
    assert "dry run: would write a.parquet" in capsys.readouterr().out
    assert not list(project.glob("a.parquet*"))
    wrong = {
        "either --images or --texts": ["embed", "--out", "a.parquet"],
        "--text-column requires --texts": [
            *("embed", "--images", "world", "--text-column", "x", "--out", "a.parquet"),
        ],
        "--streaming requires --images": [
            *("embed", "--texts", "x.txt", "--streaming", "--out", "a.parquet"),
        ],
        "specify what to search for": ["search", "--index", "a.parquet"],
        "--images requires --html": [
            *("search", "--index", "a.parquet", "x", "--images", "world"),
        ],
    }
    for complaint, arguments in wrong.items():
        assert run(arguments) == 2
        assert complaint in capsys.readouterr().err
    assert run(["embed", "--images", "world", "--out", "a.parquet", "--model", "runs/no"]) == 1
    assert "contains no trained model" in capsys.readouterr().err
    used = ["embed", "--images", "world", "--out", "a.parquet", "--device", "nonsense"]
    assert run(used) == 1
    assert "the device nonsense cannot be used" in capsys.readouterr().err
    # It would be a file of the data set, which would then have changed.
    assert run(["embed", "--images", "hf:world", "--out", "world/a.parquet"]) == 1
    assert "inside the data set" in capsys.readouterr().err


def test_sigterm_ends_as_ctrl_c_does_and_the_next_run_goes_on(
    tmp_path: Path, made: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_world(tmp_path / "world", train=400, val=1, test=1)
    arguments = ["embed", "--model", str(made / "runs/stage2"), "--images", str(tmp_path / "world")]
    arguments += ["--out", str(tmp_path / "a.parquet"), "--part-size", "8", "--batch-size", "4"]
    # It stands still after its first part: the signal is never too late.
    program = (
        "import sys, time; from pipelines import cli; from vse.search.parts import PartFolder; "
        "write = PartFolder.write; "
        f"PartFolder.write = lambda *given: (write(*given), time.sleep({HANG_SECONDS})); "
        "sys.exit(cli.run(sys.argv[1:]))"
    )
    command = [sys.executable, "-c", program, *arguments]
    root = Path(__file__).resolve().parents[3]
    process = subprocess.Popen(command, cwd=root, stderr=subprocess.PIPE, text=True)
    parts = tmp_path / "a.parquet.parts"
    wait_until(lambda: process.poll() is not None or list(parts.glob("*.parquet")))
    process.send_signal(signal.SIGTERM)
    _, said = process.communicate()
    assert process.returncode == 130, said
    assert "finished parts are saved" in said and not (tmp_path / "a.parquet").exists()
    assert run(arguments) == 0
    assert "resuming  8 of 402 images" in capsys.readouterr().err
