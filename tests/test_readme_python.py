"""The Python of the README runs, as written."""

import re
import subprocess
import sys

from command_line import ROOT
from small_runs import needs_muon


@needs_muon
def test_readme_python_runs(tmp_path):
    """As written."""
    readme = (ROOT / "README.md").read_text()
    (code,) = re.findall(r"```python\n(.*?)```", readme, flags=re.DOTALL)
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stderr
    assert "alpha" in done.stdout
    assert "kappa4(r = 32)" in done.stdout
    assert {"held.h5", "made.npz", "kappa4.png", "run"} <= {p.name for p in tmp_path.iterdir()}
