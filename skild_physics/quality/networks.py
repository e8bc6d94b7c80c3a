"""Networks that see 8-bit pictures: features of Inception, LPIPS, MUSIQ and CLIP-IQA.

LPIPS (Zhang et al., arXiv 1801.03924, eq. 1) weighs differences of AlexNet's normalised
activations and averages them over the picture. MUSIQ (Ke et al., arXiv 2108.05997, trained on
KonIQ-10k; 0 to 100) and CLIP-IQA (Wang et al., arXiv 2207.12396, with pyiqa's five pairs of
prompts; 0 to 1) judge a picture alone. Grey pictures are shown as three equal channels.

Weights are loaded from files that are there, as tensors and nothing else but for CLIP's; a library
that insists on loading them itself gets these tensors from memory.
"""

import io
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from skild_physics.files import InputError
from skild_physics.quality.extras import import_extra
from skild_physics.quality.weights import (
    WeightFile,
    find_weights,
    load_into,
    load_state,
    other_network,
)

LPIPS_PIXELS = 31
CLIPIQA_PIXELS = 32


class Network(NamedTuple):
    """A function of batches of pixels uint8 (image, channel, y, x), and the file of its weights."""

    function: Callable[..., Any]
    weights: WeightFile


def inception(
    layers: Sequence[str], folder: Path | None, device: torch.device, metric: str
) -> Network:
    """Inception v3 of the FID paper through torch-fidelity: tensors (image, feature) by layer.

    Args:
        layers: "2048", the features of FID and KID, and "logits_unbiased", those of IS.
        folder: where its weights are, see :func:`find_weights`.
        device: what it runs on.
        metric: what needs it.

    Raises:
        InputError: torch-fidelity or the weights are missing, or the weights are others.
    """
    library = import_extra("torch_fidelity.feature_extractor_inceptionv3", metric)
    weights = find_weights(metric, library.URL_INCEPTION_V3, folder)
    memory = io.BytesIO()
    torch.save(dict(load_state(weights)), memory)
    memory.seek(0)
    try:
        network = library.FeatureExtractorInceptionV3(
            "inception-v3-compat", list(layers), feature_extractor_weights_path=memory
        ).to(device)
    except RuntimeError as error:
        raise other_network(weights, error) from None

    @torch.inference_mode()
    def features(pixels: Tensor) -> dict[str, Tensor]:
        found = network(_rgb(pixels).to(device))
        return {layer: each.cpu() for layer, each in zip(layers, found, strict=True)}

    return Network(features, weights)


def lpips(folder: Path | None, device: torch.device) -> Network:
    """LPIPS 0.1 of AlexNet: a function of two batches, shape (image,).

    Raises:
        InputError: lpips or the weights are missing, or the weights are others.
    """
    library = import_extra("lpips", "lpips")
    from torchvision.models import AlexNet_Weights

    weights = find_weights("lpips", AlexNet_Weights.IMAGENET1K_V1.url, folder)
    state = load_state(weights)
    with warnings.catch_warnings():
        # lpips calls torchvision by arguments of old
        warnings.simplefilter("ignore", UserWarning)
        network = library.LPIPS(net="alex", pnet_rand=True, verbose=False)
    # the backbone is cut into slices, which keep the numbers of its layers
    sources = {name: f"features.{name.partition('.')[2]}" for name in network.net.state_dict()}
    backbone = {name: state[source] for name, source in sources.items() if source in state}
    load_into(network.net, backbone, weights)
    network = network.to(device)

    @torch.inference_mode()
    def distances(x: Tensor, y: Tensor) -> Tensor:
        both = (_rgb(each).to(device) / 127.5 - 1 for each in (x, y))
        found: Tensor = network(*both)
        return found.flatten().cpu()

    return Network(distances, weights)


def musiq(folder: Path | None, device: torch.device) -> Network:
    """MUSIQ of pyiqa: scores, shape (image,).

    Raises:
        InputError: pyiqa or the weights are missing, or the weights are others.
    """
    library = import_extra("pyiqa.archs.musiq_arch", "musiq")
    weights = find_weights("musiq", library.default_model_urls["koniq10k"], folder)
    network = library.MUSIQ(pretrained=False)
    load_into(network, load_state(weights), weights)
    return Network(_scores(network, device), weights)


def clipiqa(folder: Path | None, device: torch.device) -> Network:
    """CLIP-IQA of pyiqa: scores, shape (image,).

    The file of CLIP is a TorchScript archive, a program, and opened only if its SHA-256 is the
    published one.

    Raises:
        InputError: pyiqa or the weights are missing, or the file is another.
    """
    library = import_extra("pyiqa.archs.clipiqa_arch", "clipiqa")
    clip = import_extra("pyiqa.archs.clip_model", "clipiqa")
    weights = find_weights("clipiqa", clip._MODELS["RN50"], folder)
    if not weights.published:
        raise InputError(f"{weights.path}: is not the published file, and no other is opened")
    return Network(_scores(library.CLIPIQA(backbone=str(weights.path)), device), weights)


def _scores(network: torch.nn.Module, device: torch.device) -> Callable[[Tensor], Tensor]:
    network = network.to(device).eval()

    @torch.inference_mode()
    def scores(pixels: Tensor) -> Tensor:
        found: Tensor = network(_rgb(pixels).to(device) / 255)
        return found.flatten().cpu()

    return scores


def _rgb(pixels: Tensor) -> Tensor:
    return pixels.expand(-1, 3, -1, -1)
