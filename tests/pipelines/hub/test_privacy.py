"""What is published of a run's record says nothing of where it was made."""

from typing import Any

import pytest

from pipelines.hub.dataset.privacy import strip_run, strip_words
from pipelines.pages.review.facts import list_facts

PROMPT = "/imagine https://me:secret@host/?key=1"


@pytest.mark.parametrize(
    ("typed", "shown"),
    [
        (["--images", "/home/me/coco/"], ["--images", "coco"]),
        (["--out=/home/me/dense/x"], ["--out=x"]),
        (["--images", "~/coco"], ["--images", "coco"]),
        (["--images", "coco/"], ["--images", "coco/"]),
        (["--images", "hf:them/photos"], ["--images", "hf:them/photos"]),
        (
            ["--images", "https://me:secret@host/photos.txt?key=1"],
            ["--images", "https://host/photos.txt"],
        ),
        (["--server", "http://gpu1:8000"], ["--server", "http://SERVER"]),
        (["--server=http://gpu1:8000/v1"], ["--server=http://SERVER"]),
        (["--prompt", PROMPT], ["--prompt", PROMPT]),
        ([f"--prompt={PROMPT}"], [f"--prompt={PROMPT}"]),
        (["--system", "/no_think"], ["--system", "/no_think"]),
        (["--prompt", "-i/x", "--system=~"], ["--prompt", "-i/x", "--system=~"]),
        (["-i/home/me/coco", "-ohf:/home/me/x"], ["-icoco", "-ohf:x"]),
        (["-i", "acme/coco", "--out=dense/acme/x"], ["-i", "coco", "--out=x"]),
        (["import", "--json", "clients/acme.jsonl"], ["import", "--json", "acme.jsonl"]),
        (["--images", "hf:/home/me/coco"], ["--images", "hf:coco"]),
        (
            ["-m", "them/llava", "--revision=refs/pr/3"],
            ["-m", "them/llava", "--revision=refs/pr/3"],
        ),
        (["--set", "source.images=/home/me/coco"], ["--set", "source.images=coco"]),
        (["--set=source.images='acme/coco'"], ["--set=source.images=coco"]),
        (["--set", "text.system=/no_think"], ["--set", "text.system=/no_think"]),
        (["--set", "engine.model=them/llava"], ["--set", "engine.model=them/llava"]),
        (["--set", "text.seed=1"], ["--set", "text.seed=1"]),
        (
            ["--set", "server.servers=[http://gpu1:8000, http://gpu2]"],
            ["--set", 'server.servers=["http://SERVER", "http://SERVER"]'],
        ),
        (
            ["--set", "server={servers: [http://gpu1]}"],
            ["--set", 'server={"servers": ["http://SERVER"]}'],
        ),
    ],
)
def test_commands(typed: list[str], shown: list[str]) -> None:
    assert strip_words(typed) == shown


def test_records() -> None:
    run: dict[str, Any] = {
        "images": "/home/me/coco",
        "images_relative": "coco",
        "images_given": "/home/me/coco",
        "source": {
            "kind": "tar",
            "root": "/home/me",
            "options": {"name": "/home/me/x.tar", "list": ["/home/me/a"]},
        },
        "model": "/home/me/models/llava",
        "prompt": PROMPT,
        "settings": {"prompt": PROMPT, "sampling": {"seed": 0}, "files": ["/home/me/a.json"]},
        "engine": {"servers": [{"address": "http://gpu1:8000/v1", "id": "llava"}]},
        "made_by": {"a": {"rows": 2, "engine": {"servers": [{"address": "http://gpu1"}]}}},
        "commands": [["caption", "--images", "/home/me/coco"]],
        "config": {"source": {"images": "/home/me/coco"}, "server": {"servers": ["http://gpu1"]}},
    }
    assert strip_run(run) == {
        "source": {"kind": "tar", "name": "x.tar"},
        "model": "llava",
        "prompt": PROMPT,
        "settings": {"prompt": PROMPT, "sampling": {"seed": 0}, "files": ["a.json"]},
        "engine": {"servers": [{"address": "http://SERVER", "id": "llava"}]},
        "made_by": {"a": {"rows": 2, "engine": {"servers": [{"address": "http://SERVER"}]}}},
        "commands": [["caption", "--images", "coco"]],
    }
    assert run["engine"]["servers"][0]["address"] == "http://gpu1:8000/v1"


def test_what_people_wrote_for_the_model_stays() -> None:
    answer = {"choices": ["/m/dog", "~1/2 full"], "schema": '/{"a": "b"}'}
    run = {"settings": {"prompt": "/a/b", "system": "/no_think", "text": answer}}
    run |= {"engine": {"rendered_prompt": "/a/b", "said": "USER: as https://a.org//b does"}}
    assert strip_run(run) == run


def test_a_mixture_of_versions_is_told() -> None:
    first, second = ({"rows": n, "versions": {"vllm": f"0.{n}"}} for n in (3, 1))
    alone = {"versions": {"vllm": "0.1"}, "made_by": {"a": {**first, "rows": 0}, "b": second}}
    assert ("Versions", "vllm 0.1") in list_facts(alone)
    mixed = dict(list_facts({**alone, "made_by": {"a": first, "b": second}}))["Versions"]
    assert "3 rows by vllm 0.3" in mixed and "1 rows by vllm 0.1" in mixed
