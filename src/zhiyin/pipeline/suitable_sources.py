"""Which sources `train --budget` tries on a log, each under a condition, and why the others are not tried.

They are tried in this order. Popularity is the floor and is never left out.
"""

from __future__ import annotations

import dataclasses
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import polars as pl

from zhiyin.data.dataset import Dataset
from zhiyin.features.column_encoders import words_of
from zhiyin.features.feature_inference import SKIP, guess
from zhiyin.features.images import Images
from zhiyin.pipeline.time_budget import spelled

# Above this many items EASE needs minutes and gigabytes.
EASE_ITEMS = 12_000
# A network over sequences is a source from this number of events and this time budget on.
DEEP_EVENTS, DEEP_SECONDS = 50_000, 900.0
# Networks over words, pictures and users' columns: to load torch alone takes seconds.
NETWORK_SECONDS = 60.0
# Items with events from which on a map from columns, words or pictures to vectors has something to learn from.
MIN_MAPPED_ITEMS, MIN_NETWORK_ITEMS = 30, 100
# Words of a text, on average, from which on their order and sense are worth a network.
MIN_TEXT_WORDS = 3.0
# Share of the items with events that must have a picture that can be read, of those looked at.
MIN_PICTURES, MAX_PICTURES_LOOKED_AT = 0.3, 200
# Users with columns, and with events, from which on a network learns something of the columns.
MIN_DESCRIBED_USERS = 100
# Users with both a link and an event, from which on links are tried.
MIN_LINKED_USERS = 20


@dataclasses.dataclass(frozen=True)
class SuitableSource:
    """A source to try, or one that is not tried.

    Parameters
    ----------
    specification: as `models.registry.parse` takes it.
    reason: why it suits the data.
    tuned: whether its settings are searched.
    growth: what the time of its fit grows with: "events" and "known items" (those with events) in proportion, "items"
        with their cube.
    why_not: why it is not tried; empty where it is.
    """

    specification: str
    reason: str
    tuned: bool = True
    growth: str = "events"
    why_not: str = ""


def suitable_sources(data: Dataset, budget: float) -> list[SuitableSource]:
    """Sources for the data, popularity first. budget: seconds."""
    sources = [SuitableSource("popular", "for strangers, and as a floor", tuned=False)]
    if data.has_times:
        span = (data.window[1] - data.window[0]) / 86_400e6
        sources += [SuitableSource(f"popular:half_life={days}d", "the log has times", tuned=False)
                  for days in (1, 7, 30) if span > 2 * days]  # fmt: skip
    sources.append(SuitableSource("itemknn", "neighbours explain themselves"))
    sources.append(SuitableSource("als", "factors find what neighbours miss"))
    few = f"{data.n_items:,} items are few enough for a full item-item model"
    many = f"{data.n_items:,} items are more than {EASE_ITEMS:,}" if data.n_items > EASE_ITEMS else ""
    no_times = "" if data.has_times else "the log has no times"
    sources.append(SuitableSource("transitions", "the order of events is known", why_not=no_times))
    had = data.popularity() > 0
    known = [name for name in data.users.columns if name != "id"]
    segments = f"users are described: {', '.join(known)[:80]}"
    unknown = "" if known else "users have no columns"
    sources.append(SuitableSource("segmentpopular", segments, tuned=False, why_not=unknown))
    sources += [*_by_columns(data, had), SuitableSource("ease", few, growth="items", why_not=many)]
    sources += [_friends(data), _by_texts(data, had, budget), _by_pictures(data, had, budget)]
    sources += [_two_towers(data, budget), _sasrec(data, budget)]
    return sources


def _kinds(data: Dataset, had: np.ndarray) -> dict[str, str]:
    """The kind of each item column, such as "text", by the items with events."""
    frame = data.items.drop("id")
    return {name: guess(frame[name].filter(pl.Series(had)))[0].partition(":")[0] for name in frame.columns}


def _by_columns(data: Dataset, had: np.ndarray) -> list[SuitableSource]:
    """Content, and maps from columns and vectors to the vectors of a collaborative model."""
    kinds = _kinds(data, had)
    described = [name for name, kind in kinds.items() if kind in ("text", "category", "tags")]
    vectors = [name for name, kind in kinds.items() if kind == "vector"]
    no_columns = "" if described else "items have no text, category or tags"
    few = "" if had.sum() >= MIN_MAPPED_ITEMS else f"{had.sum()} items with events are too few to learn a map from"
    sources = [
        SuitableSource("content", f"items are described: {', '.join(described)[:80]}", why_not=no_columns),
        SuitableSource(
            "hybrid",
            "new items have vectors by their columns",
            why_not=no_columns or few or _not_collaborative(data),
        ),
    ]
    if vectors:
        columns = ",".join([*described, *vectors])
        sources.append(
            SuitableSource(
                f"hybrid:columns=[{columns}]",
                f"items bring vectors: {', '.join(vectors)[:80]}",
                why_not=few or _no_specification(columns) or _not_collaborative(data),
            )
        )
    return sources


def _by_texts(data: Dataset, had: np.ndarray, budget: float) -> SuitableSource:
    """A network from words to the vectors of a collaborative model."""
    frame = data.items.drop("id")
    kinds = _kinds(data, had)
    texts = [name for name, kind in kinds.items() if kind == "text" and _words(frame[name]) >= MIN_TEXT_WORDS]
    no_text = "" if texts else f"no column of items is a text of {MIN_TEXT_WORDS:.0f} words and more"
    return SuitableSource(
        "hybrid:map=text_cnn",
        f"items have texts: {', '.join(texts)[:80]}",
        tuned=False,
        growth="known items",
        why_not=no_text or _no_network(had, budget) or _not_collaborative(data),
    )


def _by_pictures(data: Dataset, had: np.ndarray, budget: float) -> SuitableSource:
    """A map from pictures, in the folder that the data names."""
    if data.images is None:
        return SuitableSource(
            "hybrid:map=image_cnn", "", why_not='no pictures are named: images = "folder" under [data]'
        )
    folder, column = data.images.folder, data.images.column
    text = f"hybrid:map=image_cnn,images=[{folder}]" + (f",image=[{column}]" if column else "")
    why_not = _no_specification(f"{folder}{column or ''}") or _no_network(had, budget) or _not_collaborative(data)
    if not why_not and not find_spec("PIL"):
        why_not = 'pillow is not installed: pip install "zhiyin[images]"'
    if not why_not:
        some = np.flatnonzero(had)[:: max(1, int(had.sum()) // MAX_PICTURES_LOOKED_AT)]
        frame = data.items[some]
        pictures = Images(frame[column], Path(folder)) if column else Images.of_folder(folder, frame["id"])
        _, readable, reasons = pictures.read(np.arange(len(some)))
        if readable.mean() < MIN_PICTURES:
            why_not = f"of {len(some)} items {', '.join(reasons)}"
    return SuitableSource(text, "items have pictures", tuned=False, growth="known items", why_not=why_not)


def _two_towers(data: Dataset, budget: float) -> SuitableSource:
    """Towers of users' and items' columns."""
    frame = data.users.drop("id")
    known = data.histories.positives > 0
    used = [name for name in frame.columns if guess(frame[name].filter(pl.Series(known)))[0] != SKIP]
    described = frame.select(used).select(pl.any_horizontal(pl.all().is_not_null())).to_series() if used else None
    n = int((described.to_numpy() & known).sum()) if described is not None else 0
    why_not = "" if used else "users have no columns"
    if not why_not and n < MIN_DESCRIBED_USERS:
        why_not = f"{n} users with columns and events are fewer than {MIN_DESCRIBED_USERS}"
    why_not = why_not or _no_network(None, budget)
    reason = f"users are described: {', '.join(used)[:80]}"
    return SuitableSource("twotower:factors=64,epochs=10", reason, tuned=False, why_not=why_not)


def _friends(data: Dataset) -> SuitableSource:
    """What linked users had."""
    why_not = 'no links are named: links = "file" under [data]'
    if data.links is not None:
        linked = np.zeros(data.n_users, dtype=bool)
        linked[data.links["user"].to_numpy()] = linked[data.links["other"].to_numpy()] = True
        n = int((linked & (data.histories.positives > 0)).sum())
        why_not = "" if n >= MIN_LINKED_USERS else f"{n} users with links and events are fewer than {MIN_LINKED_USERS}"
    return SuitableSource("friends", "who knows whom is known", why_not=why_not)


def _sasrec(data: Dataset, budget: float) -> SuitableSource:
    why_not = _no_torch()
    if not data.has_times:
        why_not = "the log has no times"
    elif data.n_events < DEEP_EVENTS:
        why_not = f"{data.n_events:,} events are fewer than {DEEP_EVENTS:,}"
    elif budget < DEEP_SECONDS:
        why_not = f"it takes a budget of {spelled(DEEP_SECONDS)}"
    reason = "long histories, and time to learn from them"
    return SuitableSource("sasrec:max_len=50,epochs=20", reason, tuned=False, why_not=why_not)


def _no_network(had: np.ndarray | None, budget: float) -> str:
    """Why no network over columns, words or pictures is tried; empty where one is."""
    if had is not None and had.sum() < MIN_NETWORK_ITEMS:
        return f"{had.sum()} items with events are fewer than {MIN_NETWORK_ITEMS}"
    if budget < NETWORK_SECONDS:
        return f"it takes a budget of {spelled(NETWORK_SECONDS)}"
    return _no_torch()


def _no_torch() -> str:
    return "" if find_spec("torch") else 'torch is not installed: pip install "zhiyin[deep]"'


def _not_collaborative(data: Dataset) -> str:
    """A map is learned to the vectors of a collaborative model, which needs users with more than one item."""
    several = int((data.histories.positives > 1).sum())
    return "" if several >= MIN_LINKED_USERS else f"{several} users with two events and more are too few"


def _no_specification(text: str) -> str:
    """Why names cannot be written into the specification of a source; empty where they can."""
    bad = sorted(set(text) & set("[];"))
    return f"its names hold {' '.join(bad)}, which part sources" if bad else ""


def _words(column: pl.Series) -> float:
    """Words of a text of the column, on average; a Chinese character counts as one."""
    texts = words_of(column).drop_nulls()
    return float(texts.str.count_matches(r"\p{Han}|[\p{L}\p{N}]+").mean() or 0.0) if len(texts) else 0.0  # type: ignore[arg-type]
