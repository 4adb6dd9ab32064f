"""The examples of docs/library.md, run as they stand."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import vse
from pipelines.cli import run
from tests.documents import ROOT, read_blocks, read_shell_lines
from tests.json_outputs import check_json
from tests.vse.models import write_model
from tests.vse.world import COLOURS, write_world

DOCUMENT = ROOT / "docs/library.md"
PYTHON = read_blocks(DOCUMENT, "python")
COMMANDS = [line for line in read_shell_lines(DOCUMENT) if line.startswith("d2s ")]
# What stands in the way of whoever imports it.
ALONE = "import sys; sys.modules.update(dict.fromkeys(('torch', 'vse', 'data', 'transformers')))\n"


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What the document speaks of: coco/, its captions, a trained model."""
    monkeypatch.chdir(tmp_path)
    write_world(tmp_path / "coco", train=6, val=1, test=2)
    (tmp_path / "coco/dataset_world.json").rename("dataset_coco.json")
    for name, colour in (("a", "red"), ("b", "blue")):
        Image.new("RGB", (40, 30), COLOURS[colour]).save(tmp_path / f"coco/{name}.jpg")
    Path("captions").mkdir()
    write_world(tmp_path / "captions", train=6, val=1, test=2)
    write_model(tmp_path / "runs/stage2", tmp_path / "captions")
    return tmp_path


def test_library_md(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    embed = [line for line in COMMANDS if line.startswith("d2s embed") and "tar" not in line]
    search = [line for line in COMMANDS if line.startswith("d2s search")]
    export = [line for line in COMMANDS if line.startswith("d2s export-onnx")]
    assert (len(embed), len(search), len(export), len(PYTHON)) == (2, 4, 1, 4)
    for line in [*embed, *search, *export]:
        capsys.readouterr()
        more = ["--json"] if line in export else []
        assert run([*shlex.split(line)[1:], *more]) == 0, (line, capsys.readouterr().err)
    check_json("export-onnx", json.loads(capsys.readouterr().out))
    assert run(["export-onnx", "runs/stage2", "--out", "other", "--dry-run", "--json"]) == 0
    check_json("export-onnx", json.loads(capsys.readouterr().out), dry_run=True)
    assert Path("hits.html").is_file()
    names: dict[str, object] = {}
    for block in PYTHON[:-1]:
        capsys.readouterr()
        exec(block, names)
    assert len(capsys.readouterr().out.splitlines()) == 5
    # Without torch and without us, and yet the model's own numbers.
    code = ALONE + PYTHON[-1] + "np.save('found.npy', embed_texts(['a red square', 'a']))\n"
    code += "np.save('seen.npy', embed_image('coco/a.jpg'))\n"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    model = vse.load("runs/stage2")
    texts = model.encode_text(["a red square", "a"])
    np.testing.assert_allclose(np.load("found.npy"), texts, rtol=0, atol=1e-5)
    image = model.encode_image("coco/a.jpg")
    np.testing.assert_allclose(np.load("seen.npy"), image, rtol=0, atol=1e-5)
