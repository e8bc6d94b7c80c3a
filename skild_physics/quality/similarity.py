"""Peak signal-to-noise ratio and structural similarity of pairs of pictures.

With the mean squared error over all pixels and channels of a pair x, y of 8-bit pictures,

    PSNR = 10 log10(255^2 / MSE)    dB.

Within a Gaussian window of standard deviation 1.5 and 11 x 11 pixels let mu_x, mu_y, s_x^2, s_y^2
and s_xy be means, variances and covariance. Luminance and contrast-structure are

    l  = (2 mu_x mu_y + C1) / (mu_x^2 + mu_y^2 + C1),    C1 = (0.01 * 255)^2,
    cs = (2 s_xy + C2) / (s_x^2 + s_y^2 + C2),           C2 = (0.03 * 255)^2,

and SSIM is the mean of l cs over all windows inside the picture (Wang, Bovik, Sheikh and
Simoncelli, IEEE Trans. Image Process. 13, 600, 2004, eq. 13). MS-SSIM halves the resolution M - 1
times by means of 2 x 2 pixels, a last odd row or column being doubled, and is

    <l cs>_M^(w_M)  prod_(j < M) <cs>_j^(w_j)

with M = 5 and the published weights (Wang, Simoncelli and Bovik, Asilomar 2003, eq. 7); negative
means count as zero. The coarsest picture must hold a window, 11 pixels: below 161 pixels fewer
scales are used, with the first weights made to sum to 1. Both are means over the channels.

Papers on super-resolution compare the luminance of ITU-R BT.601 alone, from 16 to 235,

    Y = 16 + (65.481 R + 128.553 G + 24.966 B) / 255,

as MATLAB's rgb2ycbcr gives it for fractional pixels, and still count 255 as the peak.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from skild_physics.files import InputError

WINDOW = 11
SIGMA = 1.5
C1, C2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
LUMA = (65.481, 128.553, 24.966)
SCALE_WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)


def luminance(pixels: Tensor) -> Tensor:
    """Y of pictures in red, green and blue, 16 .. 235, not rounded, shape (image, 1, y, x).

    Args:
        pixels: 0 .. 255, shape (image, 3, y, x).
    """
    weights = torch.tensor(LUMA, dtype=torch.float64, device=pixels.device) / 255
    return 16 + torch.einsum("c,bcyx->byx", weights, pixels.double())[:, None]


def peak_signal_to_noise(x: Tensor, y: Tensor) -> Tensor:
    """PSNR in dB, shape (image,), infinite for equal pictures.

    Args:
        x: pixels 0 .. 255, shape (image, channel, y, x).
        y: the same of the other pictures.
    """
    error = (x.double() - y.double()).square().mean(dim=(1, 2, 3))
    return 10 * torch.log10(255**2 / error)


def structural_similarity(x: Tensor, y: Tensor) -> Tensor:
    """SSIM, shape (image,).

    Args:
        x: pixels 0 .. 255, shape (image, channel, y, x), of at least 11 x 11.
        y: the same of the other pictures.
    """
    similarity, _ = _similarity(x.double(), y.double())
    return similarity.mean(dim=1)


def multiscale_similarity(x: Tensor, y: Tensor, scales: int | None = None) -> Tensor:
    """MS-SSIM, shape (image,).

    Args:
        x: pixels 0 .. 255, shape (image, channel, y, x), of at least 11 x 11.
        y: the same of the other pictures.
        scales: how many, at most those of :func:`similarity_scales`; None: as many.
    """
    x, y = x.double(), y.double()
    weights = SCALE_WEIGHTS[: scales or similarity_scales(min(x.shape[-2:]))]
    total = sum(weights) if len(weights) < len(SCALE_WEIGHTS) else 1
    product = torch.ones(x.shape[:2], dtype=x.dtype, device=x.device)
    for weight in weights[:-1]:
        product *= _similarity(x, y)[1].clamp(min=0) ** (weight / total)
        x, y = _halved(x), _halved(y)
    product *= _similarity(x, y)[0].clamp(min=0) ** (weights[-1] / total)
    return product.mean(dim=1)


def similarity_scales(size: int) -> int:
    """Scales of MS-SSIM for pictures of so many pixels, 1 to 5.

    Raises:
        InputError: less than a window of 11 pixels.
    """
    if size < WINDOW:
        raise InputError(f"SSIM needs pictures of at least {WINDOW} x {WINDOW} pixels, not {size}")
    scales = 1
    while scales < len(SCALE_WEIGHTS) and size > (WINDOW - 1) * 2**scales:
        scales += 1
    return scales


def _similarity(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Means over the windows of l cs and of cs, shape (image, channel) each."""
    moments = _windowed(torch.cat([x, y, x * x, y * y, x * y]))
    mu_x, mu_y, xx, yy, xy = moments.chunk(5)
    luminance = (2 * mu_x * mu_y + C1) / (mu_x**2 + mu_y**2 + C1)
    contrast = (2 * (xy - mu_x * mu_y) + C2) / (xx - mu_x**2 + yy - mu_y**2 + C2)
    return (luminance * contrast).mean(dim=(2, 3)), contrast.mean(dim=(2, 3))


def _windowed(pictures: Tensor) -> Tensor:
    distance = torch.arange(WINDOW, dtype=pictures.dtype, device=pictures.device) - WINDOW // 2
    window = torch.exp(-(distance**2) / (2 * SIGMA**2))
    weights = (window / window.sum()).tolist()
    # a convolution would unfold its windows, and take ten times the memory and twice the time
    for axis in (2, 3):
        length = pictures.shape[axis] - WINDOW + 1
        found = weights[0] * pictures.narrow(axis, 0, length)
        for shift, weight in enumerate(weights[1:], 1):
            found.add_(pictures.narrow(axis, shift, length), alpha=weight)
        pictures = found
    return pictures


def _halved(pictures: Tensor) -> Tensor:
    height, width = pictures.shape[-2:]
    return F.avg_pool2d(F.pad(pictures, (0, width % 2, 0, height % 2), mode="replicate"), 2)
