"""The documentation says what the code does: commands, settings, messages, links, and the site builds."""

import ast
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import typer

from experiments import cli
from experiments.reference_pages import commands_page, settings, settings_page
from tests.browser import SCREENS, browsing, overflow, watched

REPOSITORY = Path(__file__).resolve().parents[1]
PAGES = [
    *sorted(REPOSITORY.glob("*.md")),
    *sorted((REPOSITORY / "docs").glob("*.md")),
]
GENERATED = {"generated/commands", "generated/settings"}
COMMANDS = typer.main.get_command(cli.app).commands
ANYWHERE = {"--help", "--quiet", "--debug"}


def _blocks(text):
    """Language and content of each fenced block."""
    return re.findall(r"^```(\w*)\n(.*?)^```", text, flags=re.M | re.S)


@pytest.mark.parametrize("package", ["groundwork", "sfm", "pairs", "cnnimretrieval"])
def test_the_list_of_rooms_has_every_file(package):
    text = (REPOSITORY / "docs" / "architecture.md").read_text(encoding="utf-8")
    named = {name.rpartition("/")[2] for name in re.findall(r"`([\w/]+)`", text)}
    files = {path.stem for path in (REPOSITORY / package).rglob("*.py")} - {"__init__"}
    assert files - named == set()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_to_files(page):
    text = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.M | re.S)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        path = target.partition("#")[0]
        if not path or "://" in path or path.removesuffix(".md") in GENERATED:
            continue
        assert (page.parent / path).exists(), target


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_in_blocks_are_those_that_there_are(page):
    for language, content in _blocks(page.read_text(encoding="utf-8")):
        if language == "python":
            compile(content, page.name, "exec")
            continue
        for line in content.replace("\\\n", " ").splitlines():
            if not line.startswith("cnnimretrieval "):
                continue
            _, *words = shlex.split(line, comments=True)
            if words[0].startswith("-"):
                continue
            command = COMMANDS[words[0]]
            flags = {flag for one in command.params for flag in (*one.opts, *one.secondary_opts)}
            used = {word.partition("=")[0] for word in words[1:] if word.startswith("--")}
            assert used <= flags | ANYWHERE, line


def test_pages_in_the_table_of_contents_are_there():
    index = (REPOSITORY / "docs" / "index.md").read_text(encoding="utf-8")
    trees = [content for content in re.findall(r"^```{toctree}\n(.*?)^```", index, flags=re.M | re.S)]
    listed = {line for tree in trees for line in tree.splitlines() if line and not line.startswith(":")}
    # What is not listed, the build lists under "more".
    assert listed - GENERATED - {"generated/more"} <= {page.stem for page in PAGES}
    assert listed > GENERATED


def test_every_command_option_and_setting_has_its_place():
    page = commands_page()
    for name, command in COMMANDS.items():
        _, _, section = page.partition(f"\n## {name}\n")
        section = section.partition("\n## ")[0]
        for parameter in command.params:
            if parameter.param_type_name == "option":
                assert f"`{parameter.opts[0]}`" in section, (name, parameter.name)
    keys = [key for key, _ in settings()]
    assert len(keys) == len(set(keys)) > 100
    rows = re.findall(r"^\| `([^`]+)` \|", settings_page(), flags=re.M)
    assert sorted(rows) == sorted(keys)


def _texts():
    """All texts of the code, those with values in them with {} in their place."""
    for package in ("groundwork", "sfm", "pairs", "cnnimretrieval", "experiments"):
        for path in (REPOSITORY / package).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.JoinedStr):
                    yield "".join(
                        str(part.value) if isinstance(part, ast.Constant) else "{}" for part in node.values
                    )
                elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                    yield node.value


def test_messages_that_are_explained_are_messages_of_the_code():
    page = (REPOSITORY / "docs" / "troubleshooting.md").read_text(encoding="utf-8")
    messages = re.findall(r"^\| `([^`]+)` \|", page, flags=re.M)
    assert len(messages) > 8
    texts = list(_texts())
    missing = [message for message in messages if not any(message in text for text in texts)]
    assert missing == []


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The site, and what its build said."""
    out = tmp_path_factory.mktemp("site")
    words = [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-q", "-b", "html"]
    done = subprocess.run(
        [*words, str(REPOSITORY / "docs"), str(out)], capture_output=True, text=True, check=False
    )
    return out, (done.returncode, done.stderr)


@pytest.mark.slow
def test_the_site_builds_without_a_warning(site):
    out, said = site
    assert said == (0, "")
    index = (out / "index.html").read_text(encoding="utf-8")
    # Nothing is fetched from elsewhere.
    assert not re.findall(r'(?:src|<link[^>]* href)="https?://', index)
    assert "experiments.programs.fine_tune" in (out / "python.html").read_text(encoding="utf-8")


@pytest.mark.slow
@pytest.mark.parametrize(("width", "height", "scheme"), SCREENS, ids=["desktop", "phone"])
def test_every_page_of_the_site_opens_without_a_complaint(site, width, height, scheme):
    out, _ = site
    complaints, wide = [], {}
    with browsing() as browser:
        page = browser.new_page(viewport={"width": width, "height": height}, color_scheme=scheme)
        watched(page, (out.as_uri(),), complaints)
        for path in sorted(out.rglob("*.html")):
            if "_static" not in path.parts:
                page.goto(path.as_uri())
                wide[path.name] = overflow(page)
    assert complaints == []
    assert {name: pixels for name, pixels in wide.items() if pixels} == {}
    assert len(wide) > 25
