"""The figures of log.jsonl in TensorBoard and Weights & Biases, read back from their files."""

import importlib.util
import json
import struct
import time
from pathlib import Path
from typing import Any

import pytest

from data.errors import UserError
from tests.processes import FORK
from tests.vse.runs import make
from tests.waiting import HANG_SECONDS
from vse.runs.folder import read_log
from vse.training.run import train


@pytest.fixture
def project(project: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    monkeypatch.setenv("WANDB_CACHE_DIR", str(project / "cache"))
    monkeypatch.setenv("WANDB_CONFIG_DIR", str(project / "settings"))
    return project


def interrupt_at(step: int) -> Any:
    def report(event: dict[str, Any]) -> None:
        if event["event"] == "tick" and event["step"] == step:
            raise RuntimeError("pulled the plug")

    return report


def expected(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """Some of the figures of log.jsonl by step."""
    log = read_log(folder)
    steps = [event for event in log if event["event"] == "step"]
    found = [event for event in log if event["event"] == "evaluation"]
    return {
        "train/loss": [(e["step"], e["loss"]) for e in steps],
        "train/lr": [(e["step"], e["lr"]) for e in steps],
        "val/rsum": [(e["step"], e["rsum"]) for e in found],
        "val/sparse/i2t_r1": [(e["step"], e["sparse"]["i2t_r1"]) for e in found],
    }


@pytest.mark.skipif(not importlib.util.find_spec("tensorboard"), reason="no tensorboard here")
def test_tensorboard_shows_each_step_once_after_an_interruption_too(project: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    spec = make("sparse", out=Path("runs/a"))
    with pytest.raises(RuntimeError, match="pulled the plug"):
        train(spec, report=interrupt_at(7), trackers=["tensorboard"])  # after the state of step 4
    train(spec, report=lambda event: None, trackers=["tensorboard"])
    shown = EventAccumulator("runs/a/tensorboard/d2s")
    shown.Reload()
    for name, figures in expected(Path("runs/a")).items():
        values = [(e.step, e.value) for e in shown.Scalars(name)]
        assert [step for step, _ in values] == [step for step, _ in figures], name
        assert [v for _, v in values] == pytest.approx([v for _, v in figures], rel=1e-5), name


@pytest.mark.skipif(not importlib.util.find_spec("wandb"), reason="no wandb here")
def test_weights_and_biases_offline(project: Path) -> None:
    spec = make("sparse", out=Path("runs/a"))
    with pytest.raises(RuntimeError, match="pulled the plug"):
        train(spec, report=interrupt_at(7), trackers=["wandb"])
    time.sleep(1.1)  # the folder of an offline run has the second in its name
    train(spec, report=lambda event: None, trackers=["wandb"])
    run_id = json.loads(Path("runs/a/wandb.json").read_text())["id"]
    files = sorted(Path("runs/a/wandb").glob(f"offline-run-*/run-{run_id}.wandb"))
    assert files, "one run at Weights & Biases, however often it was interrupted"
    history: dict[str, dict[int, float]] = {}
    for path in files:
        for step, name, value in read_wandb(path):
            history.setdefault(name, {})[step] = value
    for name, figures in expected(Path("runs/a")).items():
        assert history[name] == pytest.approx(dict(figures), rel=1e-5), name


def read_wandb(path: Path) -> list[tuple[int, str, float]]:
    """Step, name and value of every figure of a .wandb file: protobuf in LevelDB's log format."""
    from wandb.proto.wandb_internal_pb2 import Record

    content, at, found, parts = path.read_bytes(), 7, [], b""
    while at + 7 <= len(content):
        if 32768 - at % 32768 < 7:
            at += 32768 - at % 32768
            continue
        length, kind = struct.unpack_from("<HB", content, at + 4)
        parts += content[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (2, 3):  # the first or a middle part
            continue
        record = Record()
        record.ParseFromString(parts)
        parts = b""
        if record.WhichOneof("record_type") == "history":
            items = {
                item.key or "/".join(item.nested_key): json.loads(item.value_json)
                for item in record.history.item
            }
            step = int(items.get("_step", record.history.step.num))
            found += [(step, k, v) for k, v in items.items() if isinstance(v, int | float)]
    return found


def _train_without_login(said: Path) -> None:
    import os

    for name in ("WANDB_MODE", "WANDB_API_KEY"):
        os.environ.pop(name, None)
    os.environ.update(WANDB_BASE_URL="http://127.0.0.1:9", HOME=str(said.parent))
    try:
        train(make("sparse", out=Path("runs/b")), report=lambda e: None, trackers=["wandb"])
    except UserError as error:
        said.write_text(str(error))


@pytest.mark.skipif(not importlib.util.find_spec("wandb"), reason="no wandb here")
def test_no_login_is_one_line(project: Path, tmp_path: Path) -> None:
    process = FORK.Process(target=_train_without_login, args=(tmp_path / "said.txt",))
    process.start()
    process.join(timeout=HANG_SECONDS)
    said = (tmp_path / "said.txt").read_text()
    assert said.startswith("Weights & Biases refused") and "WANDB_MODE=offline" in said
