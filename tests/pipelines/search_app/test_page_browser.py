"""The page of `d2s serve` in a real browser, and its server asked for what it must not give."""

from __future__ import annotations

import base64
import http.client
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
import pyarrow.parquet as pq
import pytest

import vse
from tests.accessibility import find_faults
from tests.pipelines.search_app.made import HOSTILE, HOSTILE_FILE, write_project
from tests.waiting import HANG_SECONDS

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
ROOT = Path(__file__).resolve().parents[3]
TOP, STDERR = 4, "stderr.txt"
# A file as a hand drops it: the browser knows no other way to make one.
DROP = """
([element, content, name]) => {
  const bytes = Uint8Array.from(atob(content), letter => letter.charCodeAt(0));
  const moved = new DataTransfer();
  moved.items.add(new File([bytes], name, {type: 'image/png'}));
  for (const kind of ['dragenter', 'dragover', 'drop'])
    element.dispatchEvent(new DragEvent(kind, {dataTransfer: moved, bubbles: true}));
}
"""


@dataclass(frozen=True)
class Served:
    """The running command and the folder it stands in."""

    process: subprocess.Popen[str]
    folder: Path
    address: str

    def ask(
        self, method: str, path: str, body: str | None = None, **headers: str
    ) -> tuple[int, bytes]:
        """Status and body, the path sent as it is given."""
        connection = http.client.HTTPConnection(urlsplit(self.address).netloc, timeout=HANG_SECONDS)
        connection.request(method, path, body=body, headers=headers)
        answer = connection.getresponse()
        found = answer.status, answer.read()
        connection.close()
        return found


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder = write_project(tmp_path_factory.mktemp("page"))
    command = [sys.executable, "-P", "-m", "pipelines.cli", "serve", "--port", "0"]
    command += ["--index", "images.parquet", "--index", "texts.parquet", "--top", str(TOP)]
    # What --open opens notes the address.
    command.append("--open")
    opener = folder / "opener"
    opener.write_text(f"#!/bin/sh\necho $1 > {folder}/opened\n")
    opener.chmod(0o755)
    with open(folder / STDERR, "w") as stderr:
        process = subprocess.Popen(
            command,
            cwd=folder,
            env={**os.environ, "PYTHONPATH": str(ROOT), "BROWSER": f"{opener} %s"},
            stdout=subprocess.PIPE,
            stderr=stderr,
            text=True,
        )
    assert process.stdout is not None
    said = process.stdout.readline()
    assert said.startswith("serving   http://127.0.0.1:"), (folder / STDERR).read_text()
    running = Served(process, folder, said.split()[-1])
    yield running
    # Ctrl-C is how a server ends, a page still open.
    page = http.client.HTTPConnection(urlsplit(running.address).netloc, timeout=HANG_SECONDS)
    page.request("GET", "/gradio_api/heartbeat/open")
    assert page.getresponse().readline() == b"data: ALIVE\n"
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=HANG_SECONDS)
    page.close()
    told = (folder / STDERR).read_text()
    assert process.returncode == 0, told
    assert (folder / "opened").read_text().strip() == running.address
    # Gradio tells of the requests that it refused; nothing else broke.
    assert told.splitlines()[-1] == "serve     stopped" and "serving/guard.py" not in told


@pytest.fixture(scope="module")
def page(served: Served, browser: playwright.Browser) -> Iterator[playwright.Page]:
    complaints: list[str] = []
    requests: list[str] = []
    page = browser.new_page()
    page.set_default_timeout(1000 * HANG_SECONDS)
    page.on("console", lambda m: m.type == "error" and complaints.append(m.text))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("request", lambda request: requests.append(request.url))
    page.goto(served.address)
    yield page
    page.close()
    assert complaints == []
    assert {urlsplit(url).netloc for url in requests if not url.startswith(("data:", "blob:"))} == {
        urlsplit(served.address).netloc
    }


def ask(page: playwright.Page, text: str) -> None:
    page.get_by_role("textbox", name="Text").fill(text)
    page.get_by_role("button", name="Search", exact=True).click()


def wait_for_answer(page: playwright.Page, text: str) -> None:
    page.locator(".d2s-asked q").filter(has_text=text).wait_for()


def drop(page: playwright.Page, content: bytes, name: str) -> None:
    remove = page.locator("#d2s-photo").get_by_label("Remove Image")
    if remove.count():
        remove.click()
    place = page.locator("#d2s-photo button").first
    place.wait_for()
    encoded = base64.b64encode(content).decode()
    page.evaluate(DROP, [place.element_handle(), encoded, name])


def shown(page: playwright.Page, kind: str) -> list[tuple[str, str]]:
    """(name, score) of the hits to be seen, in order."""
    hits = page.locator(f".d2s-{kind} .d2s-hit")
    names = hits.locator(".d2s-name").all_inner_texts()
    return list(zip(names, hits.locator(".d2s-score").all_inner_texts(), strict=True))


def expect(folder: Path, index: str, vector: np.ndarray) -> list[tuple[str, str]]:
    """What the page should show, straight from the file."""
    table = pq.read_table(folder / index)
    scores = np.vstack(table.column("embedding").to_numpy()).astype(np.float64) @ vector
    names = table.column("file_name").to_pylist()
    order = np.argsort(-scores, kind="stable")[:TOP]
    return [(names[row], f"{scores[row]:.4f}") for row in order]


def test_a_typed_text_finds_the_nearest_in_order(page: playwright.Page, served: Served) -> None:
    box = page.get_by_role("textbox", name="Text")
    box.fill("a red square")
    box.press("Enter")
    wait_for_answer(page, "a red square")
    [vector] = vse.load(served.folder / "runs/stage2", device="cpu").encode_text(["a red square"])
    assert shown(page, "images") == expect(served.folder, "images.parquet", vector)
    texts = [score for _, score in shown(page, "texts")]
    assert texts == [score for _, score in expect(served.folder, "texts.parquet", vector)]
    widths = page.locator(".d2s-images img").evaluate_all("els => els.map(el => el.naturalWidth)")
    assert widths == [16] * TOP


def test_a_chosen_hit_shows_dense_text_beside_sparse(page: playwright.Page) -> None:
    ask(page, "a green square")
    wait_for_answer(page, "a green square")
    page.locator(".d2s-images .d2s-hit").nth(1).click()
    chosen = page.locator(".d2s-comparison")
    chosen.wait_for()
    [name, score] = shown(page, "images")[1]
    assert chosen.locator("h2").inner_text() == name
    assert chosen.locator(".d2s-chosen .d2s-score").inner_text() == score
    dense = chosen.get_by_role("region", name="Dense text")
    assert dense.locator("tbody tr").count() == 1
    assert "The image shows a " in dense.inner_text()
    sparse = chosen.get_by_role("region", name="Sparse captions")
    assert sparse.locator("tbody tr").count() == 3
    numbers = sparse.locator(".d2s-number").all_inner_texts()
    assert len(numbers) == 6 and all(-1 <= float(number) <= 1 for number in numbers)


def test_a_dropped_photo_finds_itself(page: playwright.Page, served: Served) -> None:
    drop(page, (served.folder / "world/test/001.png").read_bytes(), "mine.png")
    page.get_by_text("Nearest to this photo").wait_for()
    assert shown(page, "images")[0] == ("test/001.png", "1.0000")


def test_what_is_wrong_is_said_and_the_next_query_is_answered(
    page: playwright.Page, served: Served
) -> None:
    photo = (served.folder / "world/test/000.png").read_bytes()
    message = page.get_by_role("alert")
    for content in (b"no image at all", photo[:50]):
        drop(page, content, "broken.png")
        message.filter(has_text="This photo cannot be read: ").wait_for()
        page.locator("#d2s-photo").get_by_label("Remove Image").click()
        ask(page, "  ")
        message.filter(has_text="Type a text or drop a photo, then search.").wait_for()
    assert page.locator(".d2s-hit").count() == 0
    ask(page, "blue")
    wait_for_answer(page, "blue")
    assert len(shown(page, "images")) == TOP


def test_a_file_that_is_too_large_is_refused_with_its_limit(
    page: playwright.Page, served: Served, tmp_path: Path
) -> None:
    with open(tmp_path / "large.png", "wb") as file:
        file.truncate(33 * 2**20)
    # A page of its own: Gradio's console complains that the upload was not begun.
    assert page.context.browser is not None
    other = page.context.browser.new_page()
    other.set_default_timeout(1000 * HANG_SECONDS)
    other.goto(served.address)
    choose = other.locator("#d2s-photo input[type=file]")
    choose.set_input_files(tmp_path / "large.png")
    other.get_by_text("exceed the maximum allowed size of 32.0 Mb").wait_for()
    other.close()
    # Who asks without the page is told the same.
    upload = {"Content-Type": "multipart/form-data; boundary=x", "Content-Length": str(34 * 2**20)}
    assert served.ask("POST", "/gradio_api/upload", "", **upload)[0] == 413


def test_markup_is_shown_as_text_and_runs_nowhere(page: playwright.Page) -> None:
    ask(page, HOSTILE)
    wait_for_answer(page, "window.pwned=2")
    hit = page.locator(".d2s-texts .d2s-hit").first
    assert hit.locator(".d2s-text").inner_text() == HOSTILE
    assert hit.locator(".d2s-name").inner_text() == HOSTILE_FILE
    hit.click()
    chosen = page.locator(".d2s-comparison").filter(has_text="window.pwned")
    chosen.wait_for()
    assert chosen.locator("h2").inner_text() == HOSTILE_FILE
    assert chosen.get_by_text(HOSTILE, exact=True).count() == 3  # the hit, dense, sparse
    assert page.evaluate("window.pwned") is None
    assert page.locator("#d2s-answer script, #d2s-comparison script, [onerror]").count() == 0


def test_only_the_page_is_served(served: Served) -> None:
    world = served.folder / "world"
    inside = [world / "test/000.png", world / "dataset_world.json"]
    inside.append(served.folder / "images.parquet")
    paths = [f"/gradio_api/file={path}" for path in ("/etc/passwd", "world/test/000.png", *inside)]
    paths += [f"/gradio_api/file/{inside[0]}", "/gradio_api/file=http://127.0.0.1:9/x"]
    uploads = served.ask("GET", "/")[1].decode()
    assert "d2s-serve-" not in uploads
    paths += [
        "/static/../../../../../../../../etc/passwd",
        "/static/%2e%2e/%2e%2e/routes.py",
        "/assets/..%2f..%2f..%2froutes.py",
        "/world/test/000.png",
        "/gradio_api/info",
        "/gradio_api/openapi.json",
        "/gradio_api/proxy=http://127.0.0.1:9/",
        "/gradio_api/vibe-code/",
        "/gradio_api/runs",
        "/monitoring",
        "/docs",
    ]
    for path in paths:
        status, body = served.ask("GET", path)
        assert status in (403, 404), path
        assert b"root:" not in body and b"import " not in body
    assert served.ask("POST", "/gradio_api/call/answer_text", "{}")[0] == 404
    assert served.ask("POST", "/gradio_api/run/answer_text", "{}")[0] == 404


def test_an_upload_that_is_named_and_not_sent_is_not_read(served: Served) -> None:
    """Another client may name any path as the photo that it dropped."""
    config = json.loads(served.ask("GET", "/config")[1])
    [photo] = [p for p in config["dependencies"] if p["targets"][0][1] == "upload"]
    secret = served.folder / "secret.png"
    shutil.copy(served.folder / "world/test/000.png", secret)
    for path in (str(secret), "/etc/passwd", "secret.png", "http://127.0.0.1:9/x.png"):
        file = {"path": path, "meta": {"_type": "gradio.FileData"}}
        body = {"data": [file], "fn_index": photo["id"], "session_hash": "other"}
        headers = {"Content-Type": "application/json"}
        status, answer = served.ask("POST", "/gradio_api/queue/join", json.dumps(body), **headers)
        assert status == 200, answer
        told = served.ask("GET", "/gradio_api/queue/data?session_hash=other")[1].decode()
        assert '"success":false' in told and "Nearest to" not in told, path
    # Not even tried.
    said = (served.folder / STDERR).read_text()
    assert "URLs are not fetched" in said and "httpx" not in said


def test_other_sites_are_refused(served: Served) -> None:
    assert served.ask("GET", "/", Host="rebound.example")[0] == 403
    assert served.ask("GET", "/", Host="localhost:1234")[0] == 200
    other = {"Origin": "http://other.example", "Content-Type": "application/json"}
    assert served.ask("POST", "/gradio_api/queue/join", "{}", **other)[0] == 403


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [400, 1400])
def test_it_fits_and_is_accessible(
    served: Served, browser: playwright.Browser, width: int, scheme: str
) -> None:
    page = browser.new_page(
        viewport={"width": width, "height": 900}, color_scheme=scheme, bypass_csp=True
    )
    page.set_default_timeout(1000 * HANG_SECONDS)
    page.goto(served.address)
    ask(page, "a red square")
    wait_for_answer(page, "a red square")
    page.locator(".d2s-hit").first.click()
    page.locator(".d2s-sides").wait_for()
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    # Gradio's own button to upload has another name than its text.
    assert find_faults(page, leave_out={"label-content-name-mismatch"}) == []
    page.close()
