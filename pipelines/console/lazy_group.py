"""A group of commands that are imported when they are called.

So `--help` is fast; the help lines of commands are stored in the group's table for the same reason.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

import click
from click.shell_completion import CompletionItem

from pipelines.console.verbosity import VERBOSITY


@dataclass(frozen=True)
class CommandEntry:
    """The module of a command, and its line in the group's help."""

    module: str
    name: str
    line: str

    def load(self) -> click.Command:
        """The command, imported."""
        command = getattr(importlib.import_module(self.module), self.name)
        if not isinstance(command, click.Command):
            raise TypeError(f"{self.module}.{self.name} is not a command")
        below = command.commands.values() if isinstance(command, click.Group) else ()
        for each in (command, *below):
            each.params += [option for option in VERBOSITY if option not in each.params]
        return command


class LazyGroup(click.Group):
    """A group that imports only the command that is called."""

    def __init__(
        self,
        *arguments: Any,
        entries: Mapping[str, CommandEntry],
        sections: Mapping[str, Mapping[str, CommandEntry]],
        **options: Any,
    ) -> None:
        """`sections`: the entries under their headings in `--help`."""
        super().__init__(*arguments, **options)
        self.entries = entries
        self.sections = sections

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.entries)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        entry = self.entries.get(cmd_name)
        return None if entry is None else entry.load()

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args[0] not in self.entries and not args[0].startswith("-"):
            near = get_close_matches(args[0], self.entries, n=1)
            known = ", ".join(self.entries)
            hint = f"Did you mean '{near[0]}'?" if near else f"Commands: {known}."
            ctx.fail(f"No such command '{args[0]}'. {hint}")
        return super().resolve_command(ctx, args)

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        """Use the names and lines in the table: click would import every command."""
        found = [item for item in self.entries.items() if item[0].startswith(incomplete)]
        options = click.Command.shell_complete(self, ctx, incomplete)
        return [*(CompletionItem(name, help=entry.line) for name, entry in found), *options]

    def show_every_help(self, ctx: click.Context) -> None:
        """Print the help of every command."""
        for name in ("", *self.entries):
            command = self.entries[name].load() if name else self
            with click.Context(command, parent=ctx if name else None, info_name=name or "d2s") as c:
                click.echo(f"{command.get_help(c)}\n")
                below = command.commands if name and isinstance(command, click.Group) else {}
                for word, each in below.items():
                    with click.Context(each, parent=c, info_name=word) as inner:
                        click.echo(f"{each.get_help(inner)}\n")

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        width = max(map(len, self.entries))
        for heading, entries in self.sections.items():
            with formatter.section(heading):
                # The lines of all sections are aligned.
                lines = [(name.ljust(width), entry.line) for name, entry in entries.items()]
                formatter.write_dl(lines)
