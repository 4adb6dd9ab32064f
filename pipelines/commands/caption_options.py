"""The options of `d2s caption`, by topic."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from captioner.engine.watchdog import SILENCE_SECONDS
from captioner.llava.names import DEFAULT_PROMPT
from captioner.llava.preprocess import ASPECTS
from captioner.llava.sampling import Sampling
from captioner.settings.text_policy import RETRIABLE, TextPolicy
from data.images import MAX_IMAGE_PIXELS
from pipelines.commands.caption_model import MODEL
from pipelines.console.options import COUNT, SOURCE, NumberRange, shared

if TYPE_CHECKING:
    from captioner.settings.config import CaptionConfig

_PAPER = Sampling()


def _path(**kind: Any) -> click.Path:
    return click.Path(path_type=Path, **kind)


def _read_seed(value: Any) -> int | None:
    """A number, or none."""
    return None if value == "none" else click.IntRange(min=0).convert(value, None, None)


IMAGES = (
    shared(*SOURCE),
    click.option(
        "--caption-column", help="Column with sparse captions.  [default: the usual names]"
    ),
    shared(
        "captions",
        help="Sparse captions to keep beside the texts: dataset_*.json, captions_*.json or "
        "captions.txt.",
    ),
    shared("limit"),
)

OUTPUT = (
    shared(
        "out",
        help="Folder for the shards, or for a folder of shards per text of --prompts.  [default: "
        "dense/NAME, after the images]",
    ),
    shared("shard-size"),
    click.option(
        "--append",
        is_flag=True,
        help="Add new images to the run in --out, in new shards: those added to the folder or "
        "list, or those up to a higher --limit.",
    ),
    click.option("--retry-errors", is_flag=True, help="Caption the images of error rows again."),
    click.option(
        "--redo",
        is_flag=True,
        help="Generate the texts of --prompts again whose prompt or settings changed, and the "
        "texts that read them. The old ones are kept in OUT/replaced.",
    ),
    click.option(
        "--mix-versions",
        is_flag=True,
        help="Continue a run with other versions of vLLM, torch or Pillow; the shards record "
        "which version generated which rows.",
    ),
    click.option(
        "--config",
        type=_path(exists=True, dir_okay=False),
        help="YAML file of settings, or the run.json of another run. Options on the command line "
        "take precedence.",
    ),
    shared(
        "set",
        help="Change one setting of --config, such as engine.max_num_seqs=64. Can be repeated.",
    ),
    shared(
        "dry-run",
        help="Check everything, caption a sample of the images, and estimate time, cost and disk "
        "space; write nothing.",
    ),
    shared("json"),
    click.option(
        "--trial",
        type=click.IntRange(min=0),
        help="Number of images that --dry-run captions for its estimate; 0 for none.  [default: "
        "twice as many as fill the engine, at least 32]",
    ),
    click.option(
        "--price",
        type=NumberRange(min=0),
        help="Price of a GPU hour, or of a machine hour without a GPU; --dry-run estimates "
        "the cost, and the progress line shows it.",
    ),
)

TEXT = (
    click.option(
        "--prompt",
        default=DEFAULT_PROMPT,
        show_default=True,
        help="Prompt for every image; the model's chat template is applied.",
    ),
    click.option(
        "--prompts",
        type=_path(exists=True, dir_okay=False),
        metavar="FILE",
        help="YAML file of several texts for each image, by name, each with its prompt, and its "
        "model, samples, choices or JSON schema. A prompt can read columns ({captions}) and other "
        "texts ({texts.NAME}).",
    ),
    click.option(
        "--system",
        metavar="TEXT|vicuna",
        help="System prompt; vicuna stands for the sentence that LLaVA-1.5 was tuned with.  "
        "[default: none]",
    ),
    click.option(
        "--max-tokens",
        default=_PAPER.max_tokens,
        show_default=True,
        type=COUNT,
        help="Maximum length of a text, in tokens.",
    ),
    click.option(
        "--temperature",
        default=_PAPER.temperature,
        show_default=True,
        type=NumberRange(0, 2),
        help="Sampling temperature; 0 is greedy. The default is the paper's.",
    ),
    click.option(
        "--top-p",
        default=_PAPER.top_p,
        show_default=True,
        type=NumberRange(0, 1, min_open=True),
        help="Nucleus sampling. The default is the paper's.",
    ),
    click.option(
        "--seed",
        default=_PAPER.seed,
        show_default=True,
        type=_read_seed,
        metavar="INTEGER|none",
        help="Random seed; each image's own seed is derived from it and from the image's name. "
        "none: no seeds, so that vLLM can use its faster sampler on a GPU.",
    ),
    click.option(
        "--retry-flagged",
        metavar="FLAGS",
        default="",
        help="Generate a text a second time if it has one of these flags, and keep the better one: "
        f"{','.join(RETRIABLE)}.",
    ),
    click.option(
        "--repetition-penalty",
        default=TextPolicy.repetition_penalty,
        show_default=True,
        type=NumberRange(1, 2),
        help="Repetition penalty of the second attempt (--retry-flagged).",
    ),
    click.option(
        "--trim", is_flag=True, help="Cut a truncated text back to its last full sentence."
    ),
)

PHOTOS = (
    click.option(
        "--aspect",
        type=click.Choice(ASPECTS),
        help="How an image is made square: pad, crop or squash; keep leaves it to the model's "
        "processor.  [default: as the model was trained]",
    ),
    click.option(
        "--image-size",
        type=COUNT,
        help="Side of the image sent to a server, in pixels.  [default: the model's, 336 for "
        "LLaVA-1.5 or with --aspect, else that of the image]",
    ),
    click.option(
        "--max-image-pixels",
        default=MAX_IMAGE_PIXELS,
        show_default=True,
        type=COUNT,
        help="Images with more pixels become error rows without being decoded.",
    ),
    shared(
        "workers",
        default=None,
        help="Number of workers that read and decode images.  [default: one less than cores, at "
        "most 8; 16 for URLs]",
    ),
)

MACHINES = (
    click.option(
        "--memory-limit",
        type=NumberRange(min=0, min_open=True),
        metavar="GIB",
        help="Restart an engine that uses more memory.  [default: 85 % of the machine's]",
    ),
    click.option(
        "--silence",
        type=NumberRange(min=1),
        help="Restart an engine that is silent for this many seconds.  [default: "
        f"{SILENCE_SECONDS:g}]",
    ),
    click.option(
        "--rank",
        default=0,
        show_default=True,
        type=click.IntRange(min=0),
        help="Number of this job, from 0, among the jobs that share one --out.",
    ),
    click.option(
        "--world-size",
        default=1,
        show_default=True,
        type=COUNT,
        help="Number of jobs that share one --out.",
    ),
    click.option(
        "--cluster",
        type=click.Choice(["ray"]),
        help="Distribute the shards over a Ray cluster.",
    ),
    click.option(
        "--cluster-engines",
        type=COUNT,
        help="Number of engines in the cluster.  [default: one per GPU]",
    ),
    click.option(
        "--gpus-per-engine",
        type=NumberRange(min=0),
        help="Number of GPUs per engine in the cluster.  [default: 1, or 0 without GPUs]",
    ),
)

GROUPS = {
    "Images": IMAGES,
    "Model": MODEL,
    "Text": TEXT,
    "Image preparation": PHOTOS,
    "Output": OUTPUT,
    "Long runs, several machines": MACHINES,
}


def read_settings(ctx: click.Context) -> "CaptionConfig":
    """The configuration from a command line of `d2s caption`.

    Raises:
        UserError: an unknown setting, or an invalid value.
    """
    from captioner.settings.config import CaptionConfig

    def is_given(name: str) -> bool:
        """Options that were not typed do not override settings in a file."""
        return ctx.get_parameter_source(name) not in (ParameterSource.DEFAULT, None)

    options = {name: value for name, value in ctx.params.items() if is_given(name)}
    for name in ("dry_run", "trial", "price", "as_json", "config", "overrides"):
        options.pop(name, None)
    if "retry_flagged" in options:
        options["retry_flagged"] = [flag for flag in options["retry_flagged"].split(",") if flag]
    config, overrides = ctx.params["config"], ctx.params["overrides"]
    return CaptionConfig.read(config, overrides=overrides, options=options)
