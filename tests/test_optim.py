"""Rates and groups, against numbers worked out by hand."""

import pytest
import torch
from torch import nn

import botvision
from botvision.optim import build_optimizer, learning_rate_factor, rate_for

STEPS = {"total": 900, "schedule": "steps", "warmup_steps": 100, "warmup_from": 0.1}


@pytest.mark.parametrize(
    ("step", "factor"), [(0, 0.1), (50, 0.55), (100, 1.0), (599, 1.0), (600, 0.1), (799, 0.1), (800, 0.01)]
)
def test_steps_follow_the_papers_milestones(step, factor):
    assert learning_rate_factor(step, **STEPS) == pytest.approx(factor)


@pytest.mark.parametrize(("step", "factor"), [(0, 0.1), (100, 1.0), (500, 0.5), (900, 0.0), (1000, 0.0)])
def test_cosine_falls_to_nothing(step, factor):
    assert learning_rate_factor(step, **{**STEPS, "schedule": "cosine"}) == pytest.approx(factor)


def test_norms_biases_and_position_tables_are_not_decayed():
    model = nn.Sequential(botvision.create_model("botnet14"), nn.Linear(1000, 2))
    kept, decayed = build_optimizer(model, "momentum", lr=1.0, weight_decay=0.1).param_groups
    names = {id(p): n for n, p in model.named_parameters()}
    spared = {names[id(p)] for p in kept["params"]}
    assert {"0.layer4.0.mhsa.rel_h", "0.layer4.0.mhsa.rel_w", "0.bn1.weight", "1.bias"} <= spared
    assert not any(n.endswith(("conv1.weight", "qkv.weight")) for n in spared)
    assert (decayed["weight_decay"], kept["weight_decay"]) == (0.1, 0.0)
    assert len(decayed["params"]) + len(kept["params"]) == len(names)


@pytest.mark.parametrize(
    ("name", "rate"), [(name, 0.025) for name in ("sgd", "sgdw", "nesterovw", "lars", "nlarc")] + [("adamw", 0.05)]
)
def test_rates_go_in_proportion_to_the_batch_for_sgd_in_all_its_forms(name, rate):
    assert rate_for(0.1, name, batch=1, meant_for=4) == pytest.approx(rate)


@pytest.mark.parametrize(("name", "cls"), [("momentum", torch.optim.SGD), ("adamw", torch.optim.AdamW)])
def test_optimizers_go_by_timms_names(name, cls):
    optimizer = build_optimizer(nn.Linear(2, 2), name, lr=0.1, weight_decay=0.01)
    assert isinstance(optimizer, cls)
    assert {group["lr"] for group in optimizer.param_groups} == {0.1}
    assert name != "momentum" or not optimizer.defaults["nesterov"]  # the paper's code has none
    with pytest.raises(ValueError, match="unknown optimizer 'adam2'; timm knows adam"):
        build_optimizer(nn.Linear(2, 2), "adam2", lr=0.1, weight_decay=0.01)
