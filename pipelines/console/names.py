"""Names that a shell can complete: recipes, tables, captioning models."""

from collections.abc import Iterable

import click
from click.shell_completion import CompletionItem


def complete_recipes(
    ctx: click.Context, param: click.Parameter, incomplete: str
) -> list[CompletionItem]:
    """Recipes that come with the package, and files."""
    from vse.recipes.files import shipped_recipes

    return _begin(shipped_recipes(), incomplete)


def complete_tables(
    ctx: click.Context, param: click.Parameter, incomplete: str
) -> list[CompletionItem]:
    """Tables of `d2s ablate`, and files."""
    from pipelines.experiments.ablation_table import shipped_tables

    return _begin([*shipped_tables(), "all"], incomplete)


def complete_captioners(
    ctx: click.Context, param: click.Parameter, incomplete: str
) -> list[CompletionItem]:
    """Models that `d2s caption` knows by a short name, and folders."""
    from captioner.llava.names import HUB_MODELS, SHIPPED

    return _begin([*HUB_MODELS, *SHIPPED], incomplete, other="dir")


def _begin(names: Iterable[str], incomplete: str, *, other: str = "file") -> list[CompletionItem]:
    """Names that begin so; where there are none, the shell looks for files or folders."""
    found = [CompletionItem(name) for name in names if name.startswith(incomplete)]
    return found or [CompletionItem(incomplete, type=other)]
