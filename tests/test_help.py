"""Help and errors of a command line that somebody uses for the first time."""

import re
import sys

import pytest
from click.testing import CliRunner

from skild_physics.cli.main import COMMANDS, cli, main


@pytest.mark.parametrize("name", COMMANDS)
def test_every_option_stands_once_under_a_heading(name):
    runner = CliRunner()
    shown = runner.invoke(cli, [name, "--help"], terminal_width=80).output
    headed = re.split(r"^(\w[\w ]*):\n", shown.partition("  Example:")[2], flags=re.MULTILINE)
    sections = dict(zip(headed[1::2], headed[2::2], strict=True))
    listed = re.findall(r"^  (-[^\n]*?)(?:  |$)", "".join(sections.values()), re.MULTILINE)
    command = cli.get_command(None, name)
    spelled = [opt for each in command.params for opt in each.opts if opt.startswith("-")]
    for option in spelled:
        assert sum(option in re.split(r"[ ,]+", line) for line in listed) == 1, option
    required = [each.opts[0] for each in command.params if each.required and each.opts[0][0] == "-"]
    assert all(option in sections["Required"] for option in required)


@pytest.mark.parametrize("name", ["", *COMMANDS])
def test_help_fits_a_terminal_of_80_columns(name):
    shown = CliRunner().invoke(cli, [*name.split(), "--help"], terminal_width=80).output
    assert [line for line in shown.splitlines() if len(line) > 80] == []


def test_without_a_command_there_is_help():
    shown = CliRunner().invoke(cli, [])
    assert (shown.exit_code, shown.output.count("\n") > 20) == (0, True)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("generate-isin --L 8", "No such command 'generate-isin', did you mean 'generate-ising'?"),
        (
            "fit-spectrum photograph",
            "photograph: no such file or folder, did you mean 'photographs'?",
        ),
        ("fit-spectrum lattices.h5", "lattices.h5: no such file or folder"),
        ("train ising65", "ising65: no such file, did you mean 'ising64'?"),
        ("generate bundeld --out x.h5", "bundeld: no such file, did you mean 'bundled'?"),
    ],
)
def test_names_that_are_nearly_right(line, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["skild-physics", *line.split()])
    with pytest.raises(SystemExit) as stopped:
        main()
    assert stopped.value.code == 2
    assert capsys.readouterr().err.splitlines()[-1].split(" (see")[0] == f"Error: {message}"
    assert not list(tmp_path.iterdir())
