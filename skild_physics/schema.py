"""What others wrote, as values of the types that are expected, or one line that says what is not.

All headers, attributes and notes of files pass here before anything believes them.
"""

from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from pydantic import BaseModel, ValidationError

from skild_physics.files import InputError

M = TypeVar("M", bound=BaseModel)
SHOWN = 3
"""Problems that a message names."""


def validated(schema: type[M], values: Any, source: str | Path, without: tuple[str, ...] = ()) -> M:
    """Values as a schema has them.

    Args:
        schema: names, types and ranges.
        values: plain ones, or attributes as NumPy has them.
        source: the file, for messages.
        without: keys after which pydantic names the member of a union, which is left out.

    Raises:
        InputError: naming what is missing or wrong.
    """
    try:
        return schema.model_validate(values)
    except ValidationError as error:
        raise InputError(_explained(error, source, without)) from None
    except RecursionError:
        raise InputError(f"{source}: nested too deeply") from None


def _explained(error: ValidationError, source: str | Path, without: tuple[str, ...]) -> str:
    problems = []
    for e in error.errors(include_url=False, include_input=False):
        loc = [str(part) for part in e["loc"]]
        named = [part for before, part in pairwise(["", *loc]) if before not in without]
        where = ".".join(named)
        message = e["msg"].removeprefix("Value error, ")
        problems.append(f"{where}: {message}" if where else message)
    more = [f"{len(problems) - SHOWN} more"] if len(problems) > SHOWN else []
    return f"{source}: " + "; ".join(problems[:SHOWN] + more)


def plain_attributes(attributes: Mapping[str, Any]) -> dict[str, Any]:
    """Attributes of HDF5 as plain values: numbers, texts, and lists of them."""
    return {str(name): plain_value(value) for name, value in attributes.items()}


def plain_value(value: Any) -> Any:
    """A number or a text of one that NumPy holds; arrays of several as they are."""
    if isinstance(value, np.generic | np.ndarray) and value.size == 1:
        value = value.item()
    return value.decode(errors="replace") if isinstance(value, bytes) else value
