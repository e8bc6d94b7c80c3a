"""The README runs in an empty folder, from top to bottom, as written."""

import re

from command_line import ROOT
from pages import blocks, commands, run_page
from small_runs import needs_muon

README = ROOT / "README.md"
# the installation, which tests/test_packaging.py follows
INSTALL = ["pip install torch --index-url https://download.pytorch.org/whl/cpu", "pip install ."]


def _shape(line):
    """A line with every number, and what is left empty, alike."""
    return re.sub(r"\s+", " ", re.sub(r"[-+]?\d[\d.e()]*(?:-\d+)?", "#", line)).strip()


@needs_muon
def test_the_readme_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    printed = []
    for block, output in run_page(README, tmp_path):
        if block.kind == "text":
            lines = [_shape(line) for line in printed]
            for line in block.text.splitlines():
                assert line == "..." or _shape(line) in lines, line
        printed = output.splitlines()
    pictures = {"kappa4.png", "mine.png", "spectrum.png", "fine.png", "made.png"}
    assert pictures <= {path.name for path in tmp_path.iterdir()}


def test_the_readme_is_one_screen():
    assert len(README.read_text().splitlines()) <= 110


def test_what_is_not_run_is_the_installation():
    lines = [line for block in blocks(README) if block.kind == "sh" for line in commands(block)]
    others = [line.split("  #")[0] for line in lines if not line.startswith("skild-physics ")]
    assert others == INSTALL
    for target in ("reproduce", "test", "docs"):
        assert f"make {target}`" in README.read_text()
        assert f"\n{target}:" in (ROOT / "Makefile").read_text()
