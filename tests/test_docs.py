"""The pages of docs/ run from top to bottom, as written, and the site builds."""

import re
import subprocess
import sys
import tomllib

import pytest
from command_line import ROOT
from pages import blocks, commands, run_page
from small_runs import needs_muon

import skild_physics as sk
from skild_physics.cli.main import COMMANDS

PAGES = sorted((ROOT / "docs").glob("*.md"))
LONG = {"photographs", "scale-space"}
# with models that are not installed
NEEDS_SOURCE = {"scale-space"}
RUN = [
    pytest.param(page, id=page.stem, marks=[pytest.mark.slow] if page.stem in LONG else [])
    for page in PAGES
    if any(block.kind != "text" for block in blocks(page))
]


@needs_muon
@pytest.mark.parametrize("page", RUN)
def test_a_page_runs(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    if page.stem in NEEDS_SOURCE:
        (tmp_path / "paper_figures").symlink_to(ROOT / "paper_figures")
    run_page(page, tmp_path)


def test_commands_of_pages_are_run():
    """Nothing that looks like a command is passed over."""
    assert len(RUN) >= 12
    for page in PAGES:
        for block in blocks(page):
            if block.kind == "sh":
                assert all(line.startswith("skild-physics ") for line in commands(block)), page


def test_links_lead_to_files():
    for page in [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *PAGES]:
        for target in re.findall(r"\]\(([^)#]+)\)", page.read_text()):
            assert target.startswith("https://") or (page.parent / target).exists(), (page, target)


def test_every_page_is_in_the_contents():
    index = (ROOT / "docs" / "index.md").read_text()
    for page in PAGES:
        assert page.stem == "index" or re.search(rf"^{page.stem}$", index, re.MULTILINE), page


def test_every_command_and_name_is_in_the_reference():
    shown = re.findall(r":prog: skild-physics (.*)", (ROOT / "docs" / "commands.md").read_text())
    assert shown == list(COMMANDS)
    page = (ROOT / "docs" / "python.md").read_text()
    assert set(re.findall(r":: skild_physics\.(\w+)", page)) == set(sk.__all__)


def test_one_version():
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert f"\nversion: {version}\n" in (ROOT / "CITATION.cff").read_text()
    assert f"\n## {version}\n" in (ROOT / "CHANGELOG.md").read_text()


@pytest.mark.slow
def test_the_site_builds_without_a_warning(tmp_path):
    for name in ("sphinx", "furo", "myst_nb", "sphinx_click"):
        pytest.importorskip(name)
    build = [sys.executable, "-m", "sphinx", "-q", "-W", "--keep-going", "-b", "html"]
    done = subprocess.run(
        [*build, ROOT / "docs", tmp_path / "site", "-d", tmp_path / "trees"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    keys = (tmp_path / "site" / "configuration.html").read_text()
    assert "snr_threshold" in keys
    assert "generate-ising" in (tmp_path / "site" / "commands.html").read_text()
