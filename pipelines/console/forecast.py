"""The output of `--dry-run` for training and captioning runs, as lines."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from data.errors import UserError

if TYPE_CHECKING:
    from captioner.run.forecast import CaptionForecast, Interval
    from vse.training.forecast.run import RunForecast

# About 30 % of an H100's peak in half precision, from its data sheet.
ASSUMED_FLOPS = 300e12
BINARY = ((2**30, "GiB"), (2**20, "MiB"), (2**10, "KiB"))
DECIMAL = ((1e18, "E"), (1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"))


def describe_forecast(found: RunForecast, *, batch_size: int) -> list[str]:
    """Steps, weights, memory, arithmetic, texts, disk, and problems."""
    length, step = found.length, found.step
    lines = [f"epochs    {length.steps_per_epoch:,} steps each, {length.steps:,} in all"]
    if step is not None:
        parts = ", ".join(f"{k} {show_count(v)}" for k, v in step.weights.items() if k != "all")
        memory = ", ".join(f"{name} {show_bytes(size)}" for name, size in step.memory.items())
        where = "the GPU" if found.processes == 1 else f"each of {found.processes} GPUs"
        there = "" if found.gpu is None else f" of {show_bytes(found.gpu[1])} ({found.gpu[0]})"
        total = step.flops * length.steps
        lines += [
            f"weights   {show_count(step.weights['all'])}: {parts}",
            f"memory    about {show_bytes(step.peak)}{there} on {where} for "
            f"{batch_size // found.processes} pairs: {memory}",
            "          an estimate: CUDA, kernel buffers and fragmentation add 10 to 20 %",
            f"compute   {show_count(step.flops)}FLOP a step, {show_count(total)}FLOP in all "
            f"({show_time(total / ASSUMED_FLOPS)} at 300 TFLOP/s)",
        ]
    for texts in found.texts:
        looked = len(texts.lengths)
        told = "" if looked == texts.total else f" (of {looked:,} checked)"
        guess = ", guessed from words: no tokenizer" if texts.guessed else ""
        lines.append(
            f"texts     {100 * texts.cut:.1f} % of {texts.total:,} {texts.kind} texts are longer "
            f"than {texts.limit} tokens{told}{guess}"
        )
    lines.append(f"disk      {show_bytes(found.disk)} needed, {show_bytes(found.free)} free")
    lines += [f"note      {note}" for note in found.notes]
    return lines + [f"problem   {problem}" for problem in found.problems]


def describe_captioning(
    found: CaptionForecast, *, price: float | None, unit: str = "images"
) -> list[str]:
    """Time, device hours, money, tokens, disk and memory, each with its interval."""

    def show(interval: Interval, show_one: Callable[[float], str]) -> str:
        low, likely, high = map(show_one, (interval.low, interval.likely, interval.high))
        return f"{likely} ({low} to {high})"

    device = "GPU" if found.gpus else "machine"
    lines = [
        f"trial    {found.ok:,} of {found.tried:,} {unit} captioned; the intervals are for the "
        f"{found.remaining:,} that are left",
        f"time     {show(found.hours.times(3600), show_time)}, {found.start_seconds:.0f} s of it "
        "to start",
        f"devices  {show(found.device_hours, lambda hours: f'{hours:,.2f}')} {device} hours",
    ]
    if price is not None:
        cost = found.device_hours.times(price)
        lines.append(f"cost     {show(cost, lambda money: f'{money:,.2f}')}")
    return [
        *lines,
        f"tokens   {show(found.tokens, lambda count: f'{show_count(count)}'.strip())} written",
        f"disk     {show(found.disk, show_bytes)}",
        f"memory   {show_bytes(found.memory)} in the trial",
    ]


def show_bytes(count: float) -> str:
    """In the unit that suits it."""
    for size, unit in BINARY:
        if count >= size:
            return f"{count / size:.1f} {unit}"
    return f"{count:.0f} bytes"


def show_count(count: float) -> str:
    """A number with its prefix, such as 86.2 M."""
    for size, unit in DECIMAL:
        if count >= size:
            return f"{count / size:,.1f} {unit}"
    return f"{count:,.0f} "


def show_time(seconds: float) -> str:
    """In the unit that suits it."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def refuse_problems(*forecasts: RunForecast) -> None:
    """UserError if something would stop one of the runs."""
    problems = list(dict.fromkeys(p for found in forecasts for p in found.problems))
    if problems:
        more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
        raise UserError(f"dry run: this run would fail: {problems[0]}{more}")
