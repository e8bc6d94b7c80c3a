"""Entry point: finds commands, and turns errors into one line and an exit code."""

import sys
from importlib import import_module

import click

from skild_physics import __version__

COMMANDS = {
    "generate-ising": "Make an ensemble of 2D Ising lattices.",
    "prepare-images": "Decode a folder of pictures into one HDF5 file.",
    "fit-spectrum": "Measure a variance spectrum and fit the SKILD power law.",
    "train": "Train a SKILD model; rerunning resumes.",
    "import-checkpoint": "Convert a model of the published code.",
    "generate": "Make fields from nothing with a trained model.",
    "coarse-grain": "Make coarse fields: block averages, low modes, smooth kernels.",
    "interpolate": "Enlarge fields with a bicubic or Lanczos kernel, to compare with.",
    "super-resolve": "Raise the resolution of fields with a trained model.",
    "eval-correlators": "Four-point correlators with error bars, against the truth.",
    "eval-images": "Image quality: PSNR, SSIM, LPIPS, FID and others, with error bars.",
    "reproduce": "The whole pipeline on a small real case, with table and figure.",
}


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

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))


@click.group(cls=_LazyGroup)
@click.version_option(__version__, prog_name="skild-physics")
def cli() -> None:
    """Critical Ising ensembles, spectra, SKILD diffusion, and correlators with error bars.

    \b
    Start here:  skild-physics reproduce
    """


def main() -> None:
    """Run the command line: exit code 2 for bad input, 1 for what failed, one line for either."""
    try:
        cli.main(standalone_mode=False)
    except click.UsageError as error:
        hint = f" (see '{error.ctx.command_path} --help')" if error.ctx else ""
        _fail(error.format_message() + hint, 2)
    except (click.Abort, KeyboardInterrupt):
        _fail("interrupted; the same command goes on from what is finished", 130)
    except click.ClickException as error:
        _fail(error.format_message(), error.exit_code)
    except ValueError as error:
        _fail(str(error), 2)
    except (OSError, FloatingPointError, MemoryError) as error:
        _fail(str(error) or type(error).__name__, 1)


def _fail(message: str, code: int) -> None:
    click.echo("Error: " + " ".join(message.split()), err=True)
    sys.exit(code)
