"""Probing each server before the first image: the form of requests, and whether it sees images."""

from dataclasses import dataclass
from typing import Any

from captioner.engine.image_guard import ImageGuard
from captioner.engine.server.chat import (
    AnswerCheck,
    PromptSettings,
    RequestForm,
    encode_image,
    find_choice,
    make_body,
    read_count,
    read_model,
)
from captioner.engine.server.client import RefusedError, ServerClient, ServerError
from captioner.engine.server.patience import Patience
from captioner.engine.server.served import ServedModelAt
from captioner.llava.preprocess import Preprocessing
from data.errors import UserError


@dataclass(frozen=True)
class ServerProfile:
    """The form of requests to one server, and the token counts of the probes.

    `rendered_prompt` is the prompt in the model's template, if the server reports it.
    """

    form: RequestForm
    check: AnswerCheck
    prompt_tokens: int | None
    rendered_prompt: str | None


async def probe_server(
    client: ServerClient,
    served: ServedModelAt,
    settings: PromptSettings,
    *,
    preprocessing: Preprocessing,
    patience: Patience,
) -> ServerProfile:
    """Request one token with a blank image and one without an image.

    Raises:
        UserError: the server refuses, fails, has no room for the text, or does not see the image.
    """
    probe = _Probe(client, settings, patience)
    form, answer = await _choose_form(probe, served)
    shown = await probe.ask(form, image=encode_image(preprocessing.make_blank()))
    prompt_tokens = read_count(shown, "prompt_tokens")
    guard = ImageGuard.measure(
        served.address,
        text_tokens=read_count(answer, "prompt_tokens"),
        shown_tokens=prompt_tokens,
        same_size=preprocessing.size is not None,
    )
    _check_room(served, prompt_tokens, settings.sampling.max_tokens)
    rendered = shown.get("prompt_text") if isinstance(shown, dict) else None
    return ServerProfile(
        form=form,
        check=AnswerCheck(guard, settings.sampling.max_tokens, read_model(shown)),
        prompt_tokens=prompt_tokens,
        rendered_prompt=rendered if isinstance(rendered, str) else None,
    )


def check_alike(servers: list[ServedModelAt], profiles: list[ServerProfile]) -> None:
    """Raise UserError if a text would depend on the server that writes it."""
    first = profiles[0]
    for served, profile in zip(servers[1:], profiles[1:], strict=True):
        for what, here, there in (
            (
                "tokens of the prompt",
                profile.check.guard.text_tokens,
                first.check.guard.text_tokens,
            ),
            ("tokens with an image", profile.prompt_tokens, first.prompt_tokens),
            ("prompt", profile.rendered_prompt, first.rendered_prompt),
        ):
            if here is not None and there is not None and here != there:
                raise UserError(
                    f"the servers differ: {what} {there!r} at {servers[0].address}, "
                    f"{here!r} at {served.address}: start them with the same model and options"
                )


async def _choose_form(probe: "_Probe", served: ServedModelAt) -> tuple[RequestForm, Any]:
    """Choose the fields to send; also returns the answer without an image (None if refused)."""
    if not served.is_vllm:
        form = RequestForm(served.id)
        return form, await probe.ask(form, image=None)
    # Otherwise vLLM's chat endpoint omits the token that begins every text, which models expect.
    form = RequestForm.of_vllm(served.id, starts=True)
    answer = await probe.ask(form, image=None)
    ids = _read_ids(answer)
    if len(ids) > 1 and ids[0] == ids[1]:
        # The template has it too, but models expect it once.
        other = RequestForm.of_vllm(served.id, starts=False)
        again = await probe.ask(other, image=None)
        if _read_ids(again) == ids[1:]:
            return other, again
    return form, answer


@dataclass(frozen=True)
class _Probe:
    """Requests for one token."""

    client: ServerClient
    settings: PromptSettings
    patience: Patience

    async def ask(self, form: RequestForm, *, image: str | None) -> Any:
        """The whole answer; None if the prompt is refused without an image."""
        address = self.client.address
        body = make_body(self.settings, form, image=image, seed=0, max_tokens=1)
        if form.extra:
            body |= {"return_token_ids": True, "return_prompt_text": True}

        async def question() -> Any:
            answer = await self.client.post(f"{address}/chat/completions", body)
            find_choice(answer)
            return answer

        try:
            return await self.patience.ask(address, question)
        except (ServerError, RefusedError) as error:
            if image is None and isinstance(error, RefusedError):
                return None  # it may require an image
            shown = "an image" if image else "the prompt"
            raise UserError(
                f"{address} cannot be used: when asked for a token after {shown}, it answered: "
                f"{error}"
            ) from error


def _read_ids(answer: Any) -> list[Any]:
    ids = answer.get("prompt_token_ids") if isinstance(answer, dict) else None
    return ids if isinstance(ids, list) else []


def _check_room(served: ServedModelAt, prompt_tokens: int | None, max_tokens: int) -> None:
    if served.max_model_len is None:
        return
    needed = (prompt_tokens or 0) + max_tokens
    if needed > served.max_model_len:
        raise UserError(
            f"{served.address} has room for {served.max_model_len} tokens, but {needed} are needed "
            f"({prompt_tokens or 0} of them for the prompt): start it with a larger "
            "--max-model-len, or use a smaller --max-tokens"
        )
