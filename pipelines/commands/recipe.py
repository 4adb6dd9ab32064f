"""`d2s recipe`: lists the shipped recipes, or prints the resolved settings of one."""

from __future__ import annotations

from typing import Any

import click

from pipelines.console.command_line import print_text
from pipelines.console.options import complete_recipes, shared


@click.command()
@click.argument("name", required=False, shell_complete=complete_recipes)
@click.option("--stage", type=click.Choice(["1", "2", "joint", "sparse"]), default="2",
              show_default=True, help="Stage to show the settings of.")  # fmt: skip
@shared("set")
def recipe(name: str | None, stage: str, overrides: tuple[str, ...]) -> None:
    """List the recipes, or print every setting of recipe NAME as YAML.

    \b
    Examples:
      d2s recipe
      d2s recipe f30k-vit-384 --stage 1
    """
    from vse.recipes.files import shipped_recipes

    if name is None:
        for known in shipped_recipes():
            print_text(f"{known:<14}  {describe_recipe(known)}")
        return
    print_text(show_recipe(name, stage=stage, overrides=overrides))


def describe_recipe(name: str) -> str:
    """One line: its row and the published figures, or else the first sentence of its file."""
    from vse.recipes.files import find_recipe, read_recipe

    published = read_recipe(name).get("published")
    if published:
        figures = (f"{key} rSum {one['rsum']}" for key, one in published["figures"].items())
        return f"{published['row']}: published {', '.join(figures)}"
    lines = find_recipe(name).read_text(encoding="utf-8").splitlines()
    text = " ".join(line.strip("# ") for line in lines[1:] if line.startswith("#"))
    return text.split(". ")[0].split(": ")[0].rstrip(".")


def show_recipe(name: str, *, stage: str, overrides: tuple[str, ...]) -> str:
    """The settings as YAML, with the recipe's comments and published figures."""
    import yaml

    from vse.recipes.files import find_recipe, read_recipe, resolve

    raw = read_recipe(name)
    values: dict[str, Any] = _plain(resolve(raw, stage=stage, overrides=overrides).to_dict())
    if "published" in raw:
        values["published"] = raw["published"]
    head = []
    for line in find_recipe(name).read_text(encoding="utf-8").splitlines():
        if not line.startswith("#"):
            break
        head.append(line)
    body = yaml.safe_dump(values, sort_keys=False, default_flow_style=None, width=100)
    return "\n".join([*head, f"# All settings of stage {stage}:", body])


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(inner) for key, inner in value.items()}
    return list(value) if isinstance(value, tuple) else value
