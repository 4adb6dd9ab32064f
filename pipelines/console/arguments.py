"""The options that a user typed, for the same command in another process or a document."""

from __future__ import annotations

from collections.abc import Collection

import click
from click.core import ParameterSource


def repeat_arguments(*, leave_out: Collection[str]) -> list[str]:
    """What was typed of the command being run, without the options named in `leave_out`."""
    context = click.get_current_context()
    found: list[str] = []
    for option in context.command.params:
        name = option.name or ""
        typed = context.get_parameter_source(name) is ParameterSource.COMMANDLINE
        if not typed or name in leave_out:
            continue
        value = context.params[name]
        many = isinstance(value, tuple) and getattr(option, "multiple", False)
        for each in value if many else [value]:
            words = each if isinstance(each, tuple) else (each,)
            found += [option.opts[0], *([] if each is True else map(str, words))]
    return found
