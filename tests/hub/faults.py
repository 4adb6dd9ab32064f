"""What the stand-in does wrong when told to."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal


@dataclass
class Fault:
    """Happens to the next `times` requests whose "METHOD /path" has `pattern` in it.

    `refuse` answers `status` with `headers` instead of doing what was asked; `drop` closes the line
    before anything is done; `lose` does it, and closes the line instead of answering. When it has
    happened as often as that, `then` is waited for.
    """

    pattern: str
    what: Literal["refuse", "drop", "lose"] = "refuse"
    times: int = 1
    status: int = 503
    headers: Mapping[str, str] = field(default_factory=dict)
    then: "Fault | None" = None


class Faults:
    """Those that are still to happen."""

    def __init__(self) -> None:
        self._waiting: list[Fault] = []

    def add(self, fault: Fault) -> None:
        self._waiting.append(fault)

    def clear(self) -> None:
        self._waiting.clear()

    def take(self, line: str) -> Fault | None:
        """The first fault that fits a request, "METHOD /path?query"; it counts as happened."""
        for fault in self._waiting:
            if re.search(fault.pattern, line):
                fault.times -= 1
                if fault.times < 1:
                    self._waiting.remove(fault)
                    if fault.then is not None:
                        self._waiting.append(fault.then)
                return fault
        return None
