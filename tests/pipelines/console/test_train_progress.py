"""What a user sees of a training run."""

import io
import re
from typing import Any

import pytest

from pipelines.console.train_progress import TrainProgress

SCORES = {"rsum": 300.0, "i2t_r1": 40.0, "t2i_r1": 30.0}
EVENTS: list[dict[str, Any]] = [
    {"event": "cache", "what": "train", "step": 0, "total": 100},
    {"event": "cache", "what": "train", "step": 64, "total": 100},
    {"event": "resume", "step": 4, "total": 8},
    {"event": "warning", "text": "5 of 9 dense texts are cut [there]"},
    {"event": "tick", "step": 5, "total": 8},
    {"event": "step", "step": 6, "loss": 1.25},
    {"event": "tick", "step": 6, "total": 8},
    {"event": "evaluation", "step": 6, "best": True, "dense": SCORES, "sparse": SCORES},
    {"event": "stopped early", "step": 6, "evaluations": 3},
]


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def show(stream: io.StringIO) -> str:
    progress = TrainProgress(stream)
    for event in EVENTS:
        progress(event)
    progress.close()
    return stream.getvalue()


def test_lines_where_there_is_no_terminal() -> None:
    lines = show(io.StringIO()).splitlines()
    assert lines[0].startswith("reading train images: 64 of 100 images")
    assert lines[1] == "continuing at step 4 of 8"
    assert lines[2] == "warning: 5 of 9 dense texts are cut [there]"
    [told] = [line for line in lines if line.startswith("step 6, validation")]
    assert "dense text rSum 300.0 (I2T R@1 40.0, T2I R@1 30.0)" in told and "best so far" in told
    assert "no better rSum for 3 evaluations (optim.patience)" in lines[-2]
    assert re.match(r"train: 6 of 8 steps, loss 1\.2500", lines[-1])


def test_a_bar_on_a_terminal_and_the_lines_above_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "120")
    shown = show(Terminal())
    assert "reading train images" in shown and "64/100" in shown
    assert "6/8" in shown and "loss 1.2500" in shown
    assert "warning: 5 of 9 dense texts are cut [there]" in shown
    assert shown.index("continuing at step 4") < shown.index("6/8")
