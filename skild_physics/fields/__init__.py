"""Field data: labelled lattice fields, and streams of square fields from data of many kinds."""

from skild_physics.fields.arrays import array_stack, is_variance_map, load_variance_map
from skild_physics.fields.images import image_folder
from skild_physics.fields.lattice import load_fields, open_ensemble, save_fields
from skild_physics.fields.photographs import photographs
from skild_physics.fields.sources import field_file, open_pictures, open_source
from skild_physics.fields.stream import FieldStream

__all__ = [
    "FieldStream",
    "array_stack",
    "field_file",
    "image_folder",
    "is_variance_map",
    "load_fields",
    "load_variance_map",
    "open_ensemble",
    "open_pictures",
    "open_source",
    "photographs",
    "save_fields",
]
