"""The documents' commands are run as they are typed, in a folder with what they speak of.

Those of training are planned in tests/test_docs_training.py. What is not run here, or not as it is
typed, stands below with its reason; every command of a block is at least parsed, values included
(tests/test_docs.py).
"""

import re
import shutil
from pathlib import Path

import pytest

from pipelines.cli import run
from tests.documented_world import RELEASED, write_documented
from tests.documents import DOCUMENTS, ROOT, read_commands
from tests.vse.released.checkpoints import save_as_released

# How a command begins, and why it is only parsed.
THE_WAY = "the generated world, from its making on; tests/end_to_end/test_demo.py runs it"
PARSED = {
    ("caption", "scenes"): THE_WAY,
    ("embed", "scenes"): THE_WAY,
    ("search", "scenes.parquet"): THE_WAY,
    (
        "doctor",
    ): "imports all engines, half a minute; tests/pipelines/doctor/test_doctor.py runs it",
    ("export-onnx",): "takes long; tests/test_library_docs.py runs it as it is typed",
    ("import", "hf:"): "a data set of the Hub; tests/data/sources/test_hub.py reads such",
    (
        "reproduce",
    ): "weights of the Hub; tests/pipelines/commands/test_reproduce.py reproduces tiny rows",
    ("publish", "--seed-run"): "several runs; tests/pipelines/hub/test_model.py has them",
    ("launch",): "a cluster; tests/pipelines/commands/test_launch.py has a stand-in for it",
    ("serve",): "runs until it is interrupted; tests/pipelines/search_app/test_page_browser.py",
    ("score", "--clip"): "weights of the Hub; tests/pipelines/commands/test_score.py has others",
    (
        "benchmark",
        "--data",
    ): "public sets; tests/pipelines/commands/test_benchmark.py has small ones",
    ("benchmark", "urban1k"): "from the Hub; tests/pipelines/commands/test_benchmark.py has one",
    (
        "evaluate",
        "open_clip:",
    ): "weights of the Hub; tests/pipelines/commands/test_evaluate_models.py",
}
# Pages that are run from top to bottom elsewhere.
WHOLE = {"docs/quickstart.md": "tests/end_to_end/test_demo.py"}
# How a command begins, and why it is run with --dry-run.
PLANNED = {
    ("ablate",): "trains many models of full size",
    ("caption",): "an engine, a GPU for it, or servers; tests/captioner has all of them",
    ("publish",): "a token for the Hub; tests/pipelines/hub publishes to a stand-in",
}
# What is given in the place of what a small machine does not have.
INSTEAD = {
    "llava-1.5-7b": "llava-scenes",  # the captioner that comes with the package
    "llava-1.6-34b": "llava-scenes",
    "$SLURM_ARRAY_TASK_ID": "2",
}
# Appended: the tokenizer that the released models have is on the Hub.
MORE = {("convert", "model_best.pth"): ("--tokenizer", "runs/stage2")}

TYPED = sorted(
    {
        typed.words
        for path in DOCUMENTS
        if str(path.relative_to(ROOT)) not in WHOLE
        for typed in read_commands(path)
        if typed.block and typed.words[0] != "train"
    }
)


def find(words: tuple[str, ...], table: dict[tuple[str, ...], object]) -> object:
    """The entry whose first word is the command and whose others begin words of it."""
    for key, entry in table.items():
        named = all(any(word.startswith(part) for word in words[1:]) for part in key[1:])
        if words[0] == key[0] and named:
            return entry
    return None


RUN = [words for words in TYPED if find(words, PARSED) is None]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What every command finds; made by the documents' own commands where there is one."""
    folder = write_documented(tmp_path_factory.mktemp("documented"))
    made = (
        "import texts.jsonl --images coco --captions dataset_coco.json --model-name m "
        "--out dense/coco",
        "caption --engine scripted --model any --images coco/ --prompts prompts.yaml "
        "--out texts/coco",
        "convert model_best.pth --tokenizer runs/stage2 --out runs/theirs",
        "embed --images coco/ --out coco.parquet",
        "embed --texts dataset_coco.json --split test --out captions.parquet",
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        save_as_released(Path("model_best.pth"), Path("runs/stage2"))
        for line in made:
            assert run(line.split()) == 0, line
    return folder


def lay_out(words: tuple[str, ...], world: Path, folder: Path) -> None:
    """The world once more, without what the command is going to write."""
    shutil.copytree(world, folder, dirs_exist_ok=True)
    for path in (folder / RELEASED).iterdir():
        if path.name in words:
            shutil.copy(path, folder)
    for word in words:
        if word.startswith("dense/") and not (folder / word).exists():
            shutil.copytree(folder / "dense/coco", folder / word)
    if "f30k/" in words:
        # Its captions lie in it; those of another data set beside it would be a second source.
        (folder / "dataset_coco.json").unlink()
    made = [folder / words[words.index("--out") + 1]] if "--out" in words else []
    if words[0] in ("caption", "import"):
        made.append(folder / "dense")
    for path in made:
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


@pytest.mark.parametrize("words", RUN, ids=" ".join)
def test_a_command_works_as_it_is_typed(
    words: tuple[str, ...],
    world: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    lay_out(words, world, tmp_path)
    monkeypatch.chdir(tmp_path)
    given = [INSTEAD.get(word, word) for word in words]
    given += find(words, MORE) or ()
    # With --to-dir nothing leaves this machine.
    if find(words, PLANNED) and not {"--dry-run", "--to-dir"} & set(given):
        given += ["--dry-run", *(["--trial", "0"] if words[0] == "caption" else [])]
    assert run(given) == 0, capsys.readouterr().err
    # What it promises to write is there.
    if "--out" in words and "--dry-run" not in given:
        assert (tmp_path / words[words.index("--out") + 1]).exists()


def test_most_commands_are_run_and_every_reason_is_needed() -> None:
    assert len(RUN) > 30
    for table in (PARSED, PLANNED, MORE):
        for key in table:
            assert any(find(words, {key: True}) for words in TYPED), f"nobody types {key}"
    for word in INSTEAD:
        assert any(word in words for words in TYPED), f"nobody types {word}"
    # Whoever is named as running a command instead is there.
    reasons = " ".join((*PARSED.values(), *WHOLE.values()))
    files = re.findall(r"tests/[\w/.]+\w", reasons)
    assert files and [file for file in files if not (ROOT / file).exists()] == []
