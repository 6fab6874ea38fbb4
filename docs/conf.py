"""How `make docs` builds these pages with Sphinx and MyST: a warning is an error, and each link leads somewhere."""

from __future__ import annotations

import re
from pathlib import Path

from sphinx.application import Sphinx
from sphinx.util import logging

from jupyter_gpu_reclaim import __version__

ROOT = Path(__file__).resolve().parents[1]
DOCS, README = ROOT / "docs", ROOT / "README.md"
README_PAGE = "overview"

project = "jupyter_gpu_reclaim"
release = version = __version__
extensions = ["myst_parser"]
exclude_patterns = ["build"]
myst_heading_anchors = 3
html_theme = "furo"
html_title = project
html_show_sourcelink = html_show_copyright = False

LINK = re.compile(r"(?<!!)\[([^\]]+)\]\(((?!https?:)[^)#\s]+)(?:#[^)\s]*)?\)")
logger = logging.getLogger(__name__)


def within_docs(app: Sphinx, docname: str, source: list[str]) -> None:
    """README becomes a page of its own. Links out of docs/ are looked up, and shown as paths in the repository."""
    folder = DOCS
    if docname == README_PAGE:
        folder = ROOT
        source[0] = README.read_text().replace("](docs/", "](").replace(f"# {project}\n", "# Overview\n", 1)

    def rewritten(link: re.Match[str]) -> str:
        text, target = link.groups()
        if (DOCS / target).resolve() == README:
            return f"[{text}]({README_PAGE}.md)"
        if (DOCS / target).resolve().is_relative_to(DOCS) and (DOCS / target).exists():
            return link[0]
        path = (folder / target).resolve()
        if not path.exists():
            logger.warning("no such file: %s", target, location=docname)
            return link[0]
        return f"`{path.relative_to(ROOT)}`"

    source[0] = LINK.sub(rewritten, source[0])


def setup(app: Sphinx) -> None:
    """Sphinx calls this."""
    app.connect("source-read", within_docs)
