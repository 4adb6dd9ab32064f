"""Options that commands share: each name is declared once and means the same everywhere."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import click
from click.shell_completion import CompletionItem

from pipelines.console.outputs import OUTPUT_FOLDER

Command = TypeVar("Command", bound=Callable[..., Any])
FILE = click.Path(dir_okay=False, path_type=Path)
FOLDER = click.Path(file_okay=False, path_type=Path)
PLACE = click.Path(path_type=Path)


class _Count(click.IntRange):
    """`N` in helps."""

    name = "n"


COUNT = _Count(min=1)
SEED = _Count(min=0)


class NumberRange(click.FloatRange):
    """A finite number in a range; click accepts NaN in every range."""

    name = "number"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        number = float(super().convert(value, param, ctx))
        if not math.isfinite(number):
            self.fail(f"{value!r} is not a finite number.", param, ctx)
        return number


class GroupedCommand(click.Command):
    """A command whose `--help` shows options under the headings of `group_options`."""

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
                # click stores the parameters on the function until the command is created.
                known = len(getattr(function, "__click_params__", ()))
                option(function)
                added = function.__click_params__[known:]
                headings |= {parameter.name: heading for parameter in added}
        function.option_groups = headings
        return function

    return attach


def complete_recipes(
    ctx: click.Context, param: click.Parameter, incomplete: str
) -> list[CompletionItem]:
    """Complete shipped recipes, and files."""
    from vse.recipes.files import shipped_recipes

    return complete_from(shipped_recipes(), incomplete)


def complete_from(
    names: Iterable[str], incomplete: str, *, other: str = "file"
) -> list[CompletionItem]:
    """Complete names; without a match, the shell completes files or folders."""
    found = [CompletionItem(name) for name in names if name.startswith(incomplete)]
    return found or [CompletionItem(incomplete, type=other)]


# Arguments for `click.option`. A command can override the help text in `shared`.
_SHARED: dict[str, tuple[tuple[str, ...], dict[str, Any]]] = {
    "images": (("-i", "--images"), {
        "type": FOLDER, "help": "Folder of the images.  [default: the one on record]"}),
    "source": (("-i", "--images"), {
        "help": "The images: a folder (read with its subfolders), a pattern ('coco/**/*.jpg'), a "
        "list of paths or URLs (.txt), COCO's or Karpathy's .json, .tar files "
        "('x-{000..012}.tar'), .parquet files, or hf:NAME for a data set of the Hub."}),
    "image-root": (("--image-root",), {
        "type": FOLDER, "help": "Folder that the paths of a list or a .json start from.  "
        "[default: the folder of that file]"}),
    "split": (("--split",), {"help": "Use only this split of a .json or a data set."}),
    "dataset-config": (("--dataset-config",), {"help": "Configuration of a data set of the Hub."}),
    "streaming": (("--streaming",), {
        "is_flag": True, "help": "Stream a data set of the Hub instead of downloading it."}),
    "image-column": (("--image-column",), {
        "help": "Column with the images of .parquet files and data sets. URLs are downloaded only "
        "from a column named here.  [default: the usual names]"}),
    "id-column": (("--id-column",), {
        "help": "Column with the ids of the images.  [default: the usual names]"}),
    "text-column": (("--text-column",), {
        "help": "Column with the texts.  [default: the usual names]"}),
    "captions": (("--captions",), {
        "type": PLACE, "help": "Sparse captions and splits: Karpathy or COCO JSON, COCO's "
        "annotations folder, captions.txt, or a folder of the released code's files.  [default: "
        "the only one in the image folder or beside it]"}),
    "dense": (("--dense",), {
        "type": FOLDER, "help": "Dense text: the folder of a captioning run.  [default: the only "
        "one under dense/]"}),
    "model": (("-m", "--model"), {
        "help": "The model: folder of a training run, or OWNER/NAME on the Hub.  [default: the "
        "one that made the index]"}),
    "index": (("--index", "paths"), {
        "required": True, "multiple": True, "type": FILE,
        "help": "File written by `d2s embed`. Repeat it to search images and texts."}),
    "top": (("--top",), {
        "type": click.IntRange(1, 100), "default": 12, "show_default": True,
        "help": "Number of hits to show from each index."}),
    "device": (("--device",), {
        "help": "Device for the model, such as cuda:1 or cpu.  [default: the GPU if there is one]"
        }),
    "dtype": (
        ("--dtype",),
        {
            "default": "float32",
            "show_default": True,
            "type": click.Choice(["float32", "bfloat16", "float16"]),
            "help": "Precision the model computes in; bfloat16 and float16 need a GPU.",
        },
    ),
    "batch-size": (("--batch-size",), {"type": COUNT, "show_default": True,
        "help": "Number of images or texts the model processes at once."}),
    "workers": (("--workers",), {
        "type": COUNT, "default": 4, "show_default": True,
        "help": "Number of workers that read and decode images."}),
    "recipe": (("--recipe",), {
        "shell_complete": complete_recipes,
        "help": "Recipe: a name listed by `d2s recipe`, or a YAML file."}),
    "set": (("--set", "overrides"), {
        "multiple": True, "metavar": "SECTION.NAME=VALUE",
        "help": "Change one setting of the recipe, such as optim.lr=1e-4. Can be repeated."}),
    "steps": (("--steps",), {
        "type": (COUNT, COUNT), "default": None, "metavar": "N N",
        "help": "Number of training steps in stage 1 and in stage 2.  [default: the recipe's]"}),
    "seed": (("--seed",), {
        "type": SEED, "help": "Random seed for weights, data order and augmentation."}),
    "gpus": (("--gpus",), {
        "type": COUNT, "default": 1, "show_default": True,
        "help": "Number of GPUs of this machine to train on; without a GPU, of processes."}),
    "out": (("-o", "--out"), {"type": OUTPUT_FOLDER, "help": "Folder to write."}),
    "shard-size": (("--shard-size",), {
        "type": COUNT, "default": 10_000, "show_default": True,
        "help": "Number of rows in each file."}),
    "ids": (("--ids",), {
        "type": FILE, "help": "File with one image id per line: only these images, in this order."
        }),
    "id-mapping": (("--id-mapping",), {
        "type": FILE, "help": "JSON file that maps image ids to file names."}),
    "dataset": (("--dataset", "datasets"), {
        "multiple": True, "metavar": "OWNER/NAME",
        "help": "Data set of the Hub that the card links to. Can be repeated."}),
    "limit": (("--limit",), {"type": COUNT, "help": "Use only the first N images."}),
    "dry-run": (("-n", "--dry-run"), {
        "is_flag": True, "help": "Check everything and show what would be done; write nothing."}),
    "json": (("--json", "as_json"), {
        "is_flag": True, "help": "Print the result as JSON (docs/json.md)."}),
}  # fmt: skip
# Options about images in tables, lists and data sets.
SOURCE = ("source", "image-root", "split", "dataset-config", "streaming", "image-column",
          "id-column")  # fmt: skip


def shared(*names: str, **changes: Any) -> Callable[[Command], Command]:
    """Attach shared options, in this order; `changes` override attributes in this command."""

    def attach(function: Command) -> Command:
        for name in reversed(names):
            words, attributes = _SHARED[name]
            function = click.option(*words, **{**attributes, **changes})(function)
        return function

    return attach
