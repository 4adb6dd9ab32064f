"""The real vLLM server: it is asked so that its prompts and texts are those of the engine here."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from captioner.engine.config import EngineConfig, ServerConfig
from captioner.engine.protocol import Engine, Generation, Request
from captioner.engine.server import ServerEngine, client, describe_servers
from captioner.engine.vllm import VllmEngine
from captioner.llava.chat_template import Prompt
from captioner.llava.image_processor import choose_preprocessing
from captioner.llava.names import DEFAULT_PROMPT, parse_model_name
from captioner.llava.preprocess import Preprocessing, fit_image
from captioner.llava.sampling import Sampling
from captioner.llava.weights import Weights, obtain_weights
from captioner.run.session import caption
from captioner.settings.config import CaptionConfig
from data.dense.run import read_run
from data.dense.shards import read_rows
from data.errors import UserError
from data.scenes.render import render
from data.scenes.world import sample_scene
from tests.captioner.batch_service import read_requests, write_answers
from tests.waiting import HANG_SECONDS, wait_until

pytestmark = pytest.mark.vllm

ROOT = Path(__file__).resolve().parents[3]
COUNT, TOKENS, LENGTH = 8, 200, 704
PROMPT, SQUARE = Prompt(DEFAULT_PROMPT), Preprocessing(size=112)
ENVIRONMENT = {
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "OMP_NUM_THREADS": "1",
    "HF_HUB_OFFLINE": "1",
    "VLLM_NO_USAGE_STATS": "1",
}
OPTIONS = ["--dtype", "float32", "--enforce-eager", "--max-model-len", str(LENGTH)]
OPTIONS += ["--max-num-seqs", "16", "--limit-mm-per-prompt", '{"image": 1}']
OPTIONS += ["--no-enable-prefix-caching", "--mm-processor-cache-gb", "0"]


@pytest.fixture(scope="module")
def weights() -> Weights:
    return obtain_weights(parse_model_name("llava-scenes"))


@pytest.fixture(scope="module")
def requests(weights: Weights) -> list[Request]:
    preprocessing = choose_preprocessing(weights, aspect=None, max_image_pixels=10**8)
    pictures = [render(sample_scene(3, "test", number), seed=3) for number in range(COUNT)]
    return [
        Request(f"{number}", fit_image(picture, preprocessing), "", seed=number)
        for number, picture in enumerate(pictures)
    ]


@pytest.fixture(scope="module")
def server(weights: Weights, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A server's address; it is still starting."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", *OPTIONS]
    command += ["--model", str(weights.path), "--host", "127.0.0.1", "--port", str(port)]
    log = tmp_path_factory.mktemp("server") / "log"
    with log.open("wb") as sink:
        process = subprocess.Popen(
            command,
            cwd=log.parent,
            env={**os.environ, **ENVIRONMENT},
            stdout=sink,
            stderr=sink,
            start_new_session=True,
        )
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(10)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


@pytest.fixture(scope="module")
def here(
    server: str, weights: Weights, requests: list[Request]
) -> tuple[dict[str, Any], list[Generation]]:
    """What the engine in this process says of itself and writes, while the server starts."""
    engine = VllmEngine(
        weights,
        EngineConfig(weights.model, dtype="float32"),
        prompt=PROMPT,
        sampling=Sampling(0.0, 1.0, TOKENS),
        preprocessing=SQUARE,
    )
    try:
        return engine.describe(), run(engine, requests)
    finally:
        engine.close()


@pytest.fixture(scope="module")
def ready(server: str, here: Any) -> str:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))

    def answers() -> bool:
        try:
            opener.open(f"{server}/health", timeout=HANG_SECONDS).close()
        except OSError:
            return False
        return True

    wait_until(answers)
    return server


def run(engine: Engine, requests: list[Request]) -> list[Generation]:
    done: list[Generation] = []
    for request in requests:
        engine.submit(request)
    while engine.pending:
        done += engine.collect()
    return sorted(done, key=lambda generation: int(generation.key))


def ask(
    urls: list[str], requests: list[Request], *, window: int | None = None, **drawn: Any
) -> list[Generation]:
    sampling = Sampling(**{"temperature": 0.0, "top_p": 1.0, "max_tokens": TOKENS, **drawn})
    config = ServerConfig(tuple(urls), window)
    engine = ServerEngine(
        config, model="llava-scenes", prompt=PROMPT, sampling=sampling, preprocessing=SQUARE
    )
    try:
        return run(engine, requests)
    finally:
        engine.close()


def test_texts_and_prompts_are_those_of_the_engine_here(
    here: tuple[dict[str, Any], list[Generation]],
    ready: str,
    weights: Weights,
    requests: list[Request],
) -> None:
    about, expected = here
    engine = ServerEngine(
        ServerConfig((f"{ready}/v1",)),
        model="llava-scenes",
        prompt=PROMPT,
        sampling=Sampling(0.0, 1.0, TOKENS),
        preprocessing=SQUARE,
    )
    try:
        described = engine.describe()
        got = run(engine, requests)
    finally:
        engine.close()
    assert described["rendered_prompt"] == about["rendered_prompt"]
    assert described["extra_fields"]["add_special_tokens"] is True
    assert described["servers"][0]["max_model_len"] == LENGTH and described["servers"][0]["version"]
    # Equal in every field: text, reason of the end, and both counts.
    assert got == expected
    assert len({generation.text for generation in got}) == COUNT
    assert {generation.error for generation in got} == {None}
    # Every photo takes what the blank one took.
    tokens = described["prompt_tokens_without_image"] + described["image_tokens"]
    assert {generation.prompt_tokens for generation in got} == {tokens}


def test_a_text_is_the_same_from_whichever_server(
    here: Any, ready: str, requests: list[Request]
) -> None:
    """One server under two names; sampled texts depend on their seeds alone."""
    both = [ready, ready.replace("127.0.0.1", "localhost")]
    assert ask(both, requests, window=3) == here[1]
    sampled = ask([ready], requests, temperature=1.0)
    assert sampled != here[1]
    assert ask(both, requests[::-1], temperature=1.0, window=3) == sampled


def test_texts_of_a_file_of_requests_are_those_of_the_engine_here(
    here: tuple[dict[str, Any], list[Generation]], ready: str, tmp_path: Path
) -> None:
    """The server answers each line, as `vllm run-batch` does; the last come first."""
    (tmp_path / "images").mkdir()
    for number in range(COUNT):
        path = tmp_path / "images" / f"{number}.png"
        render(sample_scene(3, "test", number), seed=3).save(path)
    folder = tmp_path / "requests"
    config = CaptionConfig.of(
        model="llava-scenes",
        images=tmp_path / "images",
        out=tmp_path / "out",
        batch_file=folder,
        batch_format="vllm",
        temperature=0.0,
        max_tokens=TOKENS,
    )
    assert not caption(config).complete
    (served,) = describe_servers(ServerConfig((ready,)), "llava-scenes")
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    lines = []
    for asked in read_requests(folder):
        body = json.dumps({**asked["body"], "model": served.id}).encode()
        headers = {"Content-Type": "application/json"}
        request = urllib.request.Request(f"{ready}{asked['url']}", body, headers)
        with opener.open(request, timeout=HANG_SECONDS) as response:
            answered = {"status_code": 200, "body": json.load(response)}
        lines.append({"custom_id": asked["custom_id"], "response": answered, "error": None})
    write_answers(folder / "answers.jsonl", lines[::-1])
    assert caption(config).complete
    rows = read_rows(tmp_path / "out").to_pylist()
    for row, expected in zip(rows, here[1], strict=True):
        assert row["caption"] == expected.text.strip()
        assert row["finish_reason"] == expected.finish_reason
        assert row["prompt_tokens"] == expected.prompt_tokens
        assert row["caption_tokens"] == expected.caption_tokens
    about = read_run(tmp_path / "out")["engine"]
    # Every photo takes what the blank one took, and is checked by it.
    (text,), (image,) = about["prompt_tokens_without_image"], about["image_tokens"]
    assert {row["prompt_tokens"] for row in rows} == {text + image}


def test_what_the_server_says_of_itself(ready: str) -> None:
    served = describe_servers(ServerConfig((ready,)), "llava-scenes")
    assert served[0].owned_by == "vllm" and "llava-scenes" in str(served[0].root)
    with pytest.raises(UserError, match="does not serve llava-1.5-7b; it serves .*llava-scenes"):
        describe_servers(ServerConfig((ready,)), "llava-1.5-7b")
    with pytest.raises(UserError, match=f"has room for {LENGTH} tokens"):
        ask([ready], [], max_tokens=LENGTH)


def test_the_message_of_a_dead_engine_is_known() -> None:
    from vllm.v1.engine.exceptions import EngineDeadError

    assert client._ENGINE_DIED in str(EngineDeadError())
