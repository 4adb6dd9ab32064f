"""Ablation tables: rows with a few settings that are merged into a recipe."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from data.errors import UserError
from data.settings.yaml_files import read_yaml
from vse.recipes import STAGES, build

SHIPPED = Path(__file__).parent / "tables"


@dataclass(frozen=True)
class Row:
    """One row of a table: the measured model, and the changed settings.

    stage1, stage2: settings by their dotted names; stage2 is for the baseline "sparse" as well.
    all_steps: stage 2 takes the steps of both stages, since it does not start from stage 1.
    paper: the rSum that the paper reports for it.
    """

    name: str
    stage: str = "2"
    stage1: dict[str, Any] = field(default_factory=dict)
    stage2: dict[str, Any] = field(default_factory=dict)
    all_steps: bool = False
    paper: float | None = None
    reference: bool = False  # the row with which the others are compared

    def __post_init__(self) -> None:
        if self.stage not in STAGES:
            known = ", ".join(STAGES)
            raise UserError(f"row {self.name!r}: stage is {self.stage!r}; stages are {known}")
        unused = {"1": ("stage2", "all_steps"), "2": ()}.get(self.stage, ("stage1", "all_steps"))
        for key in unused:
            if getattr(self, key):
                raise UserError(
                    f"row {self.name!r}: {key} has no effect with stage {self.stage!r}: remove it"
                )


@dataclass(frozen=True)
class Table:
    """Rows to compare, with notes for the reader. `decides`: decide whether to keep each idea."""

    name: str
    title: str
    rows: tuple[Row, ...]
    notes: tuple[str, ...] = ()
    paper: str | None = None  # the source of the paper's figures
    decides: bool = False

    @property
    def reference(self) -> Row:
        return next(row for row in self.rows if row.reference)


def shipped_tables() -> list[str]:
    """Names of the shipped tables."""
    return sorted(path.stem for path in SHIPPED.glob("*.yaml"))


def read_tables(names: Iterable[str]) -> tuple[Table, ...]:
    """Tables by name or path, each once; "all" stands for the shipped ones.

    Raises:
        UserError: no such table, an invalid one, or two that would be written to the same page.
    """
    named = [n for name in names for n in (shipped_tables() if name == "all" else [name])]
    tables = tuple(read_table(name) for name in dict.fromkeys(named))
    pages = Counter(table.name for table in tables)
    for name, count in pages.items():
        if count > 1:
            raise UserError(f"{count} tables are called {name}, like their page: rename a file")
    return tables


def read_table(name: str) -> Table:
    """A shipped table by name, or a YAML file by path.

    Raises:
        UserError: no such table, or an invalid one.
    """
    path = SHIPPED / f"{name}.yaml"
    if name not in shipped_tables():
        path = Path(name)
    if not path.is_file():
        known = ", ".join(shipped_tables())
        raise UserError(f"no table {name!r}: use one of {known} or the path of a YAML file")
    values = read_yaml(path)
    rows = values.pop("rows", None)
    if not isinstance(rows, list) or not rows:
        raise UserError(f"{path} has no rows")
    read = tuple(build(Row, row, where=f"{path.name}: rows[{n}]") for n, row in enumerate(rows))
    unknown = sorted(set(values) - {"title", "notes", "paper", "decides"})
    if unknown:
        raise UserError(f"{path}: unknown key {unknown[0]!r}; known: title, notes, paper, decides")
    if sum(row.reference for row in read) != 1:
        raise UserError(f"{path}: exactly one row must have reference: true")
    if len({row.name for row in read}) != len(read):
        raise UserError(f"{path}: two rows have the same name")
    notes = values.get("notes") or []
    if not isinstance(notes, list):
        raise UserError(f"{path}: notes must be a list of sentences")
    return Table(
        name=path.stem,
        title=str(values.get("title", path.stem)),
        rows=read,
        notes=tuple(map(str, notes)),
        paper=values.get("paper"),
        decides=bool(values.get("decides", False)),
    )
