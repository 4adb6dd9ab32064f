"""What one engine was asked for: what is sent, what waits, and what is suspected of ending it."""

from collections import Counter, deque

from captioner.engine.protocol import Request

# An image that was in an engine at so many of its ends goes in alone the next time.
_SUSPICIOUS = 2


class InFlight:
    """The requests of one engine, from `add` to `finish`.

    Suspicion goes with an image from engine to engine, so those of a pool share `blame`.
    """

    def __init__(self, blame: Counter[str]) -> None:
        """`blame` counts, by a request's key, the ends of engines that it was in."""
        self._blame = blame
        self._requests: dict[str, Request] = {}
        self._waiting: deque[Request] = deque()
        self._sent: set[str] = set()

    def __len__(self) -> int:
        return len(self._requests)

    def add(self, request: Request) -> None:
        """A request that is to be sent."""
        self._requests[request.key] = request
        self._waiting.append(request)

    def send_next(self) -> Request | None:
        """The next to send; a suspicious one only into an empty engine, and alone."""
        if not self._waiting:
            return None
        # Nearly always there is nothing to blame on anyone.
        if self._blame and self._sent:
            in_question = (*self._sent, self._waiting[0].key)
            if any(self._is_suspicious(key) for key in in_question):
                return None
        request = self._waiting.popleft()
        self._sent.add(request.key)
        return request

    def finish(self, key: str) -> None:
        """Its text, or its error, is there."""
        del self._requests[key]
        self._sent.discard(key)
        self._blame.pop(key, None)

    def count_crash(self) -> str | None:
        """The engine ended: the key of the image that did it, if that is certain; it is finished.

        All else that was in it is to be sent again.
        """
        lost = [key for key in self._requests if key in self._sent]
        self._blame.update(lost)
        guilty = None
        if len(lost) == 1 and self._blame[lost[0]] > _SUSPICIOUS:
            # It was in there alone.
            guilty = lost[0]
            self.finish(guilty)
        self._sent.clear()
        self._line_up()
        return guilty

    def give_back(self, *, suspicious: bool) -> list[Request]:
        """Take out what another engine may do: nothing may be in this one.

        Without `suspicious`, those that have to go in alone stay.
        """
        assert not self._sent
        keys = [key for key in self._requests if suspicious or not self._is_suspicious(key)]
        given = [self._requests.pop(key) for key in keys]
        self._line_up()
        return given

    def _line_up(self) -> None:
        """The suspicious last: what is harmless gets done first."""
        order = sorted(self._requests, key=self._is_suspicious)
        self._waiting = deque(self._requests[key] for key in order)

    def _is_suspicious(self, key: str) -> bool:
        return self._blame[key] >= _SUSPICIOUS
