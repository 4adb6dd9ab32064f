"""Runs of several texts of each image with the scripted engine, for tests."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import yaml

from captioner.engine.protocol import Request
from captioner.engine.scripted import ScriptedEngine
from captioner.run.session import CaptionResult, caption
from captioner.settings.config import CaptionConfig
from captioner.settings.texts import PreparedTexts
from tests.captioner.run.test_session import shard_bytes

THREE: dict[str, Any] = {
    "dense": "Describe this image in detail.",
    "condensed": {"prompt": "In one sentence: {texts.dense}", "samples": 2, "temperature": 0.7},
    "kind": {"prompt": "Of {file_name}: {texts.condensed}", "choices": ["photo", "drawing"]},
}
# Each of two samples; the second reads the first's.
SAMPLED: dict[str, Any] = {
    name: {"prompt": prompt, "samples": 2}
    for name, prompt in (("a", "Describe it."), ("b", "Shorter: {texts.a}"), ("c", "Its mood?"))
}


def write_prompts(folder: Path, texts: dict[str, Any]) -> Path:
    path = folder / "prompts.yaml"
    path.write_text(yaml.safe_dump(texts, sort_keys=False))
    return path


def configure(folder: Path, texts: dict[str, Any], **options: Any) -> CaptionConfig:
    usual = {"model": "any", "engine": "scripted", "images": folder / "i", "out": folder / "out"}
    prompts = write_prompts(folder, texts)
    return CaptionConfig.of(**{**usual, "shard_size": 10, "prompts": prompts, **options})


def run_many(
    folder: Path,
    texts: dict[str, Any],
    on_event: Callable[[str], None] = lambda _: None,
    **options: Any,
) -> CaptionResult:
    return caption(configure(folder, texts, **options), on_event=on_event)


def all_bytes(out: Path) -> dict[str, dict[str, bytes]]:
    names = [about["name"] for about in yaml.safe_load((out / "texts.yaml").read_text())["texts"]]
    return {name: shard_bytes(out / name) for name in names}


def read_rows(folder: Path) -> list[dict[str, Any]]:
    shards = sorted(folder.glob("train-*.parquet"))
    return [row for shard in shards for row in pq.read_table(shard).to_pylist()]


class Recorder(ScriptedEngine):
    """Keeps what it was asked, and that it was closed."""

    def __init__(self, log: list[Any], **options: Any) -> None:
        super().__init__(**options)
        self._log = log
        log.append("start")

    def submit(self, request: Request) -> None:
        self._log.append(request)
        super().submit(request)

    def close(self) -> None:
        self._log.append("close")
        super().close()


def start_with(prepared: PreparedTexts, start: Callable[[], ScriptedEngine]) -> PreparedTexts:
    passes = tuple(
        tuple(replace(run, choice=replace(run.choice, start=lambda _: start())) for run in one)
        for one in prepared.passes
    )
    return replace(prepared, passes=passes)
