"""The optimiser of a run: AdamW, or Muon for convolutions between hidden channels.

Muon (K. Jordan et al., 2024; Liu et al., arXiv 2502.16982) replaces the momentum of a weight matrix
(out, in x kernel) by the nearest semi-orthogonal matrix, scaled so that its root mean square is
that of AdamW's steps: one learning rate serves both.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from skild_physics.config.training import TrainingConfig
from skild_physics.files import InputError

HIDDEN = 16
"""Convolutions of fewer channels on either side touch fields, and stay with AdamW."""


class MuonAndAdamW(torch.optim.Optimizer):
    """Muon for hidden convolutions, AdamW for all other weights.

    Args:
        network: its convolutions must be in the memory format channels_last.
        learning_rate: of both.
        betas: of AdamW.
        weight_decay: of both.

    Raises:
        InputError: another memory format, or a torch before 2.9, which has no Muon.
    """

    def __init__(
        self,
        network: nn.Module,
        learning_rate: float,
        betas: tuple[float, float],
        weight_decay: float,
    ):
        if not hasattr(torch.optim, "Muon"):
            raise InputError(
                f'the optimizer "muon" needs torch 2.9 or later, this is {torch.__version__}; '
                '"adamw" does not'
            )
        weights = list(network.parameters())
        inner = [w for w in weights if w.ndim == 4 and min(w.shape[:2]) >= HIDDEN]
        chosen = {id(w) for w in inner}
        others = [w for w in weights if id(w) not in chosen]
        groups = [{"params": group} for group in (inner, others) if group]
        super().__init__(groups, {"lr": learning_rate})
        # torch's Muon takes matrices: views of the weights, which its steps change in place
        self._pairs = [(w, nn.Parameter(w.data.permute(0, 2, 3, 1).flatten(1))) for w in inner]
        if any(w.data_ptr() != matrix.data_ptr() for w, matrix in self._pairs):
            raise InputError("convolutions must be in the memory format channels_last")
        self.parts: dict[str, torch.optim.Optimizer] = {}
        if inner:
            self.parts["muon"] = torch.optim.Muon(
                [matrix for _, matrix in self._pairs],
                lr=learning_rate,
                weight_decay=weight_decay,
                adjust_lr_fn="match_rms_adamw",
            )
        if others:
            self.parts["adamw"] = torch.optim.AdamW(
                others, lr=learning_rate, betas=betas, weight_decay=weight_decay, fused=True
            )

    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """One step of both with the gradients of the weights."""
        for weight, matrix in self._pairs:
            matrix.grad = _as_matrix(weight.grad)
        for part in self.parts.values():
            for group in part.param_groups:
                group["lr"] = self.param_groups[0]["lr"]
            part.step()

    def state_dict(self) -> dict[str, Any]:
        """States of both parts."""
        return {name: part.state_dict() for name, part in self.parts.items()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from a saved state."""
        for name, part in self.parts.items():
            part.load_state_dict(state_dict[name])


def _as_matrix(gradient: Tensor | None) -> Tensor | None:
    return None if gradient is None else gradient.permute(0, 2, 3, 1).flatten(1)


def build_optimizer(network: nn.Module, settings: TrainingConfig) -> torch.optim.Optimizer:
    """The optimiser that a configuration asks for."""
    if settings.optimizer == "muon":
        return MuonAndAdamW(network, settings.learning_rate, settings.betas, settings.weight_decay)
    return torch.optim.AdamW(
        network.parameters(),
        lr=settings.learning_rate,
        betas=settings.betas,
        weight_decay=settings.weight_decay,
        fused=True,
    )


@contextmanager
def captured(optimizer: torch.optim.Optimizer) -> Iterator[None]:
    """While a CUDA graph is captured, tell AdamW so, which otherwise refuses."""
    groups = [group for part in parts_of(optimizer).values() for group in part.param_groups]
    asked = [group for group in groups if "capturable" in group]
    capturing = torch.cuda.is_available() and torch.cuda.is_current_stream_capturing()
    for group in asked:
        group["capturable"] = capturing
    try:
        yield
    finally:
        for group in asked:
            group["capturable"] = False


def parts_of(optimizer: torch.optim.Optimizer) -> dict[str, torch.optim.Optimizer]:
    """Optimisers of torch by the names that their states have, empty of one alone."""
    return optimizer.parts if isinstance(optimizer, MuonAndAdamW) else {"": optimizer}
