"""An engine that reads answers from files and writes requests for what has no answer yet."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from captioner.engine.batch.answers import AnswerIndex, Place
from captioner.engine.batch.folder import (
    RequestFiles,
    list_answers,
    list_requests,
    read_request_ids,
)
from captioner.engine.batch.guards import Guards
from captioner.engine.batch.request_id import ALONE, BLANK, RequestId, name_image, name_text
from captioner.engine.batch.result import read_result
from captioner.engine.protocol import Generation, Request
from captioner.engine.server.chat import PromptSettings, RequestForm, encode_image, make_body
from captioner.engine.server.client import ServerError
from captioner.engine.server.served import print_event
from captioner.llava.chat_template import Prompt
from captioner.llava.preprocess import Preprocessing
from captioner.llava.sampling import Sampling
from data.errors import UserError

# Nothing waits; this many images are held at a time.
_WINDOW = 32
# This many failures without a single text are not the images' fault.
_HOPELESS = 16
# Number of useless answers to a request before it is considered the cause.
_MOST_TRIES = 4
_MOST_NAMED = 5


class BatchEngine:
    """Returns the answers in a folder, and writes requests for everything else."""

    name = "batch"
    window = _WINDOW

    def __init__(
        self,
        folder: Path,
        *,
        run_id: str,
        form: RequestForm,
        prompt: Prompt,
        sampling: Sampling,
        preprocessing: Preprocessing,
        retry_errors: bool = False,
        on_event: Callable[[str], None] = print_event,
    ) -> None:
        """Read all answers in the folder.

        Args:
            run_id: the run of the requests; answers of other runs are left out.
            form: the model's name where requests are answered, and the fields it supports.
            retry_errors: refused requests are sent again.
            on_event: called with lines for the user.

        Raises:
            UserError: a file cannot be read, none of the answers is a text, or the answering model
                does not see images.
        """
        if folder.exists() and not folder.is_dir():
            raise UserError(f"--batch-file {folder} is a file: specify a folder")
        self._folder = folder
        self._form = form
        self._settings = PromptSettings(prompt, sampling)
        self._retry_errors = retry_errors
        self._on_event = on_event
        self._done: list[Generation] = []
        self._counts: Counter[str] = Counter()
        self._first: dict[str, str] = {}
        self._drained = self._closed = False
        self._answers = AnswerIndex(list_answers(folder), run_id, on_event=on_event)
        try:
            self._refuse_hopeless()
            self._guards = Guards(
                self._answers,
                max_tokens=sampling.max_tokens,
                same_size=preprocessing.size is not None,
                on_event=on_event,
            )
            self._note_waiting()
            numbers = {*list_requests(folder), *self._answers.summary.returned}
            self._requests = RequestFiles(
                folder,
                run=run_id,
                first=max(numbers, default=0) + 1,
                head=self._make_head(preprocessing),
                on_file=self._tell_file,
            )
        except BaseException:
            self._answers.close()
            raise

    @property
    def room(self) -> int:
        return self.window - len(self._done)

    @property
    def pending(self) -> int:
        return len(self._done)

    def measure(self) -> dict[str, int]:
        return {}

    def submit(self, request: Request) -> None:
        generation = self._find(request)
        if generation is None:
            self._ask(request)
            error = "it has no answer yet"
            generation = Generation(request.key, error=error, aborted=True, postponed=True)
        self._done.append(generation)

    def collect(self) -> list[Generation]:
        done, self._done = self._done, []
        return done

    def drain(self) -> None:
        self._drained = True

    def describe(self) -> dict[str, Any]:
        summary = self._answers.summary
        return {
            "engine": self.name,
            "model": self._form.model,
            "answers": summary.texts + summary.refusals,
            "answered_by": sorted(summary.models),
            "extra_fields": self._form.extra,
            **self._guards.describe(),
        }

    def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        try:
            if self._drained:
                self._requests.discard()
            else:
                self._requests.finish()
        finally:
            self._answers.close()
        self._tell_counts()
        self._tell_waiting()

    def _find(self, request: Request) -> Generation | None:
        """The first text among the answers, else the refusal; None if it has to be requested."""
        good: list[tuple[Generation, Place]] = []
        refused: Generation | None = None
        failed: set[int] = set()
        failure = ""
        places = self._answers.find(name_text(request))
        own = [place for place in places if place.asked.image == name_image(request)]
        for place in own:
            check = self._guards.choose(place.asked.number)
            try:
                found = read_result(self._answers.read(place), key=request.key, check=check)
            except ServerError as error:
                failure = f"{request.key}: {error}"
                if error.counted:
                    failed.add(place.asked.number)
                if len(failed) >= _MOST_TRIES and refused is None:
                    said = f"failed {len(failed)} times, the last: {error}"
                    refused = Generation(request.key, error=said)
                continue
            if found.error is None:
                good.append((found, place))
            else:
                refused = found
        if good:
            return self._choose(good)
        if refused is not None and not self._retry_errors:
            return refused
        if failure:
            self._note("failed", failure)
        elif places and not own:
            self._note("changed", request.key)
        return None

    def _choose(self, good: list[tuple[Generation, Place]]) -> Generation:
        found, place = good[0]
        other = next((where for one, where in good if one.text != found.text), None)
        if other is not None:
            self._note("differing", f"{place.asked} in {place.path.name} and {other.path.name}")
        if not self._guards.knows(place.asked.number, found.prompt_tokens):
            self._note("unchecked", found.key)
        return found

    def _ask(self, request: Request) -> None:
        text, image = name_text(request), name_image(request)
        self._counts["missing"] += 1
        if self._answers.is_waiting(text, image):
            return
        if request.repetition_penalty != 1 and not self._form.takes_penalty:
            self._note("penalty", request.key)
        body = make_body(
            self._settings,
            self._form,
            image=encode_image(request.image),
            seed=request.seed,
            repetition_penalty=request.repetition_penalty,
        )
        self._requests.add(text, image, body)
        # A pass can run twice in a session.
        self._answers.add_waiting([RequestId(self._answers.run, 0, text, image)])

    def _make_head(self, preprocessing: Preprocessing) -> dict[str, dict[str, Any]]:
        """Requests for one token that show how many tokens an image adds to the prompt."""
        blank = encode_image(preprocessing.make_blank())
        shown = {ALONE: None, BLANK: blank}
        return {
            name: make_body(self._settings, self._form, image=image, seed=0, max_tokens=1)
            for name, image in shown.items()
        }

    def _note_waiting(self) -> None:
        """A file is waiting until any answer arrives; then requests without one are sent again."""
        for number, path in list_requests(self._folder).items():
            if number not in self._answers.summary.returned:
                self._answers.add_waiting(read_request_ids(path))

    def _refuse_hopeless(self) -> None:
        summary = self._answers.summary
        if not summary.texts and summary.refusals >= _HOPELESS and not self._retry_errors:
            raise UserError(
                f"none of the {summary.refusals:,} answers in {self._folder} is a text, the last "
                f"error is: {summary.reason}: fix it, remove these answers from the folder and run "
                "the same command again"
            )

    def _note(self, kind: str, example: str) -> None:
        self._counts[kind] += 1
        self._first.setdefault(kind, example)

    def _tell_file(self, path: Path, count: int) -> None:
        size = path.stat().st_size / 1e6
        self._on_event(f"{path}: {count:,} requests, {size:,.1f} MB")

    def _tell_waiting(self) -> None:
        """Report which files have not been answered, if something is missing."""
        returned = self._answers.summary.returned
        files = list_requests(self._folder).items()
        waiting = [path.name for number, path in sorted(files) if number not in returned]
        if waiting and self._counts["missing"]:
            more = f" and {len(waiting) - _MOST_NAMED:,} more" if waiting[_MOST_NAMED:] else ""
            names = ", ".join(waiting[:_MOST_NAMED])
            self._on_event(f"without answers in {self._folder}: {names}{more}")

    def _tell_counts(self) -> None:
        said = {
            "failed": "answers that cannot be used, which are requested again",
            "changed": "answers about images that have changed since, which are requested again",
            "differing": "requests with different answers, of which the first is kept",
            "unchecked": "answers that do not show whether the image was seen",
            "penalty": "second attempts with only another seed, because only vLLM knows a "
            "repetition penalty (--batch-format vllm)",
        }
        for kind, what in said.items():
            if count := self._counts[kind]:
                self._on_event(f"{what}: {count:,} (the first: {self._first[kind]})")
