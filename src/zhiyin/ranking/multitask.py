"""MultiTask: joint prediction of several labels, such as click, cart and purchase, weighted at request time."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor, nn

from zhiyin.core.errors import ConfigError, suggest
from zhiyin.core.params import param
from zhiyin.core.run import Run
from zhiyin.ranking.example_tensors import ExampleBatch
from zhiyin.ranking.examples import Examples
from zhiyin.ranking.network_ranker import DeepRanker, Fields, Network, Perceptron, Shape


@dataclasses.dataclass
class MultiTask(DeepRanker):
    """Several labels per row: a mixture of experts with one gate per task, or a chain of conditional probabilities.

        MMoE:  y_t = tower_t(Σ_k softmax(G_t x)_k expert_k(x))        (Ma et al., KDD 2018, eq. 5 to 7)
        ESMM:  P(purchase) = P(click) · P(purchase | click), learned from all that was shown, not from clicks alone
               (Ma et al., SIGIR 2018, eq. 2 and 6)

    The score is made of the labels' probabilities with weights that may change from one request to the next.

    | difference from the papers | why |
    |---|---|
    | ESMM is a chain of any length: each label in `tasks` happens only after the one before it | view, cart, purchase |
    | a label may be unknown (NaN): it is then not learned from | not all kinds were logged all the time |
    | the mean of the items had is one field more (`max_len`) | users never met are served |
    """

    tasks: str = param("click,purchase", "names of the labels, in the order of their columns")
    objective: str = param("", "weights of the labels in the score, such as click=1,purchase=5; empty: all 1")
    combine: str = param(
        "sum", "score of the tasks: Σ weight · probability, or Π probability^weight", choices=("sum", "product")
    )
    structure: str = param("mmoe", "architecture of the layers that the tasks share", choices=("mmoe", "esmm"))
    experts: int = param(4, "experts of MMoE", at_least=1, at_most=64, tune=(2, 8))

    @property
    def task_names(self) -> list[str]:
        """Names of the labels. Raises ConfigError for none, or one twice."""
        names = [name.strip() for name in self.tasks.split(",")]
        if not all(names) or len(set(names)) < len(names):
            raise ConfigError(f"MultiTask: tasks = {self.tasks!r}", remedy='names that differ: "click,cart,purchase"')
        return names

    @property
    def probabilities(self) -> bool:
        """A score is a mixture of probabilities and no probability itself; `chances` gives these."""
        return False

    @property
    def _n_tasks(self) -> int:
        self._weights(None)
        return len(self.task_names)

    def _build(self, shape: Shape) -> Network:
        return Chain(shape, self) if self.structure == "esmm" else Experts(shape, self)

    def chances(self, examples: Examples, run: Run | None = None) -> np.ndarray:
        """float32[m, tasks]: the probability of each label, calibrated where `calibrate` says so."""
        self.check(examples)
        raw = self._raw(examples, run or Run()).reshape(len(examples), -1)
        return np.stack([self.finished(column, task) for task, column in enumerate(raw.T)], axis=1)

    def score(
        self,
        examples: Examples,
        run: Run | None = None,
        *,
        weights: Mapping[str, float] | None = None,
        combine: str | None = None,
    ) -> np.ndarray:
        """float32[m], higher is better: the chances, mixed.

        weights: of the labels, such as {"click": 1, "purchase": 5}, a label left out counting 0; None for `objective`.
        combine: "sum" or "product"; None for the hyperparameter. Raises ConfigError for a label that is not known.
        """
        chosen, how = self._weights(weights), combine or self.combine
        if how not in ("sum", "product"):
            raise ConfigError(f"combine = {how!r} is not known", remedy='"sum" or "product"')
        chances = self.chances(examples, run).astype(np.float64)
        if how == "sum":
            return (chances @ chosen).astype(np.float32)
        return np.exp(np.log(np.maximum(chances, 1e-30)) @ chosen).astype(np.float32)

    def _weights(self, weights: Mapping[str, float] | None) -> np.ndarray:
        """float64[tasks]."""
        names = self.task_names
        if weights is None:
            if not self.objective.strip():
                return np.ones(len(names))
            try:
                parts = [part.split("=") for part in self.objective.split(",")]
                weights = {name.strip(): float(value) for name, value in parts}
            except ValueError:
                remedy = "write label=weight, such as click=1,purchase=5"
                raise ConfigError(f"MultiTask: objective = {self.objective!r} cannot be read", remedy=remedy) from None
        for name, value in weights.items():
            if name not in names:
                raise ConfigError(f"MultiTask has no label {name!r}", remedy=suggest(name, names))
            if not np.isfinite(value):
                raise ConfigError(f"MultiTask: the weight of {name!r} is {value}", remedy="a number")
        return np.array([float(weights.get(name, 0.0)) for name in names])


class TowerNetwork(Network):
    """The fields of a row, and on top a tower a task."""

    def __init__(self, shape: Shape, settings: MultiTask) -> None:
        super().__init__(len(settings.task_names))
        self.fields, self.reg = Fields(shape, settings.factors, std=0.05), settings.reg

    def set_towers(self, towers: list[Perceptron]) -> None:
        """Each tower's last linear map is one of `last_layers`; called last, as the draws of weights go in order."""
        self.towers, self.last_layers = nn.ModuleList(towers), tuple(tower.steps[-1] for tower in towers)


class Experts(TowerNetwork):
    """MMoE: experts that all tasks read, each through a gate of its own; on top a tower a task."""

    def __init__(self, shape: Shape, settings: MultiTask) -> None:
        super().__init__(shape, settings)
        s, tasks, width = settings, len(settings.task_names), shape.fields * settings.factors
        self.experts = nn.ModuleList(
            [Perceptron(width, s.hidden, max(1, s.layers), s.dropout) for _ in range(s.experts)]
        )
        self.gates = nn.Linear(width, tasks * s.experts)
        self.set_towers([Perceptron(s.hidden, max(8, s.hidden // 2), 1, 0.0, out=1) for _ in range(tasks)])

    def forward(self, batch: ExampleBatch) -> Tensor:
        x = self.vectors(batch).flatten(1)
        expert_outputs = torch.stack([expert(x) for expert in self.experts], dim=1)  # [b, experts, hidden]
        gates = self.gates(x).view(len(x), len(self.towers), -1).softmax(dim=2)
        mixed = gates @ expert_outputs  # [b, tasks, hidden]
        return self.offset + torch.cat([tower(mixed[:, task]) for task, tower in enumerate(self.towers)], dim=1)


class Chain(TowerNetwork):
    """ESMM: a tower a task for its chance given the task before; what is learned is the chance of all of them."""

    def __init__(self, shape: Shape, settings: MultiTask) -> None:
        super().__init__(shape, settings)
        s, width = settings, shape.fields * settings.factors
        self.set_towers([Perceptron(width, s.hidden, s.layers, s.dropout, out=1) for _ in s.task_names])

    def start_at(self, labels: np.ndarray, weights: np.ndarray | None) -> None:
        """Begin with the conditional shares."""
        super().start_at(labels, weights)
        with torch.no_grad():
            p = torch.sigmoid(self.offset)
            given = torch.cat([p[:1], p[1:] / p[:-1]]).clamp(1e-6, 1 - 1e-4)
            self.offset.copy_(torch.log(given / (1 - given)))

    def forward(self, batch: ExampleBatch) -> Tensor:
        x = self.vectors(batch).flatten(1)
        given = self.offset + torch.cat([tower(x) for tower in self.towers], dim=1)
        # log odds of p_1 · … · p_t: log p - log(1 - p), in logarithms all the way.
        log_p = nn.functional.logsigmoid(given.float()).cumsum(dim=1).clamp(max=-1e-7)
        return log_p - torch.log(-torch.expm1(log_p))
