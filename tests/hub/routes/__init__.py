"""Which function answers which request."""

import re

from tests.hub.messages import Route
from tests.hub.routes import reading

# The first that fits wins; a new group of routes (uploads, commits) adds its table here.
ROUTES: list[tuple[re.Pattern[str], Route]] = [
    (re.compile(pattern), route) for table in (reading.TABLE,) for pattern, route in table
]
