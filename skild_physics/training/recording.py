"""Where numbers of a training go beside its own file: TensorBoard, Weights & Biases, a callback.

None of it is part of what a run is: it can be changed, or left out, where a run goes on.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

from skild_physics.config.training import Service
from skild_physics.files import InputError

Record = Callable[[Mapping[str, float], int], None]
"""(numbers by name, step) -> None."""

_MODULES = {"tensorboard": "torch.utils.tensorboard", "wandb": "wandb"}


def check_installed(service: Service | None) -> None:
    """Import the package of a service, if one is asked for.

    Raises:
        InputError: it is not installed.
    """
    if service is not None:
        try:
            import_module(_MODULES[service])
        except ImportError:
            raise InputError(
                f'training.log = "{service}" needs its package: pip install {service}'
            ) from None


def nowhere(numbers: Mapping[str, float], step: int) -> None:
    """Keep nothing."""


@contextmanager
def recording(service: Service | None, out: Path, start: int) -> Iterator[Record]:
    """A block in which numbers go to a service.

    Args:
        service: whose package is installed; None: nowhere.
        out: folder of the run, where TensorBoard's files are, and those that wandb keeps.
        start: the step that the run goes on from; what TensorBoard had of later ones is hidden.
    """
    if service is None:
        yield nowhere
        return
    package: Any = import_module(_MODULES[service])
    if service == "wandb":
        with package.init(project="skild_physics", name=out.name, dir=out, resume="auto") as run:
            yield lambda numbers, step: run.log(dict(numbers), step=step)
        return
    with package.SummaryWriter(out / "tensorboard", purge_step=start) as writer:

        def write(numbers: Mapping[str, float], step: int) -> None:
            for name, value in numbers.items():
                writer.add_scalar(name, value, step)

        yield write


def flat(line: Mapping[str, Any]) -> dict[str, float]:
    """The numbers of a line of metrics.jsonl but its step; those of lists by name/0, name/1, ..."""
    numbers: dict[str, float] = {}
    for name, value in line.items():
        if isinstance(value, list):
            numbers |= {f"{name}/{i}": float(each) for i, each in enumerate(value)}
        elif name != "step":
            numbers[name] = float(value)
    return numbers
