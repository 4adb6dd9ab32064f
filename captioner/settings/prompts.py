"""The file of `--prompts`: named texts, their settings and order."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from captioner.llava.answer import Answer
from captioner.settings.config import CaptionConfig, TextConfig
from captioner.settings.template import COLUMNS, Template
from data.errors import UsageError, UserError
from data.settings.building import build
from data.settings.yaml_files import read_yaml

TEXTS_NAME = "texts.yaml"
REPLACED = "replaced"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")
# Settings for flagged texts, which do not apply to choices and JSON.
_POLICY = ("retry_flagged", "repetition_penalty", "trim")


@dataclass(frozen=True)
class _Asked:
    """The keys of a text in the file in addition to those of `TextConfig`."""

    model: str | None = None
    revision: str | None = None
    samples: int = 1
    choices: tuple[str, ...] | None = None


@dataclass(frozen=True)
class NamedText:
    """One of the texts of each image.

    `whole` is the configuration of the session, `config` that of this text's run.
    """

    name: str
    whole: CaptionConfig
    config: CaptionConfig
    samples: int
    answer: Answer | None
    template: Template

    @property
    def reads(self) -> tuple[str, ...]:
        """The names of the texts that its prompt reads."""
        return self.template.reads

    @property
    def engine(self) -> tuple[str, str | None]:
        """The engine settings, which identify the model."""
        return self.config.engine.model, self.config.engine.revision

    def describe(self, fingerprints: Mapping[str, str]) -> dict[str, Any]:
        """For the settings of its run; `fingerprints` are those of the texts, by name."""
        about: dict[str, Any] = {"name": self.name, "samples": self.samples}
        about["reads"] = {name: fingerprints[name] for name in self.reads}
        if columns := {*self.template.columns} - {*COLUMNS}:
            about["columns"] = sorted(columns)
        if self.answer is not None and self.answer.choices:
            about["choices"] = list(self.answer.choices)
        elif self.answer is not None:
            about["schema"] = self.answer.schema
        return about


def read_prompts(config: CaptionConfig) -> tuple[NamedText, ...]:
    """The texts in the order of the file; missing values are taken from `config`.

    Raises:
        UsageError: names the text and the problem.
    """
    path = config.text.prompts
    assert path is not None
    try:
        values = read_yaml(path)
        if not values:
            raise UserError(f"{path} has no texts")
        texts = tuple(_read_text(path, name, asked, config) for name, asked in values.items())
    except UserError as error:
        raise UsageError(str(error)) from error
    _refuse_alike(path, [text.name for text in texts])
    _refuse_unknown(path, texts)
    order_texts(texts)
    return texts


def order_texts(texts: Sequence[NamedText]) -> list[list[NamedText]]:
    """The passes in order, each with the texts that one model generates in it.

    A text comes after all texts that it reads, or in the same pass; otherwise the order is that of
    the file.

    Raises:
        UsageError: texts read each other in a cycle.
    """
    passes: list[list[NamedText]] = []
    left = list(texts)
    while left:
        done = {text.name for one in passes for text in one}
        ready = [text for text in left if done.issuperset(text.reads)]
        if not ready:
            names = ", ".join(text.name for text in left)
            raise UsageError(f"the texts {names} read each other in a cycle, so none can be first")
        engine, now = ready[0].engine, list[NamedText]()
        while more := [
            text
            for text in left
            if text.engine == engine and (done | {t.name for t in now}).issuperset(text.reads)
        ]:
            now += more
            left = [text for text in left if text not in more]
        passes.append(now)
    return passes


def _read_text(path: Path, name: Any, asked: Any, config: CaptionConfig) -> NamedText:
    where = f"{path}: text {name!r}"
    # YAML does not read `no` and `1` as strings.
    if not (isinstance(name, str) and _NAME.fullmatch(name)) or name.lower() == REPLACED:
        raise UsageError(
            f"{where} cannot be the name of a text: use at most 64 letters, digits, - and _, and "
            f"not {REPLACED}"
        )
    if isinstance(asked, str):
        asked = {"prompt": asked}
    if not isinstance(asked, Mapping) or not str(asked.get("prompt") or "").strip():
        raise UsageError(f"{where} has no prompt")
    values = {str(key): value for key, value in asked.items()}
    schema = values.pop("schema", None)
    own = {field.name for field in fields(_Asked)}
    try:
        more = build(_Asked, {k: values[k] for k in values if k in own}, where=name, what="it")
        answer = _read_answer(more.choices, schema)
        said = {k: values[k] for k in values if k not in own}
        text = _build_config(name, said, config.text, plain=answer is None)
        template = Template.parse(text.prompt, where=where)
        engine = config.engine
        if more.model is not None:
            engine = replace(engine, model=more.model, revision=more.revision)
        elif more.revision is not None:
            engine = replace(engine, revision=more.revision)
        own_config = replace(config, engine=engine, text=text)
        own_config.refuse_set_elsewhere()
    except UserError as error:
        line = str(error)
        raise UsageError(line if line.startswith(str(path)) else f"{where}: {line}") from error
    if more.samples < 1 or (more.samples > 1 and text.temperature == 0):
        raise UsageError(
            f"{where}: samples must be at least 1, and 1 with a temperature of 0, where all of "
            "them are the same"
        )
    return NamedText(name, config, own_config, more.samples, answer, template)


def _build_config(
    name: str, values: dict[str, Any], base: TextConfig, *, plain: bool
) -> TextConfig:
    """The text's own settings, which override those of the command line."""
    known = [f.name for f in fields(TextConfig) if f.name != "prompts"]
    if not plain:
        known = [key for key in known if key not in _POLICY]
    usual = {key: getattr(base, key) for key in known}
    for key in values:
        if key not in known:
            more = ", ".join([*known, *(f.name for f in fields(_Asked)), "schema"])
            raise UsageError(f"unknown setting {key}; known: {more}")
    return build(TextConfig, {**usual, **values}, where=name, what="it")


def _read_answer(choices: tuple[str, ...] | None, schema: Any) -> Answer | None:
    if choices is not None and schema is not None:
        raise UsageError("choices and schema cannot be combined")
    if choices is not None:
        whole = all(choice == choice.strip() != "" for choice in choices)
        if len({*choices}) < max(2, len(choices)) or not whole:
            raise UsageError("choices must be at least two different texts, none of them empty")
        return Answer(choices=choices)
    return None if schema is None else Answer.of_schema(schema)


def _refuse_alike(path: Path, names: Sequence[str]) -> None:
    """Names that only differ in case are the same folder on some machines."""
    seen: dict[str, str] = {}
    for name in names:
        other = seen.setdefault(name.lower(), name)
        if other is not name:
            raise UsageError(f"{path}: two texts have the same name, {other} and {name}")


def _refuse_unknown(path: Path, texts: Sequence[NamedText]) -> None:
    names = {text.name for text in texts}
    for text, read in _iterate_reads(texts):
        if read not in names:
            raise UsageError(
                f"{path}: text {text.name!r} reads {{texts.{read}}}, but there is no text of that "
                f"name; known: {', '.join(sorted(names))}"
            )


def _iterate_reads(texts: Sequence[NamedText]) -> Iterator[tuple[NamedText, str]]:
    return ((text, read) for text in texts for read in text.reads)
