"""`d2s`: the group of commands, and error handling.

The exit codes are those of docs/design.md.
"""

import os
import sys
import traceback
from collections.abc import Sequence

import click

from pipelines.console.import_path import explain_shadowing, find_shadowing
from pipelines.console.lazy_group import CommandEntry, LazyGroup
from pipelines.console.streams import drop_output, prepare_streams
from pipelines.console.verbosity import VERBOSITY

FAILURE, INTERRUPTED = 1, 130


def _entry(name: str, line: str) -> CommandEntry:
    return CommandEntry(f"pipelines.commands.{name}", name, line)


# The commands by purpose, in the order in which users need them.
GROUPS: dict[str, dict[str, CommandEntry]] = {
    "Caption": {
        "caption": _entry("caption", "Write dense text for images."),
        "launch": _entry("launch", "Caption on a cluster that runs Slurm."),
        "verify": _entry("verify", "Check that a captioning run is intact."),
        "review": _entry("review", "Review the texts on a page, worst first."),
        "score": _entry("score", "Score texts against images (CLIPScore, CHAIR)."),
        "import": _entry("import_", "Import existing dense text."),
    },
    "Train": {
        "train": _entry("train", "Train the retrieval model."),
        "recipe": _entry("recipe", "List the recipes, or print one in full."),
        "reproduce": _entry("reproduce", "Reproduce a published result."),
        "ablate": _entry("ablate", "Run an ablation table with several seeds."),
        "convert": _entry("convert", "Convert a checkpoint of the released code."),
    },
    "Evaluate and use": {
        "evaluate": _entry("evaluate", "Measure recall on the test split."),
        "benchmark": _entry("benchmark", "Measure models on public benchmarks."),
        "embed": _entry("embed", "Embed images or texts into a Parquet file."),
        "search": _entry("search", "Search by text or by image."),
        "serve": _entry("serve", "Serve a web page for searching."),
    },
    "Share": {
        "publish": _entry("publish", "Publish a data set or model on the Hub."),
        "export": _entry("export", "Export texts to other formats."),
        "export-onnx": _entry("export_onnx", "Export both towers to ONNX."),
    },
    "Try and set up": {
        "scenes": _entry("scenes", "Write a generated world to try out d2s."),
        "demo": _entry("demo", "Run everything on that world."),
        "doctor": _entry("doctor", "Check what works on this machine."),
        "completion": _entry("completion", "Print a script for TAB completion."),
    },
}
COMMANDS = {name: entry for entries in GROUPS.values() for name, entry in entries.items()}


def _show_every_help(ctx: click.Context, param: click.Parameter, value: bool) -> None:
    if value:
        d2s.show_every_help(ctx)
        ctx.exit()


@click.group(
    cls=LazyGroup,
    entries=COMMANDS,
    sections=GROUPS,
    context_settings={"help_option_names": ["-h", "--help"]},
)
@click.version_option(None, "--version", package_name="d2s-vse", prog_name="d2s")
@click.option(
    "--help-all",
    is_flag=True,
    expose_value=False,
    is_eager=True,
    callback=_show_every_help,
    help="Show the help of every command and exit.",
)
def d2s() -> None:
    """Caption images with LLaVA, train an image-text retrieval model on the captions, and use it.

    The commands find each other's output when they are run in the same folder:

    \b
      d2s caption --model llava-1.5-7b --images coco/
      d2s train
      d2s evaluate

    `d2s COMMAND --help` shows the options of one command, `d2s --help-all` those of all.
    """


d2s.params += VERBOSITY


def run(arguments: Sequence[str]) -> int:
    """Run one command line; returns its exit code. Errors are printed here and nowhere else."""
    shadowing = find_shadowing()
    if shadowing:
        shown = explain_shadowing(shadowing).encode("unicode_escape").decode()
        click.echo(f"d2s: error: {shown}", err=True)
        return FAILURE
    # Not at the top of the file: `data` could be another package before the check above.
    from data.errors import UserError
    from pipelines.console.command_line import refuse_empty

    try:
        refuse_empty(arguments)
        # The words as typed, for commands that record them.
        typed = tuple(arguments)
        answer = d2s.main(args=list(typed), prog_name="d2s", standalone_mode=False, obj=typed)
    except UserError as error:
        _show_traceback()
        _say(" ".join(str(error).splitlines()))
        return error.exit_code
    except click.exceptions.NoArgsIsHelpError as error:
        error.show()
        return error.exit_code
    except click.ClickException as error:
        context = getattr(error, "ctx", None)
        more = f" (see `{context.command_path} --help`)" if context is not None else ""
        _say(" ".join(error.format_message().split()).rstrip(".") + more)
        return error.exit_code
    except (KeyboardInterrupt, click.Abort):
        click.echo("d2s: interrupted", err=True)
        return INTERRUPTED
    except BrokenPipeError:
        # The reader of stdout is gone (`d2s ... | head`): there is nothing left to print or flush.
        drop_output()
        return FAILURE
    except OSError as error:
        return _report_system(error)
    except Exception as error:
        return _report_unexpected(error)
    return answer if isinstance(answer, int) else 0


def _report_system(error: OSError) -> int:
    """Report a system error: a path that cannot be read or written, or a full disk."""
    if error.errno is None:
        return _report_unexpected(error)
    _show_traceback()
    place = os.fsdecode(error.filename) if isinstance(error.filename, str | bytes) else "output"
    _say(f"{place}: {error.strerror}: check its permissions and the disk, or use another path")
    try:
        sys.stdout.flush()
    except OSError:
        drop_output()
    return FAILURE


def _report_unexpected(error: Exception) -> int:
    """Report an unexpected error, and how to see its traceback."""
    shown = _show_traceback()
    text = " ".join(str(error).split())
    more = "" if shown else ". Use -v to see the traceback"
    if isinstance(error, ImportError):
        more += ". `d2s doctor` checks for missing or broken packages"
    _say(f"unexpected {type(error).__name__}{f': {text}' if text else ''}{more}")
    return FAILURE


def _show_traceback() -> bool:
    """Print the traceback of the current error, if requested."""
    from data.errors import wants_traceback

    asked = wants_traceback()
    if asked:
        traceback.print_exc()
    return asked


def _say(message: str) -> None:
    from pipelines.console.command_line import write_line

    write_line(f"d2s: error: {message}")


def main() -> None:
    """The `d2s` command."""
    prepare_streams()
    sys.exit(run(sys.argv[1:]))


if __name__ == "__main__":
    main()
