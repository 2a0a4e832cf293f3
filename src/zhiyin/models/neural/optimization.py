"""Optimizers of networks, the learning rate over the steps, and the clipping of gradients."""

from __future__ import annotations

import math
from typing import Protocol

import torch
from torch import nn

from zhiyin.models.neural.rowwise_adam import RowwiseAdam, dense_and_sparse


class OptimizerSettings(Protocol):
    """The hyperparameters that the steps of training read."""

    learning_rate: float
    weight_decay: float
    beta2: float
    warmup: int
    schedule: str


def make_optimizers(network: nn.Module, plan: OptimizerSettings) -> list[torch.optim.Optimizer]:
    """AdamW, whose decay spares vectors such as biases and norms; tables with sparse gradients get row-wise Adam."""
    dense, tables = dense_and_sparse(network)
    groups = [
        {"params": [p for p in dense if p.ndim > 1], "weight_decay": plan.weight_decay},
        {"params": [p for p in dense if p.ndim <= 1], "weight_decay": 0.0},
    ]
    optimizers: list[torch.optim.Optimizer] = []
    if dense:
        nonempty = [g for g in groups if g["params"]]
        optimizers.append(torch.optim.AdamW(nonempty, lr=plan.learning_rate, betas=(0.9, plan.beta2), fused=True))
    if tables:
        optimizers.append(RowwiseAdam(tables, plan.learning_rate, (0.9, plan.beta2), weight_decay=plan.weight_decay))
    return optimizers


def pace(step: int, total: int, plan: OptimizerSettings) -> float:
    """Share of the learning rate at a step: linear warm-up over `warmup` steps, then constant or cosine to zero.

    Loshchilov & Hutter, SGDR, ICLR 2017, eq. 5 without restarts.
    """
    if step < plan.warmup:
        return (step + 1) / plan.warmup
    if plan.schedule == "constant":
        return 1.0
    done = (step - plan.warmup) / max(1, total - plan.warmup)
    return 0.5 * (1 + math.cos(math.pi * min(1.0, done)))


def clip_gradients(network: nn.Module, max_norm: float) -> None:
    """Scale all gradients down together where their norm exceeds `max_norm` (Pascanu et al., ICML 2013)."""
    gradients = []
    for p in network.parameters():
        if p.grad is not None:
            p.grad = p.grad.coalesce() if p.grad.is_sparse else p.grad  # stored, as the optimizer uses it too
            gradients.append(p.grad.values() if p.grad.is_sparse else p.grad)
    norm = torch.linalg.vector_norm(torch.stack([torch.linalg.vector_norm(g) for g in gradients]))
    scale = (max_norm / (norm + 1e-6)).clamp(max=1.0)
    if scale < 1:
        for gradient in gradients:
            gradient.mul_(scale)
