"""The pages of docs/ run from top to bottom, as written."""

import contextlib
import io
import re

import pytest
from command_line import ROOT, run
from small_runs import needs_muon

PAGES = sorted((ROOT / "docs").glob("*.md"))


@needs_muon
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_a_page_runs(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```(python|sh)\n(.*?)```", page.read_text(), flags=re.DOTALL)
    assert blocks
    names = {}
    for kind, code in blocks:
        if kind == "python":
            with contextlib.redirect_stdout(io.StringIO()):
                exec(compile(code, page.name, "exec"), names)
            continue
        for line in code.replace("\\\n", " ").splitlines():
            run(line.removeprefix("skild-physics "), tmp_path)
