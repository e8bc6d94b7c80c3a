"""What goes wrong is one line that names parameters or options, and the right exit code."""

import ast
import errno
import os
import re
import shlex
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from skild_physics.cli import interpolate
from skild_physics.cli.main import main
from skild_physics.fields import open_fields
from skild_physics.files import InputError, check_folder, check_output

ROOT = Path(__file__).parents[1]
FLAG = re.compile(r"--[a-z]")


@pytest.fixture
def run(monkeypatch, capsys, tmp_path):
    """Exit code, output and lines of error of a command line, in a folder of its own."""

    def run(arguments):
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(sys, "argv", ["skild-physics", *shlex.split(arguments)])
        code = 0
        try:
            main()
        except SystemExit as stopped:
            code = stopped.code
        found = capsys.readouterr()
        return code, found.out, found.err.splitlines()

    return run


@pytest.fixture
def interpolating(run, monkeypatch):
    """The same of a command in which something happens."""

    def interpolating(event, before=""):
        monkeypatch.setattr(interpolate, "interpolate", lambda *_, **__: event())
        return run(f"{before} interpolate x.h5 --factor 2 --out y.h5")

    return interpolating


def raising(error):
    def event():
        raise error

    return event


# messages


def strings(node):
    """Text in a piece of a program, but for docstrings."""
    documentation = {
        id(each.value)
        for each in ast.walk(node)
        if isinstance(each, ast.Expr) and isinstance(each.value, ast.Constant)
    }
    for each in ast.walk(node):
        is_text = isinstance(each, ast.Constant) and isinstance(each.value, str)
        if is_text and id(each) not in documentation:
            yield each.value


def calls(tree, *names):
    for each in ast.walk(tree):
        if isinstance(each, ast.Call) and getattr(each.func, "id", "") in names:
            yield each


def test_messages_of_the_library_name_no_flags():
    """Nowhere below skild_physics and data_gen; in cli, not in errors that Python users meet."""
    library = [*ROOT.glob("skild_physics/**/*.py"), *ROOT.glob("data_gen/*.py")]
    shared = list(ROOT.glob("cli/*.py"))
    assert len(library) > 60
    assert len(shared) > 15
    assert FLAG.search(next(strings(ast.parse('f"{x}: pass --overwrite"'))))
    for path in library:
        for text in strings(ast.parse(path.read_text())):
            assert not FLAG.search(text), (path, text)
    for path in shared:
        for call in calls(ast.parse(path.read_text()), "InputError", "check_none_given"):
            for text in strings(call):
                assert not FLAG.search(text), (path, text)


def test_what_the_caller_got_wrong_is_an_input_error():
    """A plain ValueError is a fault of the program."""
    for folder in ("skild_physics", "data_gen", "cli"):
        for path in ROOT.glob(f"{folder}/**/*.py"):
            assert not list(calls(ast.parse(path.read_text()), "ValueError")), path


def test_the_command_line_turns_parameters_into_options(interpolating):
    message = "`size` and `overwrite=True` and `samples=7` and `input` and `nowhere=x` and `keep`"
    code, _, said = interpolating(raising(InputError(message)))
    assert code == 2
    assert said == [
        "Error: --size and --overwrite and --samples 7 and INPUT and nowhere = x and keep"
    ]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("fit-spectrum stack.npy --tile", "--tile is for folders of pictures"),
        ("fit-spectrum stack.npy --data-dir x", "--data-dir is for cifar10"),
        ("fit-spectrum stack.npy --k0-squared -1", "--k0-squared must not be negative"),
        ("train ising64 --set training", "--set: expected section.key=value, got 'training'"),
        ("train ising64 --set out.x=1", "--set: out is not a section, in 'out.x=1'"),
        ("generate bundled --batch-size 0 --out x.h5", "--batch-size must be at least 1, got 0"),
        ("generate bundled --last-snr 0 --out x.h5", "--last-snr must be positive"),
        ("generate bundled --L 66 --out x.h5", "--L: this model makes"),
        ("generate bundled --samples 0 --out x.h5", "--samples must be at least 1"),
        ("coarse-grain stack.npy --factor 2 --samples 0 --out x.h5", "--samples must be"),
        ("coarse-grain stack.npy --factor 2 --out file.h5", "pass --overwrite to replace it"),
        ("reproduce --out folder", "folder: is not empty and not a run of reproduce; choose an"),
    ],
)
def test_options_are_named_as_they_are_spelled(run, tmp_path, arguments, message):
    np.save(tmp_path / "stack.npy", np.random.default_rng(0).normal(size=(9, 8, 8)))
    (tmp_path / "file.h5").touch()
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "thesis.tex").touch()
    code, out, said = run(arguments)
    assert (code, out) == (2, "")
    assert message in said[-1]


def test_from_python_parameters_are_named(tmp_path):
    np.save(tmp_path / "stack.npy", np.zeros((9, 8, 8)))
    with pytest.raises(InputError, match=r"^`size` is for folders"):
        open_fields(tmp_path / "stack.npy", size=5)
    (tmp_path / "x.nc").touch()
    with pytest.raises(InputError, match="pass `overwrite=True` to replace it"):
        check_output(tmp_path / "x.nc", overwrite=False)


# exit codes


@pytest.mark.parametrize(
    ("event", "message"),
    [
        (raising(KeyError("lost")), "KeyError: 'lost'"),
        (raising(RuntimeError("several\nlines")), "RuntimeError: several lines"),
        (raising(TypeError("None")), "TypeError: None"),
        (raising(OverflowError("too large")), "OverflowError: too large"),
        (lambda: np.zeros(3).reshape(2, 2), "ValueError: cannot reshape array of size 3"),
        (lambda: torch.zeros(3).view(2, 2), "RuntimeError: shape '[2, 2]' is invalid"),
        (lambda: int("three"), "ValueError: invalid literal for int()"),
    ],
)
def test_a_fault_of_the_program_is_one_line_with_its_name(interpolating, event, message):
    code, out, said = interpolating(event)
    assert (code, out, len(said)) == (1, "", 1)
    assert said[0].startswith(f"Error: {message}")
    assert "a fault of the program" in said[0]
    assert "--debug" in said[0]


def test_debug_shows_the_traceback(interpolating):
    for error, code in ((KeyError("lost"), 1), (InputError("bad"), 2)):
        found, _, said = interpolating(raising(error), "--debug")
        assert found == code
        assert said[0] == "Traceback (most recent call last):"
        assert any("made = interpolate(" in line for line in said)
        assert said[-1].startswith("Error: ")


@pytest.mark.parametrize(
    "event",
    [
        lambda: torch.empty(2**55, dtype=torch.uint8),
        # as torch says it of a GPU
        raising(torch.cuda.OutOfMemoryError("CUDA out of memory.\nTried to allocate 20 GiB")),
        lambda: np.empty(2**55, np.uint8),
        raising(OSError(errno.ENOSPC, "No space left on device")),
        raising(FloatingPointError("the loss became nan")),
    ],
)
def test_what_the_machine_lacks_is_no_fault_of_the_program(interpolating, event):
    code, out, said = interpolating(event)
    assert (code, out, len(said)) == (1, "", 1)
    assert "fault of the program" not in said[0]


@pytest.mark.parametrize(
    "number", ["EACCES", "EPERM", "EROFS", "EEXIST", "EISDIR", "ENOTDIR", "ENAMETOOLONG", "ELOOP"]
)
def test_paths_that_cannot_be_are_the_callers_fault(interpolating, number):
    number = getattr(errno, number)
    code, _, said = interpolating(raising(OSError(number, os.strerror(number), "there")))
    assert code == 2
    assert said == [f"Error: [Errno {number}] {os.strerror(number)}: 'there'"]


FILES = {
    "generate-ising --L 8 --samples 4 --out": ".h5",
    "prepare-images folder --out": ".h5",
    "fit-spectrum x.h5 --out": ".nc",
    "generate bundled --out": ".h5",
    "coarse-grain x.h5 --factor 2 --out": ".h5",
    "interpolate x.h5 --factor 2 --out": ".npz",
    "sample-exact x.h5 --factor 2 --out": ".h5",
    "relax x.h5 --sweeps 2 --out": ".h5",
    "super-resolve bundled x.h5 --factor 2 --out": ".h5",
    "eval-correlators truth=x.h5 --out": ".nc",
    "eval-draws a=x.h5 b=x.h5 --out": ".nc",
    "eval-images a=folder b=folder --out": ".nc",
    "generate-ising --L 8 --samples 4 --out x.h5 --plot": ".png",
    "fit-spectrum x.h5 --out x.nc --plot": ".png",
    "generate bundled --out x.h5 --plot": ".png",
    "super-resolve bundled x.h5 --factor 2 --out x.npz --plot": ".png",
    "super-resolve bundled x.h5 --factor 2 --out x.npz --start-out": ".npy",
    "eval-correlators truth=x.h5 --out x.nc --plot": ".png",
    "eval-images a=folder b=folder --out x.nc --csv": ".csv",
}
FOLDERS = (
    "generate bundled --out",
    "coarse-grain x.h5 --factor 2 --out",
    "import-checkpoint x.pt --config cifar10-linear --out",
    "train ising64 --set data.source=x.h5 --set out=",
    "reproduce --heldout 4 --out",
    "reproduce photographs --out",
)


def places(folder):
    """Where nothing can be written: file and folder, by what is wrong about it."""
    return {
        "below a file": ("file/x", "file/x"),
        "too long": ("n" * 300, "n" * 300),
        "not writable": ("closed/x", "closed"),
        "a folder, a file": ("folder", "file"),
    }


@pytest.fixture
def closed(tmp_path, monkeypatch):
    """A folder that cannot be written in, not even by root."""
    folder = tmp_path / "closed"
    folder.mkdir(mode=0o555)
    access = os.access
    monkeypatch.setattr(
        os, "access", lambda path, mode: folder != tmp_path / path and access(path, mode)
    )


@pytest.mark.parametrize("wrong", places(None))
@pytest.mark.parametrize("command", [*FILES, *(f"{each} FOLDER" for each in FOLDERS)])
def test_output_that_cannot_be_written(run, tmp_path, closed, command, wrong):
    """Before any work, and nothing is changed."""
    (tmp_path / "file").write_text("mine")
    (tmp_path / "folder").mkdir()
    file, folder = places(tmp_path)[wrong]
    if command.endswith("FOLDER"):
        command = command.removesuffix("FOLDER").removesuffix(" " if "out= " in command else "")
        command += folder
    else:
        suffix = FILES[command]
        if wrong == "a folder, a file":
            (tmp_path / f"{file}{suffix}").mkdir()
        command = f"{command} {file}{suffix}"
    before = sorted(tmp_path.rglob("*"))
    code, out, said = run(command)
    assert (code, out) == (2, ""), said
    assert said[-1].startswith("Error: ")
    # the input, which is not there, has not been looked at
    assert "no such file" not in said[-1]
    assert sorted(tmp_path.rglob("*")) == before
    assert (tmp_path / "file").read_text() == "mine"


@pytest.mark.parametrize(
    "command",
    [
        "prepare-images {} --out y.h5",
        "fit-spectrum {} --out y.nc",
        "train {}",
        "train ising64 --set data.source={}",
        "import-checkpoint {} --config cifar10-linear --out y",
        "import-checkpoint x.pt --config {} --out y",
        "generate {} --out y.h5",
        "coarse-grain {} --factor 2 --out y.h5",
        "interpolate {} --factor 2 --out y.h5",
        "sample-exact {} --factor 2 --out y.h5",
        "relax {} --sweeps 2 --out y.h5",
        "super-resolve {} x.h5 --factor 2 --out y.h5",
        "super-resolve bundled {} --factor 2 --out y.h5",
        "eval-correlators truth={} --out y.nc",
        "eval-draws a={} b={} --out y.nc",
        "eval-images a={} b={} --out y.nc",
    ],
)
def test_input_that_is_no_file(run, tmp_path, command):
    (tmp_path / "file").write_text("mine")
    (tmp_path / "folder.h5").mkdir()
    for source in ("folder.h5", "file/x.h5", "n" * 300, "missing.h5", "file"):
        code, out, said = run(command.replace("{}", source))
        assert (code, out) == (2, ""), said
        assert said[-1].startswith("Error: ")


def test_a_folder_for_output_could_be_made(tmp_path):
    """Whoever writes in it makes it."""
    assert check_folder(tmp_path / "a" / "b") == tmp_path / "a" / "b"
    assert not list(tmp_path.iterdir())
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="is a file, where a folder is due"):
        check_folder(tmp_path / "file")
    with pytest.raises(InputError, match="cannot make this folder"):
        check_folder(tmp_path / "file" / "x")


def test_reproduce_leaves_a_folder_with_settings_of_something_else(run, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "settings.json").write_bytes(b"\xff\xfe no JSON")
    for overwrite in ("", " --overwrite"):
        code, _, said = run("reproduce --out mine" + overwrite)
        assert code == 2
        assert "not a run of reproduce; choose another --out, or move settings.json" in said[-1]
