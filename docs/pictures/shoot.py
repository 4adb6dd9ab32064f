"""Screenshots for the documentation, taken from the results of `make demo`.

    python docs/pictures/shoot.py [DEMO]

It requires Chromium. Set CHROMIUM to its path if it is not found.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image
from playwright.sync_api import sync_playwright

if TYPE_CHECKING:
    from playwright.sync_api import Page

ROOT = Path(__file__).resolve().parents[2]
PICTURES = ROOT / "docs/pictures"
CAPTIONS = "scenes/dataset_scenes.json"
COMMANDS = (
    f"embed --images {CAPTIONS} --split test --out scenes.parquet",
    f"embed --texts {CAPTIONS} --split test --out captions.parquet",
    "review dense/scenes --sort plan --overwrite",
)
SERVE = "serve --port 0 --top 5 --index scenes.parquet --index captions.parquet"
QUERY = "a large red circle next to a blue square"
WIDTH, MARGIN = 1120, 12


def main() -> None:
    """Take all screenshots of pages that the commands write."""
    demo = Path(sys.argv[1] if len(sys.argv) > 1 else ROOT / "artifacts/demo").resolve()
    if not (demo / "runs/stage2/model.safetensors").is_file():
        sys.exit(f"{demo} has no model: run make demo first")
    for line in COMMANDS:
        subprocess.run(list_command(line), cwd=demo, env=make_environment(), check=True)
    with open_page() as page:
        page.goto((demo / "dense/scenes/review.html").as_uri())
        shoot(page, "review.png", bottom(page, "article:nth-of-type(2)"))
        with serve(demo) as address:
            search(page, address)
            page.screenshot(path=PICTURES / "serve.png", full_page=True)
    for path in sorted(PICTURES.glob("*.png")):
        # 256 colors take a third of the browser's file size.
        Image.open(path).convert("P", palette=Image.Palette.ADAPTIVE).save(path, optimize=True)
        print(f"{path.relative_to(ROOT)}: {path.stat().st_size:,} B")


def list_command(line: str) -> list[str]:
    return [sys.executable, "-P", "-m", "pipelines.cli", *line.split()]


def make_environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT)}


@contextmanager
def open_page() -> Iterator[Page]:
    """A page of headless Chromium."""
    found = map(shutil.which, ("chromium", "google-chrome"))
    browser = os.environ.get("CHROMIUM") or next(filter(None, found), None)
    # Chromium's own sandbox does not run as root.
    options = ["--no-sandbox"] if os.geteuid() == 0 else []
    with sync_playwright() as driver:
        yield driver.chromium.launch(executable_path=browser, args=options).new_page(
            viewport={"width": WIDTH, "height": 900}, color_scheme="light"
        )


@contextmanager
def serve(demo: Path) -> Iterator[str]:
    """Run `d2s serve`; yields its address."""
    server = subprocess.Popen(
        list_command(SERVE), cwd=demo, env=make_environment(), stdout=subprocess.PIPE, text=True
    )
    assert server.stdout is not None
    try:
        yield server.stdout.readline().split()[-1]
    finally:
        server.terminate()
        server.wait()


def search(page: Page, address: str) -> None:
    """Run a query and select its first image."""
    page.goto(address)
    box = page.get_by_role("textbox", name="Text")
    box.fill(QUERY)
    box.press("Enter")
    page.locator(".d2s-images .d2s-hit").first.click()
    page.locator(".d2s-comparison").wait_for()
    # No frame around what is below the mouse.
    page.mouse.move(0, 0)


def bottom(page: Page, selector: str) -> float:
    """The lower edge of an element with a margin, in pixels from the top of the page."""
    box = page.locator(selector).first.bounding_box()
    assert box
    return box["y"] + box["height"] + MARGIN


def shoot(page: Page, name: str, height: float) -> None:
    page.screenshot(
        path=PICTURES / name,
        full_page=True,
        clip={"x": 0, "y": 0, "width": WIDTH, "height": height},
    )


if __name__ == "__main__":
    main()
