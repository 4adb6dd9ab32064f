"""`d2s launch`: a captioning run on the machines of a cluster."""

from __future__ import annotations

import shlex
from pathlib import Path

import click

from data.errors import UsageError
from pipelines.commands.caption_options import read_settings
from pipelines.console.command_line import print_text
from pipelines.console.options import COUNT
from pipelines.console.outputs import Output, overwrite_option
from pipelines.workflow.slurm import MARK, SlurmJob, submit


@click.group()
def launch() -> None:
    """Write and submit the jobs of a captioning run.

    \b
    Examples:
      d2s launch slurm --tasks 8 -- d2s caption -m llava-1.5-7b -i coco/
    """


@launch.command(short_help="Write a job array for Slurm.")
@click.option("--tasks", type=COUNT, required=True, help="Number of tasks in the array.")
@click.option("--gpus-per-task", type=click.IntRange(min=0), default=1, show_default=True,
              help="Number of GPUs per task.")  # fmt: skip
@click.option("--partition", help="Partition of the cluster.  [default: the cluster's own]")
@click.option("--time", help="Time limit of a task, such as 12:00:00 or 2-00.")
@click.option("--sbatch", "lines", multiple=True, metavar="OPTION",
              help="Option for sbatch, such as '-A NAME'. Can be repeated.")  # fmt: skip
@click.option("--script", type=Output(dir_okay=False, mark=MARK), default="d2s-caption.sh",
              show_default=True, help="File to write.")  # fmt: skip
@click.option("--submit", "submitting", is_flag=True, help="Submit the script with sbatch.")
@overwrite_option
@click.argument("command", nargs=-1, type=click.UNPROCESSED, metavar="-- d2s caption ...")
def slurm(
    tasks: int,
    gpus_per_task: int,
    partition: str | None,
    time: str | None,
    lines: tuple[str, ...],
    script: Path,
    submitting: bool,
    command: tuple[str, ...],
) -> None:
    """Write a job array whose tasks share one captioning run.

    Everything after `--` is the `d2s caption` command. Two minutes before its time limit, a
    task saves its work and requeues itself. --out and the images must be on a file system that
    all machines see.

    \b
    Examples:
      d2s launch slurm --tasks 8 -- d2s caption -m llava-1.5-7b -i coco/
      d2s launch slurm --tasks 4 --submit -- d2s caption --config run.yaml
    """
    words = list(command[1:] if command[:1] == ("d2s",) else command)
    _check(words)
    job = SlurmJob(tasks, gpus_per_task, partition, time, lines)
    script.write_bytes(job.write_script(words))
    command_line = f"sbatch {shlex.quote(str(script))}"
    print_text(submit(script) if submitting else f"wrote {script}; submit it with `{command_line}`")


def _check(words: list[str]) -> None:
    """Refuse now what every task would refuse.

    Raises:
        click.UsageError, UserError: as `d2s caption` does; or the command already has a rank.
    """
    from captioner.settings.placement import Placement

    root = click.get_current_context().find_root()
    assert isinstance(root.command, click.Group)
    caption = root.command.get_command(root, "caption")
    assert caption is not None
    if words[:1] != ["caption"]:
        raise UsageError("specify the command of the tasks after `--`: d2s caption ...")
    context = caption.make_context("d2s caption", words[1:])
    settings = read_settings(context)
    settings.refuse_unfitting()
    if settings.placement != Placement() or context.params["dry_run"]:
        raise UsageError(
            "--rank and --world-size are set for each task: remove them, --cluster and --dry-run "
            "from the command"
        )
