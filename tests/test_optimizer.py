import pytest
import torch
from small_runs import needs_muon
from torch import nn

from skild_physics.config.training import TrainingConfig
from skild_physics.files import InputError
from skild_physics.networks import CompactUNet
from skild_physics.training.optimizer import HIDDEN, MuonAndAdamW, build_optimizer

RATE, BETAS = 0.01, (0.9, 0.99)


def network():
    torch.manual_seed(1)
    made = CompactUNet((16, 24), (1, 1), patch=2, embedding=16)
    for w in made.parameters():
        nn.init.normal_(w, std=0.1)
    return made.to(memory_format=torch.channels_last)


def with_gradients(made):
    generator = torch.Generator().manual_seed(2)
    for w in made.parameters():
        # in the layout of the weight, as autograd makes it and fused optimisers take it
        w.grad = torch.empty_like(w).copy_(torch.randn(w.shape, generator=generator))
    return made


def hidden(w):
    return w.ndim == 4 and min(w.shape[:2]) >= HIDDEN


@needs_muon
def test_hidden_convolutions_take_orthogonal_steps_of_the_size_of_adamw():
    made = with_gradients(network())
    before = [w.detach().clone() for w in made.parameters()]
    MuonAndAdamW(made, RATE, BETAS, 0.0).step()
    found = 0
    for old, w in zip(before, made.parameters(), strict=True):
        if not hidden(w):
            continue
        found += 1
        step = (old - w.detach()).permute(0, 2, 3, 1).flatten(1)
        singular = torch.linalg.svdvals(step) / (0.2 * RATE * max(step.shape) ** 0.5)
        # five Newton-Schulz iterations bring singular values near 1, not to it
        assert 0.5 < float(singular.min()) <= float(singular.max()) < 1.5
        # the first step is along the gradient's own singular vectors
        U, _, V = torch.linalg.svd(w.grad.permute(0, 2, 3, 1).flatten(1), full_matrices=False)
        assert (
            float((U.T @ step @ V.T).diagonal().sum() / step.norm()) > 0.95 * min(step.shape) ** 0.5
        )
    assert found == 8


@needs_muon
def test_all_other_weights_take_the_steps_of_adamw():
    ours, theirs = with_gradients(network()), with_gradients(network())
    mixed = MuonAndAdamW(ours, RATE, BETAS, 0.1)
    plain = torch.optim.AdamW(theirs.parameters(), lr=RATE, betas=BETAS, weight_decay=0.1)
    for _ in range(3):
        mixed.step()
        plain.step()
    for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
        assert hidden(a) or torch.allclose(a, b, rtol=1e-5, atol=1e-7)


@needs_muon
def test_the_learning_rate_of_the_groups_rules_both_parts():
    made = with_gradients(network())
    before = [w.detach().clone() for w in made.parameters()]
    optimizer = MuonAndAdamW(made, RATE, BETAS, 0.0)
    for group in optimizer.param_groups:
        group["lr"] = 0.0
    optimizer.step()
    assert all(torch.equal(a, b) for a, b in zip(before, made.parameters(), strict=True))


@needs_muon
def test_other_memory_formats_are_refused():
    with pytest.raises(ValueError, match="channels_last"):
        MuonAndAdamW(CompactUNet((16,), (1,)), RATE, BETAS, 0.0)


@needs_muon
def test_networks_without_hidden_convolutions_have_adamw_alone():
    made = with_gradients(nn.Linear(3, 2))
    MuonAndAdamW(made, RATE, BETAS, 0.0).step()
    assert build_optimizer(made, TrainingConfig(optimizer="adamw")).__class__ is torch.optim.AdamW


def test_muon_with_an_older_torch_says_what_it_needs(monkeypatch):
    monkeypatch.delattr(torch.optim, "Muon", raising=False)
    with pytest.raises(InputError, match=r'optimizer "muon" needs torch 2\.9 or later'):
        build_optimizer(network(), TrainingConfig(optimizer="muon"))
    build_optimizer(network(), TrainingConfig(optimizer="adamw"))
