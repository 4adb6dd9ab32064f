"""The documents' `d2s train` commands are planned, and their Python is run, on a tiny world."""

import importlib.util
import re
from pathlib import Path

import pytest
from PIL import Image

import vse
from pipelines.cli import run
from tests.documents import DOCUMENTS, ROOT, Command, read_blocks, read_commands
from tests.vse.models import write_model
from tests.vse.released_world import write_released
from tests.vse.world import dense_of, write_dense, write_recipe, write_world
from vse.model.build import make_decoder
from vse.model.gpo import GPO
from vse.recipes import DecoderConfig
from vse.recipes.files import shipped_recipes
from vse.runs.config import RUNS

TYPED = [
    pytest.param(typed, id=f"{path.stem}: {typed}")
    for path in DOCUMENTS
    for typed in read_commands(path)
    if typed.block and typed.words[0] == "train"
]
# The quick start's, with what was published before it, stands in the notebook that a test runs.
PYTHON = [
    pytest.param(block, id=f"{path.stem} {number}")
    for path in DOCUMENTS
    if path.stem != "quickstart"
    for number, block in enumerate(read_blocks(path, "python"))
    # Those of docs/library.md depend on each other: tests/test_library_docs.py.
    if path.stem != "library"
]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Enough pictures to fill a batch of the paper's, whichever way they are split."""
    folder = tmp_path_factory.mktemp("world")
    write_world(folder, train=180)
    return folder


def lay_out(typed: Command, world: Path) -> None:
    """Put in the current folder what a command names, and what the one before it leaves."""
    names = dict(zip(typed.words, typed.words[1:], strict=False))
    said = " ".join(typed.words)
    texts = re.search(r"data\.texts=\[(.*?)\]", said)
    parts = texts[1].split(", ") if texts else [""]
    for dense in {"dense/world", names.get("--dense", "dense/world")}:
        for part in parts if dense == names.get("--dense") else [""]:
            write_dense(Path(dense) / part, world, dense_of(world))
    if "--images" in names:
        Path(names["--images"]).symlink_to(world)
    if "--captions" in names:
        write_captions(Path(names["--captions"]), world)
    if names.get("--stage") == "2":
        write_model(Path(names.get("--init", RUNS["1"])), world, stage="1")
    if "--recipe" in names and names["--recipe"] not in shipped_recipes():
        write_recipe(Path(names["--recipe"]))


def write_captions(path: Path, world: Path) -> None:
    """JSON of Karpathy's form, or the released code's folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".json":
        path.write_text((world / "dataset_world.json").read_text())
    else:
        write_released(path, world)


@pytest.mark.parametrize("typed", TYPED)
def test_a_training_command_is_planned_as_it_is_typed(
    typed: Command,
    world: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    for name, word in zip(typed.words, typed.words[1:], strict=False):
        if name == "--tracker" and importlib.util.find_spec(word) is None:
            pytest.skip(f"{word} is not installed")
    lay_out(typed, world)
    # What is typed is planned with its data; the towers that it names are not on this machine.
    monkeypatch.setattr("pipelines.commands.train.dry_run_training", lambda spec, gpus: {})
    given = typed.words if "--dry-run" in typed.words else (*typed.words, "--dry-run")
    assert run(given) == 0, capsys.readouterr().err
    said = capsys.readouterr().err
    stages = [typed.words[typed.words.index("--stage") + 1]] if "--stage" in typed.words else "12"
    assert all(f"stage {stage}" in said for stage in stages)


def test_there_are_commands_and_snippets() -> None:
    assert len(TYPED) > 20 and PYTHON


@pytest.mark.parametrize("block", PYTHON)
def test_python_runs(
    block: str, world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code = compile(block, "snippet", "exec")
    if "captioner" in block:
        # It starts an engine; that `captioner.caption` takes these arguments is tested with it.
        pytest.skip("captioning is run in tests/captioner")
    if "import lance" in block:
        pytest.importorskip("lance", reason="d2s does not install pylance")
    monkeypatch.chdir(tmp_path)
    for stage in ("1", "2"):
        write_model(Path(RUNS[stage]), world, stage=stage)
    for name in re.findall(r'"(\w+\.jpg)"', block):
        Image.new("RGB", (40, 30), "red").save(name)
    exec(code, {"vse": vse})


def test_the_numbers_of_weights_in_method_md_are_those_of_the_paper_s_settings() -> None:
    text = (ROOT / "docs/method.md").read_text()
    blocks, cross = (
        sum(p.numel() for p in make_decoder(512, DecoderConfig(kind=kind)).parameters())
        for kind in ("blocks", "cross_attention")
    )
    assert f"{blocks / 1e6:.2f} million weights" in text
    assert f"cross_attention, with {cross / 1e6:.2f} million weights" in " ".join(text.split())
    assert f"{sum(p.numel() for p in GPO().parameters()):,} weights each" in text
