"""Requests to servers that die of one of them."""

import asyncio
from queue import SimpleQueue
from typing import Any, cast

import pytest

from captioner.engine.image_guard import ImageGuard
from captioner.engine.protocol import Generation
from captioner.engine.server.chat import AnswerCheck, PromptSettings, RequestForm
from captioner.engine.server.client import ServerClient, ServerError
from captioner.engine.server.dispatcher import Dispatcher
from captioner.engine.server.probe import ServerProfile
from captioner.llava.chat_template import Prompt
from captioner.llava.sampling import Sampling
from tests.captioner.engine.test_server import make_request

COUNT, POISON = 12, 5
TEXT = {"choices": [{"message": {"content": "A text."}, "finish_reason": "stop"}]}


class Mortal(ServerClient):
    """Answers all requests that it has at once, or dies of them, and is up again at once."""

    def __init__(self, number: int, groups: list[list[int]]) -> None:
        self.address = f"http://gpu{number}/v1"
        self._groups = groups
        self._flight: dict[int, asyncio.Future[Any]] = {}

    async def post(self, url: str, body: dict[str, Any]) -> Any:
        loop = asyncio.get_running_loop()
        if not self._flight:
            loop.call_later(0.05, self._answer)
        answer = self._flight[body["seed"] - 7] = loop.create_future()
        return await answer

    def _answer(self) -> None:
        flight, self._flight = self._flight, {}
        self._groups.append(sorted(flight))
        for answer in flight.values():
            if POISON in flight:
                answer.set_exception(ServerError("the connection broke", shared=True))
            else:
                answer.set_result(TEXT)


async def dispatch(servers: int, groups: list[list[int]]) -> dict[str, Generation]:
    results: SimpleQueue[Generation | Exception] = SimpleQueue()
    check = AnswerCheck(ImageGuard(None, None, 0), 512)
    dispatcher = Dispatcher(
        [Mortal(number, groups) for number in range(servers)],
        [ServerProfile(RequestForm("m"), check, None, None)] * servers,
        PromptSettings(Prompt("Describe it."), Sampling()),
        windows=[COUNT] * servers,
        patience=1000.0,
        results=results,
        on_event=lambda _: None,
    )
    for number in range(COUNT):
        dispatcher.accept(make_request(number))
    running = asyncio.create_task(dispatcher.run())
    while results.qsize() < COUNT:
        await asyncio.sleep(0.01)
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    done = [cast(Generation, results.get()) for _ in range(COUNT)]
    return {generation.key: generation for generation in done}


@pytest.mark.parametrize("servers", [1, 2])
def test_an_image_that_kills_a_server_is_an_error_and_the_others_are_not(
    monkeypatch: pytest.MonkeyPatch, servers: int
) -> None:
    monkeypatch.setattr("captioner.engine.server.balancer._FIRST_REST", 0.02)
    groups: list[list[int]] = []
    done = asyncio.run(dispatch(servers, groups))
    assert [key for key, found in done.items() if found.error] == [f"photos/{POISON}"]
    deadly = [group for group in groups if POISON in group]
    # Twice with others, then alone.
    assert len(deadly) == 4 and deadly[2:] == [[POISON], [POISON]]
