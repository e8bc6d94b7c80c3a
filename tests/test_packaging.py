"""The source archive holds what the tests need, and the wheel made of it works by itself."""

import os
import subprocess
import sys
import tarfile
import venv
import zipfile
from pathlib import Path

import pytest
from command_line import ROOT
from packaging.metadata import Metadata


def _made(what, source, folder):
    """An archive of the package, and what was said while it was made."""
    code = f"import setuptools.build_meta as b; b.build_{what}({str(folder)!r})"
    done = subprocess.run(
        [sys.executable, "-W", "default", "-c", code],
        cwd=source,
        capture_output=True,
        text=True,
        check=True,
    )
    (archive,) = folder.glob("*.tar.gz" if what == "sdist" else "*.whl")
    return archive, done.stdout + done.stderr


def _tracked():
    listed = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(listed, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    return [Path(name) for name in names.splitlines() if (ROOT / name).exists()]


@pytest.fixture(scope="module")
def archives(tmp_path_factory):
    """The source archive, unpacked, the wheel made of that, and what setuptools said."""
    if not (ROOT / ".git").exists():
        pytest.skip("no checkout")
    source = tmp_path_factory.mktemp("source")
    for name in _tracked():
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        (source / name).write_bytes((ROOT / name).read_bytes())
    sdist, said = _made("sdist", source, tmp_path_factory.mktemp("sdist"))
    unpacked = tmp_path_factory.mktemp("unpacked")
    with tarfile.open(sdist) as archive:
        archive.extractall(unpacked, filter="data")
    (folder,) = unpacked.iterdir()
    wheel, more = _made("wheel", folder, tmp_path_factory.mktemp("wheel"))
    return folder, wheel, said + more


def test_the_source_archive_is_whole(archives):
    folder, _, _ = archives
    missing = [name for name in _tracked() if not (folder / name).exists()]
    assert [name for name in missing if not name.name.startswith(".git")] == []


def test_setuptools_has_nothing_to_warn_of(archives):
    assert "Warning" not in archives[2]


def test_the_metadata_are_valid(archives):
    """As an index would check them before it takes the archives."""
    with zipfile.ZipFile(archives[1]) as wheel:
        (name,) = (name for name in wheel.namelist() if name.endswith(".dist-info/METADATA"))
        found = Metadata.from_email(wheel.read(name), validate=True)
    assert found.description_content_type == "text/markdown"
    assert found.license_expression == "MIT"
    assert (ROOT / "README.md").read_text().strip() == found.description.strip()


def test_the_wheel_holds_the_package_alone(archives):
    with zipfile.ZipFile(archives[1]) as wheel:
        names = wheel.namelist()
    info = {name.split("/")[0] for name in names if ".dist-info/" in name}
    assert {name.split("/")[0] for name in names} == {"skild_physics", *info}
    modules = {name for name in names if name.endswith(".py")}
    assert len(modules) > 100
    assert "skild_physics/cli/main.py" in modules
    assert "skild_physics/pretrained/ising64/model.safetensors" in names
    assert "skild_physics/config/shipped/ising64.toml" in names


def test_the_wheel_works_in_a_fresh_environment(archives, tmp_path):
    """Outside the checkout; what it depends on is lent by the environment of the tests."""
    venv.create(tmp_path / "fresh", with_pip=True)
    python = tmp_path / "fresh" / "bin" / "python"
    install = [python, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", archives[1]]
    subprocess.run(install, check=True)
    (site,) = (tmp_path / "fresh" / "lib").glob("python*/site-packages")
    lent = [path for path in sys.path if path.endswith("site-packages")]
    (site / "lent.pth").write_text("\n".join(lent) + "\n")
    place = tmp_path / "empty"
    place.mkdir()
    environment = {key: each for key, each in os.environ.items() if key != "PYTHONPATH"}

    def run(*command):
        done = subprocess.run(
            command, cwd=place, capture_output=True, text=True, env=environment, check=False
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    where = run(python, "-c", "import skild_physics; print(skild_physics.__file__)")
    assert Path(where.strip()).is_relative_to(tmp_path)
    script = tmp_path / "fresh" / "bin" / "skild-physics"
    run(script, "generate", "bundled", "--samples", "1", "--steps", "2", "--out", "made.h5")
    assert (place / "made.h5").exists()
