"""The options of `d2s caption`, by what they are about."""

from pathlib import Path
from typing import Any

import click
from click.shell_completion import CompletionItem

from captioner.engine.watchdog import SILENCE_SECONDS
from captioner.llava.names import DEFAULT_PROMPT, HUB_MODELS, SHIPPED
from captioner.llava.preprocess import ASPECTS
from captioner.llava.sampling import Sampling
from captioner.settings.text_policy import RETRIABLE, TextPolicy
from data.images import MAX_IMAGE_PIXELS
from pipelines.console.options import IMAGES_HELP, SOURCE, NumberRange, complete_from
from pipelines.console.outputs import OUTPUT_FOLDER

_PAPER = Sampling()


def _path(**kind: Any) -> click.Path:
    return click.Path(path_type=Path, **kind)


def _complete_captioners(
    ctx: click.Context, param: click.Parameter, incomplete: str
) -> list[CompletionItem]:
    """Models that `d2s caption` knows by a short name, and folders."""
    return complete_from([*HUB_MODELS, *SHIPPED], incomplete, other="dir")


def _read_seed(value: Any) -> int | None:
    """A number, or none."""
    return None if value == "none" else click.IntRange(min=0).convert(value, None, None)


IMAGES = (
    click.option(
        "--images",
        help=IMAGES_HELP,
    ),
    *SOURCE,
    click.option("--caption-column", help="Human captions.  [default: the usual names]"),
    click.option(
        "--captions",
        type=_path(),
        help="Human captions to keep beside the texts: dataset_*.json, captions_*.json, "
        "captions.txt.",
    ),
    click.option("--limit", type=click.IntRange(min=1), help="Only the first so many images."),
)

OUTPUT = (
    click.option(
        "--out",
        type=OUTPUT_FOLDER,
        help="Folder for the shards.  [default: dense/NAME-OF-THE-IMAGES]",
    ),
    click.option(
        "--shard-size",
        default=1000,
        show_default=True,
        type=click.IntRange(min=1),
        help="Rows of one Parquet file.",
    ),
    click.option(
        "--append",
        is_flag=True,
        help="Add what is new to the run in --out: images of the folder or list, or those up to a "
        "raised --limit, in new shards after the old ones.",
    ),
    click.option(
        "--retry-errors", is_flag=True, help="Caption again the images whose rows are errors."
    ),
    click.option(
        "--mix-versions",
        is_flag=True,
        help="Go on with other versions of packages than those that made the rows so far; the "
        "shards and the card say which made which.",
    ),
    click.option(
        "--config",
        type=_path(exists=True, dir_okay=False),
        help="YAML file of settings by section, or the run.json of another run; options that are "
        "given go before it.",
    ),
    click.option(
        "--set",
        "overrides",
        multiple=True,
        metavar="SECTION.KEY=VALUE",
        help="Any setting of such a file, such as engine.max_num_seqs=64; may be given again.",
    ),
    click.option("--dry-run", is_flag=True, help="Say what would be done; write nothing."),
    click.option("--json", "as_json", is_flag=True, help="Print the result as JSON."),
)

MODEL = (
    click.option(
        "--model",
        shell_complete=_complete_captioners,
        help=f"One of {', '.join([*HUB_MODELS, *SHIPPED])}, any Hub id, or a folder with weights.",
    ),
    click.option("--revision", help="Branch, tag or commit of a model of the Hub."),
    click.option(
        "--server",
        "servers",
        multiple=True,
        metavar="URL",
        help="Ask an OpenAI-compatible server instead of an engine of our own; give it again for "
        "more servers. Its key is read from OPENAI_API_KEY.",
    ),
    click.option(
        "--server-window",
        type=click.IntRange(min=1),
        help="Requests in flight at each server.  [default: 128 at a vLLM, 16 at others]",
    ),
    click.option(
        "--server-patience",
        type=NumberRange(min=0),
        help="Seconds that all servers may fail before the run gives up; what is done is saved.  "
        "[default: 300]",
    ),
    click.option(
        "--dtype",
        default="auto",
        show_default=True,
        type=click.Choice(["auto", "float32", "float16", "bfloat16"]),
        help="auto: float32 on a CPU, the model's own on a GPU.",
    ),
    click.option(
        "--kv-cache-dtype",
        default="auto",
        show_default=True,
        type=click.Choice(["auto", "fp8"]),
        help="fp8 lets a GPU hold twice as many texts in work.",
    ),
    click.option(
        "--gpu-memory",
        type=NumberRange(0.1, 1),
        help="Share of the GPU's memory for the engine.  [default: 0.92]",
    ),
    click.option(
        "--max-model-len",
        type=click.IntRange(min=1),
        help="Tokens of prompt and text together.  [default: as many as needed]",
    ),
    click.option(
        "--engines",
        type=click.IntRange(min=1),
        help="Engines on this machine.  [default: one per GPU; on a CPU one per core for a small "
        "model]",
    ),
    click.option(
        "--tensor-parallel-size",
        default=1,
        show_default=True,
        type=click.IntRange(min=1),
        help="GPUs of one engine, for a model that one GPU cannot hold.",
    ),
    click.option(
        "--engine", type=click.Choice(["vllm", "server", "scripted"]), hidden=True, default=None
    ),
)

TEXT = (
    click.option(
        "--prompt",
        default=DEFAULT_PROMPT,
        show_default=True,
        help="Put through the model's own chat template.",
    ),
    click.option(
        "--max-tokens",
        default=_PAPER.max_tokens,
        show_default=True,
        type=click.IntRange(min=1),
        help="Longest text, in tokens.",
    ),
    click.option(
        "--temperature",
        default=_PAPER.temperature,
        show_default=True,
        type=NumberRange(0, 2),
        help="0 is greedy; the default is the paper's.",
    ),
    click.option(
        "--top-p",
        default=_PAPER.top_p,
        show_default=True,
        type=NumberRange(0, 1, min_open=True),
        help="The default is the paper's.",
    ),
    click.option(
        "--seed",
        default=_PAPER.seed,
        show_default=True,
        type=_read_seed,
        metavar="INTEGER|none",
        help="Each image's own seed comes from it and from the image's name; none draws by chance, "
        "which lets vLLM use its fast sampler on a GPU.",
    ),
    click.option(
        "--retry-flagged",
        metavar="FLAGS",
        default="",
        help=f"Generate a text once more if it has one of these flags ({','.join(RETRIABLE)}), and "
        "keep the better one.",
    ),
    click.option(
        "--repetition-penalty",
        default=TextPolicy.repetition_penalty,
        show_default=True,
        type=NumberRange(1, 2),
        help="Of that second generation.",
    ),
    click.option(
        "--trim", is_flag=True, help="Cut a text that stops midway to its last full sentence."
    ),
)

PHOTOS = (
    click.option(
        "--aspect",
        type=click.Choice(ASPECTS),
        help="How a photo becomes a square: pad (as LLaVA-1.5 was trained), crop, squash; keep "
        "leaves it to the model.  [default: as the model was trained]",
    ),
    click.option(
        "--image-size",
        type=click.IntRange(min=1),
        help="Side of the square that a server gets.  [default: the model's, or 336]",
    ),
    click.option(
        "--max-image-pixels",
        default=MAX_IMAGE_PIXELS,
        show_default=True,
        type=click.IntRange(min=1),
        help="Larger images become error rows; read from the header, before decoding.",
    ),
    click.option(
        "--decode-workers",
        type=click.IntRange(min=1),
        help="Processes that decode images.  [default: one less than cores, at most 8; 16 for "
        "addresses]",
    ),
)

MACHINES = (
    click.option(
        "--memory-limit",
        type=NumberRange(min=0, min_open=True),
        metavar="GIB",
        help="Start the engine anew when it takes more memory.  [default: 85 % of the machine's]",
    ),
    click.option(
        "--silence",
        type=NumberRange(min=1),
        help="Seconds without a sign of life after which the engine is started anew.  [default: "
        f"{SILENCE_SECONDS:g}]",
    ),
    click.option(
        "--rank",
        default=0,
        show_default=True,
        type=click.IntRange(min=0),
        help="Of several jobs that share one --out: which one this is.",
    ),
    click.option(
        "--world-size",
        default=1,
        show_default=True,
        type=click.IntRange(min=1),
        help="How many jobs share one --out.",
    ),
    click.option(
        "--cluster",
        type=click.Choice(["ray"]),
        help="Schedule the shards over a Ray cluster (or this machine's GPUs).",
    ),
    click.option(
        "--cluster-workers",
        type=click.IntRange(min=1),
        help="Engines of the cluster.  [default: one per GPU]",
    ),
    click.option(
        "--gpus-per-worker",
        type=NumberRange(min=0),
        help="GPUs of each engine.  [default: 1, or 0 where there is none]",
    ),
)

GROUPS = {
    "Images": IMAGES,
    "Model": MODEL,
    "Text": TEXT,
    "Photos": PHOTOS,
    "Output": OUTPUT,
    "Long runs, many machines": MACHINES,
}
