"""What one engine was asked for: what is sent, what waits, and what is suspected of ending it."""

from collections import Counter, deque

from captioner.engine.protocol import Request

# Images that were in an engine at so many of its ends go in without others the next time.
_SUSPICIOUS = 2


class InFlight:
    """The requests of one engine, from `add` to `finish`.

    They wait in lots. A lot of suspects goes into an empty engine; if that ends, each half of what
    was in there is the next lot, until one image is left. Suspicion goes with an image from engine
    to engine, so those of a pool share `blame`.
    """

    def __init__(self, blame: Counter[str]) -> None:
        """`blame` counts, by a request's key, the ends of engines that it was in."""
        self._blame = blame
        self._requests: dict[str, Request] = {}
        self._waiting: deque[list[str]] = deque()
        # What is to follow at once on those that were sent: the rest of a lot.
        self._rest: deque[str] = deque()
        self._sent: set[str] = set()

    def __len__(self) -> int:
        return len(self._requests)

    def add(self, request: Request) -> None:
        """A request that is to be sent."""
        self._requests[request.key] = request
        last = self._waiting[-1] if self._waiting else []
        if last and self._is_suspicious(request.key) and self._is_suspicious(last[0]):
            last.append(request.key)
        else:
            self._waiting.append([request.key])

    def send_next(self) -> Request | None:
        """The next to send; a suspicious lot only into an empty engine, and without others."""
        if not self._rest:
            if not self._waiting:
                return None
            # Nearly always there is nothing to blame on anyone.
            if self._blame and self._sent:
                in_question = (*self._sent, self._waiting[0][0])
                if any(self._is_suspicious(key) for key in in_question):
                    return None
            self._rest.extend(self._waiting.popleft())
        key = self._rest.popleft()
        self._sent.add(key)
        return self._requests[key]

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
            lost = []
        self._sent.clear()
        suspects = [key for key in lost if self._is_suspicious(key)]
        half = -(-len(suspects) // 2)
        others = [[key] for key in lost if not self._is_suspicious(key)]
        self._waiting.extendleft([list(self._rest)] if self._rest else [])
        self._rest.clear()
        lots = [*others, suspects[:half], suspects[half:], *self._waiting]
        # The suspicious last: what is harmless gets done first.
        self._waiting = deque(sorted(filter(None, lots), key=self._holds_suspects))
        return guilty

    def give_back(self, *, suspicious: bool) -> list[Request]:
        """Take out what another engine may do: nothing may be in this one.

        Without `suspicious`, those that have to go in alone stay.
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
