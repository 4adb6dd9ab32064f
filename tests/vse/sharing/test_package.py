"""A model given to others: saved, pushed to a Hub, fetched again, and never unpickled."""

import json
import os
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from huggingface_hub import ModelCard

import vse
from data.errors import UserError
from pipelines.cli import run as d2s
from tests.hub.server import HubServer
from tests.hub.state import User
from tests.vse.models import write_model
from tests.vse.runs import make
from tests.vse.runs import run as train
from tests.vse.world import write_project, write_world
from vse.sharing.package import strip_config

ROOT = Path(__file__).resolve().parents[3]
TEXTS = ["a red square", "blue on green", "the image shows a white square at the top"]


@pytest.fixture
def run(tmp_path: Path) -> Path:
    write_world(tmp_path / "world", train=4, val=1, test=3)
    return write_model(tmp_path / "runs/stage2", tmp_path / "world")


def encode(model: vse.Embedder, run: Path) -> tuple[np.ndarray, np.ndarray]:
    paths = sorted((run.parents[1] / "world/test").iterdir())
    return model.encode_image(paths), model.encode_text(TEXTS)


def test_saved_and_loaded_it_is_the_same_to_the_bit(run: Path, tmp_path: Path) -> None:
    model = vse.load(run)
    model.save_pretrained(tmp_path / "shared")
    files = sorted(p.relative_to(tmp_path / "shared") for p in (tmp_path / "shared").rglob("*"))
    names = "README.md config.json model.safetensors preprocessing.json"
    names += " tokenizer tokenizer/tokenizer.json"
    assert [str(name) for name in files] == names.split()
    again = vse.Embedder.from_pretrained(tmp_path / "shared")
    for before, after in zip(encode(model, run), encode(again, run), strict=True):
        np.testing.assert_array_equal(after, before)
    # The same file, so that an index of one is an index of the other.
    saved = (tmp_path / "shared/model.safetensors").read_bytes()
    assert saved == (run / "model.safetensors").read_bytes()
    again.save_pretrained(tmp_path / "shared")
    assert vse.load(tmp_path / "shared").config == again.config


def test_where_it_was_trained_stays_private(run: Path, tmp_path: Path) -> None:
    config = json.loads((run / "config.json").read_text())
    config["recipe"]["image"]["name"] = f"{tmp_path}/secret/vit-base/"
    (run / "config.json").write_text(json.dumps(config))
    assert str(tmp_path) in (run / "config.json").read_text()
    vse.load(run).save_pretrained(tmp_path / "shared")
    for path in (tmp_path / "shared").rglob("*.*"):
        assert str(tmp_path).encode() not in path.read_bytes(), path
    saved = json.loads((tmp_path / "shared/config.json").read_text())
    assert saved["recipe"]["image"]["name"] == "vit-base"
    assert saved["data"] == {"dataset": None, "split_counts": {"train": 48}, "sparse_side": None}
    # A folder is no repository of the Hub, however its name looks by now.
    assert saved["base_models"] == []


@pytest.mark.parametrize(
    ("name", "kept"),
    [
        ("llava:/home/bob/llava", "llava:llava"),
        ("timm:/home/bob/vit/", "timm:vit"),
        ("open_clip:ViT-B-32//home/bob/weights.pt", "open_clip:ViT-B-32/weights.pt"),
        ("timm:vit_base", "timm:vit_base"),
    ],
)
def test_where_a_tower_was_stays_private(name: str, kept: str) -> None:
    recipe = {"image": {"name": name}, "text": {"name": "them/bert"}}
    stripped = strip_config({"recipe": recipe, "recipe_raw": recipe})
    for part in ("recipe", "recipe_raw"):
        assert stripped[part]["image"]["name"] == kept
        assert stripped[part]["text"]["name"] == "them/bert"


def test_the_card_tells_what_was_measured_of_these_weights(run: Path, tmp_path: Path) -> None:
    world = ["--images", str(tmp_path / "world")]
    assert d2s(["evaluate", "--model", str(run), *world]) == 0
    vse.load(run).save_pretrained(tmp_path / "shared")
    card = ModelCard.load(tmp_path / "shared/README.md")
    found = json.loads((run / "eval-test.json").read_text())
    assert "world, test: 3 images, 9 captions" in card.text
    six = [f"{found[f'{way}_r{cut}']:.1f}" for way in ("i2t", "t2i") for cut in (1, 5, 10)]
    assert f"| this model | 16 px | {' | '.join(six)} | {found['rsum']:.1f} |" in card.text
    assert card.data.library_name == "d2s-vse"
    entries = {(e.task_type[:4], e.metric_type): e for e in card.data.eval_results}
    assert entries["text", "recall_at_5"].metric_value == found["t2i_r5"]
    assert {(e.dataset_name, e.dataset_split) for e in entries.values()} == {("world", "test")}
    # Other weights have other figures.
    write_model(run, tmp_path / "world", seed=1)
    vse.load(run).save_pretrained(tmp_path / "other")
    card = ModelCard.load(tmp_path / "other/README.md")
    assert card.data.eval_results is None and "Results" not in card.text


def test_the_card_is_of_the_model_that_was_saved_last(run: Path, tmp_path: Path) -> None:
    saved = tmp_path / "shared"
    assert d2s(["evaluate", "--model", str(run), "--images", str(tmp_path / "world")]) == 0
    model = vse.load(run)
    model.save_pretrained(saved)
    assert "## Results" in (saved / "README.md").read_text()
    # The run went on after it was loaded: the figures are still those of what is saved.
    write_model(run, tmp_path / "world", seed=1)
    model.save_pretrained(saved)
    assert "## Results" in (saved / "README.md").read_text()
    vse.load(run).save_pretrained(saved)
    assert "## Results" not in (saved / "README.md").read_text()
    edited = (saved / "README.md").read_text() + "More notes.\n"
    (saved / "README.md").write_text(edited)
    vse.load(run).save_pretrained(saved)
    assert (saved / "README.md.bak").read_text() == edited
    (saved / "README.md").write_text("---\nlicense: mit\n---\nMine, made with d2s-vse.\n")
    vse.load(run).save_pretrained(saved)
    assert "Mine" in (saved / "README.md").read_text()


def test_a_training_run_is_not_saved_over(run: Path) -> None:
    (run / "log.jsonl").write_text("{}\n")
    before = (run / "config.json").read_bytes()
    with pytest.raises(UserError, match="folder of a training run: save the model elsewhere"):
        vse.load(run).save_pretrained(run)
    assert (run / "config.json").read_bytes() == before


def test_a_published_model_is_measured_and_trained_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    write_project(tmp_path)
    vse.load(write_model(tmp_path / "made", tmp_path / "world", stage="1")).save_pretrained(
        "shared"
    )
    train(make("2", out=Path("runs/stage2"), init=Path("shared"), steps=2))
    assert d2s(["evaluate", "--model", "shared"]) == 1
    assert "does not say where its images were: use --images" in capsys.readouterr().err
    assert d2s(["evaluate", "--model", "shared", "--images", "world"]) == 0
    assert "test: 8 images" in capsys.readouterr().out


class _Trap:
    """Unpickled, it leaves a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return (Path.touch, (self.path,))


def test_a_pickle_is_refused_and_never_read(run: Path, tmp_path: Path) -> None:
    trap = tmp_path / "sprung"
    (run / "model.safetensors").unlink()
    (run / "pytorch_model.bin").write_bytes(pickle.dumps(_Trap(trap)))
    with pytest.raises(UserError, match=r"pickled weights \(pytorch_model.bin\).*safetensors"):
        vse.load(run)
    assert not trap.exists()


def test_a_config_that_describes_no_model_is_one_line(run: Path) -> None:
    (run / "config.json").write_text(json.dumps({"fingerprint": {}, "model": {"width": 32}}))
    with pytest.raises(UserError, match=r"does not describe a model: '\w+' is missing"):
        vse.load(run)


_VISITOR = """
import sys
import numpy as np, vse
from data.errors import UserError
from pipelines.cli import run as d2s
run, name, texts = sys.argv[1], "someone/model", sys.argv[2:]
here = vse.load(run)
here.push_to_hub(name)
there = vse.load(name)
np.testing.assert_array_equal(there.encode_text(texts), here.encode_text(texts))
print(there.folder.name)
for wrong in ("someone/pickled", "someone/nothing"):
    try:
        vse.load(wrong)
    except UserError as error:
        print(error)
try:
    vse.load(name, revision="v9")
except UserError as error:
    print(error)
"""


def test_pushed_to_a_hub_and_fetched_from_it(run: Path, tmp_path: Path) -> None:
    with HubServer() as server:
        server.hub.users["hf_someone"] = User("someone")
        pickled = {"config.json": b"{}", "weights.pt": b"\x80\x04."}
        server.hub.create("someone/pickled", pickled, kind="model")
        environment = server.environment(tmp_path / "hf", token="hf_someone")
        done = subprocess.run(
            [sys.executable, "-c", _VISITOR, str(run), *TEXTS],
            cwd=ROOT,
            env={**os.environ, **environment, "HF_HUB_DISABLE_PROGRESS_BARS": "1"},
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr[-3000:]
        assert set(server.hub.read("model", "someone/model")) == {
            *("README.md", "config.json", "model.safetensors", "preprocessing.json"),
            "tokenizer/tokenizer.json",
        }
        said = done.stdout.splitlines()
        pushed = server.hub.find("model", "someone/model")
        assert pushed is not None and said[0] == pushed.refs["main"]
        assert "someone/pickled has pickled weights (weights.pt)" in said[1]
        assert "nor a repository on the Hub that you can read" in said[2]
        assert said[3] == "someone/model has no revision 'v9'"
        assert not [line for line in server.requests if "weights.pt" in line]
