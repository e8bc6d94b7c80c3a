"""Field data as labelled arrays."""

from skild_physics.fields.lattice import load_fields, open_ensemble, save_fields

__all__ = ["load_fields", "open_ensemble", "save_fields"]
