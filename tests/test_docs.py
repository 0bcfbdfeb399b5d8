"""What the documentation says is there: links, commands and options, Python names."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import paumer
from paumer.cli import COMMANDS, main

REPOSITORY = Path(__file__).parents[1]
PAGES = sorted([*REPOSITORY.glob("*.md"), *(REPOSITORY / "docs").glob("*.md"), *REPOSITORY.glob("recipes/*.md")])


def page_id(path: Path) -> str:
    return str(path.relative_to(REPOSITORY))


def commands_of(text: str) -> list[str]:
    """Every ``paumer COMMAND …`` in code, continued lines joined."""
    code = re.findall(r"```(?:sh|bash|console)?\n(.*?)```", text, re.S) + re.findall(r"`(paumer [^`\n]+)`", text)
    lines = [line for block in code for line in block.replace("\\\n", " ").splitlines()]
    return [match[0] for line in lines if (match := re.search(r"\bpaumer [a-z]+\b.*", line.split("#")[0]))]


@pytest.mark.parametrize("page", PAGES, ids=page_id)
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\((?!https?://)([^)#]+)", page.read_text(encoding="utf-8")):
        assert (page.parent / target).exists(), f"{page_id(page)} links to {target}, which is not there"


@pytest.mark.parametrize("page", PAGES, ids=page_id)
def test_commands_and_options_exist(page, capsys):
    for command in commands_of(page.read_text(encoding="utf-8")):
        name = command.split()[1]
        assert name in COMMANDS, f"{page_id(page)}: {command}"
        with pytest.raises(SystemExit):
            main([name, "--help"])
        explained = capsys.readouterr().out.replace("-", "_")
        for option in re.findall(r"(?<!\S)--[a-z][a-z_-]*", command):
            if option not in ("--help", "--key"):
                assert option.replace("-", "_") in explained, f"{page_id(page)}: {command}: {option}"


def test_the_code_map_names_files_and_functions_that_exist():
    text = (REPOSITORY / "docs" / "method.md").read_text(encoding="utf-8")
    sources = {
        str(path.relative_to(REPOSITORY / "src" / "paumer")): path for path in REPOSITORY.rglob("src/paumer/**/*.py")
    }
    everything = "\n".join(path.read_text(encoding="utf-8") for path in sources.values())
    for name in re.findall(r"`([a-z_/]+\.py)`", text):
        assert name in sources, name
    for name in re.findall(r"`([A-Za-z_.]+)` in `", text):
        assert re.search(rf"\b(def|class) {name.split('.')[-1]}\b|\b{name}\b", everything), name


def test_public_names_of_the_readme_exist():
    for name in re.findall(r"\bpaumer\.([A-Z]\w+)", (REPOSITORY / "README.md").read_text(encoding="utf-8")):
        assert hasattr(paumer, name), name
