"""Weights of a network as arrays, as models store them, and networks from stored arrays."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TypeVar

import numpy as np
import torch
from torch import nn

N = TypeVar("N", bound=nn.Module)


def weight_arrays(network: nn.Module) -> dict[str, np.ndarray]:
    """The weights by name, without a copy."""
    return {name: tensor.numpy() for name, tensor in network.state_dict().items()}


def network_with(weights: Mapping[str, np.ndarray], build: Callable[[], N]) -> N:
    """The network that `build` makes, with these weights, in eval mode; the caller's random state is not changed."""
    with torch.random.fork_rng(devices=[]):
        network = build()
    # Assigned, not copied: mapped weights stay shared between processes.
    tensors = {name: torch.from_numpy(array) for name, array in weights.items()}
    network.load_state_dict(tensors, assign=True)
    return network.eval()
