"""The options of `d2s caption` for the model and its engine: GPUs, servers or batch files."""

from pathlib import Path

import click
from click.shell_completion import CompletionItem

from captioner.llava.names import HUB_MODELS
from data.environment import SHIPPED_MODELS
from pipelines.console.options import COUNT, NumberRange, complete_from, shared


def _complete_captioners(
    ctx: click.Context, param: click.Parameter, incomplete: str
) -> list[CompletionItem]:
    """Short names of models, and folders."""
    return complete_from([*HUB_MODELS, *SHIPPED_MODELS], incomplete, other="dir")


MODEL = (
    shared(
        "model",
        shell_complete=_complete_captioners,
        help=f"The captioner: {', '.join([*HUB_MODELS, *SHIPPED_MODELS])}, any other id on the Hub "
        "whose model reads images and runs in vLLM, or a folder with weights.",
    ),
    click.option("--revision", help="Branch, tag or commit of a model on the Hub."),
    click.option(
        "--server",
        "servers",
        multiple=True,
        metavar="URL",
        help="Use the OpenAI-compatible server at this address instead of starting vLLM. Repeat it "
        "for more servers. The key is read from OPENAI_API_KEY.",
    ),
    click.option(
        "--server-window",
        type=COUNT,
        help="Concurrent requests per server.  [default: 128 for vLLM, 16 for others]",
    ),
    click.option(
        "--server-patience",
        type=NumberRange(min=0),
        help="Seconds without an answer from any server before the run stops.  [default: 300]",
    ),
    click.option(
        "--batch-file",
        type=click.Path(path_type=Path, file_okay=False),
        metavar="DIR",
        help="Write the requests into this folder as OpenAI batch files, for someone else to "
        "answer, and read the answers from it: any other .jsonl files there, in any order.",
    ),
    click.option(
        "--batch-format",
        type=click.Choice(["openai", "vllm"]),
        default="openai",
        show_default=True,
        help="vllm adds the fields that make `vllm run-batch` write the texts of an engine here; "
        "other services refuse them.",
    ),
    click.option(
        "--dtype",
        default="auto",
        show_default=True,
        type=click.Choice(["auto", "float32", "float16", "bfloat16"]),
        help="Precision of the weights; auto is float32 on a CPU and the model's own on a GPU.",
    ),
    click.option(
        "--kv-cache-dtype",
        default="auto",
        show_default=True,
        type=click.Choice(["auto", "fp8"]),
        help="Precision of the KV cache; fp8 fits twice as many texts at a time on a GPU.",
    ),
    click.option(
        "--gpu-memory",
        type=NumberRange(0.1, 1),
        help="Share of the GPU memory that vLLM may use.  [default: 0.92]",
    ),
    click.option(
        "--max-model-len",
        type=COUNT,
        help="Longest prompt and text together, in tokens.  [default: as needed]",
    ),
    click.option(
        "--engines",
        type=COUNT,
        help="Number of engines on this machine.  [default: one per GPU; on a CPU, one per core "
        "for a small model]",
    ),
    click.option(
        "--tensor-parallel-size",
        default=1,
        show_default=True,
        type=COUNT,
        help="Number of GPUs per engine, for a model that does not fit on one GPU.",
    ),
    click.option(
        "--engine", type=click.Choice(["vllm", "server", "batch", "scripted"]), hidden=True
    ),
)
