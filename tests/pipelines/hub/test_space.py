"""`d2s publish space`: what is in the tree, and that its app.py answers on its own."""

from __future__ import annotations

import http.client
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import requires, version
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import pyarrow.parquet as pq
import pytest
import yaml
from packaging.requirements import Requirement

import vse
from data.errors import UserError
from pipelines.cli import run
from pipelines.console.import_path import PACKAGES
from pipelines.hub.remote import Comparison
from pipelines.hub.space.names import shorten_names
from pipelines.hub.space.wheel import name_wheel
from pipelines.hub.upload import _Upload
from pipelines.search_app.space import open_space
from tests.json_outputs import check_json
from tests.pipelines.hub.hub import open_place
from tests.pipelines.search_app.made import (
    HOSTILE_FILE,
    embed,
    embed_other_world,
    embed_table,
    write_project,
)
from tests.vse.models import write_model
from tests.waiting import HANG_SECONDS

SPACE = ["publish", "space", "--repo", "me/search", "--license", "mit"]
BOTH = [*SPACE, "--index", "images.parquet", "--index", "texts.parquet"]


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_project(tmp_path_factory.mktemp("space"))


@pytest.fixture
def here(project: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(project)
    return project


@pytest.fixture(scope="module")
def written(project: Path) -> Path:
    """The whole of what may be in a Space."""
    whole = ["--images-license", "cc-by-4.0", "--dense", "dense/world", "--dataset", "me/photos"]
    whole += ["--captions", "world/dataset_world.json", "--top", "3", "--to-dir", "tree"]
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(project)
        assert run([*BOTH, *whole]) == 0
    return project / "tree"


def list_files(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def read_head(folder: Path) -> dict[str, object]:
    head: dict[str, object] = yaml.safe_load((folder / "README.md").read_text().split("---")[1])
    return head


def test_the_keys_of_a_dry_run_are_documented(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run([*BOTH, "--dry-run", "--json"]) == 0
    check_json("publish space", json.loads(capsys.readouterr().out), dry_run=True)


PLAIN = {
    "README.md",
    "app.py",
    name_wheel(),
    "requirements.txt",
    "space.json",
    "index/0-images.parquet",
    "model/config.json",
    "model/model.safetensors",
    "model/tokenizer/tokenizer.json",
}


def test_the_tree_has_what_was_asked_for_and_no_more(written: Path, here: Path) -> None:
    more = {"index/1-texts.parquet", "pictures-0.parquet", "texts.parquet"}
    assert list_files(written) == PLAIN | more
    assert read_head(written) == {
        "title": "search",
        "sdk": "gradio",
        "sdk_version": version("gradio"),
        "python_version": ".".join(map(str, sys.version_info[:2])),
        "app_file": "app.py",
        "license": "mit",
        "tags": ["image-text-retrieval", "d2s-vse"],
        "datasets": ["me/photos"],
    }
    card = (written / "README.md").read_text()
    assert "14 images (images)" in card and "licence cc-by-4.0 of the images" in card
    assert run([*SPACE, "--index", "images.parquet", "--to-dir", "plain"]) == 0
    assert list_files(here / "plain") == PLAIN
    assert "**Pictures**: none." in (here / "plain/README.md").read_text()
    shutil.rmtree(here / "plain")


def test_no_place_of_this_machine_is_in_it(written: Path, project: Path) -> None:
    for path in written.rglob("*"):
        if path.is_file():
            assert str(project).encode() not in path.read_bytes(), path
    shared = pq.ParquetFile(written / "index/0-images.parquet")
    about = shared.schema_arrow.metadata
    assert (about[b"d2s.source"], about[b"d2s.model"]) == (b"{}", b"model")
    mine, theirs = pq.read_table(project / "images.parquet"), shared.read()
    for column in ("id", "file_name", "embedding"):
        assert mine[column].equals(theirs[column])


def test_names_of_a_list_of_absolute_paths_begin_in_their_own_folder(
    here: Path, tmp_path: Path
) -> None:
    photos = sorted((here / "world").rglob("*.png"))
    (tmp_path / "list.txt").write_text("".join(f"{path}\n" for path in photos))
    index = embed(here, tmp_path / "list.txt", tmp_path / "index.parquet")
    tree = tmp_path / "tree"
    texts = ["--captions", "world/dataset_world.json", "--to-dir", str(tree)]
    assert run([*SPACE, "--index", str(index), *texts]) == 0
    wanted = [str(path.relative_to(here / "world")) for path in photos]
    shared = pq.read_table(tree / "index/0-index.parquet").column("file_name").to_pylist()
    assert shared == wanted and pq.read_table(index).column("file_name")[0].as_py() not in wanted
    assert pq.read_table(tree / "texts.parquet").column("file_name").to_pylist() == wanted


def test_different_names_stay_different() -> None:
    def make(root: str, *names: str | None) -> Any:
        info = SimpleNamespace(source={"root": root})
        return SimpleNamespace(info=info, read_file_names=lambda: list(names))

    host = "https://host.org"
    signed = f"{host}/a.jpg?sig=1"
    found = shorten_names(
        [
            make("", signed, f"{host}/a.jpg?sig=2", "https://me:secret@host.org/b.jpg", None),
            make("/", "home/me/a.jpg", "home/me/x/b.jpg"),
            make("/photos", "a.jpg", "x/c.jpg"),
        ]
    )
    assert found == {
        signed: f"{host}/a.jpg",
        f"{host}/a.jpg?sig=2": f"{host}/a.jpg (2)",
        "https://me:secret@host.org/b.jpg": f"{host}/b.jpg",
        "home/me/a.jpg": "a.jpg (2)",
        "home/me/x/b.jpg": "x/b.jpg",
    }


def test_two_indexes_of_the_same_images_share_their_texts(here: Path, tmp_path: Path) -> None:
    again, tree = tmp_path / "again.parquet", tmp_path / "tree"
    more = ["--limit", "9", "--out", str(again), "--model", "runs/stage2"]
    assert run(["embed", "--images", "world", *more]) == 0
    given = [*BOTH, "--index", str(again), "--images-license", "mit", "--to-dir", str(tree)]
    assert run(given) == 0
    collection, about = open_space(tree)
    assert [entry["place"] for entry in about["indexes"]] == [0, 1, 0]
    row = collection.indexes[1].read_file_names().index(HOSTILE_FILE)
    found = collection.compare(collection.ask_text("red"), (1, row))
    assert found.shown.picture is not None and found.image_to_query is not None


def test_a_model_with_adapters_gets_their_package(
    here: Path, written: Path, tmp_path: Path
) -> None:
    write_model(tmp_path / "lora", here / "world", image={"lora": 2})
    (tmp_path / "runs").mkdir()
    (tmp_path / "lora").rename(tmp_path / "runs/stage2")
    index = embed(tmp_path, here / "world", tmp_path / "index.parquet")
    tree = tmp_path / "tree"
    assert run([*SPACE, "--index", str(index), "--to-dir", str(tree)]) == 0
    assert f"\npeft=={version('peft')}\n" in (tree / "requirements.txt").read_text()
    assert "peft" not in (written / "requirements.txt").read_text()


def test_the_same_again_is_the_same_to_the_byte(written: Path, here: Path) -> None:
    before = {name: (written / name).read_bytes() for name in list_files(written)}
    test = ["--images-license", "cc-by-4.0", "--dense", "dense/world", "--dataset", "me/photos"]
    test += ["--captions", "world/dataset_world.json", "--top", "3", "--to-dir", "tree"]
    assert run([*BOTH, *test]) == 0
    assert {name: (written / name).read_bytes() for name in list_files(written)} == before


def test_requirements_are_what_is_installed_and_what_gradio_takes(written: Path) -> None:
    lines = (written / "requirements.txt").read_text().splitlines()
    assert lines[0].startswith("--extra-index-url ")
    wanted = {entry.name: entry for entry in map(Requirement, lines[1:])}
    assert "d2s-vse" not in wanted, "it comes along as a wheel"
    assert {"fastapi", "uvicorn", "torch", "transformers", "tokenizers", "numpy"} <= set(wanted)
    gradio = {entry.name: entry for entry in map(Requirement, requires("gradio") or [])}
    for name, entry in wanted.items():
        installed = version(name).partition("+")[0]
        asked = gradio[name].specifier if name in gradio else None
        if asked is None or asked.contains(installed):
            assert str(entry.specifier) == f"=={installed}", name
        else:
            # Both can be had, though not what is installed.
            assert set(asked) <= set(entry.specifier), name


@pytest.fixture(scope="module")
def address(written: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The Space at work, in a folder where nothing else is, of the wheel that it carries."""
    alone = tmp_path_factory.mktemp("alone") / "app"
    shutil.copytree(written, alone)
    # Whatever it does not have from the wheel it finds here, before what is installed.
    poison = alone.parent / "poison"
    for package in PACKAGES:
        (poison / package).mkdir(parents=True)
        (poison / package / "__init__.py").write_text("raise SystemExit('not of the wheel')")
    process = subprocess.Popen(
        [sys.executable, "-P", "app.py"],
        cwd=alone,
        env={
            **os.environ,
            "PYTHONPATH": str(poison),
            "GRADIO_SERVER_NAME": "127.0.0.1",
            "GRADIO_SERVER_PORT": "0",
        },
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None and process.stderr is not None
    said = process.stdout.readline()
    assert said.startswith("serving http://127.0.0.1:"), process.stderr.read()
    yield said.split()[-1]
    process.send_signal(signal.SIGTERM)
    _, told = process.communicate(timeout=HANG_SECONDS)
    assert (process.returncode, told) == (0, "")


def send(address: str, method: str, path: str, body: object = None) -> str:
    connection = http.client.HTTPConnection(urlsplit(address).netloc, timeout=HANG_SECONDS)
    connection.request(
        method, path, body and json.dumps(body), {"Content-Type": "application/json"}
    )
    answer = connection.getresponse()
    said = answer.read().decode()
    connection.close()
    assert answer.status == 200, said
    return said


def call(address: str, event: str, **more: object) -> list[object]:
    """What the page shows after an event, as its script asks for it."""
    config = json.loads(send(address, "GET", "/config"))
    [found] = [d for d in config["dependencies"] if d["targets"][0][1] == event]
    body = {"fn_index": found["id"], "session_hash": "one", "data": [None], **more}
    send(address, "POST", "/gradio_api/queue/join", body)
    lines = send(address, "GET", "/gradio_api/queue/data?session_hash=one").splitlines()
    told = [json.loads(line.removeprefix("data: ")) for line in lines if line]
    [done] = [line for line in told if line["msg"] == "process_completed"]
    assert done["success"], done
    shown: list[object] = done["output"]["data"]
    return shown


def test_its_app_answers_with_nothing_but_its_own_files(address: str, project: Path) -> None:
    _, answer, _ = call(address, "submit", data=["a red square"])
    assert isinstance(answer, str)
    table = pq.read_table(project / "images.parquet")
    [vector] = vse.load(project / "runs/stage2", device="cpu").encode_text(["a red square"])
    scores = np.vstack(table.column("embedding").to_numpy()).astype(np.float64) @ vector
    order = np.argsort(-scores, kind="stable")[:3]
    shown = re.findall(r'class="d2s-score">([-.\d]+)<', answer)
    assert shown[:3] == [f"{score:.4f}" for score in scores[order]] and len(shown) == 6
    assert answer.count("data:image/jpeg;base64,") == 3
    row = table.column("file_name").to_pylist().index(HOSTILE_FILE)
    choice = {"data": [None], "event_data": {"place": f"0 {row}"}}
    [comparison] = call(address, "choose", **choice)
    assert isinstance(comparison, str)
    assert comparison.count("&lt;script&gt;window.pwned=2") == 2 and "<script" not in comparison


def test_a_model_of_the_hub_is_named_and_not_copied(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Found in the cache of the Hub's client, whose folder tells the commit."""
    commit = "0123456789abcdef" * 2 + "01234567"
    cached = here / "cache/models--me--d2s"
    shutil.copytree(here / "runs/stage2", cached / "snapshots" / commit)
    (cached / "refs").mkdir()
    (cached / "refs/main").write_text(commit)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(here / "cache"))
    given = [*SPACE, "--index", "images.parquet", "--model", "me/d2s", "--to-dir", "named"]
    assert run(given) == 0
    assert not (here / "named/model").exists() and read_head(here / "named")["models"] == ["me/d2s"]
    about = json.loads((here / "named/space.json").read_text())
    assert about["model"] == {"name": "me/d2s", "revision": commit}


def test_what_is_refused(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    index = ["--index", "images.parquet"]
    no_licence = ["publish", "space", "--repo", "me/search", *index, "--dry-run"]
    (here / "empty").mkdir()
    for arguments, code, said in (
        (
            no_licence,
            2,
            "--license is missing: specify the license under which the Space may be used",
        ),
        ([*no_licence, "--license", "My Own"], 2, "'My Own' is not the name of a license"),
        ([*SPACE, *index, "--images", "world"], 2, "--images requires --images-license"),
        (
            [*SPACE, *index, "--images", "empty", "--images-license", "mit", "--dry-run"],
            1,
            "none of the images of images.parquet can be read",
        ),
        (
            [*SPACE, "--index", "texts.parquet", "--images-license", "mit", "--dry-run"],
            2,
            "--images-license requires an index of images",
        ),
        ([*SPACE, *index, "--model", "runs/none", "--dry-run"], 1, "runs/none contains no trained"),
    ):
        assert run(arguments) == code, said
        assert said in capsys.readouterr().err


def test_a_name_in_two_image_indexes_gets_no_texts(
    here: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other, tree = embed_other_world(here, tmp_path), tmp_path / "tree"
    texts = ["--dense", "dense/world", "--captions", "world/dataset_world.json"]
    given = [*SPACE, "--index", "images.parquet", "--index", str(other), *texts]
    capsys.readouterr()
    assert run([*given, "--to-dir", str(tree)]) == 0
    assert capsys.readouterr().err.count("3 file names") == 1
    names = set(pq.read_table(tree / "texts.parquet")["file_name"].to_pylist())
    own = set(pq.read_table(other)["file_name"].to_pylist())
    assert len(own) == 3 and not names & own and len(names) == 11


def test_pictures_of_a_table_that_was_written_again_are_refused(
    here: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    index, table = embed_table(here, tmp_path)
    pq.write_table(pq.read_table(table).slice(1), table)
    given = [*SPACE, "--index", str(index), "--images-license", "mit", "--dry-run"]
    assert run(given) == 1
    assert "photos.parquet has changed" in capsys.readouterr().err


def test_it_is_published_once(project: Path) -> None:
    with open_place(project) as place:
        given = [word for word in BOTH if word != "publish"]
        done = place.publish(*given)
        assert done.code == 0, done.err
        assert "/spaces/me/search has all 10 files at tag d2s-" in done.out
        assert name_wheel() in done.err
        again = place.publish(*given)
        assert (again.code, again.out.count("(0 uploaded, 10 were there)")) == (0, 1), again.err


@pytest.mark.parametrize("others", [(), ("index.html",)])
def test_only_a_new_space_is_taken_for_new(others: tuple[str, ...]) -> None:
    """The Hub writes a README.md into a new Space; one with other files is somebody's."""
    said: list[str] = []
    upload: Any = SimpleNamespace(kind="space", repo="me/search", say=said.append)
    before: Any = Comparison((), (SimpleNamespace(path="README.md"),), (), others)
    if not others:
        _Upload._check_overwriting(upload, before, overwrite=False)
        return
    with pytest.raises(UserError, match="--overwrite"):
        _Upload._check_overwriting(upload, before, overwrite=False)
