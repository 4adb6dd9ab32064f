"""A benchmark as declared in a YAML file: its origin, layout and measure."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from string import Formatter
from typing import Literal

from data.errors import UserError
from data.settings.building import build, require
from data.settings.yaml_files import read_yaml

SHIPPED = Path(__file__).parent / "declared"
ENGLISH = {"": "eng-Latn"}
# Images and texts per example, if fixed.
SHAPES = {"recall": (1, None), "pairs": (1, 2), "winoground": (2, 2)}


@dataclass(frozen=True)
class Rows:
    """The rows of the files that match `file`, one example each.

    `{name}` in `images` and `texts` is the row's column of that name, `{a[0][b]}` a part of it; a
    list gives several texts. For text files the row has `text`, for any file `stem`. With several
    languages, `{language}` is the row's column of that language. `where` selects rows, `listed`
    names a JSON file that lists the files, and `group` is a category of examples.
    """

    file: str
    images: tuple[str, ...]
    texts: tuple[str, ...]
    where: dict[str, str] = field(default_factory=dict)
    listed: str | None = None
    group: str = ""


@dataclass(frozen=True)
class Hub:
    """Files of a data set on the Hub; the members of a zip are below the folder of the zip.

    `revision` is None if it could not be verified; the user then has to name one.
    """

    repo: str
    files: tuple[str, ...]
    revision: str | None = None


@dataclass(frozen=True)
class Benchmark:
    """The content of a file in `declared/`; see docs/evaluation.md."""

    name: str
    about: str
    papers: tuple[str, ...]
    checked: tuple[str, ...]
    license: str
    get: tuple[str, ...]
    metric: Literal["recall", "eccv", "cxc", "pairs", "winoground"]
    examples: int
    texts: int | None = None
    captions: str | None = None
    images_in: str = ""
    rows: tuple[Rows, ...] = ()
    hub: Hub | None = None
    languages: dict[str, str] = field(default_factory=lambda: dict(ENGLISH))
    first: int | None = None
    folds: int | None = None
    text_cut: Literal["whole", "first line"] = "whole"
    resize: Literal["own"] = "own"
    sha256: dict[str, str] = field(default_factory=dict)
    order_sha256: str | None = None


def shipped_benchmarks() -> list[str]:
    """The names of the benchmarks that ship with the package."""
    return sorted(path.stem for path in SHIPPED.glob("*.yaml"))


def read_benchmark(name: str) -> Benchmark:
    """Read a benchmark of the package by name, or your own by the path of its YAML file.

    Raises:
        UserError: neither, or the file is not a valid declaration.
    """
    path = SHIPPED / f"{name}.yaml"
    if not re.fullmatch(r"[\w-]+", name) or not path.is_file():
        path = Path(name)
    if not path.is_file():
        known = ", ".join(shipped_benchmarks())
        raise UserError(f"no benchmark {name!r}: use one of {known} or the path of a YAML file")
    found = build(Benchmark, read_yaml(path), what=str(path))
    require(
        re.fullmatch(r"[\w-]+", found.name) is not None,
        f"{path}: name is {found.name!r}; it becomes a file name, so use letters, digits, - and _",
    )
    require(
        (found.captions is None) != (not found.rows),
        f"{path} must specify either captions (a Karpathy JSON) or rows",
    )
    require(found.examples > 0, f"{path}: examples is {found.examples}; it must be positive")
    images, texts = SHAPES.get(found.metric, (1, None))
    for rows in found.rows:
        require(
            bool(rows.file) and not rows.file.startswith("/"),
            f"{path}: file is {rows.file!r}; it must be a place below the folder of the set",
        )
        _check_templates(path, (*rows.images, *rows.texts))
        require(
            len(rows.images) == images and texts in (None, len(rows.texts)) and bool(rows.texts),
            f"{path}: {found.metric} takes {images} images and {texts or 'some'} texts of a row",
        )
    require(
        found.metric not in ("eccv", "cxc") or found.captions is not None,
        f"{path}: {found.metric} needs captions, because the ground truth refers to their ids",
    )
    return found


def _check_templates(path: Path, templates: tuple[str, ...]) -> None:
    for template in templates:
        try:
            list(Formatter().parse(template))
        except ValueError as error:
            raise UserError(f"{path}: the braces of {template!r} do not pair ({error})") from error
