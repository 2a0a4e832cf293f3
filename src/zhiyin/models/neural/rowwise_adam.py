"""Row-wise Adam for tables with millions of rows: a step reads and writes the rows of the batch only."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import nn


class RowwiseAdam(torch.optim.Optimizer):
    """Lazy Adam with one second moment a row, for sparse gradients.

    Adam (Kingma & Ba, ICLR 2015, algorithm 1) whose moments of a row move only when the row has a gradient. The
    second moment is the mean square over the row, so that the state is 1 + 1/d tables and not 2. Decay is decoupled
    (Loshchilov & Hutter, ICLR 2019) and likewise only of the rows touched.
    """

    def __init__(
        self,
        params: Iterable[torch.Tensor],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
    ) -> None:
        super().__init__(params, {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> Any:
        """One step over the rows that have a gradient."""
        for group in self.param_groups:
            lr, (b1, b2) = group["lr"], group["betas"]
            for table in group["params"]:
                if table.grad is None:
                    continue
                gradient = (table.grad if table.grad.is_sparse else table.grad.to_sparse(1)).coalesce()
                rows, values = gradient.indices()[0], gradient.values()
                # A gradient row may be zero: padding reads item 0, which no loss depends on.
                moved = values.any(dim=1)
                rows, values = rows[moved], values[moved]
                state = self.state[table]
                if not state:
                    state["step"] = torch.zeros((), dtype=torch.int64)
                    state["exp_avg"] = torch.zeros_like(table)
                    state["exp_avg_sq"] = torch.zeros(len(table), 1, dtype=table.dtype, device=table.device)
                state["step"] += 1
                step = int(state["step"])
                first = state["exp_avg"][rows].lerp_(values, 1 - b1)
                second = state["exp_avg_sq"][rows].lerp_(values.square().mean(dim=1, keepdim=True), 1 - b2)
                state["exp_avg"][rows] = first
                state["exp_avg_sq"][rows] = second
                size = lr / (1 - b1**step)
                update = first / ((second / (1 - b2**step)).sqrt_() + group["eps"])
                change = update.mul_(-size)
                if group["weight_decay"]:
                    change.sub_(table[rows], alpha=lr * group["weight_decay"])
                table.index_add_(0, rows, change)
        return None


def dense_and_sparse(network: nn.Module) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
    """What is trained of a network: parameters with dense gradients, and tables with sparse ones."""
    tables = {id(m.weight) for m in network.modules() if isinstance(m, nn.Embedding) and m.sparse}
    trained = [p for p in network.parameters() if p.requires_grad]
    return [p for p in trained if id(p) not in tables], [p for p in trained if id(p) in tables]
