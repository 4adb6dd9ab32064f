"""Progress of a long job: a bar on a terminal, otherwise one line every half minute."""

import os
import time
from collections.abc import Callable
from datetime import datetime, timedelta
from types import TracebackType
from typing import TextIO

from data.escaping import show_name
from pipelines.console.command_line import write_line
from pipelines.console.verbosity import find_info_stream

_LINE_SECONDS = 30.0
# Redrawing takes CPU time from the work.
_BAR_HERTZ = 2
# Weight of the last half minute in the displayed rate.
_SMOOTHING_SECONDS = 30.0


class ProgressReporter:
    """Reports to `stream`, by default stderr. `update` can be called any number of times.

    with ProgressReporter(total=1000, label="caption", unit="images") as progress:
        progress.update(12)
    """

    def __init__(
        self,
        *,
        total: int,
        label: str,
        unit: str,
        done: int = 0,
        stream: TextIO | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`done` is the earlier progress: it counts toward the total but not toward the rate."""
        self.total = total
        self.done = done
        self.label = label
        self._note = ""
        self._unit = unit
        self._stream = stream or find_info_stream()
        self._clock = clock
        self._began = self._said_at = clock()
        self._meter = _Meter(done, self._began)
        self._bar = _Bar(self._stream, label, total, done) if _is_terminal(self._stream) else None

    def __enter__(self) -> "ProgressReporter":
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    def start(self) -> None:
        """Show the bar."""
        if self._bar is not None:
            self._bar.start()

    def stop(self) -> None:
        """Leave the bar, or a last line, as it is now."""
        if self._bar is not None:
            self._bar.update(self.done, self._describe())
            self._bar.stop()
        else:
            self._say()

    def say(self, line: str) -> None:
        """Print a permanent line above the bar."""
        if self._bar is not None:
            self._bar.say(line)
        else:
            write_line(line, self._stream)

    def update(self, done: int, *, note: str = "") -> None:
        """Set the progress to `done` of `total`; `note` is shown next to the rate."""
        self.done = done
        self._note = note
        now = self._clock()
        self._meter.update(done, now)
        if self._bar is not None:
            self._bar.update(done, self._describe())
        elif now - self._said_at >= _LINE_SECONDS:
            self._said_at = now
            self._say()

    @property
    def seconds(self) -> float:
        """Seconds since the start."""
        return self._clock() - self._began

    @property
    def rate(self) -> float | None:
        """Units per second, weighted toward recent ones; None before anything was done."""
        return self._meter.rate

    def _describe(self) -> str:
        told = [part for part in (self._note, self._describe_pace()) if part]
        return ", ".join(told)

    def _describe_pace(self) -> str:
        rate = self.rate
        if not rate:
            return ""
        fast = rate >= 0.1
        speed = f"{rate:,.1f} {self._unit}/s" if fast else f"{1 / rate:,.0f} s for each"
        if self.done >= self.total:
            return speed
        end = datetime.now() + timedelta(seconds=(self.total - self.done) / rate)
        days = (end.date() - datetime.now().date()).days
        return f"{speed}, ends {end:%H:%M}" + (f" in {days} days" if days > 0 else "")

    def _say(self) -> None:
        details = self._describe()
        share = f"{self.done:,} of {self.total:,} {self._unit}"
        write_line(f"{self.label}: {share}{', ' if details else ''}{details}", self._stream)


class ChangingProgress:
    """Progress that starts with its first item, and restarts with another label or unit.

    The bar has a thread, and the caller may have to fork processes before the first item.
    """

    def __init__(self, stream: TextIO | None = None) -> None:
        self.stream = stream or find_info_stream()
        self._of = ("", "")
        self._reporter: ProgressReporter | None = None

    def __enter__(self) -> "ChangingProgress":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def update(self, label: str, unit: str, done: int, total: int, *, note: str = "") -> None:
        """Set the progress to `done` of `total`; `done` at the first call is earlier progress."""
        if self._reporter is None or self._of != (label, unit):
            self.close()
            self._of = (label, unit)
            self._reporter = ProgressReporter(
                total=total, label=label, unit=unit, done=done, stream=self.stream
            )
            self._reporter.start()
        self._reporter.update(done, note=note)

    def say(self, line: str) -> None:
        """Print a permanent line."""
        if self._reporter is not None:
            self._reporter.say(line)
        else:
            write_line(line, self.stream)

    def close(self) -> None:
        """Leave the bar, or a last line, as it is now."""
        if self._reporter is not None:
            self._reporter.stop()
            self._reporter = None


class _Meter:
    """An exponentially weighted rate, which follows the current speed of uneven jobs."""

    def __init__(self, done: int, now: float) -> None:
        self._first = self._mark = (now, done)
        self.rate: float | None = None

    def update(self, done: int, now: float) -> None:
        start, before = self._first
        if now - start < _SMOOTHING_SECONDS:
            if now > start and done > before:
                self.rate = (done - before) / (now - start)
            self._mark = now, done
            return
        marked_at, marked = self._mark
        elapsed = now - marked_at
        if elapsed < 1.0:
            return
        weight = min(1.0, elapsed / _SMOOTHING_SECONDS)
        self.rate = (1 - weight) * (self.rate or 0.0) + weight * (done - marked) / elapsed
        self._mark = now, done


class _Bar:
    """A progress bar by rich, which respects NO_COLOR."""

    def __init__(self, stream: TextIO, label: str, total: int, done: int) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[details]}"),
            console=Console(file=stream),
            refresh_per_second=_BAR_HERTZ,
        )
        self._task = self._progress.add_task(label, total=total, completed=done, details="")

    def start(self) -> None:
        self._progress.start()

    def update(self, done: int, details: str) -> None:
        self._progress.update(self._task, completed=done, details=details)

    def say(self, line: str) -> None:
        # No markup: texts and file names can contain brackets.
        self._progress.console.print(show_name(line), markup=False, highlight=False, soft_wrap=True)

    def stop(self) -> None:
        self._progress.stop()


def _is_terminal(stream: TextIO) -> bool:
    return stream.isatty() and os.environ.get("TERM") != "dumb"
