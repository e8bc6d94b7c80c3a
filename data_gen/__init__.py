"""Critical Ising lattices from Wolff's cluster algorithm."""

from skild_physics.data_gen.ensemble import generate
from skild_physics.data_gen.parameters import IsingParameters

__all__ = ["IsingParameters", "generate"]
