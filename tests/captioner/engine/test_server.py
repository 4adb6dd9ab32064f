"""The server engine against servers on the loopback that do every wrong thing a server can do."""

import asyncio
import json
import re
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
from PIL import Image

from captioner.engine.config import ServerConfig
from captioner.engine.protocol import Ask, Generation, Request
from captioner.engine.server import ServerEngine, describe_servers
from captioner.engine.server.client import ServerClient, ServerError
from captioner.engine.stopping import StoppedError, heeding
from captioner.llava.chat_template import Prompt
from captioner.llava.preprocess import Preprocessing
from captioner.llava.sampling import Sampling
from data.errors import UserError
from tests.captioner.chat_server import ChatServer, Reply, Script
from tests.waiting import HANG_SECONDS, meet, wait_until

Start = Callable[..., ServerEngine]


@pytest.fixture(autouse=True)
def quick_rests(monkeypatch: pytest.MonkeyPatch) -> None:
    """A proxy that is not there, no key, rests of a few milliseconds, and starts that may last."""
    monkeypatch.setattr("captioner.engine.server.balancer._FIRST_REST", 0.02)
    monkeypatch.setattr("captioner.engine.server.served._START_SECONDS", HANG_SECONDS)
    for name in ("OPENAI_API_KEY", "NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")


@pytest.fixture
def start() -> Any:
    engines: list[ServerEngine] = []

    def begin(*servers: ChatServer | str, **options: Any) -> ServerEngine:
        urls = tuple(server if isinstance(server, str) else server.url for server in servers)
        served = [options.pop(name, None) for name in ("window", "patience")]
        drawn = {
            name: options.pop(name) for name in ("temperature", "max_tokens") if name in options
        }
        config = ServerConfig(urls, *served)
        settings = {
            "model": "tiny",
            "prompt": Prompt("Describe it."),
            "preprocessing": WHOLE,
            "on_event": EVENTS.append,
            **options,
        }
        EVENTS.clear()
        engines.append(
            ServerEngine(config, sampling=Sampling(**{"max_tokens": 32, **drawn}), **settings)
        )
        return engines[-1]

    yield begin
    for engine in engines:
        engine.close()
        engine.close()


EVENTS: list[str] = []
# Photos in their own sizes, so that nobody knows how many tokens one takes.
WHOLE = Preprocessing(aspect="keep", size=None)


def make_request(number: int) -> Request:
    colour = (number // 65536, number // 256 % 256, number % 256)
    return Request(f"photos/{number}", Image.new("RGB", (20, 14), colour), "", seed=number + 7)


def run(engine: ServerEngine, count: int) -> dict[int, Generation]:
    """Captions images 1 to `count`, with no more in flight than the window."""
    todo, done = list(range(1, count + 1)), {}
    while todo or engine.pending:
        while todo and engine.pending < engine.window:
            engine.submit(make_request(todo.pop(0)))
        for generation in engine.collect():
            number = int(generation.key.removeprefix("photos/"))
            assert number not in done
            done[number] = generation
    return done


def check_texts(done: dict[int, Generation], numbers: list[int]) -> None:
    for number in numbers:
        assert done[number] == Generation(f"photos/{number}", f" Image {number}.", "stop", 74, 4)


def once(reply: Reply, *, image: int | None = None) -> Script:
    """That reply to the first request (for `image`, or for each), then as usual."""
    return lambda asked, times: reply if times == 0 and image in (None, asked) else Reply()


def test_every_image_gets_its_own_text_and_is_asked_once(start: Start) -> None:
    def script(image: int, times: int) -> Reply:
        # The first comes last.
        last = lambda: wait_until(lambda: len(server.asked) == 40)  # noqa: E731
        return Reply(before=last) if image == 1 else Reply()

    with ChatServer(script) as server:
        engine = start(server, window=6)
        check_texts(run(engine, 40), list(range(1, 41)))
        assert sorted(server.asked) == list(range(1, 41)) and 2 <= server.most <= 6
        assert EVENTS == []


def test_what_is_sent(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret")
    with ChatServer() as server:
        engine = start(server)
        run(engine, 1)
        assert engine.window == 16 and "sk-secret" not in json.dumps(engine.describe())
        *_, body = server.bodies
        image, text = body.pop("messages")[0]["content"]
        assert image["type"] == "image_url" and text == {"type": "text", "text": "Describe it."}
        expected = {"model": "tiny", "temperature": 0.2, "top_p": 0.9, "max_tokens": 32, "seed": 8}
        assert body == expected
        assert {headers["Authorization"] for headers in server.headers} == {"Bearer sk-secret"}


def test_without_a_seed_none_is_sent(start: Start) -> None:
    with ChatServer() as server:
        engine = start(server)
        engine.submit(replace(make_request(1), seed=None))
        run(engine, 0)
        assert "seed" not in server.bodies[-1]


def test_a_penalty_is_not_sent_to_who_may_not_know_it(start: Start) -> None:
    with ChatServer() as server:
        engine = start(server)
        for number in (1, 2):
            engine.submit(replace(make_request(number), repetition_penalty=1.3))
        run(engine, 0)
        assert not [body for body in server.bodies if "repetition_penalty" in body]
        assert [line for line in EVENTS if "repetition penalty" in line] == EVENTS and len(
            EVENTS
        ) == 1


def test_a_vllm_is_asked_for_the_first_token_and_for_neutral_sampling(start: Start) -> None:
    card = {"owned_by": "vllm", "id": "/models/tiny", "root": "/models/tiny", "max_model_len": 200}
    with ChatServer(**card) as server:
        engine = start(server, temperature=0.0)
        engine.submit(replace(make_request(1), repetition_penalty=1.3))
        run(engine, 0)
        assert server.bodies[-1]["repetition_penalty"] == 1.3
        run(engine, 1)
        body = server.bodies[-1]
        assert body["add_special_tokens"] is True and body["repetition_penalty"] == 1.0
        assert body["model"] == "/models/tiny" and body["top_p"] == 1.0
        assert "return_token_ids" not in body
        (served,) = engine.describe()["servers"]
        assert served["version"] == "0.32.0" and served["max_model_len"] == 200
        assert engine.window == 128
        with pytest.raises(UserError, match=r"room for 200 .*238 .*74"):
            start(server, max_tokens=164)


@pytest.mark.parametrize("prefix", ["", "/llava/v1", "/v1/", "/a/b", "/v1/chat/completions"])
def test_addresses_with_and_without_version(start: Start, prefix: str) -> None:
    with ChatServer() as server:
        server.prefix = re.sub("/v1.*", "", prefix)
        engine = start(f"http://127.0.0.1:{server.port}{prefix}", f"{server.url}/")
        assert len(engine.describe()["servers"]) == 1
        check_texts(run(engine, 2), [1, 2])
        assert server.paths[-1] == f"{server.prefix}/v1/chat/completions"


@pytest.mark.parametrize(
    ("address", "said"),
    [
        ("127.0.0.1:8000", "is not the address of a server"),
        ("localhost", "is not the address of a server"),
        ("ftp://host", "is not the address of a server"),
        ("http://", "is not the address of a server"),
        ("http://host:port", "is not the address of a server"),
        ("http://host:99999", "is not the address of a server"),
        ("http://host\n.evil", "is not the address of a server"),
        (f"http://{'a' * 70}.com", "no valid host name|not reachable"),
        ("http://-\u2603-.com", "no valid host name|not reachable"),
        ("http://me:hunter2@host", "contains a user name or password"),
        ("http://host/v1?key=1", "is more than an address"),
    ],
)
def test_what_is_no_address(address: str, said: str) -> None:
    with pytest.raises(UserError, match=said) as caught:
        describe_servers(ServerConfig((address,)), "tiny")
    assert "hunter2" not in str(caught.value) and "\n" not in str(caught.value)


def test_two_servers_share_the_work_and_the_texts_do_not_tell_them_apart(start: Start) -> None:
    before = meet(8)
    full = lambda image, times: Reply(before=before)  # noqa: E731
    with ChatServer(full) as one, ChatServer(full, id="org/tiny") as two:
        engine = start(one, two, window=4)
        check_texts(run(engine, 60), list(range(1, 61)))
        assert engine.window == 8 and one.most == two.most == 4
        assert sorted(one.asked + two.asked) == list(range(1, 61))
        assert two.bodies[-1]["model"] == "org/tiny"


def test_one_of_two_servers_dies_midway(start: Start) -> None:
    before = meet(8)
    with ChatServer(lambda image, times: Reply(before=before)) as alive:
        with ChatServer(lambda image, times: Reply(drop=True, before=before)) as dying:
            engine = start(alive, dying, window=4)
            for number in range(1, 9):
                engine.submit(make_request(number))
            done = {}
            while len(done) < 8:
                done |= {g.key: g for g in engine.collect()}
        assert {g.error for g in done.values()} == {None}
        check_texts(run(engine, 30), list(range(1, 31)))
        assert len(dying.asked) >= 4 and dying.told == []
        assert [line for line in EVENTS if dying.url in line and "rests" in line]
        # Only what failed elsewhere was asked for anew.
        assert len(alive.told) == 38


def test_a_server_that_comes_back_is_used_again(start: Start) -> None:
    with ChatServer() as one:
        engine = start(one, window=4)
        port = one.port
        check_texts(run(engine, 3), [1, 2, 3])
    engine.submit(make_request(4))
    while not EVENTS:
        assert engine.collect() == [] and engine.pending == 1
    with ChatServer(port=port) as again:
        assert list(run(engine, 2)) and engine.pending == 0
        assert again.told.count(4) == 1
    assert any("not reachable" in line for line in EVENTS)
    assert any("answers again" in line for line in EVENTS)


@pytest.mark.parametrize(
    "reply",
    [
        Reply(status=503, body=b"<html>loading</html>"),
        Reply(status=500, body=b'{"error": {"message": "oh"}}'),
        Reply(status=429),
        Reply(drop=True),
        Reply(body=b"not json"),
        Reply(body=b"[1, 2]"),
        Reply(body=b'{"choices": []}'),
        Reply(body=b'{"choices": [{"finish_reason": "stop"}]}'),
        Reply(body=b'{"error": {"message": "overloaded"}}'),
        Reply(body=b'{"choices": [{"message": {}, "finish_reason": "stop"}]}' + b" " * (5 << 20)),
        Reply(finish_reason="abort"),
    ],
    ids=lambda reply: f"{reply.status}-{(reply.body or b'')[:14]!r}-{reply.drop}",
)
def test_once_wrong_then_right(start: Start, reply: Reply) -> None:
    with ChatServer(once(reply)) as server:
        engine = start(server, window=3)
        check_texts(run(engine, 3), [1, 2, 3])
        assert sorted(server.asked) == [1, 1, 2, 2, 3, 3]
        assert [line for line in EVENTS if "rests" in line]


def test_a_lost_connection_may_be_the_fault_of_any_request_in_flight() -> None:
    async def ask(url: str) -> None:
        client = ServerClient(url, key=None, connections=1, timeout=HANG_SECONDS)
        try:
            await client.post(f"{url}/v1/chat/completions", {"messages": [{"content": []}]})
        finally:
            await client.close()

    with ChatServer() as server:
        server.first = [Reply(drop=True, body=b"{}")]
        with pytest.raises(ServerError, match="broke") as caught:
            asyncio.run(ask(server.url))
    assert caught.value.counted and caught.value.shared


def test_retry_after_is_waited_for(start: Start) -> None:
    times: list[float] = []

    def script(image: int, asked: int) -> Reply:
        times.append(time.monotonic())
        return Reply(status=429, headers={"Retry-After": "1"}) if len(times) == 1 else Reply()

    with ChatServer(script) as server:
        check_texts(run(start(server, window=2), 1), [1])
    assert len(times) == 2 and times[1] - times[0] >= 1.0


@pytest.mark.parametrize("when", ["before", "midway"])
def test_a_slow_answer_is_asked_for_again(
    start: Start, monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    """Slow to begin, or begun in time and slow to end."""
    limits: list[asyncio.Timeout] = []
    asked_again = threading.Event()

    def limit(seconds: float) -> asyncio.Timeout:
        assert seconds == HANG_SECONDS
        limits.append(asyncio.timeout(seconds))
        return limits[-1]

    def last() -> None:
        # The time is up now; a clock would be up for what comes after, too.
        engine._thread.loop.call_soon_threadsafe(limits[-1].reschedule, 0)
        asked_again.wait(HANG_SECONDS)

    def script(image: int, times: int) -> Reply:
        if times == 0:
            return Reply(**{when: last})
        asked_again.set()
        return Reply()

    monkeypatch.setattr("captioner.engine.server.client.asyncio", SimpleNamespace(timeout=limit))
    with ChatServer(script) as server:
        engine = start(server, window=2, timeout=HANG_SECONDS)
        check_texts(run(engine, 1), [1])
        assert server.asked == [1, 1]
        assert any(f"no answer within {HANG_SECONDS:g} s" in line for line in EVENTS)


@pytest.mark.parametrize("status", [400, 413, 422])
def test_an_image_that_is_refused_is_the_image_s_error(start: Start, status: int) -> None:
    body = b'{"error": {"message": "cannot\\n identify \\u001b[31mimage"}}'
    with ChatServer(once(Reply(status=status, body=body), image=2)) as server:
        done = run(start(server), 3)
        assert done[2].error == f"not accepted: HTTP {status}: cannot identify ?[31mimage"
        check_texts(done, [1, 3])
        assert server.asked.count(2) == 1 and EVENTS == []


def test_an_image_that_fails_every_time_is_given_up(start: Start) -> None:
    with ChatServer(lambda image, times: Reply(status=500 if image == 2 else 200)) as server:
        done = run(start(server), 5)
        assert re.match("failed 4 times, the last: HTTP 500", str(done[2].error))
        check_texts(done, [1, 3, 4, 5])
        assert server.asked.count(2) == 4


@pytest.mark.parametrize("reason", ["content_filter", "tool_calls", None, ["\n"]])
def test_another_end_than_stop_or_length_is_an_error(start: Start, reason: Any) -> None:
    with ChatServer(once(Reply(finish_reason=reason), image=1)) as server:
        done = run(start(server), 2)
        assert str(done[1].error).startswith("the server ended the text with ")
        check_texts(done, [2])


def test_an_image_that_was_not_in_the_prompt_is_an_error(start: Start) -> None:
    def script(image: int, times: int) -> Reply:
        return Reply(image_tokens={1: 0, 2: 63}.get(image, 64))

    with ChatServer(script) as server:
        done = run(start(server, preprocessing=Preprocessing(size=28)), 3)
        assert str(done[1].error).startswith("the image was not in the prompt: 10 tokens, 10 ")
        assert str(done[2].error).startswith("the image was not in the prompt: 73 tokens, 10 ")
        check_texts(done, [3])
        # Where photos keep their sizes only the whole image can be missed.
        done = run(start(server), 3)
        assert done[1].error is not None and done[2].error is None


def test_another_prompt_than_the_probed_one_has_another_length(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    def script(image: int, times: int) -> Reply:
        return Reply(image_tokens={1: 0}.get(image, 64))

    with ChatServer(script) as server:
        decide = server.decide
        monkeypatch.setattr(server, "decide", lambda body: add_words(decide(body), body))
        prompt = Prompt("Describe everything in the image in detail.")
        engine = start(server, prompt=prompt, preprocessing=Preprocessing(size=28))
        ask = Ask(Prompt("Name it."), Sampling(max_tokens=8))
        for number in (1, 2):
            engine.submit(replace(make_request(number), ask=ask))
        errors = {one.key: one.error for one in run(engine, 0).values()}
        assert errors["photos/2"] is None and "image was not" in str(errors["photos/1"])


def test_it_is_told_once_that_no_image_can_be_missed(start: Start) -> None:
    """With prompts of unknown length and photos of any size."""
    ask = Ask(Prompt("Name it."), Sampling(max_tokens=8))
    for preprocessing, told in ((WHOLE, 1), (Preprocessing(size=28), 0)):
        with ChatServer() as server:
            engine = start(server, preprocessing=preprocessing)
            run(engine, 1)
            assert not [line for line in EVENTS if "not checked" in line]
            for number in (2, 3):
                engine.submit(replace(make_request(number), ask=ask))
            run(engine, 0)
            assert len([line for line in EVENTS if "not checked" in line]) == told


def add_words(decided: tuple[Reply, Any], body: dict[str, Any]) -> tuple[Reply, Any]:
    """Each word of the prompt is a token."""
    parts = body["messages"][0]["content"]
    words = " ".join(part.get("text", "") for part in parts).split()
    decided[1]["usage"]["prompt_tokens"] += len(words)
    return decided


@pytest.mark.parametrize("tokens", [0, 1, 5])
def test_a_server_that_leaves_images_out_is_refused_before_the_first(
    start: Start, tokens: int
) -> None:
    """Nothing for an image, or its place as it stands in the template."""
    server = ChatServer()
    server.blank = Reply(image_tokens=tokens)
    with server, pytest.raises(UserError, match="does not include images in the prompt"):
        start(server)


def test_a_server_that_does_not_count_is_told_of_once(start: Start) -> None:
    with ChatServer(lambda image, times: Reply(usage=False)) as server:
        done = run(start(server), 3)
        assert done[1] == Generation("photos/1", " Image 1.", "stop")
        assert len([line for line in EVENTS if "token counts" in line]) == 1


def test_a_server_that_counts_zero_does_not_count(start: Start) -> None:
    zeros = Reply(extra={"usage": {"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0}})
    server = ChatServer(lambda image, times: zeros)
    server.blank = zeros
    with server:
        done = run(start(server), 3)
        assert all(done[n].error is None and done[n].prompt_tokens is None for n in done)
        assert len([line for line in EVENTS if "token counts" in line]) == 1


@pytest.mark.parametrize(
    ("message", "text"),
    [
        ({"content": [{"type": "text", "text": "A wall,"}, " a door."]}, "A wall, a door."),
        ({"content": [{"type": "thinking", "thinking": "Hm"}, {"text": "A wall."}]}, "A wall."),
        ({"content": "A wall \ud83d"}, "A wall \ufffd"),
        ({"content": ""}, ""),
        ({"content": "A wall.", "reasoning_content": "Hm"}, "A wall."),
    ],
    ids=str,
)
def test_the_text_of_a_message(start: Start, message: dict[str, Any], text: str) -> None:
    with ChatServer(once(Reply(message=message), image=1)) as server:
        done = run(start(server), 2)
        assert done[1] == Generation("photos/1", text, "stop", 74, 4)
        assert sorted(server.asked) == [1, 2] and EVENTS == []


@pytest.mark.parametrize(
    ("reply", "said"),
    [
        (Reply(message={"content": None}), "no text"),
        (Reply(message={"content": None}, finish_reason="length"), "--max-tokens"),
        (Reply(message={"content": []}), "no text"),
        (Reply(message={"content": [{"type": "image_url"}]}), "no text"),
        (Reply(message={"content": {"a": 1}}), "no text"),
        (Reply(message={"content": 7}), "no text"),
        (Reply(message={"content": "wall " * 1000}), "characters"),
    ],
    ids=lambda value: str(getattr(value, "message", value))[:40],
)
def test_an_answer_without_a_text_is_the_image_s_error(
    start: Start, reply: Reply, said: str
) -> None:
    with ChatServer(once(reply, image=1)) as server:
        done = run(start(server), 2)
        assert said in str(done[1].error)
        check_texts(done, [2])
        assert EVENTS == []


@pytest.mark.parametrize(
    "count", [3_000_000_000, 10**400, -1, "20", 4.5, None, True, [4], {}], ids=lambda c: str(c)[:9]
)
def test_a_count_that_is_none_is_unknown(start: Start, count: Any) -> None:
    usage = {"prompt_tokens": 74, "completion_tokens": count}
    with ChatServer(lambda image, times: Reply(extra={"usage": usage})) as server:
        done = run(start(server), 1)
        assert done[1] == Generation("photos/1", " Image 1.", "stop", 74, None)


def test_another_model_s_text_is_no_text(start: Start) -> None:
    answers = lambda image, times: Reply(extra={"model": "b" if image == 2 else "a"})  # noqa: E731
    with ChatServer(answers) as server:
        server.first = [Reply(body=json.dumps({"data": [server.card]}).encode())]
        server.first += [Reply(body=PROBED.replace(b"TOKENS", count)) for count in (b"10", b"74")]
        done = run(start(server), 3)
    assert "another model" in str(done[2].error)
    check_texts(done, [1, 3])


PROBED = (
    b'{"model": "a", "choices": [{"message": {"content": "A"}, "finish_reason": "length"}], '
    b'"usage": {"prompt_tokens": TOKENS}}'
)


@pytest.mark.parametrize("question", [0, 1, 2], ids=["models", "prompt", "image"])
@pytest.mark.parametrize(
    "reply",
    [
        Reply(status=429, headers={"Retry-After": "0"}),
        Reply(status=500, body=b"<html>"),
        Reply(status=503),
        Reply(body=b'{"error": {"message": "overloaded", "code": 429}}'),
    ],
    ids=lambda reply: f"{reply.status}-{(reply.body or b'')[:9]!r}",
)
def test_a_server_that_is_not_ready_yet_is_waited_for(
    start: Start, reply: Reply, question: int
) -> None:
    with ChatServer() as server:
        card = json.dumps({"data": [server.card]}).encode()
        usual = [Reply(body=body) for body in (card, PROBED.replace(b"TOKENS", b"10"))]
        server.first = [*usual[:question], reply, reply]
        check_texts(run(start(server), 2), [1, 2])
        assert len([line for line in EVENTS if "rests" in line]) == 1


@pytest.mark.parametrize(
    ("question", "reply"),
    [
        (0, Reply(status=503)),
        (0, Reply(body=b"<html>a page</html>")),
        (0, Reply(body=b'{"data": "none"}')),
        (0, Reply(status=302, headers={"Location": "http://elsewhere"})),
        (1, Reply(status=503)),
        (1, Reply(body=b"{}")),
        (1, Reply(body=b'{"choices": []}')),
        (1, Reply(body=b'{"error": "no"}')),
    ],
    ids=lambda value: str(value)[:40],
)
def test_a_server_that_never_gets_ready_is_one_line(
    start: Start, question: int, reply: Reply
) -> None:
    with ChatServer() as server:
        card = Reply(body=json.dumps({"data": [server.card]}).encode())
        server.first = [card][:question] + [reply] * 100
        with pytest.raises(UserError) as caught:
            start(server, patience=0)
    assert server.url in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("question", [0, 1], ids=["models", "prompt"])
def test_a_stop_is_heard_while_a_server_is_waited_for(start: Start, question: int) -> None:
    with ChatServer() as server:
        card = Reply(body=json.dumps({"data": [server.card]}).encode())
        server.first = [card][:question] + [Reply(status=503)] * 1000
        with heeding(lambda: bool(EVENTS)), pytest.raises(StoppedError):
            start(server, patience=HANG_SECONDS)


@pytest.mark.parametrize(
    ("status", "key", "said"),
    [
        (401, None, "refuses access .*put its key into OPENAI_API_KEY"),
        (403, "sk-secret", "refuses access .*check the key in OPENAI_API_KEY"),
        (404, None, "rejects the request .*check --server and --model"),
        (302, None, "redirects to http://elsewhere/login"),
    ],
)
def test_a_server_that_lets_nobody_in_any_more_is_left_to_the_others(
    start: Start, monkeypatch: pytest.MonkeyPatch, status: int, key: str | None, said: str
) -> None:
    if key:
        monkeypatch.setenv("OPENAI_API_KEY", key)
    body = b'{"error": {"message": "wrong key sk-secret"}}'
    refusal = Reply(status=status, body=body, headers={"Location": "http://elsewhere/login"})
    shut = lambda image, times: refusal  # noqa: E731
    with ChatServer(shut) as server, ChatServer() as other:
        check_texts(run(start(server, other), 9), list(range(1, 10)))
        assert server.asked and any(re.search(said, line) for line in EVENTS)
        # Alone it ends the engine, once patience does.
        engine = start(server, patience=0)
        with pytest.raises(UserError, match=said) as caught:
            run(engine, 3)
        assert key is None or key not in str(caught.value)
        with pytest.raises(UserError):
            engine.submit(make_request(9))


def test_patience_ends(start: Start) -> None:
    def script(image: int, times: int) -> Reply:
        if len(one.asked) > 1 and len(two.asked) > 1:
            engine._dispatcher._balancer._patience = 0.0
        return Reply(status=503, body=b'{"detail": "loading"}')

    with ChatServer(script) as one, ChatServer(script) as two:
        engine = start(one, two, patience=HANG_SECONDS)
        with pytest.raises(UserError) as caught:
            run(engine, 3)
        line = str(caught.value)
        assert f"no server has answered for {HANG_SECONDS:g} s" in line
        assert "HTTP 503: loading" in line
        assert "finished texts are saved" in line and "\n" not in line
        assert len(one.asked) > 1 and len(two.asked) > 1


def test_a_model_that_is_not_served_is_named_with_what_is() -> None:
    with ChatServer(id="org/other\nmodel") as server, ChatServer() as good:
        with pytest.raises(UserError) as caught:
            describe_servers(ServerConfig((good.url, server.url)), "tiny")
        for words in (f"{server.url}/v1", "tiny", "serves org/other model", "--model"):
            assert words in str(caught.value)
        assert good.url not in str(caught.value)


@pytest.mark.parametrize(
    "card",
    [
        {"id": "llava-1.5-7b"},
        {"id": "llava-hf/llava-1.5-7b-hf"},
        {"id": "llava-1.5-7b-hf"},
        {"id": "/data/llava-1.5-7b-hf"},
        {"id": "captioner", "root": "llava-hf/llava-1.5-7b-hf"},
    ],
    ids=str,
)
def test_the_names_that_a_server_may_have_for_a_model(card: dict[str, str]) -> None:
    with ChatServer(**card) as server:
        found = describe_servers(ServerConfig((server.url,)), "llava-1.5-7b")
    assert [served.id for served in found] == [card["id"]]


def test_nobody_there_and_somebody_else_there(start: Start) -> None:
    with ChatServer() as gone:
        address = gone.url
    with pytest.raises(UserError, match=r"/v1/models: not reachable .*is the server running"):
        start(address)
    with ChatServer() as server:
        with pytest.raises(UserError, match=r"/other/v1/models|check --server"):
            start(f"{server.url}/other")
        with pytest.raises(UserError, match="does not serve"):
            server.card = {"id": 3}
            start(server)


def test_servers_that_differ_are_not_mixed(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    with ChatServer() as one, ChatServer() as two:
        decide = two.decide
        monkeypatch.setattr(two, "decide", lambda body: add_a_token(decide(body)))
        with pytest.raises(UserError, match="the servers differ: tokens of the prompt 10 at"):
            start(one, two)


def add_a_token(decided: tuple[Reply, Any]) -> tuple[Reply, Any]:
    decided[1]["usage"]["prompt_tokens"] += 1
    return decided


def test_a_close_in_the_middle_leaves_nothing_behind(start: Start) -> None:
    before, closed = set(threading.enumerate()), threading.Event()
    with ChatServer(lambda image, times: Reply(before=lambda: closed.wait(HANG_SECONDS))) as server:
        engine = start(server)
        for number in range(1, 9):
            engine.submit(make_request(number))
        assert engine.pending == 8
        engine.close()
        assert engine.pending == 0
        closed.set()
    ours = [thread for thread in set(threading.enumerate()) - before if thread.name[:4] == "d2s-"]
    for thread in ours:
        thread.join(HANG_SECONDS)  # one may still be at the image that it had begun
    assert not [thread for thread in ours if thread.is_alive()]
