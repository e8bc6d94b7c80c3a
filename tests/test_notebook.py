"""What a cell of a notebook shows: its result once, and bars that stay in their place."""

import pytest
from command_line import SKILD

nbformat = pytest.importorskip("nbformat")
nbclient = pytest.importorskip("nbclient")
pytest.importorskip("ipykernel")

MAKE = "import skild_physics as sk; truth = sk.generate_ising(8, samples=512, progress=sk.bar)"
COMMAND = f"%%bash\n{SKILD} generate-ising --L 8 --samples 64 --out made.h5"
CELLS = [MAKE, "sk.summarize(truth)", "print(sk.summarize(truth))", COMMAND]


def test_results_are_shown_once_and_bars_in_one_place(tmp_path):
    cells = [nbformat.v4.new_code_cell(source) for source in CELLS]
    notebook = nbformat.v4.new_notebook(cells=cells)
    where = {"metadata": {"path": str(tmp_path)}}
    nbclient.NotebookClient(notebook, timeout=120, resources=where).execute()
    (bars,), (shown,), (printed,), said = (cell.outputs for cell in notebook.cells)
    assert "512/512" in bars["data"]["text/html"]
    assert shown["output_type"] == "execute_result"
    assert "energy per spin" in shown["data"]["text/html"]
    assert printed["name"] == "stdout"
    assert "energy per spin" in printed["text"]
    lines = "".join(each["text"] for each in said)
    assert "made.h5" in lines
    # of a bar that a terminal would draw again and again
    assert "\x1b[2K" not in lines
