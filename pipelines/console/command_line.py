"""What was typed, for commands that record how they were called."""

import click


def find_words() -> tuple[str, ...]:
    """The words after `d2s`; none where the command was not called through it."""
    context = click.get_current_context(silent=True)
    words = context.find_root().obj if context is not None else None
    return words if isinstance(words, tuple) else ()
