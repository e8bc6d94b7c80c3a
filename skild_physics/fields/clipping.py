"""Fields in [-1, 1] as bytes: how many values lie outside, and whether that is still a picture."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from skild_physics.files import InputError
from skild_physics.progress import logger

FURTHEST = 1 + 1 / 255
"""Half a byte beyond white."""
MOST = 0.01
"""The share of values outside beyond which fields of unknown origin are no pictures."""


Rounding = Literal["nearest", "floor"]
ROUNDINGS: tuple[str, ...] = get_args(Rounding)
HAIR = 1 / 1024
"""What bytes may lose on their way to [-1, 1] and back, and more."""


def pixels(fields: NDArray[np.floating], rounding: Rounding = "nearest") -> NDArray[np.uint8]:
    """Fields in [-1, 1] as bytes, any shape.

    Args:
        fields: of which what lies outside is clipped.
        rounding: to the nearest byte, or, "floor", cut off; either way bytes stay what they were.
    """
    values = (fields + 1) * 127.5
    values = np.rint(values) if rounding == "nearest" else np.floor(values + HAIR)
    whole: NDArray[np.uint8] = np.clip(values, 0, 255).astype(np.uint8)
    return whole


def outside(fields: NDArray[np.floating]) -> NDArray[np.int64]:
    """How many values of each field (sample, ...) bytes cannot hold; nan is one of them."""
    inside = np.abs(fields) <= FURTHEST
    return np.asarray(np.prod(fields.shape[1:]) - inside.reshape(len(fields), -1).sum(axis=1))


def are_made(attributes: Mapping[str, Any]) -> bool:
    """Whether fields say that this package made them, so that their range is known."""
    return "protocol" in attributes or "process" in attributes


@dataclass
class Clipping:
    """Counts the values of a source that are clipped, as its fields go by.

    Attributes:
        source: name shown to people.
        total: number of values of all its fields.
        advice: what to do if more than one in a hundred is clipped, which is refused then; None:
            nothing is refused.
        count: values clipped so far.
        low: the lowest value so far.
        high: the highest.
    """

    source: str
    total: int
    advice: str | None = None
    count: int = 0
    low: float = np.inf
    high: float = -np.inf

    def see(self, fields: NDArray[np.floating]) -> None:
        """Count those of fields (sample, ...).

        Raises:
            InputError: they are too many.
        """
        self.count += int(outside(fields).sum())
        if self.advice is None or not self.count:
            return
        # of nan the other number
        self.low = float(np.fmin.reduce(fields, axis=None, initial=self.low))
        self.high = float(np.fmax.reduce(fields, axis=None, initial=self.high))
        if self.count > MOST * self.total:
            raise InputError(
                f"{self.source}: more than {100 * MOST:g} % of the values lie outside [-1, 1], "
                f"from {self.low:.4g} to {self.high:.4g}; {self.advice}"
            )

    def say(self) -> None:
        """Name the share that was clipped, if there is any."""
        if self.count:
            logger.warning(
                f"{self.source}: {100 * self.count / self.total:.2g} % of the values lie outside "
                "[-1, 1] and are clipped"
            )
