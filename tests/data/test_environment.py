"""What an extra needs, whether a server answers, and what is not told of paths and addresses."""

import shlex
from importlib.metadata import PackageNotFoundError

import pytest
from packaging.requirements import Requirement

from data import environment as extras
from tests.test_packaging import read_setup


@pytest.mark.parametrize("extra", ["ray", "faiss", "serve", "onnx", "vllm"])
def test_it_names_what_setup_names(extra: str) -> None:
    words = shlex.split(extras.name_install(extra))
    wanted = read_setup()["options.extras_require"][extra].strip().splitlines()
    assert words[:2] == ["pip", "install"]
    assert set(map(Requirement, words[2:])) == set(map(Requirement, wanted))


def test_where_nothing_is_installed_it_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(name: str) -> None:
        raise PackageNotFoundError(name)

    monkeypatch.setattr(extras, "requires", fail)
    assert "faiss" in extras.name_install("faiss")


@pytest.mark.parametrize("host", ["127.0.0.1:no-port", "bob:s3cret@127.0.0.1:9", "[::1"])
def test_why_a_server_does_not_answer(host: str) -> None:
    said = extras.ask_server(f"http://{host}", timeout=5)
    assert said and "s3cret" not in said


def test_a_password_is_not_taken_for_a_port() -> None:
    said = extras.ask_server("https://bob:s3cret@mirror.invalid", timeout=5)
    assert said and "s3cret" not in said and "port" not in said


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("/home/bob/photos/", "photos"),
        ("~/photos", "photos"),
        ("../acme/photos", "photos"),
        ("hf:/home/bob/set", "hf:set"),
        ("llava:/home/bob/llava", "llava:llava"),
        ("open_clip:local-dir:/home/bob/clip", "open_clip:local-dir:clip"),
        ("https://me:secret@host/a.txt?key=1", "https://host/a.txt"),
    ],
)
def test_only_the_last_part_of_a_path_is_kept(text: str, kept: str) -> None:
    assert extras.strip_path(text) == extras.strip_path(text, relative=True) == kept


@pytest.mark.parametrize(
    "text", ["photos/", "hf:them/photos", "hf:.", "timm:vit_base", "open_clip:ViT-B-32/openai", "."]
)
def test_names_stay(text: str) -> None:
    assert extras.strip_path(text) == extras.strip_path(text, relative=True) == text


def test_a_file_of_weights_after_an_architecture() -> None:
    assert extras.strip_path("open_clip:ViT-B-32//home/bob/w.pt") == "open_clip:ViT-B-32/w.pt"


def test_relative_paths_are_names_unless_they_were_typed() -> None:
    for text, kept in (("acme/photos", "photos"), ("hf:clients/acme/photos", "hf:photos")):
        assert extras.strip_path(text) == text
        assert extras.strip_path(text, relative=True) == kept


@pytest.mark.parametrize("user", ["bob:s3cret@", "bob:s3@cret@", "s3cret@"])
def test_passwords_are_hidden_wherever_an_address_is(user: str) -> None:
    said = f"https://{user}mirror.test/api: mail a@b.test"
    assert extras.hide_credentials(said) == "https://mirror.test/api: mail a@b.test"
