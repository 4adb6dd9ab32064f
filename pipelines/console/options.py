"""Options that commands share, and how many of them are shown and completed."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import click
from click.shell_completion import CompletionItem

IMAGES_HELP = (
    "A folder (read with its subfolders), a pattern ('coco/**/*.jpg'), a list of paths or "
    "addresses (.txt), COCO's or Karpathy's .json, .tar files ('x-{000..012}.tar'), .parquet "
    "files, or hf:NAME for a data set."
)
SOURCE = (
    click.option(
        "--image-root",
        type=click.Path(file_okay=False, path_type=Path),
        help="Where the files of a list or a .json lie.  [default: beside it]",
    ),
    click.option("--split", help="Only this split of a .json; the split of a data set."),
    click.option("--dataset-config", help="The configuration of a data set."),
    click.option(
        "--streaming", is_flag=True, help="Read a data set from front to back, fetching no more."
    ),
    click.option(
        "--image-column",
        help="Of .parquet and data sets; addresses in it are fetched if you name it.  [default: "
        "the usual names]",
    ),
    click.option("--id-column", help="The images' ids.  [default: the usual names]"),
)


class NumberRange(click.FloatRange):
    """A finite number in a range: NaN lies in every range that click compares it with."""

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        number = float(super().convert(value, param, ctx))
        if not math.isfinite(number):
            self.fail(f"{value!r} is no finite number.", param, ctx)
        return number


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


def complete_recipes(
    ctx: click.Context, param: click.Parameter, incomplete: str
) -> list[CompletionItem]:
    """Recipes that come with the package, and files."""
    from vse.recipes.files import shipped_recipes

    return complete_from(shipped_recipes(), incomplete)


def complete_from(
    names: Iterable[str], incomplete: str, *, other: str = "file"
) -> list[CompletionItem]:
    """Names that begin so; where there are none, the shell looks for files or folders."""
    found = [CompletionItem(name) for name in names if name.startswith(incomplete)]
    return found or [CompletionItem(incomplete, type=other)]
