"""Models on a Hub, over HTTP: published, completed after a fault, loaded, measured, refused."""

import contextlib
import json
import os
import pickle
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.hub.commands import ROOT, Commands
from tests.hub.faults import Fault
from tests.hub.server import HubServer
from tests.hub.state import User
from tests.pipelines.commands.test_evaluate_models import KNOWN, write_clip
from tests.pipelines.hub.trained import write_runs
from tests.vse.model.backbones.clips import register

TOKEN = "hf_" + "someones" * 4
PUBLISH = ("publish", "model", "runs/seed0", "--repo", "someone/model", "--license", "apache-2.0")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("shared")
    with contextlib.chdir(folder):
        write_runs(folder)
        register(folder, **KNOWN)
        write_clip("d2s-vit", Path("clip"))
        yield folder


@pytest.fixture(scope="module")
def server() -> Iterator[HubServer]:
    with HubServer() as server:
        server.hub.users[TOKEN] = User("someone")
        yield server


@pytest.fixture(scope="module")
def commands(server: HubServer, folder: Path) -> Iterator[Commands]:
    environment = server.environment(folder / "home", token=TOKEN)
    quiet = {"HF_HUB_DISABLE_PROGRESS_BARS": "1"}
    with Commands({**environment, **quiet}, folder) as commands:
        yield commands


_READER = """
import sys
import numpy as np, vse
from pathlib import Path
paths = sorted(Path("world/test").iterdir())
texts = ["a red square", "white on blue", "the image shows a square " * 20]
mine, theirs = vse.load("runs/seed0"), vse.load(sys.argv[1])
np.testing.assert_array_equal(mine.encode_image(paths), theirs.encode_image(paths))
np.testing.assert_array_equal(mine.encode_text(texts), theirs.encode_text(texts))
again = vse.Embedder.from_pretrained(sys.argv[1], revision=sys.argv[2])
print(mine.folder, theirs.folder == again.folder, "Hub" in str(type(again).__mro__))
"""


def test_after_a_fault_it_ends_complete_and_gives_equal_embeddings(
    server: HubServer, commands: Commands, folder: Path
) -> None:
    # The weights are stored, their commit is refused; then the answer of a commit is lost.
    server.faults.add(Fault(r"POST /api/models/someone/model/commit/", status=403))
    done = commands.run(*PUBLISH)
    assert done.code == 1 and "run the same command again to continue" in done.err
    assert TOKEN not in done.out + done.err
    assert "README.md" not in server.hub.read("model", "someone/model")
    server.faults.add(Fault(r"POST /api/models/someone/model/commit/", what="lose"))
    done = commands.run(*PUBLISH, "--json")
    assert done.code == 0, done.err
    about = json.loads(done.out)
    there = server.hub.read("model", "someone/model")
    assert set(about["uploaded"]) == set(there)
    assert there["model.safetensors"] == (folder / "runs/seed0/model.safetensors").read_bytes()
    puts = [line for line in server.requests if line.startswith("PUT ")]
    assert len(puts) == len(set(puts)) == 1
    commits = len(server.requests)
    again = commands.run(*PUBLISH, "--json")
    assert again.code == 0 and json.loads(again.out)["uploaded"] == []
    assert not [line for line in server.requests[commits:] if "/commit/" in line]

    # A process that knows nothing of this one, with empty caches and no token.
    read = subprocess.run(
        [sys.executable, "-P", "-c", f"import sys; sys.path.insert(0, {str(ROOT)!r})" + _READER,
         "someone/model", about["tag"]],
        env={**os.environ, **server.environment(folder / "elsewhere")},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert read.returncode == 0, read.stderr[-3000:]
    assert read.stdout.split() == ["runs/seed0", "True", "True"]


def test_models_of_the_hub_are_measured(
    server: HubServer, commands: Commands, folder: Path
) -> None:
    clip = {path.name: path.read_bytes() for path in Path("clip").iterdir()}
    server.hub.create("some/clip", clip, kind="model")
    names = ["runs/seed0", "someone/model", "open_clip:hf-hub:some/clip", "open_clip:clip"]
    models = [word for name in names for word in ("--model", name)]
    done = commands.run("evaluate", *models, "--json")
    assert done.code == 0, done.err
    mine, published, hub, local = json.loads(done.out)["models"]
    figures = [key for key in mine if key[:3] in ("i2t", "t2i")] + ["rsum", "px", "weights_sha256"]
    assert [mine[k] for k in figures] == [published[k] for k in figures]
    assert [hub[k] for k in figures] == [local[k] for k in figures]
    assert mine["px"] == 16 and hub["px"] == 32
    assert (folder / "evaluations/someone-model/eval-test.json").is_file()


def test_pickles_and_strangers_are_one_line(
    server: HubServer, commands: Commands, folder: Path
) -> None:
    pickled = {"pytorch_model.bin": pickle.dumps({}), "open_clip_pytorch_model.bin": b"x"}
    config = {"open_clip_config.json": Path("clip/open_clip_config.json").read_bytes()}
    server.hub.create("some/pickled", pickled | config, kind="model")
    wrong = {
        "some/pickled": "some/pickled has pickled weights",
        "open_clip:hf-hub:some/pickled": "some/pickled has no open_clip_model.safetensors",
        "open_clip:hf-hub:some/nothing": "open_clip_config.json of open_clip:hf-hub:some/nothing",
        "some/nothing": "nor a repository on the Hub that you can read",
    }
    for name, complaint in wrong.items():
        done = commands.run("evaluate", "--model", name, "--images", "world")
        assert done.code == 1 and complaint in done.err, done.err
        assert done.err.count("\n") == 1 and TOKEN not in done.err
    assert not [line for line in server.requests if ".bin" in line]
    other = [word if word != "someone/model" else "somebody/model" for word in PUBLISH]
    done = commands.run(*other)
    assert done.code == 1 and "you may not write to somebody/model" in done.err
