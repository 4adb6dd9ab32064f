"""The vLLM engine in this process: the same code on a CPU and on GPUs.

Requests go in through the engine's own add_request/step loop: `LLM.generate` would render every
prompt first, keep every output, and drop all requests when one image is bad.
"""

import contextlib
import sys
from collections import deque
from dataclasses import replace
from typing import Any

from captioner.engine.config import EngineConfig
from captioner.engine.image_guard import ImageGuard
from captioner.engine.protocol import Ask, Generation, Request, StartError
from captioner.engine.vllm_process import has_gpu, prepare_process, quiet_start
from captioner.llava.chat_template import Prompt, count_most_tokens, render_prompt
from captioner.llava.preprocess import Preprocessing
from captioner.llava.sampling import Sampling
from captioner.llava.weights import Weights
from data.environment import name_install
from data.errors import UserError, shorten_error

# Texts rarely reach the maximum length; the window is planned for this many tokens each.
_USUAL_TOKENS = 256
_GPU_MEMORY = 0.92
_ROOM_FOR_PROMPT = 64
# Sequences per step: more would preempt each other (a LLaVA-1.5-7B text has 0.4 GiB of KV cache).
_SEQUENCES = 256
# 27 images of LLaVA-1.5 in one prefill step; the default of 2,048 tokens takes three.
_GPU_BATCHED_TOKENS, _CPU_BATCHED_TOKENS = 16384, 8192
# Requests that wait in the engine, so that finished ones are replaced at once. Texts of similar
# length finish together, and feeding the engine takes a moment for each.
_QUEUED = 128


# vLLM's names of engine metrics.
_METRICS = {
    "vllm:num_requests_running": "running",
    "vllm:num_requests_waiting": "waiting",
    "vllm:num_preemptions": "preemptions",
}


class VllmEngine:
    """One model on one device. Its own prompt is rendered once; requests can have others."""

    name = "vllm"

    def __init__(
        self,
        weights: Weights,
        config: EngineConfig,
        *,
        prompt: Prompt,
        sampling: Sampling,
        preprocessing: Preprocessing,
    ) -> None:
        """Start vLLM, and test it with a blank image.

        Raises:
            UserError: vLLM is missing, the model does not fit or does not see images, or the prompt
                cannot be rendered.
        """
        self._on_cpu = not has_gpu()
        prepare_process(weights, on_cpu=self._on_cpu, batch_invariant=config.batch_invariant)
        self._weights = weights
        self._own = Ask(prompt, sampling)
        # Length of a request's prompt without an image, by key.
        self._pending: dict[str, int | None] = {}
        self._failed: deque[Generation] = deque()
        self._prompt = render_prompt(weights, prompt)
        # Tokens of the largest photo; a limit below the model's own saves memory at startup.
        self._most_tokens = count_most_tokens(
            weights, self._prompt, preprocessing.list_largest_blanks()
        )
        room = self._most_tokens + _ROOM_FOR_PROMPT + sampling.max_tokens
        with quiet_start():
            self._llm: Any = _start_llm(
                weights,
                config,
                on_cpu=self._on_cpu,
                max_model_len=config.max_model_len or min(room, _read_limit(weights) or room),
                seed=(sampling.seed or 0) % 2**31,
                max_pixels=preprocessing.max_pixels,
            )
        self._guard = self._measure_guard(weights.model, preprocessing)
        self._window = self._choose_window()

    @property
    def window(self) -> int:
        return self._window

    @property
    def room(self) -> int:
        return self._window - self.pending

    @property
    def pending(self) -> int:
        return len(self._pending) + len(self._failed)

    def submit(self, request: Request) -> None:
        self._submit(request)

    def _submit(self, request: Request, *, max_tokens: int | None = None) -> None:
        from vllm.v1.engine.exceptions import EngineDeadError

        ask, rendered = request.ask or self._own, self._prompt
        data: dict[str, Any] = {"multi_modal_data": {"image": request.image}}
        text_tokens = self._guard.text_tokens
        try:
            if request.ask is not None:
                rendered = render_prompt(self._weights, ask.prompt)
                text_tokens = len(self._llm.get_tokenizer().encode(rendered))
                # Encoded once for all concurrent requests about it.
                data["multi_modal_uuids"] = {"image": request.image_sha256}
            params = _make_params(ask, request, max_tokens or ask.sampling.max_tokens)
            prompt: Any = {"prompt": rendered, **data}
            self._llm.llm_engine.add_request(request.key, prompt, params)
        except EngineDeadError as error:
            raise _explain_death(error) from error
        except Exception as error:
            # Whatever the model's processor raises for this image, the others are not affected.
            self._failed.append(
                Generation(request.key, error=f"not accepted: {shorten_error(error)}")
            )
            return
        self._pending[request.key] = text_tokens

    def collect(self) -> list[Generation]:
        done = list(self._failed)
        self._failed.clear()
        if done or not self._pending:
            return done
        try:
            outputs = self._llm.llm_engine.step()
        except Exception as error:
            raise _explain_death(error) from error
        for output in outputs:
            if output.finished:
                text_tokens = self._pending.pop(output.request_id)
                done.append(self._read_output(output, text_tokens))
        return done

    def drain(self) -> None:
        # Requests in flight finish in any case.
        pass

    def measure(self) -> dict[str, int]:
        load: dict[str, int] = {}
        for metric in self._llm.get_metrics():
            name = _METRICS.get(metric.name)
            if name is not None:
                load[name] = load.get(name, 0) + int(metric.value)
        return load if self._on_cpu else load | _measure_gpus(self._llm)

    def describe(self) -> dict[str, Any]:
        from vllm.platforms import current_platform

        config = self._llm.llm_engine.vllm_config
        return {
            "engine": self.name,
            "device": "cpu" if self._on_cpu else current_platform.get_device_name(),
            "rendered_prompt": self._prompt,
            "image_tokens": self._guard.image_tokens,
            "max_model_len": config.model_config.max_model_len,
            "dtype": str(config.model_config.dtype).removeprefix("torch."),
            "window": self._window,
            "tensor_parallel_size": config.parallel_config.tensor_parallel_size,
        }

    def close(self) -> None:
        if self._llm is None:
            return
        # Abandoned requests must not delay the shutdown; failures are harmless now.
        with contextlib.suppress(Exception), quiet_start():
            if self._pending:
                self._llm.llm_engine.abort_request(list(self._pending), internal=False)
            # Its processes have nothing to do any more, and ignore SIGTERM.
            self._llm.llm_engine.engine_core.shutdown(timeout=0.0)
        self._pending.clear()
        self._llm = None

    def _read_output(self, output: Any, text_tokens: int | None) -> Generation:
        """Never raises: an output without its image or its end becomes that image's error."""
        ids = output.prompt_token_ids or []
        completion = output.outputs[0]
        error = replace(self._guard, text_tokens=text_tokens).explain_missing(len(ids))
        if error is None and completion.finish_reason not in ("stop", "length"):
            error = f"the engine ended the text with {completion.finish_reason!r}"
        return Generation(
            key=output.request_id,
            text=completion.text,
            finish_reason=completion.finish_reason,
            prompt_tokens=len(ids),
            caption_tokens=len(completion.token_ids),
            error=error,
            aborted=completion.finish_reason == "abort",
        )

    def _measure_guard(self, model: str, preprocessing: Preprocessing) -> ImageGuard:
        """Measure the prompt with an unreplaced image placeholder, and with a blank image."""
        # Until this is known, answers are not checked.
        self._guard = ImageGuard(None, None, 0)
        self._submit(Request("blank", preprocessing.make_blank(), "", 0), max_tokens=1)
        done: list[Generation] = []
        while self.pending:
            done += self.collect()
        if done[0].error is not None:
            raise UserError(f"{model} does not accept an image: {done[0].error}")
        return ImageGuard.measure(
            model,
            text_tokens=len(self._llm.get_tokenizer().encode(self._prompt)),
            shown_tokens=done[0].prompt_tokens,
            same_size=preprocessing.size is not None,
        )

    def _choose_window(self) -> int:
        """As many as fit into the KV cache, and a few that wait."""
        config = self._llm.llm_engine.vllm_config
        sequences = config.scheduler_config.max_num_seqs
        blocks = config.cache_config.num_gpu_blocks
        if blocks:
            each = self._most_tokens + _USUAL_TOKENS
            sequences = min(sequences, max(1, blocks * config.cache_config.block_size // each))
        return int(sequences) + _QUEUED


def _make_params(ask: Ask, request: Request, max_tokens: int) -> Any:
    from vllm import SamplingParams
    from vllm.sampling_params import RequestOutputKind, StructuredOutputsParams

    sampling, answer, kept = ask.sampling, ask.answer, None
    if answer is not None:
        choices = list(answer.choices) or None
        kept = StructuredOutputsParams(choice=choices, json=answer.schema)
    greedy = sampling.temperature == 0
    return SamplingParams(
        temperature=sampling.temperature,
        top_p=1.0 if greedy else sampling.top_p,
        max_tokens=max_tokens,
        seed=None if greedy else request.seed,
        repetition_penalty=request.repetition_penalty,
        output_kind=RequestOutputKind.FINAL_ONLY,
        structured_outputs=kept,
    )


def _measure_gpus(llm: Any) -> dict[str, int]:
    """Through NVML, like `nvidia-smi`: a CUDA context in this process would take memory."""
    from vllm.platforms import current_platform
    from vllm.third_party import pynvml

    count = llm.llm_engine.vllm_config.parallel_config.tensor_parallel_size
    try:
        pynvml.nvmlInit()
        places = [current_platform.visible_device_id_to_physical_device_id(n) for n in range(count)]
        found = [
            pynvml.nvmlDeviceGetMemoryInfo(pynvml.nvmlDeviceGetHandleByIndex(place))
            for place in places
        ]
    except pynvml.NVMLError:
        # A GPU of another vendor.
        return {"gpus": count}
    used, total = sum(one.used for one in found), sum(one.total for one in found)
    return {"gpus": count, "gpu_memory": used, "gpu_memory_total": total}


def _start_llm(
    weights: Weights,
    config: EngineConfig,
    *,
    on_cpu: bool,
    max_model_len: int,
    seed: int,
    max_pixels: int | None,
) -> Any:
    try:
        from vllm import LLM
    except ImportError as error:
        raise UserError(
            f"vLLM is not installed or cannot be loaded ({shorten_error(error)}): "
            f"{_name_remedy()}; `d2s doctor` shows details"
        ) from error
    device: dict[str, Any] = (
        {
            # Compiling for a CPU needs a compiler and almost a minute, with little benefit.
            "enforce_eager": True,
            # A prompt that is cut into chunks rewinds its seeded generator, which a CPU's cannot:
            # "CPU Generator does not use offset" ends the engine.
            "enable_chunked_prefill": False,
            "max_num_batched_tokens": max(_CPU_BATCHED_TOKENS, max_model_len),
        }
        if on_cpu
        else {
            "max_num_batched_tokens": _GPU_BATCHED_TOKENS,
            "gpu_memory_utilization": config.gpu_memory or _GPU_MEMORY,
            "tensor_parallel_size": config.tensor_parallel_size,
        }
    )
    try:
        return LLM(
            model=str(weights.path),
            dtype=config.dtype,
            kv_cache_dtype=config.kv_cache_dtype,
            quantization=config.quantization,
            max_model_len=max_model_len,
            max_num_seqs=config.max_num_seqs or _SEQUENCES,
            limit_mm_per_prompt={"image": 1, "video": 0},
            mm_processor_kwargs=None if max_pixels is None else {"max_pixels": max_pixels},
            # With both off, vLLM does not hash images; each is used once.
            enable_prefix_caching=False,
            mm_processor_cache_gb=0,
            # Small models otherwise fill the text with whitespace where JSON allows it.
            structured_outputs_config={"backend": "xgrammar", "disable_any_whitespace": True},
            use_tqdm_on_load=False,
            # They are shown during the run, and written to events.jsonl.
            disable_log_stats=False,
            trust_remote_code=False,
            seed=seed,
            **device,
        )
    except (ValueError, RuntimeError, OSError) as error:
        # vLLM also raises ValueError for too little free memory, which is often temporary.
        lasting = isinstance(error, ValueError) and "memory" not in str(error)
        raise (UserError if lasting else StartError)(
            f"vLLM cannot run {weights.model}: {shorten_error(error)} "
            "(VLLM_LOGGING_LEVEL=INFO shows more)"
        ) from error


def _read_limit(weights: Weights) -> int | None:
    """Maximum number of tokens, from the model's config."""
    config = weights.read_json("config.json")
    limit = {**config, **(config.get("text_config") or {})}.get("max_position_embeddings")
    return limit if isinstance(limit, int) else None


def _explain_death(error: Exception) -> UserError:
    # Its owner says what is saved and what to do, since it may restart the engine.
    return UserError(f"vLLM failed: {shorten_error(error)}")


def _name_remedy() -> str:
    if sys.platform != "linux":
        return "it runs on Linux only: use --server with a server elsewhere"
    return f"with an NVIDIA GPU {name_install('vllm')}; without one `make setup` in a clone of d2s"
