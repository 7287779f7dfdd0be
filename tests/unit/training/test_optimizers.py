"""Muon and AdamW in one optimiser."""

from __future__ import annotations

import copy

import torch
from torch import nn

from retro_lightning.training.optimizers import MuonAdamW


def _model() -> nn.ModuleDict:
    generator = torch.Generator().manual_seed(0)
    model = nn.ModuleDict({"embed": nn.Embedding(7, 4), "block": nn.Linear(4, 4)})
    for parameter in model.parameters():
        parameter.data = torch.randn(parameter.shape, generator=generator)
    return model


def _gradients(model: nn.Module, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        parameter.grad = torch.randn(parameter.shape, generator=generator)


def _steps(model: nn.Module, optimizers: list[torch.optim.Optimizer], seeds: range) -> None:
    for seed in seeds:
        _gradients(model, seed)
        for optimizer in optimizers:
            optimizer.step()


def _same(one: nn.Module, other: nn.Module) -> bool:
    pairs = zip(one.parameters(), other.parameters(), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)


def test_is_both_of_torchs_own():
    one, other = _model(), _model()
    both = MuonAdamW(one.named_parameters(), lr=0.01, muon_lr=0.02, weight_decay=0.1)
    rest = [other["embed"].weight, other["block"].bias]
    muon = torch.optim.Muon(
        [other["block"].weight],
        lr=0.02,
        momentum=0.95,
        weight_decay=0.1,
    )
    adamw = torch.optim.AdamW(rest, lr=0.01, betas=(0.9, 0.99), weight_decay=0.1)
    _steps(one, [both], range(5))
    _steps(other, [muon, adamw], range(5))
    assert _same(one, other)
    assert not _same(one, _model())


def test_goes_on_from_its_state():
    whole, part = _model(), _model()
    optimizer = MuonAdamW(whole.named_parameters())
    _steps(whole, [optimizer], range(6))
    first = MuonAdamW(part.named_parameters())
    _steps(part, [first], range(3))
    state = copy.deepcopy(first.state_dict())
    second = MuonAdamW(part.named_parameters(), lr=9.0, muon_lr=9.0)
    second.load_state_dict(state)
    _steps(part, [second], range(3, 6))
    assert _same(whole, part)


def test_without_its_state_it_goes_elsewhere():
    whole, part = _model(), _model()
    _steps(whole, [MuonAdamW(whole.named_parameters())], range(6))
    _steps(part, [MuonAdamW(part.named_parameters())], range(3))
    _steps(part, [MuonAdamW(part.named_parameters())], range(3, 6))
    assert not _same(whole, part)


def test_a_schedule_reaches_both_even_after_a_restart():
    model = _model()
    for restarted in (False, True):
        optimizer = MuonAdamW(model.named_parameters(), lr=0.5, muon_lr=0.25)
        if restarted:
            optimizer.load_state_dict(copy.deepcopy(optimizer.state_dict()))
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 0.0 if step else 1.0)
        assert sorted(group["lr"] for group in optimizer.param_groups) == [0.25, 0.5]
        before = copy.deepcopy(model)
        _gradients(model, 0)
        optimizer.step()
        assert not _same(model, before)
        schedule.step()
        before = copy.deepcopy(model)
        _gradients(model, 1)
        optimizer.step()
        assert _same(model, before)  # rate 0 in both parts: nothing moves
