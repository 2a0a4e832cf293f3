"""TwoTower: two-tower retrieval, a user tower over histories and an item tower over item features; new items are
recommended by their features.

Top down: the recommender, the network, the drawing of negatives, and the vocabulary that turns columns into codes.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from typing import Any, ClassVar

import numpy as np
import polars as pl
import torch
from scipy import sparse
from torch import Tensor, nn

from zhiyin.core.errors import ConfigError, suggest
from zhiyin.core.params import param
from zhiyin.core.run import Run
from zhiyin.data.dataset import Dataset
from zhiyin.data.histories import Histories
from zhiyin.models.neural import losses
from zhiyin.models.neural.batches import (
    Sequences,
    TrainingSequences,
    held_out_sequences,
    positive,
    request_sequences,
)
from zhiyin.models.neural.devices import threads
from zhiyin.models.neural.layers import Dropout
from zhiyin.models.neural.neural_recommender import NeuralRecommender
from zhiyin.models.sequence.next_item import SPARSE_ROWS

# Number of item vectors computed at once.
ITEMS_PER_BATCH = 1 << 16
# Users whose columns are cached as codes.
MAX_CACHED_USERS = 10_000
# Number of states of a batch by which hard negatives are selected.
MAX_SAMPLED_STATES = 256


@dataclasses.dataclass
class TwoTower(NeuralRecommender):
    """Two-tower retrieval (Yi et al., Sampling-bias-corrected neural modeling, RecSys 2019).

    | difference from the paper | why |
    |---|---|
    | a user is the mean of the items had, not an id | new users and new events are served without learning anew |
    | history and target share one item tower | tokens learn from both sides; it begins as TF-IDF cosine, roughly |
    | the target is left out of its own history | otherwise the towers learn to copy |
    | ids are added to features, and dropped whole for random items (DropoutNet, 2017) | the features alone must do |
    | `hidden` = 0: no hidden layers | NDCG@10 of cold books .133, with 128 hidden units .123 |
    | negatives by known popularity, not from the batch | log q is exact, their number does not depend on the batch |
    | items without events are never negatives | they could not be chosen, which is no negative evidence |
    | `hard` of the negatives are the best of a larger draw, a stratum of it | the sum stays that of the softmax |
    | users' columns are added to a history, each of the two dropped for a share of events | either alone must do |
    | `popularity` of log p(item) stays in the scores (Menon et al., 2021) | a cold item has none to compete with |
    """

    factors: int = param(128, "length of the vectors", at_least=1, at_most=4096, tune=(32, 256), log=True)
    epochs: int = param(20, "largest number of passes over the data", at_least=1)
    validation: str = param(
        "last",
        "validation events of early stopping: each user's last, a random tenth of each user's, "
        "the last tenth of the time, those of held-out users or items, or none",
        choices=("last", "ratio", "time", "users", "cold-items", "none"),
    )
    dropout: float = param(0.5, "dropout rate of words", at_least=0, at_most=0.95, tune=(0.0, 0.8))
    max_len: int = param(200, "last events of a history that are read", at_least=1, at_most=8192)
    columns: str = param("", "item columns to use, separated by commas or |; empty: all text and category columns")
    user_columns: str = param("", "user columns to use, separated by commas or |; empty: all text and category columns")
    min_count: int = param(2, "fewest items with a word or value; at least one of them has events", at_least=1)
    bins: int = param(16, "quantile bins of a numeric column", at_least=2, at_most=1000)
    ids: bool = param(True, "learn a vector for each item, added to that of its features")
    id_dropout: float = param(0.5, "share of items whose own vector is dropped in each step", at_least=0, at_most=1)
    history_dropout: float = param(
        0.1,
        "share of events predicted from the user's columns alone, for users without a history",
        at_least=0,
        at_most=1,
    )
    hidden: int = param(0, "width of the hidden layer of each tower; 0: no hidden layer", at_least=0)
    history: str = param(
        "any", "events that a target is predicted from: all others, or the earlier ones", choices=("any", "next")
    )
    half_life: float = param(
        0.0, "half-life of an event in the mean of a history, in later events; 0: no decay", at_least=0
    )
    negatives: int = param(1024, "sampled negatives in each step, shared by all its targets", at_least=1)
    hard: float = param(0.0, "share of hard negatives: the best scored of a larger draw", at_least=0, at_most=1)
    hard_pool: int = param(
        4, "size of the draw that hard negatives are chosen from, as a multiple of negatives", at_least=1, at_most=100
    )
    popularity_power: float = param(0.5, "power of the popularity that negatives are drawn by", at_least=0, at_most=1)
    popularity: float = param(1.0, "weight of an item's log popularity in its scores", at_least=0, at_most=1)
    temperature: float = param(0.05, "scores are cosine / temperature; 0: plain inner products", at_least=0)

    trains_from_shards = True
    _same_data_only = "its vocabulary is learned from them"

    columns_: ClassVar[list[dict[str, Any]]]
    words_: ClassVar[np.ndarray]
    rarity_: ClassVar[np.ndarray]
    features_: ClassVar[sparse.csr_matrix]
    user_columns_: ClassVar[list[dict[str, Any]]]
    user_words_: ClassVar[np.ndarray]
    user_rarity_: ClassVar[np.ndarray]
    had_: ClassVar[np.ndarray]

    def item_vectors_for(self, frame: pl.DataFrame, run: Run | None = None) -> np.ndarray:
        """Vectors of any items from their columns, float32[n, d]; a missing column counts as empty."""
        self._context()
        network = self._net()
        bag = Bag.of(self._vocabulary().encode(frame))
        with torch.inference_mode(), threads(run or Run()):
            return network.scaled(network.feature_vectors(bag)).float().numpy()  # type: ignore[operator]

    def encode(self, histories: Histories, run: Run | None = None) -> np.ndarray:
        """Vectors of histories, float32[n, d], from events and, where the batch has them, users' columns; zeros where
        there is neither a positive event nor a known column."""
        if histories.features is None or not self.user_columns_:
            return super().encode(histories, run)
        network: Towers = self._net()  # type: ignore[assignment]
        vectors = np.zeros((len(histories), self._width()), dtype=np.float32)
        bag = self._user_bag(histories.features)
        described = np.flatnonzero((histories.positives == 0) & self.knows_columns(histories))
        with torch.inference_mode(), threads(run or Run()):
            for batch in request_sequences(histories, self.max_len):
                vectors[batch.rows.numpy()] = network(batch, bag.take(batch.rows)).float().numpy()
            for start in range(0, len(described), ITEMS_PER_BATCH):
                rows = torch.from_numpy(described[start : start + ITEMS_PER_BATCH])
                state = network.user_outputs(torch.zeros(len(rows), self.factors), bag.take(rows))
                vectors[rows.numpy()] = state.float().numpy()
        return vectors

    @property
    def reads_user_columns(self) -> bool:
        return self.is_fitted and bool(self.user_columns_)

    def knows_columns(self, histories: Histories) -> np.ndarray:
        if histories.features is None or not self.user_columns_:
            return np.zeros(len(histories), dtype=bool)
        names = [column["name"] for column in self.user_columns_ if column["name"] in histories.features.columns]
        if not names:
            return np.zeros(len(histories), dtype=bool)
        # An unknown number has a code of its own, which alone says nothing.
        present = histories.features.select(pl.any_horizontal(pl.col(name).is_not_null() for name in names))
        return (self._user_bag(histories.features).lengths.numpy() > 0) & present.to_series().to_numpy()

    def _user_bag(self, features: pl.DataFrame) -> Bag:
        """Codes of users' columns. Those of one user are cached by their values: to read texts takes milliseconds."""
        if len(features) != 1:
            return Bag.of(self._user_vocabulary().encode(features))
        cache: dict[str, Bag] | None = None
        if (held := vars(self).get("_user_bags")) is not None and held[0] is self.user_words_:
            cache = held[1]
        if cache is None:
            cache = {}
            vars(self)["_user_bags"] = (self.user_words_, cache)
        key = repr((features.columns, features.row(0)))
        bag = cache.get(key)
        if bag is None:
            bag = Bag.of(self._user_vocabulary().encode(features))
            if len(cache) >= MAX_CACHED_USERS:
                cache.clear()
            cache[key] = bag
        return bag

    def _prepare(self, data: Dataset, run: Run) -> None:
        had = data.popularity() > 0
        items = Vocabulary.learn(data.items.drop("id"), self.columns, had, self.min_count, self.bins)
        learned = data.group.sum(data.histories.positives) > 0
        users = Vocabulary.learn(data.users.drop("id"), self.user_columns, learned, self.min_count, self.bins)
        self.had_, self.features_ = had, items.encode(data.items)  # type: ignore[misc]
        self.columns_, self.words_, self.rarity_ = items.columns, items.words, items.rarity  # type: ignore[misc]
        self.user_columns_ = users.columns  # type: ignore[misc]
        self.user_words_, self.user_rarity_ = users.words, users.rarity  # type: ignore[misc]

    def _build(self, n_items: int) -> Towers:
        return Towers(Bag.of(self.features_), torch.from_numpy(np.array(self.had_)), len(self.user_rarity_), self)

    def _batches(self, data: Dataset, run: Run) -> TrainingSequences:
        histories = positive(data.histories)
        network: Towers = self._network  # type: ignore[assignment]
        network.learn_popularity(data.popularity())
        if len(self.user_rarity_):
            network.visitors = Bag.of(self._user_vocabulary().encode(data.users))
        return TrainingSequences(histories, self.max_len, self.batch_size, run.seed, group=data.group)

    def _held_out(self, queries: Histories, relevant: Histories, data: Dataset) -> Iterable[Sequences]:
        return held_out_sequences(queries, relevant, self.max_len)

    def _vocabulary(self) -> Vocabulary:
        return Vocabulary(self.columns_, self.words_, self.rarity_)

    def _user_vocabulary(self) -> Vocabulary:
        return Vocabulary(self.user_columns_, self.user_words_, self.user_rarity_)


class Towers(nn.Module):
    """The network: x = residual(sum of w·code) + id for an item, residual(mean of x + users' codes) for a history.

    Parameters
    ----------
    features: codes of the n items.
    had: bool[n], whether an item has events; the id vector of one that has none counts for nothing.
    """

    had: Tensor
    log_share: Tensor
    cumulated: Tensor

    def __init__(self, features: Bag, has_events: Tensor, n_user_codes: int, settings: TwoTower) -> None:
        super().__init__()
        s, n = settings, len(has_events)
        self.features = features
        self.visitors: Bag | None = None  # columns of the training users
        self.words = _table(features.n_codes, s.factors, 1.0)
        self.item = Residual(s.factors, s.hidden) if s.hidden else nn.Identity()
        # Small at first, as ids add to the features; larger where there are no features.
        self.ids = _table(n, s.factors, 0.1 if features.n_codes else 1.0) if s.ids or not features.n_codes else None
        self.user_words = _table(n_user_codes, s.factors, 0.1)
        self.user = Residual(s.factors, s.hidden) if s.hidden else nn.Identity()
        self.dropout, self.id_dropout, self.history_dropout = Dropout(s.dropout), s.id_dropout, s.history_dropout
        self.keep, self.next = 0.5 ** (1 / s.half_life) if s.half_life else 1.0, s.history == "next"
        self.temperature, self.popularity, self.power = s.temperature, s.popularity, s.popularity_power
        self.negatives, self.hard = s.negatives, round(s.negatives * s.hard)
        self.pool = s.negatives * s.hard_pool if self.hard else s.negatives
        self.register_buffer("had", has_events, persistent=False)
        self.register_buffer("log_share", torch.zeros(n), persistent=False)
        self.register_buffer("cumulated", torch.linspace(0, 1, n + 1, dtype=torch.float64)[1:], persistent=False)

    def learn_popularity(self, counts: np.ndarray) -> None:
        """Draw negatives by counts ** power, never an item without events; counts int64[n]."""
        counts = np.maximum(counts, 0 if counts.any() else 1).astype(np.float64)
        mass = np.where(counts > 0, counts**self.power, 0.0)
        self.cumulated.copy_(torch.from_numpy(np.cumsum(mass / mass.sum())))
        self.log_share.copy_(torch.from_numpy(np.log(np.maximum(counts, 1) / counts.sum())))

    def forward(self, batch: Sequences, visitors: Bag | None = None) -> Tensor:
        """[b, d]: the vector of each history."""
        t = batch.items.shape[1]
        real = torch.arange(t, device=batch.items.device) < batch.lengths[:, None]
        weights = torch.where(real, self.keep ** batch.places.double(), 0.0).float()
        x = self.vectors(batch.items.flatten()).view(*batch.items.shape, -1)
        pooled = (weights[:, None] @ x).squeeze(1) / weights.sum(1, keepdim=True)
        return self.user_outputs(pooled, visitors)

    def item_vectors(self) -> Tensor:
        """[n, d]: what histories are scored against."""
        device = self.cumulated.device
        every = torch.arange(len(self.had), device=device).split(ITEMS_PER_BATCH)
        return torch.cat([self.scaled(self.vectors(rows)) for rows in every])

    def loss(self, batch: Sequences, draw: torch.Generator) -> tuple[Tensor, int]:
        """Sum of sampled softmax over the events that have another item beside them, and their number."""
        assert batch.targets is not None
        events = torch.cat([batch.items[:, :1], batch.targets], dim=1)  # [b, t], -1 where there is none
        weights = self.others(events)
        is_history = (events >= 0) & (weights.sum(dim=2) > 0)
        if batch.judged is not None:
            is_history &= nn.functional.pad(batch.judged, (1, 0))
        targets, pool = events[is_history], self.draw(draw, self.pool)
        # Each distinct item is encoded once per step; from here on items are positions in `distinct`.
        distinct, place = torch.cat([events.clamp(min=0).flatten(), pool]).unique(return_inverse=True)
        x = self.vectors(distinct)
        history, pool_at = place[: events.numel()].view(events.shape), place[events.numel() :]
        pooled = (weights @ x[history])[is_history] / weights.sum(dim=2)[is_history][:, None]
        visitors = None if self.visitors is None else self.visitors.take(batch.rows[is_history.nonzero()[:, 0]])
        states, table = self.user_outputs(pooled, visitors), self.scaled(x)
        negatives, log_q = self.hardest(states, table, pool_at, pool, draw)
        # Correction by (1 - popularity) of log p(item), which the scores then do not learn.
        off = -(1 - self.popularity) * self.log_share[distinct]
        own, shared = off[history[is_history]], log_q + off[negatives]
        return losses.sampled_softmax(states, table, history[is_history], negatives, own, shared), len(targets)

    def others(self, events: Tensor) -> Tensor:
        """float[b, t, t]: how much event j counts in the history that event i is found from; never the same item."""
        t = events.shape[1]
        place = torch.arange(t, device=events.device)
        apart = place[:, None] - place
        weights = self.keep ** (apart.abs() - 1).clamp(min=0).double()
        if self.next:
            weights = weights * (apart > 0)
        usable = (events[:, :, None] != events[:, None]) & (events >= 0)[:, None]
        return usable * weights.float()

    def draw(self, draw: torch.Generator, size: int) -> Tensor:
        """int64[size]: items drawn by popularity."""
        share = torch.rand(size, generator=draw, dtype=torch.float64).to(self.cumulated.device)
        return torch.searchsorted(self.cumulated, share * self.cumulated[-1], right=True).clamp_(max=len(self.had) - 1)

    def hardest(
        self, states: Tensor, table: Tensor, at: Tensor, pool: Tensor, draw: torch.Generator
    ) -> tuple[Tensor, Tensor]:
        """The negatives out of the pool, and logs of how often each was to be expected.

        Stratified sampling: the items with the best scores for some of the states are one stratum, taken whole; the
        others are sampled, with the correction q · |pool| · share drawn. The sum over the negatives then estimates the
        sum over all items.
        """
        before = torch.where(pool > 0, self.cumulated[(pool - 1).clamp(min=0)], 0.0)
        log_q = ((self.cumulated[pool] - before) * len(pool)).log().float()
        if not self.hard or not len(states):
            return at[: self.negatives], log_q[: self.negatives]
        with torch.no_grad():
            sampled = torch.randint(len(states), (MAX_SAMPLED_STATES,), generator=draw).to(at.device)
            best = (states[sampled] @ table[at].T).amax(dim=0)
            order = best.argsort(descending=True, stable=True)
            rest = order[self.hard :]
            easy = rest[torch.randperm(len(rest), generator=draw).to(at.device)[: self.negatives - self.hard]]
        log_q[rest] += float(np.log(max(1, len(easy)) / max(1, len(rest))))
        chosen = torch.cat([order[: self.hard], easy])
        return at[chosen], log_q[chosen]

    def vectors(self, items: Tensor) -> Tensor:
        """[len(items), d]: features and ids together, before scaling."""
        bag = self.features.take(items)
        x = self.feature_vectors(bag)
        if self.ids is None:
            return x
        counts = self.had[items]
        if self.training and self.features.n_codes:
            keep_mask = torch.rand(len(items), device=items.device) >= self.id_dropout
            counts = counts & (keep_mask | (bag.lengths == 0))  # an item without codes has nothing but its id
        return x + self.ids(items) * counts[:, None]

    def feature_vectors(self, bag: Bag) -> Tensor:
        """[len(bag), d]: item vectors from features alone."""
        return self.item(bag.sum(self.words, self.dropout))

    def scaled(self, x: Tensor) -> Tensor:
        """Item vectors as they enter the score: of length 1 where there is a temperature."""
        return nn.functional.normalize(x, dim=-1) if self.temperature else x

    def user_outputs(self, pooled: Tensor, visitors: Bag | None) -> Tensor:
        """[m, d]: vectors of histories, of length 1 / temperature where there is one."""
        if visitors is not None:
            user_vectors = visitors.sum(self.user_words, self.dropout)
            if self.training:  # a history may come without its user's columns, and columns without a history
                draw = torch.rand(len(user_vectors), 1, device=user_vectors.device)
                alone = (draw >= 1 - self.history_dropout) & (visitors.lengths > 0)[:, None]
                user_vectors = user_vectors * ((draw >= self.id_dropout) | alone)
                pooled = pooled * ~alone
            pooled = pooled + user_vectors
        state = self.user(pooled)
        return nn.functional.normalize(state, dim=-1) / self.temperature if self.temperature else state


class Residual(nn.Module):
    """x + perceptron(x); the identity before training, so that training starts from the similarity of features."""

    def __init__(self, d: int, hidden: int) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(d, hidden), nn.Linear(hidden, d)
        nn.init.normal_(self.up.weight, std=d**-0.5)
        nn.init.zeros_(self.down.weight)
        nn.init.zeros_(self.up.bias)
        nn.init.zeros_(self.down.bias)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.down(nn.functional.gelu(self.up(x), approximate="tanh"))


def _table(rows: int, d: int, length: float) -> nn.Embedding:
    """Vectors of about the given length."""
    table = nn.Embedding(rows, d, sparse=rows > SPARSE_ROWS)
    nn.init.normal_(table.weight, std=length * d**-0.5)
    return table


@dataclasses.dataclass(frozen=True)
class Bag:
    """Weighted codes of n rows: CSR as tensors.

    Parameters
    ----------
    codes: int64[m]; weights: float32[m]; offsets: int64[n + 1]; n_codes: how many codes there are.
    """

    codes: Tensor
    weights: Tensor
    offsets: Tensor
    n_codes: int

    @classmethod
    def of(cls, matrix: sparse.csr_matrix) -> Bag:
        codes, offsets = (torch.from_numpy(part.astype(np.int64)) for part in (matrix.indices, matrix.indptr))
        return cls(codes, torch.from_numpy(np.array(matrix.data)), offsets, matrix.shape[1])

    @property
    def lengths(self) -> Tensor:
        """int64[n]: codes of each row."""
        return self.offsets.diff()

    def take(self, rows: Tensor) -> Bag:
        """The given rows, on the device of `rows`."""
        host = rows.cpu()
        lengths = self.lengths[host]
        offsets = nn.functional.pad(lengths.cumsum(0), (1, 0))
        at = torch.repeat_interleave(self.offsets[host] - offsets[:-1], lengths) + torch.arange(int(offsets[-1]))
        codes, weights, offsets = (part.to(rows.device) for part in (self.codes[at], self.weights[at], offsets))
        return Bag(codes, weights, offsets, self.n_codes)

    def sum(self, table: nn.Embedding, dropout: Dropout) -> Tensor:
        """[n, d]: weighted sums of rows of the table; in training some codes are dropped."""
        if not len(self.codes):
            return table.weight.new_zeros(len(self.offsets) - 1, table.embedding_dim)
        return nn.functional.embedding_bag(
            self.codes, table.weight, self.offsets[:-1], mode="sum", sparse=table.sparse,
            per_sample_weights=dropout(self.weights).to(table.weight.dtype),
        )  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Vocabulary:
    """The vocabulary of columns: tokens as codes, weighted by rarity.

    A text gives its words, the parts between separators (a name of "A, B", a genre of "a|b", a series in brackets)
    and itself; those that describe too few rows fall away, so whether a column is a title, a list of
    names or a category need not be told. A number gives its bin.

    Parameters
    ----------
    columns: {"name", "edges"}; edges of the bins of numbers, None for a text.
    words: uint8[...], the codes' words, UTF-8, each after the number of its column, separated by zero bytes.
    rarity: float32[n_codes], log((1 + n) / (1 + rows it describes)) + 1.
    """

    columns: list[dict[str, Any]]
    words: np.ndarray
    rarity: np.ndarray

    @classmethod
    def learn(cls, frame: pl.DataFrame, columns: str, learned: np.ndarray, min_count: int, bins: int) -> Vocabulary:
        """Learn the tokens that occur in min_count rows and in at least one training row, `learned` (bool[n]).

        Raises ConfigError for a column that is not there.
        """
        trained = frame.filter(pl.Series(learned))
        chosen = [{"name": name, "edges": _edges(trained[name], bins)} for name in _chosen(frame, columns)]
        learned_rows = pl.DataFrame({"row": np.arange(len(frame), dtype=np.int64), "learned": learned})
        tokens = _tokens(frame, chosen).join(learned_rows, on="row", how="left").group_by("token")
        counts = tokens.agg(pl.len(), pl.col("learned").any())
        counts = counts.filter(pl.col("learned") & (pl.col("len") >= min_count)).sort("token")
        rarity = np.log((1 + len(frame)) / (1 + counts["len"].to_numpy())) + 1
        words = np.frombuffer("\0".join(counts["token"]).encode(), dtype=np.uint8)
        return cls(chosen, words, rarity.astype(np.float32))

    def encode(self, frame: pl.DataFrame) -> sparse.csr_matrix:
        """CSR float32[n, n_codes], rows of length 1; what was not learned is left out."""
        shape = (len(frame), len(self.rarity))
        if not len(self.rarity):
            return sparse.csr_matrix(shape, dtype=np.float32)
        words = bytes(self.words).decode().split("\0")
        coded = pl.DataFrame({"token": words, "code": np.arange(len(words), dtype=np.int64)})
        pairs = _tokens(frame, self.columns).join(coded, on="token").sort("row", "code")
        row, code = pairs["row"].to_numpy(), pairs["code"].to_numpy()
        matrix = sparse.csr_matrix((self.rarity[code], (row, code)), shape=shape, dtype=np.float32)
        length = np.sqrt(np.asarray(matrix.multiply(matrix).sum(axis=1)).ravel())
        matrix.data /= np.repeat(length, np.diff(matrix.indptr)).astype(np.float32)
        return matrix


def _chosen(frame: pl.DataFrame, columns: str) -> list[str]:
    """The named columns; if none, all columns of text, categories and lists, except those of URLs."""
    names = [name.strip() for name in columns.replace("|", ",").split(",") if name.strip()]
    for name in names:
        if name not in frame.columns:
            raise ConfigError(f"columns: there is no column {name!r}", remedy=suggest(name, frame.columns or ["none"]))
    if names:
        return names
    texts = [name for name, kind in frame.schema.items() if not _is_number(kind)]
    return [name for name in texts if not _addresses(frame[name])]


def _is_number(kind: Any) -> bool:
    return kind.is_numeric() or kind.is_temporal()


def _addresses(column: pl.Series) -> bool:
    """Whether most of a column are web addresses."""
    return column.dtype == pl.String and 2 * int(column.str.contains(r"^\w+://").sum()) > len(column)


def _edges(column: pl.Series, bins: int) -> list[float] | None:
    """Inner edges of bins that hold equally many of the values; None where the column holds no numbers."""
    if not _is_number(column.dtype):
        return None
    values = _numbers(column).drop_nulls().to_numpy()
    if not len(values):
        return []
    return np.unique(np.quantile(values, np.arange(1, bins) / bins)).tolist()


def _numbers(column: pl.Series) -> pl.Series:
    if column.dtype.is_temporal():
        column = column.to_physical()
    return column.cast(pl.Float64, strict=False).fill_nan(None)


def _tokens(frame: pl.DataFrame, columns: list[dict[str, Any]]) -> pl.DataFrame:
    """Frame `row`, `token`: the distinct tokens of each row."""
    parts = [pl.DataFrame(schema={"row": pl.Int64, "token": pl.String})]
    for number, column in enumerate(columns):
        if column["name"] not in frame.columns:
            continue
        values = frame[column["name"]]
        tokens = _binned(values, column["edges"]) if column["edges"] is not None else _value_tokens(values)
        parts.append(tokens.select("row", token=pl.lit(f"{number} ") + pl.col("token")))
    return pl.concat(parts).unique(maintain_order=True)


def _binned(values: pl.Series, edges: list[float]) -> pl.DataFrame:
    """The bin of each number; a number that is missing has a bin of its own."""
    numbers = _numbers(values)
    place = pl.Series(np.searchsorted(np.array(edges), numbers.fill_null(0.0).to_numpy(), side="right"))
    token = place.cast(pl.String).zip_with(numbers.is_not_null(), pl.Series(["missing"]))
    return pl.DataFrame({"row": np.arange(len(values), dtype=np.int64), "token": token})


def _value_tokens(values: pl.Series) -> pl.DataFrame:
    """Words, parts and the whole of each text; the entries of each list."""
    frame = pl.DataFrame({"row": np.arange(len(values), dtype=np.int64), "token": values})
    if isinstance(values.dtype, pl.List | pl.Array):
        frame = frame.explode("token")
    frame = frame.with_columns(pl.col("token").cast(pl.String).str.to_lowercase().str.replace_all("\0", " "))
    token = pl.col("token")
    parts = token.str.replace_all(r"[|,;:/()\[\]]+", "|").str.split("|")
    ways = (parts, token.str.extract_all(r"[\p{L}\p{N}#']+"))
    tokens = pl.concat([frame, *(frame.with_columns(token=way).explode("token") for way in ways)])
    return tokens.with_columns(token.str.strip_chars()).filter(token.str.len_bytes() > 0)
