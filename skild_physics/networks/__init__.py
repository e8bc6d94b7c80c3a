"""Networks: a pixel-space field in, a pixel-space field out."""

from skild_physics.networks.flexi import FlexiUNet
from skild_physics.networks.guided import GuidedUNet
from skild_physics.networks.ncsnpp import NCSNpp
from skild_physics.networks.steps import StepNetwork
from skild_physics.networks.unet import CompactUNet
from skild_physics.networks.whitened import WhitenedInput

__all__ = ["CompactUNet", "FlexiUNet", "GuidedUNet", "NCSNpp", "StepNetwork", "WhitenedInput"]
