"""Errors of the Hub's client as lines for a user."""

import httpx2
import pytest
from huggingface_hub import constants
from huggingface_hub.errors import LocalTokenNotFoundError, OfflineModeIsEnabled

from pipelines.hub.errors import explain, shorten
from pipelines.hub.tree import make_tree
from pipelines.hub.upload import _Upload

STORE = "https://store.test/a/b?X-Amz-Signature=abc&x=1"


def wrap(cause: Exception) -> Exception:
    """As the client does for the upload of a file."""
    try:
        try:
            raise cause
        except Exception as error:
            raise RuntimeError("Error while uploading 'data/a.parquet' to the Hub.") from error
    except RuntimeError as error:
        return error


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (OfflineModeIsEnabled("no"), "the Hub is not contacted while HF_HUB_OFFLINE is set: unset"),
        (
            wrap(httpx2.ConnectError(f"refused by {STORE}")),
            "the Hub cannot be reached (refused by https://store.test/a/b); 2 of 3",
        ),
        (
            wrap(FileNotFoundError(2, "No such file or directory", "run/a\n.parquet")),
            "run/a\\n.parquet cannot be read (No such file or directory); 2 of 3",
        ),
        (wrap(ValueError("odd\nanswer")), "the upload failed (odd answer); 2 of 3"),
    ],
)
def test_lines(error: Exception, line: str) -> None:
    said = str(explain(error, repo="me/set", state="2 of 3"))
    assert said.startswith(line) and "\n" not in said


def test_what_opens_doors_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "oddToken12345")
    said = shorten(f"PUT '{STORE}' by hf_abcdefghij and oddToken12345\n again")
    assert said == "PUT 'https://store.test/a/b' by <token> and <token> again"


def test_the_password_of_a_mirror_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    mirror = "https://bob:s3cret@mirror.test"
    monkeypatch.setattr(constants, "ENDPOINT", mirror)
    uploading = _Upload(make_tree({}, readme=""), repo="me/set", kind="dataset", tag="t", say=print)
    told = (
        str(explain(LocalTokenNotFoundError("none"), repo="me/set", state="")),
        str(explain(httpx2.ConnectError(f"refused by {mirror}/api"), repo="me/set", state="")),
        uploading._locate(),
    )
    for line in told:
        assert "https://mirror.test" in line and "s3cret" not in line and "bob" not in line
