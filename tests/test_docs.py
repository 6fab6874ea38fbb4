"""What the documentation says is held to the code."""

from __future__ import annotations

import ast
import importlib.util
import json
import re
from pathlib import Path
from types import ModuleType

import pytest
import yaml

from jupyter_gpu_reclaim import __version__, cli
from jupyter_gpu_reclaim.config import PolicyTraits
from jupyter_gpu_reclaim.core.model import Reason

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


def settings_table() -> dict[str, str]:
    """Name → default, as README's table has them."""
    block = re.search(r"<!-- settings: begin.*?-->(.*?)<!-- settings: end -->", README, re.DOTALL)
    assert block, "README has no settings table"
    rows = re.findall(r"^\| `(\w+)` \| (.*?) \|", block.group(1), re.MULTILINE)
    return dict(rows)


def test_every_setting_is_in_the_readme_with_its_default() -> None:
    """README's settings table names each configurable trait once, with the default the code has, and no other."""
    traits = PolicyTraits.class_traits(config=True)
    defaults = {name: trait.default() for name, trait in traits.items()}
    assert settings_table() == {
        name: "–" if value in ("", []) else f"`{value!r}`" for name, value in defaults.items()
    }


def test_every_make_target_and_command_named_exists() -> None:
    """Each `make X` and `jupyter gpu-reclaim X` that README or docs name can be typed."""
    makefile = (ROOT / "Makefile").read_text()
    targets = set(re.findall(r"^([a-z-]+):", makefile, re.MULTILINE))
    commands = set(
        cli.parser()._subparsers._group_actions[0].choices
    )  # argparse has no public way to list them
    for page in [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").glob("*.md"))]:
        text = page.read_text()
        assert (
            set(re.findall(r"`make ([a-z-]+)", text)) | set(re.findall(r"^make ([a-z-]+)$", text, re.M))
            <= targets
        )
        assert set(re.findall(r"jupyter gpu-reclaim ([a-z]+)", text)) <= commands, page


def test_links_between_pages_lead_somewhere() -> None:
    """Every relative link in README and docs points at a file that exists."""
    for page in [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]:
        for target in re.findall(r"\]\((?!https?:)([^)#]+)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.name} links to {target}"


def test_the_front_end_has_the_packages_version() -> None:
    """package.json, which JupyterLab shows, and the Python package say the same version."""
    assert json.loads((ROOT / "package.json").read_text())["version"] == __version__


def reasons() -> ModuleType:
    """docs/reasons.py, which is no part of the package."""
    spec = importlib.util.spec_from_file_location("docs_reasons", ROOT / "docs" / "reasons.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_reason_has_its_answer() -> None:
    """docs/reasons.md has each reason once, said as the code says it (`python docs/reasons.py`), with an answer."""
    page = (ROOT / "docs" / "reasons.md").read_text()
    assert reasons().anew(page) == page
    answers = reasons().answered(page)
    assert sorted(answers) == sorted(Reason)
    assert [reason for reason, answer in answers.items() if not answer] == []
    assert page.count("<!-- reason: ") == len(answers)


def test_every_page_is_in_the_navigation() -> None:
    """docs/index.md names every page once in its navigation, and once more in the text above it."""
    index = (ROOT / "docs" / "index.md").read_text()
    named = re.findall(r"^(\w+)$", "\n".join(re.findall(r"```{toctree}\n(.*?)```", index, re.DOTALL)), re.M)
    pages = {page.stem for page in (ROOT / "docs").glob("*.md")} - {"index"}
    assert sorted(named) == sorted(pages)
    assert {f"{page}.md" for page in pages - {"overview"}} <= set(re.findall(r"\]\((\w+\.md)\)", index))


READ = {"python": ast.parse, "yaml": yaml.safe_load, "json": json.loads}


@pytest.mark.parametrize("language", READ)
def test_blocks_of_code_can_be_read(language: str) -> None:
    """Each block of Python, YAML and JSON in README and docs is one, so that whoever copies it gets no syntax error."""
    for page in [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]:
        for block in re.findall(rf"^```{language}\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL):
            READ[language](block)
