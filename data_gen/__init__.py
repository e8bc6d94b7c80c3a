"""Critical Ising lattices from Wolff's cluster algorithm."""

from skild_physics.data_gen.ensemble import IsingParameters, generate

__all__ = ["IsingParameters", "generate"]
