"""FeatureBuilder: turns candidates into the feature rows of a ranker, in training and in serving.

A row has the point-in-time features of item, user and pair (`asof`), scores and ranks by the sources, and the columns
of item, user and context. Features have names, which explanations use.
"""

from __future__ import annotations

import dataclasses
import functools
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from scipy import sparse

from zhiyin.core.array_table import ArrayTable
from zhiyin.core.atomic_files import read_json
from zhiyin.core.atomic_folders import whole_folder
from zhiyin.core.durations import UNITS
from zhiyin.core.errors import ConfigError, DataError, suggest
from zhiyin.core.run import Run, log
from zhiyin.data.column_names import is_price
from zhiyin.data.dataset import Dataset
from zhiyin.data.histories import Histories
from zhiyin.features.column_encoders import Category, Number, Time, floats, moments_of
from zhiyin.features.feature_table import Features
from zhiyin.models.recommender import Recommender
from zhiyin.ranking import feature_kernels as kernels
from zhiyin.ranking.asof import AsOf
from zhiyin.ranking.examples import Candidates, Examples, bag_flags, flag_of_code, rows_of
from zhiyin.ranking.feature_kernels import UNKNOWN_MOMENT
from zhiyin.ranking.feature_writing import write_all_features
from zhiyin.ranking.training_requests import Labels, TrainingRequests, labels, training_requests

__all__ = ["FeatureBuilder", "Labels", "TrainingRequests", "labels", "training_requests"]

DAY = UNITS["d"]
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

    @property
    def n_numbers(self) -> int:
        """Numbers and ages of a row."""
        return self.numbers.shape[1] + self.moments.shape[1]


@dataclasses.dataclass(frozen=True)
class ColumnBlock:
    """Learned columns of items, users or contexts, and the prefix of their feature names."""

    prefix: str
    features: Features

    @property
    def clocks(self) -> list[Time]:
        """Time columns; their features are ages as of the request."""
        return [column for column in self.features.columns if isinstance(column, Time)]

    @functools.cached_property
    def unknown(self) -> EncodedColumns:
        """No row but the one for unknown."""
        return self.encode(pl.DataFrame())

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


@dataclasses.dataclass(frozen=True, eq=False)
class FeatureLayout:
    """Which features are rows of the array that `feature_kernels` fills.

    Parameters
    ----------
    table: for the kernels, at their slots.
    n_rows: number of rows; first the numbers, then, for trees, the codes and the flags of bags.
    n_numbers, n_codes: number of numbers and codes of an example.
    bag_codes: by name of a bag, the codes that have a flag.
    """

    table: ArrayTable
    n_rows: int
    n_numbers: int
    n_codes: int
    bag_codes: Mapping[str, np.ndarray]


@dataclasses.dataclass(frozen=True, eq=False)
class RequestColumns:
    """Encoded columns of user and context of n requests.

    Parameters
    ----------
    numbers: float32[n, a]: numbers, ages, and flags of the codes of bags.
    codes: int32[n, b].
    bags: as `EncodedColumns.bags`, of n rows.
    """

    numbers: np.ndarray
    codes: np.ndarray
    bags: dict[str, tuple[np.ndarray, np.ndarray, int]]


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
    constants: numbers by name that are the same for all requests when serving, such as the position; training sets
        them in its examples.
    """

    index: AsOf
    sources: tuple[str, ...]
    items: ColumnBlock | None
    users: ColumnBlock | None
    context: ColumnBlock | None
    item_rows: EncodedColumns | None
    borrowed: dict[str, tuple[str, str]] = dataclasses.field(default_factory=dict)
    notes: tuple[str, ...] = ()
    constants: dict[str, float] = dataclasses.field(default_factory=dict)

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
        rates: bool = False,
        constants: Mapping[str, float] | None = None,
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
        rates: add features of the user's rate of positive events by category; see `AsOf`.
        constants: see the class.
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
        index = AsOf.learn(data, neighbors=neighbors, rates=rates, like=None if like is None else like.index,
                           **extra)  # fmt: skip
        for note in notes:
            log.debug("features: %s", note)
        fixed = dict(constants or {}) if like is None else dict(like.constants)
        return cls(index, names, *blocks, item_rows, borrowed, tuple(notes), fixed)

    def __post_init__(self) -> None:
        block_names = {block.prefix: block.named() for block in self._blocks}
        source_names = [f"{source} {what}" for what in ("score", "share", "rank") for source in self.sources]
        if self.sources:
            source_names += ["reciprocal ranks", "sources"]
        self.number_names = (
            *self.index.names,
            *source_names,
            *(name for numbers, _, _ in block_names.values() for name in numbers),
            *self.constants,
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
        if not self.sources:  # it has no features of sources: whoever named an item makes no difference
            nothing = len(candidates.items), 0
            candidates = dataclasses.replace(
                candidates, sources=(), scores=np.zeros(nothing, np.float32), ranks=np.zeros(nothing, np.int32)
            )
        if candidates.sources != self.sources:
            given, learned = ", ".join(candidates.sources), ", ".join(self.sources)
            raise ConfigError(f"candidates of {given} are not of {learned}", remedy="the sources the builder was given")
        n = len(histories)
        if len(candidates) != n or (context is not None and len(context) != n):
            raise DataError("histories, candidates and contexts are not of the same requests", remedy="a row for each")
        moments, layout, run = self.moments(histories, index), self.layout, run or Run()
        columns = self.request_columns(histories, moments, context)
        out = np.empty((layout.n_rows, len(candidates.items)), dtype=np.float32)
        codes = np.empty((len(candidates.items), layout.n_codes), dtype=np.int32)
        words = layout.table.words, *index.words
        write_all_features(words, histories, moments, candidates, columns.numbers, columns.codes, run, index.n_sums,
                           out, codes)  # fmt: skip
        return self.examples(histories, candidates, out.T, codes, columns)

    def examples(
        self,
        histories: Histories,
        candidates: Candidates,
        numbers: np.ndarray,
        codes: np.ndarray,
        columns: RequestColumns,
    ) -> Examples:
        """Examples of features that were computed: float32[m, a], int32[m, b]."""
        bags = {}
        if self.item_rows is not None and self.item_rows.bags:
            rows = np.minimum(candidates.items, len(self.item_rows))
            bags = _bags_of(self.item_rows.bags, rows)
        if columns.bags:
            bags |= _bags_of(columns.bags, candidates.owners)
        return Examples(
            np.asarray(candidates.offsets, dtype=np.int64),
            candidates.items,
            numbers,
            self.number_names,
            codes,
            self.code_names,
            self.cards,
            histories,
            bags,
        )

    @functools.cached_property
    def no_examples(self) -> Examples:
        """Examples of no request, which have all columns."""
        nobody = Histories.of(np.zeros(1, np.int64), np.zeros(0, np.int32))
        nothing = np.zeros((0, len(self.sources)))
        nowhere = np.zeros(1, np.int64), np.zeros(0, np.int32)
        return self.build(
            nobody, Candidates(*nowhere, self.sources, nothing.astype(np.float32), nothing.astype(np.int32))
        )

    @functools.cached_property
    def layout(self) -> FeatureLayout:
        """Numbers alone; codes lie in an array of their own, bags are read from the rows of the items."""
        return self._layout(None)

    def layout_of_trees(self, bag_codes: Mapping[str, np.ndarray]) -> FeatureLayout:
        """Numbers, codes, and a flag for each of the given codes of each bag, ascending: `Trees.table`."""
        return self._layout(bag_codes)

    def _layout(self, bag_codes: Mapping[str, np.ndarray] | None) -> FeatureLayout:
        rows, of = self.item_rows, bag_codes or {}
        bags = [] if rows is None else [name for name in rows.bags if name in of]
        table = ArrayTable(kernels.FIRST_BAG + kernels.BAG_SLOTS * len(bags))
        table.put_int(kernels.N_SOURCES, len(self.sources))
        table.put_int(kernels.DESCRIBED, rows is not None)
        table.put_int(kernels.OF_TREES, bag_codes is not None)
        table.put_int(kernels.N_BAGS, len(bags))
        n_request_numbers = sum(block.unknown.n_numbers for block in self._request_blocks) + len(self.constants)
        table.put_int(kernels.N_REQUEST_NUMBERS, n_request_numbers)
        if rows is not None:
            table.put(kernels.ITEM_NUMBERS, rows.numbers, np.float32)
            table.put(kernels.ITEM_MOMENTS, rows.moments, np.int64)
            table.put(kernels.ITEM_CODES, rows.codes, np.int32)
            for number, name in enumerate(bags):
                slot, (offsets, codes, size) = kernels.FIRST_BAG + kernels.BAG_SLOTS * number, rows.bags[name]
                table.put(slot + kernels.OFFSETS, offsets, np.int64)
                table.put(slot + kernels.CODES, codes, np.int32)
                table.put(slot + kernels.FLAGS, flag_of_code(of[name], size), np.int32)
                table.put_int(slot + kernels.N_FLAGS, len(of[name]))
        n_numbers, n_codes = len(self.number_names), len(self.code_names)
        n_rows = n_numbers if bag_codes is None else n_numbers + n_codes + sum(len(codes) for codes in of.values())
        return FeatureLayout(table, n_rows, n_numbers, n_codes, of)

    @property
    def _request_blocks(self) -> list[ColumnBlock]:
        return [block for block in (self.users, self.context) if block is not None]

    def request_columns(
        self,
        histories: Histories,
        moments: np.ndarray,
        context: pl.DataFrame | None = None,
        bag_codes: Mapping[str, np.ndarray] | None = None,
    ) -> RequestColumns:
        """Columns of the users (`histories.features`) and of the context, of n requests; unknown ones where None.

        moments: int64[n]. bag_codes: as in `layout_of_trees`.
        """
        n, of = len(histories), bag_codes or {}
        fixed = np.tile(np.array(list(self.constants.values()), np.float32), (n, 1))
        if not self._request_blocks:
            return RequestColumns(fixed, np.zeros((n, 0), np.int32), {})
        numbers, flags, codes, bags = [], [], [], {}
        for block, frame in ((self.users, histories.features), (self.context, context)):
            if block is None:
                continue
            rows = block.unknown if frame is None else block.encode(frame)
            at = np.zeros(n, np.int64) if frame is None else np.arange(n)
            numbers += [rows.numbers[at], _ages(rows.moments[at], moments)]
            codes.append(rows.codes[at])
            for name, bag in _bags_of(rows.bags, at).items():
                bags[name] = bag
                if name in of:
                    flags.append(bag_flags(bag, of[name]))
        return RequestColumns(np.concatenate([*numbers, fixed, *flags], axis=1), np.concatenate(codes, axis=1), bags)

    @staticmethod
    def moments(histories: Histories, index: AsOf) -> np.ndarray:
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
        return state | {"sources": self.sources, "borrowed": self.borrowed, "notes": self.notes,
                        "constants": self.constants}  # fmt: skip

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
            dict(state.get("constants", {})),
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


def _bags_of(
    bags: Mapping[str, tuple[np.ndarray, np.ndarray, int]], rows: np.ndarray
) -> dict[str, tuple[np.ndarray, np.ndarray, int]]:
    """The bags of some rows."""
    of_rows = {}
    for name, (offsets, codes, size) in bags.items():
        begins, picked = rows_of(offsets, rows)
        of_rows[name] = (begins, codes[picked], size)
    return of_rows


def _ages(moments: np.ndarray, now: np.ndarray) -> np.ndarray:
    """float32[n, c]: sign(d) · log(1 + |d|) of the days d from each moment to now, int64[n]; NaN where unknown."""
    is_known = moments != UNKNOWN_MOMENT
    days = (now[:, None] - np.where(is_known, moments, 0)) / DAY
    return np.where(is_known, np.sign(days) * np.log1p(np.abs(days)), np.nan).astype(np.float32)
