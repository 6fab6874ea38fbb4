"""How `make docs` builds these pages with Sphinx and MyST: a warning is an error, and each link leads somewhere."""

from __future__ import annotations

import re
from pathlib import Path

from sphinx.application import Sphinx
from sphinx.util import logging

from jupyter_gpu_reclaim import __version__

ROOT = Path(__file__).parents[1]
README_PAGE = "overview"

project = "jupyter_gpu_reclaim"
release = version = __version__
extensions = ["myst_parser"]
exclude_patterns = ["build"]
myst_heading_anchors = 3
html_theme = "pydata_sphinx_theme"
html_title = project
html_theme_options = {"show_prev_next": False, "secondary_sidebar_items": ["page-toc"]}
html_show_sourcelink = html_show_copyright = False

LINK = re.compile(r"(?<!!)\[([^\]]+)\]\(((?!https?:)[^)#\s]+)(?:#[^)\s]*)?\)")
logger = logging.getLogger(__name__)


def within_docs(app: Sphinx, docname: str, source: list[str]) -> None:
    """README becomes a page of its own. Links out of docs/ are checked, and shown as paths in the repository."""
    if docname == README_PAGE:
        source[0] = re.sub(r"\]\(docs/", "](", (ROOT / "README.md").read_text())
    folder = ROOT if docname == README_PAGE else ROOT / "docs"

    def rewritten(link: re.Match[str]) -> str:
        text, target = link.groups()
        if (ROOT / "docs" / target).resolve() == ROOT / "README.md":
            return f"[{text}]({README_PAGE}.md)"
        if (ROOT / "docs" / target).is_relative_to(ROOT / "docs") and (ROOT / "docs" / target).exists():
            return link[0] if ".." not in target else f"`{target}`"
        path = (folder / target).resolve()
        if not path.exists():
            logger.warning("no such file: %s", target, location=docname)
        return f"{text} (`{path.relative_to(ROOT)}`)"

    source[0] = LINK.sub(rewritten, source[0])


def setup(app: Sphinx) -> None:
    """Sphinx calls this."""
    app.connect("source-read", within_docs)
