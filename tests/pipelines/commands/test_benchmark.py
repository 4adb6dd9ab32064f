"""`d2s benchmark`: from folders and from a Hub over HTTP, resumed, written, refused in one line."""

import io
import json
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipelines.cli import run
from pipelines.commands.benchmark import _find_finished
from tests.hub.commands import Commands
from tests.hub.server import HubServer
from tests.json_outputs import check_json
from tests.vse.evaluation.published import COUNT, declare_small, write_published
from tests.vse.models import write_model
from tests.vse.world import write_world
from vse.evaluation.benchmarks.declaration import shipped_benchmarks

RECORD = Path("evaluations/benchmark-files.json")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return write_sets(tmp_path)


def write_sets(folder: Path) -> Path:
    """runs/stage2, sets/docci and sets/coco with their declarations."""
    write_world(folder / "world", train=4, val=1, test=1)
    write_model(folder / "runs/stage2", folder / "world")
    for name in ("docci", "coco"):
        write_published(name, folder / "sets" / name)
        declare_small(name, folder)
    return folder


def test_a_set_is_measured_written_and_not_again(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    typed = ["benchmark", "docci.yaml", "coco.yaml", "--data", "sets"]
    assert run([*typed, "--dry-run", "--json"]) == 0
    planned = json.loads(capsys.readouterr().out)
    check_json("benchmark", planned, dry_run=True)
    assert not RECORD.exists() and not any(Path(one).exists() for one in planned["writes"])
    assert run([*typed, "--json", "--mteb", "mteb"]) == 0
    said = capsys.readouterr()
    printed = json.loads(said.out)
    check_json("benchmark", printed)
    docci, coco = printed["results"]
    assert docci == json.loads(Path("runs/stage2/benchmark-docci.json").read_text())
    assert docci["scores"]["rsum"] >= 0 and docci["px"] == 16 and coco["scores"]["folds"]
    assert (docci["partial"], docci["examples"], docci["model"]) == (False, COUNT, "runs/stage2")
    assert set(json.loads(RECORD.read_text())) == {"docci", "coco"}
    (written,) = Path("mteb").glob("*/*/docci.json")
    assert json.loads(written.read_text())["scores"]["test"][0]["hf_subset"] == "default"

    monkeypatch.setattr("vse.embedders.embedder.TrainedEncoder.embed_files", None)
    assert run(typed) == 0
    said = capsys.readouterr()
    assert said.err.count("kept") == 2 and "rSum" in said.out and "5 folds" in said.out
    # Of what is kept the files are recorded, too.
    RECORD.unlink()
    assert run(typed) == 0
    assert set(json.loads(RECORD.read_text())) == {"docci", "coco"}
    # So are other weights, or another tokenizer, another model.
    Path("runs/stage2/tokenizer/special.json").write_text(
        '{"pad_id": 0, "mask_id": 4, "clean": "lower"}'
    )
    assert run(typed) == 1
    write_model(Path("runs/stage2"), folder / "world", seed=1)
    assert run(typed) == 1


def test_a_part_and_another_folder(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    typed = ["benchmark", "docci.yaml", "--data", "sets/docci", "--limit", "3", "--out", "out"]
    assert run([*typed, "--format", "markdown"]) == 0
    said = capsys.readouterr()
    assert "not comparable" in said.out and "partial" in said.err
    result = json.loads(Path("out/runs-stage2/benchmark-docci-first-3.json").read_text())
    assert result["partial"] and result["limit"] == 3 and Path("out/benchmark-files.json").is_file()


def test_results_of_an_earlier_version_are_kept(tmp_path: Path) -> None:
    """They have no fingerprint of the model, and were named without it."""
    path, names = tmp_path / "benchmark-docci.json", {True: "new", False: "old"}
    for found, kept in (
        ({"inputs_sha256": "old"}, True),
        ({"inputs_sha256": "new", "fingerprint": "f"}, True),
        ({"inputs_sha256": "old", "fingerprint": "f"}, False),
    ):
        path.write_text(json.dumps(found))
        assert (_find_finished(path, names) == found) == kept


def test_two_models_do_not_write_one_file(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "sub").mkdir()
    monkeypatch.chdir(folder / "sub")
    Path("runs").symlink_to("../runs")
    typed = ["benchmark", "../docci.yaml", "--data", "../sets/docci", "--out", "out"]
    assert run([*typed, "-m", "runs/stage2", "-m", "../runs/stage2"]) == 2
    assert "two models would write" in capsys.readouterr().err and not Path("out").exists()


def test_what_was_measured_is_printed_though_the_next_set_fails(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Path(f"sets/coco/val2014/COCO_val2014_{7:012d}.jpg").write_bytes(b"no image")
    assert run(["benchmark", "docci.yaml", "coco.yaml", "--data", "sets", "--json"]) == 1
    said = capsys.readouterr()
    (result,) = json.loads(said.out)["results"]
    assert result["benchmark"] == "docci" and "cannot be read" in said.err.splitlines()[-1]


def test_other_files_than_before_are_refused(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    typed = ["benchmark", "docci.yaml", "--data", "sets"]
    assert run(typed) == 0
    captions = Path("sets/docci/docci_descriptions.jsonlines")
    captions.write_text(captions.read_text().replace("ground", "floor"))
    capsys.readouterr()
    assert run(typed) == 1
    said = capsys.readouterr().err
    assert "docci_descriptions.jsonlines" in said and str(RECORD) in said


WRONG = {
    "": 2,
    "nothing": 1,
    "docci": 1,
    "docci --data none": 1,
    "docci --data sets": 1,
    "docci.yaml --data sets --revision abc": 2,
    "docci.yaml coco.yaml --revision abc": 2,
    "docci.yaml --data sets --json --format latex": 2,
    "docci.yaml --data sets --model sentence-transformers:nowhere/none --dtype bfloat16": 1,
}


@pytest.mark.parametrize("words", WRONG)
def test_what_cannot_be_measured_is_one_line(
    words: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["benchmark", *words.split()]) == WRONG[words]
    assert "error" in capsys.readouterr().err.splitlines()[-1]


def test_the_list(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["benchmark", "--list"]) == 0
    said = capsys.readouterr().out
    assert all(f"{name}: " in said for name in shipped_benchmarks())
    assert "license" in said and "--data FOLDER" in said and "36 languages" in said
    assert run(["benchmark", "--list", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)["benchmarks"]
    assert [one["name"] for one in found] == shipped_benchmarks()


@pytest.fixture(scope="module")
def server() -> Iterator[HubServer]:
    with HubServer() as server:
        yield server


@pytest.fixture(scope="module")
def away(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_sets(tmp_path_factory.mktemp("away"))


@pytest.fixture(scope="module")
def commands(server: HubServer, away: Path) -> Iterator[Commands]:
    with Commands(server.environment(away / "home"), away) as commands:
        yield commands


def _zip(folder: Path) -> bytes:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        for path in sorted(folder.rglob("*")):
            archive.write(path, path.relative_to(folder.parent))
    return packed.getvalue()


def test_sets_of_the_hub(server: HubServer, commands: Commands, away: Path) -> None:
    folder = away
    write_published("urban1k", folder / "urban")
    write_published("winoground", folder / "wino")
    urban = server.hub.create("me/urban", {"Urban1k.zip": _zip(folder / "urban/Urban1k")})
    wino = server.hub.create(
        "me/wino",
        {
            "data/examples.jsonl": (folder / "wino/data/examples.jsonl").read_bytes(),
            "data/images.zip": _zip(folder / "wino/data/images"),
        },
    )
    first = urban.refs["main"]
    pinned = {"repo": "me/urban", "files": ["Urban1k.zip"], "revision": first}
    declare_small("urban1k", folder, hub=pinned)
    files = ["data/examples.jsonl", "data/images.zip"]
    declare_small("winoground", folder, hub={"repo": "me/wino", "files": files})
    # The Hub moves on; the set does not.
    later = urban.commit({"Urban1k.zip": b"x"}).sha
    done = commands.run("benchmark", "urban1k.yaml", "--json")
    assert done.code == 0, done.err
    (result,) = json.loads(done.out)["results"]
    assert result["revision"] == first and {"Urban1k.zip"} < set(result["files"])
    assert (result["examples"], result["images"]) == (COUNT, COUNT)

    done = commands.run("benchmark", "urban1k.yaml", "--revision", later)
    assert done.code == 1 and first in done.err, done.err
    done = commands.run("benchmark", "winoground.yaml")
    assert done.code == 1 and "--revision" in done.err, done.err
    typed = ("benchmark", "winoground.yaml", "--revision")
    done = commands.run(*typed, wino.refs["main"], "--json")
    assert done.code == 0, done.err
    assert {"text", "image", "group"} == set(json.loads(done.out)["results"][0]["scores"])
    # Held to the first: another commit, of the same files.
    done = commands.run(*typed, wino.commit({"README.md": b"more"}).sha)
    assert done.code == 1 and "revision of winoground" in done.err, done.err

    declare_small("urban1k", folder, hub=pinned | {"revision": later})
    done = commands.run("benchmark", "urban1k.yaml", "--out", "elsewhere")
    assert done.code == 1 and "cannot be unpacked" in done.err, done.err
    declare_small("urban1k", folder, hub=pinned | {"repo": "me/none"})
    done = commands.run("benchmark", "urban1k.yaml")
    assert done.code == 1 and "me/none" in done.err and done.err.count("\n") == 1, done.err


def test_an_archive_writes_nowhere_else(server: HubServer, commands: Commands, away: Path) -> None:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr("../../../outside.txt", "x")
    hostile = server.hub.create("me/hostile", {"Urban1k.zip": packed.getvalue()})
    hub = {"repo": "me/hostile", "files": ["Urban1k.zip"], "revision": hostile.refs["main"]}
    declare_small("urban1k", away, hub=hub)
    done = commands.run("benchmark", "urban1k.yaml")
    assert done.code == 1 and "leads out of its folder" in done.err, done.err


def test_no_pickle_of_a_model_of_others_is_fetched(server: HubServer, commands: Commands) -> None:
    files = {"modules.json": b"[]", "pytorch_model.bin": b"x", "code.py": b"x"}
    server.hub.create("me/st", files | {"model.safetensors": b"weights"}, kind="model")
    typed = ("benchmark", "docci.yaml", "--data", "sets", "--model", "sentence-transformers:me/st")
    done = commands.run(*typed)
    assert done.code == 1 and "pip install sentence-transformers" in done.err, done.err
    asked = [line for line in server.requests if "/me/st/resolve/" in line]
    assert asked and not [line for line in asked if ".bin" in line or ".py" in line]
