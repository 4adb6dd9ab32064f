"""Which function answers which request."""

import re

from tests.hub.messages import Route
from tests.hub.routes import large, reading, writing

# The first that fits wins; a new group of routes adds its table here.
ROUTES: list[tuple[re.Pattern[str], Route]] = [
    (re.compile(pattern), route)
    for table in (writing.TABLE, large.TABLE, reading.TABLE)
    for pattern, route in table
]
