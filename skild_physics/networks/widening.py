"""A wider network that goes on from the weights of a narrower one.

Channels are copied, and what reads a channel shares its weights among the copies (Chen, Goodfellow
and Shlens, Net2Net, arXiv 1511.05641), in random parts, so that copies learn different things. The
network norms its channels by their root mean square: what it computes is the same where all have as
many copies, and nearly the same elsewhere.
"""

import torch
from torch import Tensor

from skild_physics.files import InputError
from skild_physics.networks.unet import CompactUNet

UNLIKE = "a network can be widened to one that has more channels, and is otherwise alike"


def widen(wide: CompactUNet, narrow: CompactUNet, seed: int = 0) -> CompactUNet:
    """The wide network, with weights that make of it what the narrow one is.

    Args:
        wide: differs from the other in having more channels on some levels, and is changed.
        narrow: whose weights are taken.
        seed: of which channels are copied, and how weights are shared.

    Raises:
        InputError: they differ in something else, or a level has fewer channels.
    """
    expected = wide.state_dict()
    if narrow.state_dict().keys() != expected.keys() or narrow.basis != wide.basis:
        raise InputError(UNLIKE)
    generator = torch.Generator().manual_seed(seed)
    pairs = zip(narrow.down, wide.down, strict=True)
    copies = [_copies(_width(old), _width(new), generator) for old, new in pairs]
    weights = {}
    for name, weight in narrow.state_dict().items():
        weight, (written, read) = weight.cpu(), _channels_of(name, copies)
        if read is not None and weight.ndim > 1:
            weight = _shared(weight, read, generator)
        weights[name] = weight if written is None else weight[written]
    if any(weight.shape != expected[name].shape for name, weight in weights.items()):
        raise InputError(UNLIKE)
    wide.load_state_dict(weights)
    return wide


def _width(level: torch.nn.Module) -> int:
    return int(next(level.parameters()).shape[0])


def _copies(old: int, new: int, generator: torch.Generator) -> Tensor:
    """Which channel each one copies: first every one itself, then others in random turns."""
    if new < old:
        raise InputError(f"a level has {new} channels, and {old} before: it cannot be widened")
    turns = [torch.arange(old)]
    while sum(map(len, turns)) < new:
        turns.append(torch.randperm(old, generator=generator))
    return torch.cat(turns)[:new]


def _shared(weight: Tensor, read: Tensor, generator: torch.Generator) -> Tensor:
    """Weights (out, in, ..) that read copies of channels; each copy has a part of them."""
    shape = (len(weight), len(read), *weight.shape[2:])
    parts = (1 + 2 * torch.rand(shape, generator=generator)).to(weight)
    whole = torch.zeros_like(weight).index_add_(1, read, parts)
    return weight[:, read] * (parts / whole[:, read])


def _channels_of(name: str, copies: list[Tensor]) -> tuple[Tensor | None, Tensor | None]:
    """Of the weights of that name: which channels they write and which they read, if any."""
    part, _, rest = name.partition(".")
    level = int(rest.partition(".")[0]) if rest[:1].isdigit() else 0
    match part:
        case "stem" | "gain":
            return copies[0], None
        case "head":
            return None, copies[0]
        case "down" | "up":
            return copies[level], None if ".gain." in name else copies[level]
        case "coarsen":
            return copies[level + 1], copies[level]
        case "refine":
            # a pixel shuffle makes a channel of four
            four = 4 * copies[level][:, None] + torch.arange(4)
            return four.flatten(), copies[level + 1]
    return None, None
