"""The requests of one engine: sent, waiting, and suspected of crashing it."""

from collections import Counter, deque

from captioner.engine.protocol import Request

# Images that were in flight at this many crashes are sent separately from then on.
_SUSPICIOUS = 2


class InFlight:
    """The requests of one engine, from `add` to `finish`.

    They wait in groups. A group of suspects is sent to an empty engine; if it crashes, each half
    becomes a group, until one image is left. Suspicion follows an image from engine to engine, so
    the engines of a pool share `blame`.
    """

    def __init__(self, blame: Counter[str]) -> None:
        """`blame` counts, by request key, the crashes during which it was in flight."""
        self._blame = blame
        self._requests: dict[str, Request] = {}
        self._waiting: deque[list[str]] = deque()
        # The rest of the current group, to be sent next.
        self._rest: deque[str] = deque()
        self._sent: set[str] = set()

    def __len__(self) -> int:
        return len(self._requests)

    def add(self, request: Request) -> None:
        """Add a request to be sent."""
        self._requests[request.key] = request
        last = self._waiting[-1] if self._waiting else []
        if last and self._is_suspicious(request.key) and self._is_suspicious(last[0]):
            last.append(request.key)
        else:
            self._waiting.append([request.key])

    def send_next(self) -> Request | None:
        """The next request to send; suspects only to an empty engine, and separately."""
        if not self._rest:
            if not self._waiting:
                return None
            # There are almost never any suspects.
            if self._blame and self._sent:
                in_question = (*self._sent, self._waiting[0][0])
                if any(self._is_suspicious(key) for key in in_question):
                    return None
            self._rest.extend(self._waiting.popleft())
        key = self._rest.popleft()
        self._sent.add(key)
        return self._requests[key]

    def finish(self, key: str) -> None:
        """Its text or error has arrived."""
        del self._requests[key]
        self._sent.discard(key)
        self._blame.pop(key, None)

    def count_crash(self) -> str | None:
        """The engine crashed: the key of the image that caused it, if certain, which is finished.

        All other requests in flight will be sent again.
        """
        lost = [key for key in self._requests if key in self._sent]
        self._blame.update(lost)
        guilty = None
        if len(lost) == 1 and self._blame[lost[0]] > _SUSPICIOUS:
            # It was the only one in flight.
            guilty = lost[0]
            self.finish(guilty)
            lost = []
        self._sent.clear()
        suspects = [key for key in lost if self._is_suspicious(key)]
        half = -(-len(suspects) // 2)
        others = [[key] for key in lost if not self._is_suspicious(key)]
        self._waiting.extendleft([list(self._rest)] if self._rest else [])
        self._rest.clear()
        lots = [*others, suspects[:half], suspects[half:], *self._waiting]
        # Suspects last, so that harmless requests are done first.
        self._waiting = deque(sorted(filter(None, lots), key=self._holds_suspects))
        return guilty

    def give_back(self, *, suspicious: bool) -> list[Request]:
        """Remove the requests that another engine can take over; this one must be empty.

        Without `suspicious`, requests that have to be sent separately stay.
        """
        assert not self._sent
        keys = [key for key in self._requests if suspicious or not self._is_suspicious(key)]
        given = [self._requests.pop(key) for key in keys]
        kept = ([key for key in lot if key in self._requests] for lot in self._waiting)
        self._waiting = deque(filter(None, kept))
        return given

    def _holds_suspects(self, lot: list[str]) -> bool:
        return self._is_suspicious(lot[0])

    def _is_suspicious(self, key: str) -> bool:
        return self._blame[key] >= _SUSPICIOUS
