"""Field data: one way in for data of every kind, and one out."""

from skild_physics.fields.lazy import basis_of, batches, channels_of, pictures_of
from skild_physics.fields.raw import load_variance_map
from skild_physics.fields.sources import WORDS, open_fields

__all__ = [
    "WORDS",
    "basis_of",
    "batches",
    "channels_of",
    "load_variance_map",
    "open_fields",
    "pictures_of",
]
