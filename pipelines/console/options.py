"""A command whose many options are shown under headings."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import click


class GroupedCommand(click.Command):
    """`--help` lists the options under the headings given by `group_options`."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        headings: dict[str, str] = getattr(self.callback, "option_groups", {})
        sections: dict[str, list[tuple[str, str]]] = {}
        for parameter in self.get_params(ctx):
            line = parameter.get_help_record(ctx)
            if line is not None:
                heading = headings.get(parameter.name or "", "Other options")
                sections.setdefault(heading, []).append(line)
        for heading, lines in sections.items():
            with formatter.section(heading):
                formatter.write_dl(lines)


def group_options(groups: Mapping[str, Sequence[Callable[[Any], Any]]]) -> Callable[[Any], Any]:
    """Attach options (`click.option(...)`) to a command's function, remembering their headings."""

    def attach(function: Any) -> Any:
        headings: dict[str, str] = {}
        for heading, options in reversed(list(groups.items())):
            for option in reversed(options):
                option(function)
                # click keeps the parameters on the function until the command is made.
                headings[function.__click_params__[-1].name] = heading
        function.option_groups = headings
        return function

    return attach
