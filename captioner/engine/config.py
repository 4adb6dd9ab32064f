"""Engine settings: the sections `engine`, `server` and `batch` of a captioning run."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from data.errors import UserError
from data.settings.building import refuse_below, refuse_undecoded

_PATIENCE = 300.0


@dataclass(frozen=True)
class EngineConfig:
    """The model, and the engines on this machine.

    Attributes:
        model: a short name, a Hub id or a folder of weights.
        revision: branch, tag or commit of a model of the Hub.
        engine: vllm, server, batch, or scripted for testing the pipeline without a model; by
            default server if servers are given, batch if a batch folder is given, else vllm.
        dtype, kv_cache_dtype: as in vLLM; auto by default.
        quantization: as in vLLM; by default as the model's files say.
        batch_invariant: sums that do not depend on the rest of the batch (VLLM_BATCH_INVARIANT can
            be set instead); on GPUs for which vLLM supports it.
        gpu_memory: share of the GPU's memory for the engine; 0.92 by default.
        max_model_len: tokens of prompt and text; by default as many as needed.
        max_num_seqs: sequences per step of vLLM; by default 256.
        engines: number of engines on this machine; by default one per GPU, or per core for a small
            model on a CPU.
        tensor_parallel_size: GPUs per engine, for a model that does not fit on one.
        memory_limit: GiB of memory beyond which the engine is restarted.
        silence: seconds without a sign of life after which the engine is restarted.
    """

    model: str
    revision: str | None = None
    engine: Literal["vllm", "server", "batch", "scripted"] | None = None
    dtype: Literal["auto", "float32", "float16", "bfloat16"] = "auto"
    kv_cache_dtype: Literal["auto", "fp8"] = "auto"
    quantization: str | None = None
    batch_invariant: bool = False
    gpu_memory: float | None = None
    max_model_len: int | None = None
    max_num_seqs: int | None = None
    engines: int | None = None
    tensor_parallel_size: int = 1
    memory_limit: float | None = None
    silence: float | None = None

    def __post_init__(self) -> None:
        if not self.model:
            raise UserError("--model is empty")
        refuse_undecoded(self, "model", "revision")
        counts = ("max_model_len", "max_num_seqs", "engines", "tensor_parallel_size", "silence")
        refuse_below(1, self, *counts)
        if self.gpu_memory is not None and not 0.1 <= self.gpu_memory <= 1:
            raise UserError(f"--gpu-memory must be in [0.1, 1], not {self.gpu_memory}")
        if self.memory_limit is not None and self.memory_limit <= 0:
            raise UserError(f"--memory-limit must be above 0, not {self.memory_limit}")


@dataclass(frozen=True)
class ServerConfig:
    """OpenAI-compatible servers instead of engines on this machine.

    Attributes:
        servers: their addresses.
        server_window: requests in flight per server; by default 128 for vLLM, 16 for others.
        server_patience: seconds for which all may fail before the run stops; 300 by default.
        image_size: side of the square that is sent; by default the model's, if it sees squares.
    """

    servers: tuple[str, ...] = ()
    server_window: int | None = None
    server_patience: float | None = None
    image_size: int | None = None

    def __post_init__(self) -> None:
        refuse_below(1, self, "server_window", "image_size")
        refuse_below(0, self, "server_patience")

    @property
    def patience(self) -> float:
        """Seconds for which all servers may fail."""
        return _PATIENCE if self.server_patience is None else self.server_patience


@dataclass(frozen=True)
class BatchConfig:
    """Files in OpenAI's batch format, which are answered elsewhere.

    Attributes:
        batch_file: the folder of the requests, and of their answers.
        batch_format: openai for standard fields only; vllm also for fields of vLLM, so that prompts
            and texts are the same as with a local engine.
    """

    batch_file: Path | None = None
    batch_format: Literal["openai", "vllm"] = "openai"
