"""Entry point: finds commands, and turns errors into one line and an exit code."""

import errno
import io
import os
import re
import sys
import traceback
from contextlib import suppress
from importlib import import_module
from typing import Any

import click

from skild_physics.files import InputError, meant, one_line

COMMANDS = {
    "generate-ising": "Make an ensemble of 2D Ising lattices.",
    "prepare-images": "Decode a folder of pictures into one HDF5 file.",
    "import-fields": "Make an ensemble file of anybody's fields.",
    "info": "What is in a file: fields, spectra, results, models.",
    "fit-spectrum": "Measure a variance spectrum and fit the SKILD power law.",
    "train": "Train a SKILD model; rerunning resumes.",
    "import-checkpoint": "Convert a model of the published code.",
    "generate": "Unconditional samples of a trained model.",
    "coarse-grain": "Make coarse fields: block averages, low modes, smooth kernels.",
    "interpolate": "Enlarge fields with a bicubic or Lanczos kernel, to compare with.",
    "sample-exact": "Exact Ising fields of given block averages, to judge models by.",
    "super-resolve": "Raise the resolution of fields with a trained model.",
    "relax": "A few Monte Carlo sweeps from made Ising fields, which then say so.",
    "eval-correlators": "Four-point correlators with error bars, against the truth.",
    "eval-draws": "Super-resolved fields against exact draws of the same block averages.",
    "eval-images": "Image quality: PSNR, SSIM, LPIPS, FID and others, with error bars.",
    "reproduce": "The whole pipeline on a small real case, with table and figure.",
}


_GROUPS = {
    "Fields": (
        *("generate-ising", "prepare-images", "import-fields", "coarse-grain", "interpolate"),
        *("sample-exact", "relax", "info"),
    ),
    "Models": ("train", "import-checkpoint", "generate", "super-resolve"),
    "Results": ("fit-spectrum", "eval-correlators", "eval-draws", "eval-images"),
    "All at once": ("reproduce",),
}
"""Commands under the headings of the help."""


class _LazyGroup(click.Group):
    """Imports a command's module when it is called: --help need not wait for torch."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        module = import_module(f"skild_physics.cli.{cmd_name.replace('-', '_')}")
        command: click.Command = module.command
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and args[0] not in COMMANDS and not args[0].startswith("-"):
            ctx.fail(f"No such command {args[0]!r}{meant(args[0], COMMANDS)}")
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        for heading, names in _GROUPS.items():
            with formatter.section(heading):
                formatter.write_dl([(name, COMMANDS[name]) for name in names])

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except InputError as error:
            name = ctx.invoked_subcommand
            command = self.get_command(ctx, name) if name else None
            options = command.params if command else []
            raise InputError(_with_options(str(error), options)) from error


def _with_options(message: str, parameters: list[click.Parameter]) -> str:
    """The message with `name` and `name=value` as the option or argument of that name."""
    names = {each.name: each for each in parameters}

    def spelled(found: re.Match[str]) -> str:
        name, value = found.groups()
        parameter = names.get(name)
        if not isinstance(parameter, click.Option):
            shown = name if parameter is None else parameter.human_readable_name
            return shown + (f" = {value}" if value else "")
        option = max(parameter.opts, key=len)
        return option if value is None or parameter.is_flag else f"{option} {value}"

    return re.sub(r"`(\w+)(?:=([^`]*))?`", spelled, message)


@click.group(
    cls=_LazyGroup,
    invoke_without_command=True,
    context_settings={"help_option_names": ["-h", "--help"]},
)
@click.version_option(package_name="skild_physics", prog_name="skild-physics")
@click.option("--debug", is_flag=True, help="Show the traceback of an error.")
@click.pass_context
def cli(ctx: click.Context, debug: bool) -> None:
    """Critical Ising ensembles, spectra, SKILD diffusion, and correlators with error bars.

    \b
    Start here:  skild-physics reproduce
    """
    if ctx.invoked_subcommand is None:
        click.echo(ctx.get_help())
        return
    # imported here: with rich, which --help can do without
    from skild_physics.cli.console import hear

    hear()


# what the caller got wrong about a path; other errors of the system are nobody's fault
_WRONG_PATHS = {
    *(errno.EACCES, errno.EPERM, errno.EROFS, errno.EEXIST, errno.EISDIR, errno.ENOTDIR),
    *(errno.ENAMETOOLONG, errno.ELOOP),
}


def main() -> None:
    """Run the command line: one line and an exit code for whatever goes wrong.

    2 is for bad input, 1 for what failed: the machine, or this program.
    """
    if sys.stdout is None:
        # closed from the start: what is written would be dropped, but tables only repeat what files
        # hold, and JSON may be all that was asked for
        sys.stdout = _ClosedOutput() if "--json" in sys.argv else io.StringIO()
    elif isinstance(sys.stdout, io.TextIOWrapper):
        # names of files may hold what the encoding of the output does not
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        cli.main(standalone_mode=False)
        sys.stdout.flush()
    except click.UsageError as error:
        hint = f" (see '{error.ctx.command_path} --help')" if error.ctx else ""
        _fail(error.format_message() + hint, 2)
    except (click.Abort, KeyboardInterrupt):
        _fail("interrupted; the same command goes on from what is finished", 130)
    except click.ClickException as error:
        _fail(error.format_message(), error.exit_code)
    except InputError as error:
        _fail(str(error), 2)
    except Exception as error:
        if isinstance(error, OSError) and error.errno in _WRONG_PATHS:
            _fail(str(error), 2)
        if isinstance(error, MemoryError) or _is_out_of_memory(error):
            _fail(": ".join(filter(None, ["not enough memory", str(error)])), 1)
        if isinstance(error, BrokenPipeError):
            _fail("standard output was closed by its reader, so the rest of the answer is lost", 1)
        if isinstance(error, OSError | FloatingPointError):
            _fail(str(error) or type(error).__name__, 1)
        _fail(
            f"{type(error).__name__}: {error}; this is a fault of the program, of which "
            "'skild-physics --debug COMMAND' shows the traceback",
            1,
        )


class _ClosedOutput(io.TextIOBase):
    def write(self, text: str, /) -> int:
        raise OSError("standard output is closed, so the answer is lost")


def _is_out_of_memory(error: Exception) -> bool:
    # of torch, which is not imported for this: on a GPU by its class, elsewhere by its text
    texts = ("can't allocate memory", "could not create a primitive", "temporarily unavailable")
    is_said = isinstance(error, RuntimeError) and any(text in str(error) for text in texts)
    return type(error).__name__ == "OutOfMemoryError" or is_said


def _fail(message: str, code: int) -> None:
    # click has parsed the options already, or has failed to
    if "--debug" in sys.argv[1:2]:
        traceback.print_exc()
    with suppress(OSError):
        click.echo("Error: " + one_line(" ".join(message.split())), err=True)
    try:
        sys.stdout.flush()
    except OSError:
        # Python would try to write the rest once more, and end with a code of its own
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    sys.exit(code)
