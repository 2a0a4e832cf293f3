"""FeatureBuilder: turns candidates into the feature rows of a ranker, in training and in serving.

A row has the point-in-time features of item, user and pair (`asof`), scores and ranks by the sources, and the columns
of item, user and context. Features have names, which explanations use.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from scipy import sparse

from zhiyin.core.atomic_files import read_json
from zhiyin.core.atomic_folders import whole_folder
from zhiyin.core.durations import UNITS
from zhiyin.core.errors import ConfigError, DataError, suggest
from zhiyin.core.parallel import kernel
from zhiyin.core.run import Run, log
from zhiyin.data.column_names import is_price
from zhiyin.data.dataset import Dataset
from zhiyin.data.histories import Histories
from zhiyin.features.column_encoders import Category, Number, Time, floats, moments_of
from zhiyin.features.feature_table import Features
from zhiyin.models.recommender import Recommender
from zhiyin.ranking.asof import AsOf
from zhiyin.ranking.examples import Candidates, Examples, rows_of
from zhiyin.ranking.retrieval import normalize_scores, reciprocal_rank
from zhiyin.ranking.training_requests import Labels, TrainingRequests, labels, training_requests

__all__ = ["FeatureBuilder", "Labels", "TrainingRequests", "labels", "training_requests"]

DAY = UNITS["d"]
UNKNOWN_MOMENT = np.iinfo(np.int64).min  # a moment that is not known
# Number of category columns that get features of their shares in the history.
MAX_CATEGORY_COLUMNS = 3
# Vector columns larger than this are left out of "content similarity".
MAX_CONTENT_BYTES = 1 << 29
_TABLES = ("similarities_", "rules_")


@dataclasses.dataclass
class EncodedColumns:
    """Encoded columns of n items, users or contexts; the last row, n, stands for an unknown one.

    Parameters
    ----------
    numbers: float32[n + 1, a].
    codes: int32[n + 1, b].
    bags: by name (offsets int64[n + 2], codes int32, number of codes).
    moments: int64[n + 1, c], microseconds UTC, of the columns whose age is a feature; UNKNOWN_MOMENT where missing.
    """

    numbers: np.ndarray
    codes: np.ndarray
    bags: dict[str, tuple[np.ndarray, np.ndarray, int]]
    moments: np.ndarray

    def __len__(self) -> int:
        return len(self.numbers) - 1


@dataclasses.dataclass(frozen=True)
class ColumnBlock:
    """Learned columns of items, users or contexts, and the prefix of their feature names."""

    prefix: str
    features: Features

    @property
    def clocks(self) -> list[Time]:
        """Time columns; their features are ages as of the request."""
        return [column for column in self.features.columns if isinstance(column, Time)]

    def encode(self, frame: pl.DataFrame) -> EncodedColumns:
        """The encoded rows of a frame, and one row for unknown."""
        nothing = {column.name: pl.Series([None], dtype=pl.Null) for column in self.features.columns}
        used = frame.select(name for name in self.features.names if name in frame.columns)
        table, unknown_row = self.features.encode(used), self.features.encode(pl.DataFrame(nothing))
        number_columns, code_columns = self._columns(table.number_columns), self._columns(table.code_columns)
        if not nothing:
            unknown_row = table
        moments = np.full((len(frame) + 1, len(self.clocks)), UNKNOWN_MOMENT, dtype=np.int64)
        for at, clock in enumerate(self.clocks):
            if clock.name in frame.columns:
                moments_of_rows = moments_of(frame[clock.name], clock.unit, clock.examples)
                moments[: len(frame), at] = moments_of_rows.fill_null(UNKNOWN_MOMENT).to_numpy()
        bags = {
            f"{self.prefix} {name}": (np.append(offsets, offsets[-1]), codes, table.sizes[name])
            for name, (offsets, codes) in table.bags.items()
        }
        return EncodedColumns(
            np.concatenate([table.numbers[:, number_columns], unknown_row.numbers[:1, number_columns]])
            if nothing
            else _blank(len(frame)),
            np.concatenate([table.codes[:, code_columns], unknown_row.codes[:1, code_columns]])
            if nothing
            else _blank(len(frame)).astype(np.int32),
            bags,
            moments,
        )

    def _columns(self, owners: tuple[str, ...]) -> list[int]:
        """Positions of the columns that do not come from time columns, whose ages would be as of now."""
        clocks = {clock.name for clock in self.clocks}
        return [at for at, owner in enumerate(owners) if owner not in clocks]

    def named(self) -> tuple[tuple[str, ...], tuple[str, ...], tuple[int, ...]]:
        """Names of the numbers, names of the codes, and the number of codes of each."""
        table = self.features.encode(pl.DataFrame({name: pl.Series([], dtype=pl.Null) for name in self.features.names}))
        number_columns, code_columns = self._columns(table.number_columns), self._columns(table.code_columns)
        numbers = [f"{self.prefix} {table.number_names[at]}" for at in number_columns]
        numbers += [f"{self.prefix} {clock.name} age days" for clock in self.clocks]
        return (
            tuple(numbers),
            tuple(f"{self.prefix} {table.code_names[at]}" for at in code_columns),
            tuple(table.cards[at] for at in code_columns),
        )


def _blank(n: int) -> np.ndarray:
    return np.zeros((n + 1, 0), dtype=np.float32)


@dataclasses.dataclass
class FeatureBuilder:
    """Builds examples from candidates; see the module.

    Parameters
    ----------
    index: the index of point-in-time features.
    sources: names of the retrievers whose scores are features.
    items, users, context: learned columns; None where there are none.
    item_rows: encoded columns of all items.
    borrowed: source and attribute of each neighbour table that belongs to a source.
    notes: decisions on columns, as sentences.
    """

    index: AsOf
    sources: tuple[str, ...]
    items: ColumnBlock | None
    users: ColumnBlock | None
    context: ColumnBlock | None
    item_rows: EncodedColumns | None
    borrowed: dict[str, tuple[str, str]] = dataclasses.field(default_factory=dict)
    notes: tuple[str, ...] = ()

    @classmethod
    def learn(
        cls,
        data: Dataset,
        sources: Mapping[str, Recommender] | Sequence[str] = (),
        *,
        items: Mapping[str, str] | None = None,
        users: Mapping[str, str] | None = None,
        context: pl.DataFrame | None = None,
        context_kinds: Mapping[str, str] | None = None,
        price: str | None = None,
        neighbors: Mapping[str, sparse.csr_matrix] | None = None,
        windows: Sequence[str] | None = None,
        like: FeatureBuilder | None = None,
        run: Run | None = None,
    ) -> FeatureBuilder:
        """Learn from a log. Training requests should come after it: otherwise sources and neighbours leak the labels.

        Parameters
        ----------
        sources: fitted retrievers by name, in the order of the candidates; or their names alone. The item-to-item
            tables among them (ItemKNN, Transitions) are used for the features of similar items.
        items, users: kinds of columns, as in `Features.learn`; "skip" leaves one out.
        context: example contexts to learn columns from, one row per request.
        price: item column with the price; guessed by name where None.
        neighbors: item-to-item tables to use instead of those of the sources; see `AsOf`.
        windows: durations over which events are counted; 1d, 7d and 30d where None.
        like: a builder of the same log up to another moment, whose columns and codes this one is to have, so that
            examples of both can be joined.
        """
        given = dict(sources) if isinstance(sources, Mapping) else {}
        names = tuple(sources)
        if like is not None:
            blocks = (like.items, like.users, like.context)
        else:
            # Columns are learned from the whole catalogue, which has no labels, so that builders of several parts of
            # a log agree.
            blocks = (
                _learn_block("item", data.items, items, run),
                _learn_block("user", data.users, users, run),
                _learn_block("context", context, context_kinds, run),
            )
        borrowed: dict[str, tuple[str, str]] = {}
        if neighbors is None:
            borrowed = {name: (name, part) for name, model in given.items() for part in _TABLES if hasattr(model, part)}
            neighbors = {name: getattr(given[source], part) for name, (source, part) in borrowed.items()}
        item_rows = None
        extra: dict[str, Any] = {}
        notes: list[str] = []
        if blocks[0] is not None:
            item_rows = blocks[0].encode(data.items)
            extra, notes = _cross_inputs(data, blocks[0].features, price)
            notes = [*blocks[0].features.notes, *notes]
        elif price is not None:
            raise ConfigError(f"there is no price {price!r}: the items have no columns", remedy="leave it out")
        if windows is not None:
            extra["windows"] = windows
        elif like is not None and like.index.windows:
            extra["windows"] = like.index.windows
        if like is not None:
            extra["content"] = _like_content(extra.get("content"), like.index.content, data.n_items)
        index = AsOf.learn(data, neighbors=neighbors, like=None if like is None else like.index, **extra)
        for note in notes:
            log.debug("features: %s", note)
        return cls(index, names, *blocks, item_rows, borrowed, tuple(notes))

    def __post_init__(self) -> None:
        block_names = {block.prefix: block.named() for block in self._blocks}
        source_names = [f"{source} {what}" for what in ("score", "share", "rank") for source in self.sources]
        if self.sources:
            source_names += ["reciprocal ranks", "sources"]
        self.number_names = (
            *self.index.names,
            *source_names,
            *(name for numbers, _, _ in block_names.values() for name in numbers),
        )
        self.code_names = tuple(name for _, codes, _ in block_names.values() for name in codes)
        self.cards = tuple(card for _, _, cards in block_names.values() for card in cards)
        if len(set(self.number_names)) < len(self.number_names):
            duplicate = next(name for name in self.number_names if self.number_names.count(name) > 1)
            raise ConfigError(f"two features have the name {duplicate!r}", remedy="rename a source or a column")

    @property
    def _blocks(self) -> list[ColumnBlock]:
        return [block for block in (self.items, self.users, self.context) if block is not None]

    # -- examples ---------------------------------------------------------------------------------------------------

    def build(
        self,
        histories: Histories,
        candidates: Candidates,
        context: pl.DataFrame | None = None,
        run: Run | None = None,
        index: AsOf | None = None,
    ) -> Examples:
        """Feature rows for the candidates of n requests.

        Parameters
        ----------
        histories: of the n users, as of their moments `now`; where the last event is at `now`, the request comes just
            after it. `histories.features` has the user columns; unknown where None.
        context: one row per request; unknown where None.
        index: a branch of `index` with more events; None for `index`.

        Raises ConfigError for candidates of other sources, DataError where the numbers of requests differ.
        """
        index = self.index if index is None else index
        if candidates.sources != self.sources:
            given, learned = ", ".join(candidates.sources), ", ".join(self.sources)
            raise ConfigError(f"candidates of {given} are not of {learned}", remedy="the sources the builder was given")
        n = len(histories)
        if len(candidates) != n or (context is not None and len(context) != n):
            raise DataError("histories, candidates and contexts are not of the same requests", remedy="a row for each")
        moments = self._moments(histories, index)
        owners = candidates.owners
        numbers = [index.numbers(histories, candidates, run, moments), *self._source_features(candidates)]
        codes, bags = [], {}
        parts: list[tuple[ColumnBlock, EncodedColumns, np.ndarray]] = []
        if self.items is not None and self.item_rows is not None:
            in_catalogue = candidates.items < len(self.item_rows)
            parts.append((self.items, self.item_rows, np.where(in_catalogue, candidates.items, len(self.item_rows))))
        for block, frame in ((self.users, histories.features), (self.context, context)):
            if block is not None:
                rows = block.encode(frame if frame is not None else pl.DataFrame())
                parts.append((block, rows, owners if frame is not None else np.zeros(len(owners), np.int64)))
        for _, rows, at in parts:
            numbers.append(rows.numbers[at])
            if rows.moments.shape[1]:
                numbers.append(_ages(rows.moments[at], moments[owners]))
            codes.append(rows.codes[at])
            for name, (offsets, words, size) in rows.bags.items():
                begins, picked = rows_of(offsets, at)
                bags[name] = (begins, words[picked], size)
        m = len(owners)
        return Examples(
            np.asarray(candidates.offsets, dtype=np.int64),
            candidates.items,
            np.concatenate(numbers, axis=1),
            self.number_names,
            np.concatenate(codes, axis=1) if codes else np.zeros((m, 0), np.int32),
            self.code_names,
            self.cards,
            histories,
            bags,
        )

    @staticmethod
    def _moments(histories: Histories, index: AsOf) -> np.ndarray:
        """int64[n]; a request at the time of the last event of its history comes after that event."""
        moments = index.moments(histories)
        if len(histories) == 1:
            if len(histories.times) and histories.times[-1] == moments[0]:
                moments[0] += 1
            return moments
        filled = np.flatnonzero(histories.lengths > 0)
        newest = histories.times[histories.offsets[filled + 1] - 1]
        moments[filled] += newest == moments[filled]
        return moments

    def _source_features(self, candidates: Candidates) -> list[np.ndarray]:
        """Features by source: raw score, score normalized within the request, rank from 1; and their fusion."""
        if not self.sources:
            return []
        out = np.empty((len(candidates.items), 2 * len(self.sources) + 2), dtype=np.float32)
        shares = normalize_scores(candidates)
        _source_kernel(shares, candidates.ranks, out)
        return [candidates.scores, out]

    # -- at rest ----------------------------------------------------------------------------------------------------

    def state(self) -> dict[str, Any]:
        """Learned state as a flat dictionary of JSON values and arrays, without the tables that belong to sources."""
        index = self.index.state()
        if self.borrowed:
            index["tables"] = [table for table in index["tables"] if table[0] != "neighbors"]
            index = {name: value for name, value in index.items() if not name.startswith("neighbors.")}
        state: dict[str, Any] = {f"index.{name}": value for name, value in index.items()}
        for block in self._blocks:
            state |= {f"{block.prefix}.{name}": value for name, value in block.features.state().items()}
        if self.item_rows is not None:
            rows = self.item_rows
            state |= {f"rows.{name}": getattr(rows, name) for name in ("numbers", "codes", "moments")}
            state["rows.bags"] = [(name, size) for name, (_, _, size) in rows.bags.items()]
            for at, (offsets, words, _) in enumerate(rows.bags.values()):
                state |= {f"rows.bag.{at}.offsets": offsets, f"rows.bag.{at}.words": words}
        return state | {"sources": self.sources, "borrowed": self.borrowed, "notes": self.notes}

    @classmethod
    def from_state(cls, state: Mapping[str, Any], sources: Mapping[str, Recommender] | None = None) -> FeatureBuilder:
        """What `state` came from. `sources`: the retrievers whose tables of neighbours are used."""

        def part(prefix: str) -> dict[str, Any]:
            return {name[len(prefix) + 1 :]: value for name, value in state.items() if name.startswith(f"{prefix}.")}

        index = AsOf.from_state(part("index"))
        borrowed = {name: (source, what) for name, (source, what) in state["borrowed"].items()}
        if borrowed:
            for source, _ in borrowed.values():
                if source not in (sources or {}):
                    raise ConfigError(
                        f"source {source!r} is missing", remedy=suggest(source, list(sources or ["none"]))
                    )
            tables = {name: getattr((sources or {})[source], what) for name, (source, what) in borrowed.items()}
            index = dataclasses.replace(index, neighbors=tables)
        blocks = {}
        for prefix in ("item", "user", "context"):
            learned = part(prefix)
            blocks[prefix] = ColumnBlock(prefix, Features.from_state(learned)) if learned else None
        rows = None
        if "rows.numbers" in state:
            bags = {
                name: (state[f"rows.bag.{at}.offsets"], state[f"rows.bag.{at}.words"], size)
                for at, (name, size) in enumerate(state["rows.bags"])
            }
            rows = EncodedColumns(state["rows.numbers"], state["rows.codes"], bags, state["rows.moments"])
        return cls(
            index,
            tuple(state["sources"]),
            blocks["item"],
            blocks["user"],
            blocks["context"],
            rows,
            borrowed,
            tuple(state["notes"]),
        )

    def save(self, folder: Any) -> None:
        """Write to a folder: arrays, and JSON for the rest. An old one is replaced whole."""
        plain: dict[str, Any] = {}
        arrays: list[str] = []
        with whole_folder(Path(folder)) as draft:
            for name, value in self.state().items():
                if isinstance(value, np.ndarray):
                    np.save(draft / f"{len(arrays)}.npy", value, allow_pickle=False)
                    arrays.append(name)
                else:
                    plain[name] = value
            (draft / "features.json").write_text(json.dumps({"values": plain, "arrays": arrays}, indent=1) + "\n")

    @classmethod
    def load(
        cls, folder: Any, sources: Mapping[str, Recommender] | None = None, *, mmap: bool = True
    ) -> FeatureBuilder:
        """Read what `save` wrote. Raises DataError where it is missing or damaged."""
        place = Path(folder)
        try:
            manifest = read_json(place / "features.json", "train and save again", names=("values", "arrays"))
            state = dict(manifest["values"])
            for number, name in enumerate(manifest["arrays"]):
                array = np.load(place / f"{number}.npy", mmap_mode="r" if mmap else None, allow_pickle=False)
                state[name] = array.view(np.ndarray)
            return cls.from_state(state, sources)
        except (OSError, EOFError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise DataError(
                f"the features are missing or damaged ({error})", file=place, remedy="train and save again"
            ) from None


def _learn_block(
    prefix: str, frame: pl.DataFrame | None, kinds: Mapping[str, str] | None, run: Run | None
) -> ColumnBlock | None:
    """The learned columns of a frame; None where no column is usable."""
    if frame is None or not set(frame.columns) - {"id"}:
        if kinds:
            raise ConfigError(f"there is no {prefix} column {next(iter(kinds))!r}", remedy="leave it out")
        return None
    features = Features.learn(frame, kinds, None, run)
    return ColumnBlock(prefix, features) if features.columns else None


def _cross_inputs(data: Dataset, features: Features, price: str | None) -> tuple[dict[str, Any], list[str]]:
    """Arguments of `AsOf.learn` that come from item columns, and notes on what was guessed."""
    extra: dict[str, Any] = {}
    notes = []
    table = features.encode(data.items)
    kinds = {column.name: column for column in features.columns}
    shares: dict[str, sparse.csr_matrix] = {}
    n = data.n_items
    for name, (offsets, codes) in table.bags.items():
        shares[name] = sparse.csr_matrix((np.ones(len(codes), np.float32), codes, offsets), (n, table.sizes[name]))
    for at, name in enumerate(table.code_columns):
        if isinstance(kinds[name], Category):
            present = np.flatnonzero(table.codes[:, at] > 0)
            of = (np.ones(len(present), np.float32), (present, table.codes[present, at]))
            shares[name] = sparse.csr_matrix(of, (n, table.cards[at]))
    extra["categories"] = dict(list(shares.items())[:MAX_CATEGORY_COLUMNS])
    if price is None:
        guesses = [c.name for c in features.columns if isinstance(c, Number) and is_price(c.name)]
        price = guesses[0] if guesses else None
        if price is not None:
            notes.append(f"{price}: taken as the price, by its name")
    elif price not in data.items.columns:
        raise ConfigError(f"there is no column {price!r}", remedy=suggest(price, data.items.columns))
    if price is not None:
        has_column = price in data.items.columns  # the column of a builder that this one is like may be gone
        extra["prices"] = floats(data.items[price]).astype(np.float32) if has_column else np.full(n, np.nan, np.float32)
    weights = dict.fromkeys(table.number_columns, 0.0)
    for name, vectors in table.vectors.items():
        if vectors.size * 8 > MAX_CONTENT_BYTES:
            weights[name] = 0.0
            notes.append(f"{name}: too large for content similarity")
    content = table.matrix(weights)
    if content.nnz:
        extra["content"] = content
    return extra, notes


def _like_content(
    content: sparse.csr_matrix | None, model: sparse.csr_matrix | None, n_items: int
) -> sparse.csr_matrix | None:
    """Content vectors for an index like another: None where that has none, empty where this catalogue has none."""
    if model is None:
        return None
    return sparse.csr_matrix((n_items, model.shape[1]), dtype=np.float32) if content is None else content


@kernel
def _source_kernel(shares, ranks, out):
    """Shares, ranks from 1, the sum of reciprocal ranks, and the number of sources."""
    n = shares.shape[1]
    for row in range(len(out)):
        fused, named = 0.0, 0
        for source in range(n):
            rank = ranks[row, source]
            out[row, source] = shares[row, source]
            out[row, n + source] = rank + 1 if rank >= 0 else np.nan
            if rank >= 0:
                fused += reciprocal_rank(rank)
                named += 1
        out[row, 2 * n], out[row, 2 * n + 1] = fused, named


def _ages(moments: np.ndarray, now: np.ndarray) -> np.ndarray:
    """float32[m, c]: sign(d) · log(1 + |d|) of the days d from each moment to now; NaN where unknown."""
    is_known = moments != UNKNOWN_MOMENT
    days = (now[:, None] - np.where(is_known, moments, 0)) / DAY
    return np.where(is_known, np.sign(days) * np.log1p(np.abs(days)), np.nan).astype(np.float32)
