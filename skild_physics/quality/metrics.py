"""The metrics by name: what each compares, what it needs, and how it is called."""

from dataclasses import dataclass

from skild_physics.quality.networks import CLIPIQA_PIXELS, LPIPS_PIXELS
from skild_physics.quality.similarity import WINDOW


@dataclass(frozen=True)
class Metric:
    """A metric.

    Attributes:
        title: shown to people.
        long_name: what it is and where it comes from.
        per_picture: a value for every picture, or one for an ensemble.
        compares: with the reference; otherwise it judges a picture or ensemble alone.
        units: of its values.
        smallest: pixels per side that it needs.
        of_pixels: compares pixels themselves, on request their luminance, or without a border.
        higher_is_better: what a larger value means, of metrics that compare.
    """

    title: str
    long_name: str
    per_picture: bool = True
    compares: bool = True
    units: str = "1"
    smallest: int = 1
    of_pixels: bool = False
    higher_is_better: bool = True

    @property
    def paired(self) -> bool:
        """Compares a picture with the one it belongs to."""
        return self.per_picture and self.compares


METRICS = {
    "psnr": Metric("PSNR / dB", "peak signal-to-noise ratio", units="dB", of_pixels=True),
    "ssim": Metric(
        "SSIM", "structural similarity (Wang et al. 2004)", smallest=WINDOW, of_pixels=True
    ),
    "ms-ssim": Metric(
        "MS-SSIM", "multiscale SSIM (Wang et al. 2003)", smallest=WINDOW, of_pixels=True
    ),
    "lpips": Metric(
        "LPIPS",
        "learned perceptual image patch similarity, AlexNet, version 0.1 (arXiv 1801.03924)",
        smallest=LPIPS_PIXELS,
        higher_is_better=False,
    ),
    "musiq": Metric("MUSIQ", "MUSIQ of KonIQ-10k (arXiv 2108.05997)", compares=False),
    "clipiqa": Metric(
        "CLIP-IQA", "CLIP-IQA (arXiv 2207.12396)", compares=False, smallest=CLIPIQA_PIXELS
    ),
    "fid": Metric(
        "FID",
        "Frechet inception distance (arXiv 1706.08500)",
        per_picture=False,
        higher_is_better=False,
    ),
    "kid": Metric(
        "KID",
        "kernel inception distance (arXiv 1801.01401)",
        per_picture=False,
        higher_is_better=False,
    ),
    "is": Metric("IS", "inception score (arXiv 1606.03498)", per_picture=False, compares=False),
}
