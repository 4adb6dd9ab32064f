"""What `captioner.caption` takes, for those who hand it on."""

from collections.abc import Sequence
from pathlib import Path
from typing import Required, TypedDict

from captioner.settings.placement import Placement
from data.sources.columns import Columns


class CaptionArguments(TypedDict, total=False):
    """The arguments of `prepare_caption`, for those who hand them on."""

    model: Required[str]
    images: Required[Path | str]
    image_root: Path | None
    split: str | None
    dataset_config: str | None
    streaming: bool
    columns: Columns
    captions: Path | None
    out: Path | None
    shard_size: int
    limit: int | None
    prompt: str
    temperature: float
    top_p: float
    max_tokens: int
    seed: int
    aspect: str | None
    max_image_pixels: int
    revision: str | None
    retry_errors: bool
    retry_flagged: Sequence[str]
    repetition_penalty: float
    trim: bool
    engine: str
    servers: Sequence[str]
    server_window: int | None
    server_patience: float | None
    image_size: int | None
    dtype: str
    kv_cache_dtype: str
    gpu_memory: float | None
    max_model_len: int | None
    engines: int | None
    tensor_parallel_size: int
    decode_workers: int | None
    memory_limit: float | None
    silence: float | None
    placement: Placement
