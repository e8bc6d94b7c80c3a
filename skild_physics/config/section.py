"""A table of the configuration."""

import difflib
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, ClassVar, Self

from pydantic import BaseModel, ConfigDict, Discriminator, Field, model_validator

from skild_physics.files import InputError

Side = Annotated[int, Field(gt=0, le=2**15)]
"""Of fields and of what they are cut into."""
Width = Annotated[int, Field(gt=0, le=2**16)]
"""Channels of a part of a network."""
Depth = Annotated[int, Field(gt=0, le=256)]
"""Parts of a network one after another."""
Steps = Annotated[int, Field(gt=0, le=10**6)]
"""Of a process."""
MOST_LEVELS = 12


class Section(BaseModel):
    """A table of the configuration: unknown keys are errors, with the nearest known one named."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    _RENAMED: ClassVar[dict[str, str]] = {}
    """Former names of keys, which older files and checkpoints have, and what they are called now.
    """

    @model_validator(mode="before")
    @classmethod
    def _known_keys(cls, values: Any) -> Any:
        if not isinstance(values, dict):
            return values
        for old, new in cls._RENAMED.items():
            if old in values and new in values:
                raise InputError(f"give {new!r} only, {old!r} is what it was called before")
        values = {cls._RENAMED.get(key, key): value for key, value in values.items()}
        unknown = [key for key in values if key not in cls.model_fields]
        if unknown:
            raise InputError("; ".join(_unknown(key, list(cls.model_fields)) for key in unknown))
        return values

    def with_paths(self, change: Callable[[Path], Path]) -> Self:
        """The same values with every path changed, in the tables within, too."""
        values = {key: getattr(self, key) for key in type(self).model_fields}
        changed: dict[str, Any] = {}
        for key, value in values.items():
            if isinstance(value, Path):
                changed[key] = change(value)
            elif isinstance(value, Section):
                changed[key] = value.with_paths(change)
        return self.model_copy(update=changed)


def _unknown(key: str, known: list[str]) -> str:
    near = difflib.get_close_matches(key, known, n=1)
    return f"no key {key!r}, " + (f"did you mean {near[0]!r}?" if near else f"only {known}")


def kind_or(default: str) -> Discriminator:
    """Tells the members of a union apart by their kind, which may be left out of the default."""

    def kind(values: Any) -> str:
        if isinstance(values, dict):
            return str(values.get("kind", default))
        return str(getattr(values, "kind", default))

    return Discriminator(kind)
