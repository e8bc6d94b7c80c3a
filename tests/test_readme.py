"""Tables of the documentation and the README, and figures, are drawn from the committed results."""

import subprocess
import sys
from importlib import import_module

import pytest
import xarray as xr
from command_line import ROOT

from skild_physics.observables.exact import BETA_CRITICAL, torus_energy
from skild_physics.tables import with_error

DOCS = ROOT / "docs"


def test_table_of_lattices_is_the_committed_result():
    page = (DOCS / "results-lattices.md").read_text()
    path = ROOT / "paper_figures" / "four_point.nc"
    names = {f"kappa4({r})": ("kappa4", {"side": r}) for r in (1, 2, 4, 8, 16, 32)}
    names |= {
        "energy per spin": ("energy", {}),
        r"\|m\| per spin": ("abs_magnetization", {}),
        "Binder parameter": ("binder", {}),
        "specific heat": ("specific_heat", {}),
    }
    with xr.open_dataset(path, engine="h5netcdf") as data:
        truth, *others = data["source"].values
        assert len(others) == 4
        for title, (name, where) in names.items():
            at = data.sel(where)
            cells = [(at[name], at[f"{name}_stderr"], truth)]
            cells += [
                (at[f"{name}_residual"], at[f"{name}_residual_stderr"], label) for label in others
            ]
            shown = [
                with_error(*(float(x.sel(source=label)) for x in (value, stderr)))
                for value, stderr, label in cells
            ]
            assert f"| {title} | {' | '.join(shown)} |" in page


@pytest.mark.parametrize("folder", ["64", "128", "factors"])
def test_tables_of_every_observable_are_the_committed_results(folder, monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    against_truth = import_module("against_truth")
    found = against_truth.read([ROOT / "benchmarks" / "measured" / folder])
    assert against_truth.table(found) in (DOCS / "results-lattices.md").read_text()


def test_rows_of_the_papers_own_case_are_the_committed_result():
    path = ROOT / "benchmarks" / "measured" / "128" / "reconstruct4-measured.nc"
    with xr.open_dataset(path, engine="h5netcdf") as data:
        row = data.sel(source="made")
        pairs = zip(
            row["kappa4_residual"].values, row["kappa4_residual_stderr"].values, strict=True
        )
        where = dict(zip(data["side"].values.tolist(), pairs, strict=True))
    readme = (ROOT / "README.md").read_text()
    for title, r in (
        ("kappa4(1), made - truth, 32 to 128", 1),
        ("kappa4(8)", 8),
        ("kappa4(64)", 64),
    ):
        assert f"| {title} | {with_error(*map(float, where[r]))} |" in readme


def test_table_of_inverse_renormalisation_is_the_committed_result():
    page = (DOCS / "inverse-renormalisation.md").read_text()
    path = ROOT / "paper_figures" / "inverse_renormalization.nc"
    with xr.open_dataset(path, engine="h5netcdf") as data:
        for L in data["L"].values:
            row = data.sel(L=L, source="doubled")
            names = [("energy", {}), *(("kappa4_residual", {"side": r}) for r in (1, 4, 16))]
            energy, *others = (
                with_error(float(row[name].sel(where)), float(row[f"{name}_stderr"].sel(where)))
                for name, where in [*names, ("eta", {}), ("binder", {})]
            )
            exact = f"{torus_energy(int(L), BETA_CRITICAL):.6f}"
            assert f"| {L} | {energy} | {exact} | {' | '.join(others)} |" in page


def test_table_of_scale_space_is_the_committed_result():
    page = (DOCS / "results-scale-space.md").read_text()
    with xr.open_dataset(ROOT / "paper_figures" / "scale_space.nc", engine="h5netcdf") as data:
        assert len(data["source"]) == 17
        for label in data["source"].values[1:]:
            row = data.sel(source=label)
            title, kind = label.rsplit(", ", 1)
            kind = {"from nothing": "unconditional"}.get(kind, kind)
            cells = [title, kind, f"{float(row['gflop']):.1f}", f"{float(row['seconds']):.3f}"]
            for name, where in [*(("kappa4", {"side": r}) for r in (1, 4, 16)), ("energy", {})]:
                residual, stderr = (
                    float(row[f"{name}_{which}"].sel(where))
                    for which in ("residual", "residual_stderr")
                )
                cells.append(with_error(residual, stderr))
            cells.append(f"{float(row['overlap']):.2f}")
            assert f"| {' | '.join(cells)} |" in page


@pytest.mark.parametrize("name", ["photographs", "photographs_heldout"])
def test_tables_of_photographs_are_the_committed_results(name, monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "paper_figures")
    script = import_module("photographs")
    page = (DOCS / "results-photographs.md").read_text()
    with xr.open_dataset(ROOT / "paper_figures" / f"{name}.nc", engine="h5netcdf") as data:
        rows = script.table(data) + script.differences(data)
    assert len(rows) == 15 + 5
    for row in rows:
        assert row in page


@pytest.mark.parametrize(
    "name",
    [
        *["four_point", "effective_resolution", "convergence", "inverse_renormalization"],
        *["scale_space", "photographs", "hero", "concept", "levels", "schedules", "magnitude"],
    ],
)
def test_figures_are_drawn_from_their_committed_files(name, tmp_path, monkeypatch):
    """With one command each, which measures nothing, from any notebook."""
    monkeypatch.setenv("MPLBACKEND", "module://matplotlib_inline.backend_inline")
    for file in (ROOT / "paper_figures").glob("*.*"):
        if file.suffix in (".py", ".nc"):
            (tmp_path / file.name).write_bytes(file.read_bytes())
    done = subprocess.run([sys.executable, tmp_path / f"{name}.py"], timeout=300, check=False)
    assert done.returncode == 0
    assert (tmp_path / f"{name}.png").read_bytes().startswith(b"\x89PNG")
