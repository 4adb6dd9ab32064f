"""What setup.cfg cannot say: a word for Windows, and the README as a package index shows it."""

import configparser
import re
import sys
from pathlib import Path

from setuptools import setup

ROOT = Path(__file__).resolve().parent
# Code is matched first and stays; then a picture or a link, with its label and its target.
CODE_OR_LINK = re.compile(
    r"^```[\s\S]*?^```$|`[^`\n]+`|(?P<picture>!)?\[(?P<label>[^\]]*)\]\((?P<target>[^)\s]+)\)", re.M
)


def write_description(readme: str, url: str) -> str:
    """The README for a page that is not the repository's: links and pictures by whole addresses.

    Without the repository's address a link becomes its label, and a picture is left out.
    """

    def replace(match: re.Match[str]) -> str:
        target = match["target"]
        if target is None or re.match(r"[a-z]+:|#", target):
            return match[0]
        if not url:
            return "" if match["picture"] else match["label"]
        place = "raw" if match["picture"] else "blob"
        return f"{match['picture'] or ''}[{match['label']}]({url}/{place}/main/{target})"

    return CODE_OR_LINK.sub(replace, readme)


def read_url() -> str:
    """The repository's address; the one place for it is setup.cfg."""
    parser = configparser.ConfigParser()
    parser.read(ROOT / "setup.cfg")
    return parser["metadata"].get("url", "").rstrip("/")


if __name__ == "__main__":
    if sys.platform == "win32":
        sys.exit("d2s runs on Linux and macOS. On Windows use it in WSL 2: wsl --install")
    URL = read_url()
    README = (ROOT / "README.md").read_text(encoding="utf-8")
    PAGES = {
        "Documentation": "blob/main/docs",
        "Changelog": "blob/main/CHANGELOG.md",
        "Issues": "issues",
    }
    setup(
        long_description=write_description(README, URL),
        long_description_content_type="text/markdown",
        project_urls={name: f"{URL}/{page}" for name, page in PAGES.items()} if URL else {},
    )
