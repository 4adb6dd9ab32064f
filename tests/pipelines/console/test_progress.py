"""Progress: plain lines where nobody looks, a bar where somebody does."""

import io
import re

import pytest

from pipelines.console.progress import ProgressReporter


class Clock:
    """Seconds as the test says."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_one_plain_line_every_half_minute_and_one_at_the_end() -> None:
    stream, clock = io.StringIO(), Clock()
    with ProgressReporter(
        total=1000, label="caption", unit="images", done=100, stream=stream, clock=clock
    ) as progress:
        for second in range(1, 76):
            clock.now = 100.0 + second
            progress.update(100 + 4 * second)
    lines = stream.getvalue().splitlines()
    assert len(lines) == 3
    assert lines[0].startswith("caption: 220 of 1,000 images, 4.0 images/s, ends ")
    assert lines[1].startswith("caption: 340 of 1,000 images, 4.0 images/s, ends ")
    assert lines[2].startswith("caption: 400 of 1,000 images")


def test_what_was_done_before_does_not_count_as_speed() -> None:
    clock = Clock()
    progress = ProgressReporter(
        total=10, label="x", unit="images", done=5, stream=io.StringIO(), clock=clock
    )
    assert progress.rate is None
    clock.now += 2
    progress.update(6)
    assert progress.rate == pytest.approx(0.5)


def test_the_rate_follows_a_change() -> None:
    clock = Clock()
    progress = ProgressReporter(
        total=10**6, label="x", unit="images", stream=io.StringIO(), clock=clock
    )
    done = 0
    for speed, seconds in ((100, 60), (10, 200)):
        for _ in range(seconds):
            clock.now += 1
            done += speed
            progress.update(done)
    assert progress.rate == pytest.approx(10, rel=0.05)


def test_a_slow_job_is_told_in_seconds_each() -> None:
    stream, clock = io.StringIO(), Clock()
    with ProgressReporter(
        total=4, label="x", unit="images", stream=stream, clock=clock
    ) as progress:
        clock.now += 60
        progress.update(1)
    assert "60 s for each" in stream.getvalue()


def test_a_bar_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "100")
    stream, clock = Terminal(), Clock()
    with ProgressReporter(
        total=50, label="caption", unit="images", stream=stream, clock=clock
    ) as progress:
        clock.now += 5
        progress.update(25)
    shown = stream.getvalue()
    assert "25/50" in shown and "5.0 images/s, ends" in shown
    # NO_COLOR: the cursor moves, nothing is coloured.
    assert not re.search(r"\x1b\[(?:3|4|9)\d", shown)


def test_a_dumb_terminal_gets_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "dumb")
    stream = Terminal()
    with ProgressReporter(total=5, label="x", unit="images", stream=stream) as progress:
        progress.update(5)
    assert stream.getvalue().splitlines()[-1].startswith("x: 5 of 5 images")
    assert "\x1b" not in stream.getvalue()
