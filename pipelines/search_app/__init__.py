"""A page to search: what it answers, its parts as HTML, the page itself and its server."""
