"""The picture of `d2s serve` in docs/library.md, of the scenes and the model that `make demo` left.

python docs/pictures/serve.py          # needs Chromium (CHROMIUM names it)
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

from PIL import Image
from playwright.sync_api import sync_playwright

ROOT = Path(__file__).resolve().parents[2]
DEMO = ROOT / "artifacts/demo"
PICTURE = ROOT / "docs/pictures/serve.png"
CAPTIONS = "scenes/dataset_scenes.json"
COMMANDS = (
    f"embed --images {CAPTIONS} --split test --out scenes.parquet",
    f"embed --texts {CAPTIONS} --split test --out captions.parquet",
)
SERVE = "serve --port 0 --top 5 --index scenes.parquet --index captions.parquet"
QUERY = "a large red circle next to a blue square"


def main() -> None:
    """Embed, serve, take the picture."""
    if not (DEMO / "runs/stage2/model.safetensors").is_file():
        sys.exit(f"{DEMO} has no model: run make demo first")
    for line in COMMANDS:
        subprocess.run(list_command(line), cwd=DEMO, env=make_environment(), check=True)
    server = subprocess.Popen(
        list_command(SERVE), cwd=DEMO, env=make_environment(), stdout=subprocess.PIPE, text=True
    )
    assert server.stdout is not None
    try:
        shoot(server.stdout.readline().split()[-1])
    finally:
        server.terminate()
        server.wait()


def list_command(line: str) -> list[str]:
    return [sys.executable, "-P", "-m", "pipelines.cli", *line.split()]


def make_environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT)}


def shoot(address: str) -> None:
    """A query, and its first image chosen."""
    found = map(shutil.which, ("chromium", "google-chrome"))
    browser = os.environ.get("CHROMIUM") or next(filter(None, found), None)
    options = ["--no-sandbox"] if os.geteuid() == 0 else []
    with sync_playwright() as driver:
        page = driver.chromium.launch(executable_path=browser, args=options).new_page(
            viewport={"width": 1120, "height": 900}, color_scheme="light"
        )
        page.goto(address)
        box = page.get_by_role("textbox", name="Text")
        box.fill(QUERY)
        box.press("Enter")
        page.locator(".d2s-images .d2s-hit").first.click()
        page.locator(".d2s-comparison").wait_for()
        # Without the frame of what the mouse is on.
        page.mouse.move(0, 0)
        page.screenshot(path=PICTURE, full_page=True)
    # 256 colours: a third of what the browser writes.
    Image.open(PICTURE).convert("P", palette=Image.Palette.ADAPTIVE).save(PICTURE, optimize=True)
    print(f"{PICTURE.relative_to(ROOT)}: {PICTURE.stat().st_size:,} B")


if __name__ == "__main__":
    main()
