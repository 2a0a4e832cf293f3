"""Hybrid: item vectors of a collaborative model, and for items without events vectors mapped from their features, so
that new items can be recommended at once.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import polars as pl
from scipy import sparse

from zhiyin.core.errors import ConfigError, MissingExtraError, suggest
from zhiyin.core.params import param, settings_of
from zhiyin.core.run import Run, log
from zhiyin.data.dataset import Dataset
from zhiyin.data.histories import Histories
from zhiyin.features.column_encoders import words_of
from zhiyin.features.images import Images
from zhiyin.features.text import Text
from zhiyin.features.user_segments import UserSegments
from zhiyin.models.item_features import ItemFeatureMixin
from zhiyin.models.recommender import CHUNK_BYTES, VectorRecommender
from zhiyin.models.registry import make, parse

if TYPE_CHECKING:
    from zhiyin.features.text_cnn import Words
    from zhiyin.models.hybrid_networks import Inputs, Mapping
    from zhiyin.models.neural.checkpoints import Identity

# Share of the items with events that the map does not learn from; they calibrate the scale of mapped vectors.
HELD_OUT_SHARE = 0.2
# With fewer items with events, the scale is not calibrated.
MIN_ITEMS_FOR_SCALE = 20
# Number of users whose lists calibrate the scale, and the length of these lists.
SCALE_USERS, SCALE_PLACES = 2_000, 10
SCALE_RANGE = (0.1, 10.0)
# Users that the map of user columns learns from, at most; fewest users of a segment, and most segments.
MAX_MAPPED_USERS, MIN_SEGMENT_USERS, MAX_SEGMENTS = 100_000, 10, 256


@dataclasses.dataclass
class Hybrid(ItemFeatureMixin, VectorRecommender):
    """A map from features to the item vectors of a collaborative model (Gantner et al., Learning attribute-to-feature
    mappings for cold-start recommendations, ICDM 2010).

    With y_i the collaborative vector of item i, n_i its events and f_i its features, a map m is learned that minimises
    sum n_i^popularity |y_i - m(f_i)|² + reg |W|² over items with events: m(f) = mean + W f ("ridge"), or a network
    ("mlp", "text_cnn", "image_cnn"). The vector of an item is

        (n_i y_i + prior · s m(f_i)) / (n_i + prior)

    so that of an item without events is s m(f_i). A history is folded in by the collaborative model, against these
    vectors.

    The scale s lets cold items compete: regularisation shrinks m towards the mean, and unscaled vectors would reach no
    list. A fifth of the items with events is held out from learning m; s is chosen so that they win as many places
    among users' first ten with mapped vectors as with their own. It is multiplied by `cold`.

    A user without a positive event whose columns are known has the vector mean + V g, with g the segments the user is
    in (`UserSegments`) and V a ridge map from segments to the vectors of the training users.

    | difference from the paper | why |
    |---|---|
    | a map of the vectors, not BPR through the map | closed form, and the collaborative model stays any |
    | items with events are blended | an item with one event is nearly cold |
    | the scale s | the paper ranks cold items among themselves only |
    """

    base: str = param("als", "the collaborative model, such as als:factors=128; its score must be an inner product")
    map: str = param(
        "ridge",
        "map from features to item vectors",
        choices=("ridge", "mlp", "text_cnn", "image_cnn"),
        tune=("ridge", "mlp"),
    )
    reg: float = param(1.0, "ridge: L2 penalty on the map", at_least=1e-9, tune=(0.01, 100.0), log=True)
    popularity: float = param(
        0.5,
        "power of an item's number of events in its weight when the map is learned",
        at_least=0,
        at_most=1,
        tune=(0.0, 1.0),
    )
    user_columns: str = param("", "user columns to use, separated by commas or |; empty: all but lists")
    user_reg: float = param(30.0, "L2 penalty on the map of user columns, in users", at_least=1e-9)
    prior: float = param(2.0, "weight of the mapped vector, in events", at_least=0, tune=(0.0, 20.0))
    cold: float = param(1.0, "additional factor of mapped vectors", at_least=0, tune=(0.5, 4.0))
    image: str = param("", "image_cnn: item column with the paths of the pictures")
    images: str = param("", "image_cnn: folder of the pictures; without `image`, they are named by item id")
    image_size: int = param(
        64, "image_cnn: height and width of the scaled pictures, in pixels", at_least=16, at_most=512
    )
    max_len: int = param(32, "text_cnn: words of an item that are read", at_least=1, at_most=4096)
    hidden: int = param(64, "networks: width", at_least=1, at_most=4096, tune=(32, 256), log=True)
    dropout: float = param(0.3, "networks: dropout rate", at_least=0, at_most=0.95, tune=(0.0, 0.6))
    epochs: int = param(50, "networks: largest number of passes over the items", at_least=1)
    patience: int = param(5, "networks: epochs without a better map before training stops; 0: never", at_least=0)
    batch_size: int = param(256, "networks: items in each step", at_least=1, tune=(64, 1024), log=True)
    learning_rate: float = param(3e-3, "networks: learning rate of Adam", at_least=0, tune=(1e-4, 1e-2), log=True)
    weight_decay: float = param(1e-3, "networks: decoupled L2 decay", at_least=0, tune=(1e-6, 1e-1), log=True)

    map_: ClassVar[dict[str, np.ndarray]]
    mean_: ClassVar[np.ndarray]
    scale_: ClassVar[float]
    words_: ClassVar[np.ndarray]
    read_: ClassVar[list[dict[str, Any]]]
    user_map_: ClassVar[np.ndarray | None] = None
    user_mean_: ClassVar[np.ndarray]
    user_segments_: ClassVar[list[dict[str, Any]]]
    base_: ClassVar[list[dict[str, Any]]]
    base_arrays_: ClassVar[dict[str, np.ndarray]]

    def item_vectors_for(self, frame: pl.DataFrame, run: Run | None = None) -> np.ndarray:
        """Vectors of items of which only the columns are known, float32[n, d]: columns as in the catalogue learned
        from, in any order; a missing one counts as unknown. To be scored against `encode(histories)`."""
        self._context()
        return self._mapped(self._inputs(frame), run or Run()) * np.float32(self.scale_)

    def encode(self, histories: Histories, run: Run | None = None) -> np.ndarray:
        """Vectors of histories, float32[n, d], by the collaborative model; where there is no positive event, from the
        users' columns."""
        vectors = self._collaborative().encode(histories, run)
        if histories.features is None or self.user_map_ is None:
            return vectors
        rows = np.flatnonzero(histories.positives == 0)
        if not len(rows):
            return vectors
        segments = self._segments().encode(histories.features[rows], len(rows))
        described = np.diff(segments.indptr) > 0
        vectors = np.array(vectors, dtype=np.float32)
        vectors[rows[described]] = self.user_mean_ + segments[described] @ self.user_map_
        return vectors

    @property
    def reads_user_columns(self) -> bool:
        return self.user_map_ is not None

    def knows_columns(self, histories: Histories) -> np.ndarray:
        if histories.features is None or self.user_map_ is None:
            return np.zeros(len(histories), dtype=bool)
        return np.diff(self._segments().encode(histories.features, len(histories)).indptr) > 0

    # -- learning ---------------------------------------------------------------------------------------------------

    def _fit(self, data: Dataset, run: Run) -> None:
        for name in ("_features_cache", "_base", "_network", "_vocabulary", "_segments_cache"):
            vars(self).pop(name, None)
        base = parse(self.base)
        if not isinstance(base, VectorRecommender) or isinstance(base, Hybrid):
            raise ConfigError(
                f"base: {type(base).__name__} has no vectors of users and items", remedy="als, or another factor model"
            )
        base.fit(data, run)
        self._base = base
        y = np.array(base.item_vectors_, dtype=np.float32)
        events = data.events["item"].to_numpy()[data.events["weight"].to_numpy() > 0]
        counts = np.bincount(events, minlength=data.n_items).astype(np.float64)
        self._learn_columns(data, run)
        self._learn_words(data, counts > 0)
        inputs = self._inputs(data.items)
        weights = np.where(counts > 0, np.maximum(counts, 1) ** self.popularity, 0.0)
        weights = (weights / max(weights.sum() / max(1, (counts > 0).sum()), 1e-12)).astype(np.float32)
        mean = weights @ y / max(float(weights.sum()), 1e-12)
        self.mean_ = mean.astype(np.float32)  # type: ignore[misc]
        warm = np.flatnonzero(counts)
        held_out = (
            np.sort(run.rng(62).permutation(warm)[: round(HELD_OUT_SHARE * len(warm))])
            if len(warm) >= MIN_ITEMS_FOR_SCALE
            else warm[:0]
        )
        self.scale_ = 1.0  # type: ignore[misc]
        mapped = self._learn_map(inputs, y, weights, held_out, data, run)
        if len(held_out):
            self.scale_ = self._scale(data, y, mapped, held_out, run)  # type: ignore[misc]
        if self.map == "ridge" and len(held_out):  # again, from all items
            mapped = self._learn_map(inputs, y, weights, warm[:0], data, run)
        self.scale_ = float(self.scale_ * self.cold)  # type: ignore[misc]
        share = (counts / np.maximum(counts + self.prior, 1e-12)).astype(np.float32)[:, None]
        self.item_vectors_ = share * y + (1 - share) * mapped * np.float32(self.scale_)  # type: ignore[misc]
        self._keep_base(base)
        self._learn_users(data, run)

    def _learn_users(self, data: Dataset, run: Run) -> None:
        """Learn the map from users' columns to vectors; none where users have no columns."""
        active = np.flatnonzero(data.histories.positives > 0)
        if data.users.width < 2 or not len(active):
            return
        if len(active) > MAX_MAPPED_USERS:
            active = np.sort(run.rng(65).choice(active, MAX_MAPPED_USERS, replace=False))
        frame = data.users.drop("id")[active]
        segments = UserSegments.learn(frame, self.user_columns, min_users=MIN_SEGMENT_USERS,
                                      max_segments=MAX_SEGMENTS, bins=8, pairs=True)  # fmt: skip
        if not len(segments):
            return
        vectors = np.asarray(self._base.encode(data.histories.take(active), run), dtype=np.float32)
        mean = vectors.mean(axis=0)
        f = segments.encode(frame, len(active))
        self.user_map_ = ridge(f, np.ones(len(active), np.float32), vectors - mean, self.user_reg)  # type: ignore[misc]
        self.user_mean_ = mean  # type: ignore[misc]
        self.user_segments_ = [dataclasses.asdict(segments)]  # type: ignore[misc]

    def _segments(self) -> UserSegments:
        if "_segments_cache" not in vars(self):
            vars(self)["_segments_cache"] = UserSegments(**self.user_segments_[0])
        return vars(self)["_segments_cache"]

    def _learn_map(
        self,
        inputs: Inputs | RidgeInputs,
        y: np.ndarray,
        weights: np.ndarray,
        held_out: np.ndarray,
        data: Dataset,
        run: Run,
    ) -> np.ndarray:
        """Learn the map from all items with a weight but `held_out`; float32[n, d], the mapped vectors of all."""
        train_weights = weights.copy()
        train_weights[held_out] = 0
        if self.map == "ridge":
            w = ridge(inputs.columns, train_weights, y - self.mean_, self.reg)
            self.map_ = {"w": w}  # type: ignore[misc]
            return self._mapped(inputs, run)
        import torch

        from zhiyin.models import hybrid_networks as maps
        from zhiyin.models.network_weights import weight_arrays

        # Standardized, so that the learning rate does not depend on the collaborative model.
        spread = np.sqrt(np.average((y - self.mean_) ** 2, axis=0, weights=np.maximum(train_weights, 1e-12)).mean())
        targets = ((y - self.mean_) / max(spread, 1e-12)).astype(np.float32)
        with torch.random.fork_rng(devices=[]), maps.threads(run):
            torch.manual_seed(run.seed)
            network = self._build(inputs.columns.shape[1], y.shape[1])
            batches = maps.MapBatches(inputs, targets, weights, np.flatnonzero(train_weights), self.batch_size, run)  # type: ignore[arg-type]
            plan = maps.TrainingPlan(self.epochs, self.patience, self.learning_rate, self.weight_decay)
            maps.learn(network, batches, held_out, plan, run, label="Hybrid", identity=self._identity(data, run))
        self.map_ = weight_arrays(network)  # type: ignore[misc]
        self.map_["spread"] = np.full(1, spread, dtype=np.float32)
        self._network = network
        return self._mapped(inputs, run)

    def _mapped(self, inputs: Inputs | RidgeInputs, run: Run) -> np.ndarray:
        """float32[n, d]: m(f), not yet to scale."""
        if self.map == "ridge":
            return np.asarray(inputs.columns @ self.map_["w"], dtype=np.float32) + self.mean_
        from zhiyin.models import hybrid_networks as maps

        spread = self.map_["spread"]
        return maps.mapped(self._net(), inputs, len(self.mean_), run) * spread + self.mean_  # type: ignore[arg-type]

    def _scale(self, data: Dataset, y: np.ndarray, mapped: np.ndarray, rows: np.ndarray, run: Run) -> float:
        """The scale of mapped vectors; see the class. `rows`: the held-out items.

        An item wins a place in the list of a user where its score is above the bar, the tenth best score of the items
        not held out. x·(s m) exceeds it once s is above bar / x·m: s is the quantile of these ratios below which there
        are as many as places won by x·y.
        """
        n = min(data.n_users, SCALE_USERS)
        sample = data.histories.take(np.sort(run.rng(63).permutation(data.n_users)[:n]))
        n_won, ratios = 0, [np.zeros(0, dtype=np.float32)]
        places = min(SCALE_PLACES, len(y) - len(rows))
        for _, batch in sample.chunks(max(1, CHUNK_BYTES // (4 * len(y)))):
            x = self._base.encode(batch, run)
            scores = x @ y.T
            scores[
                np.repeat(np.arange(len(batch)), batch.lengths), batch.items
            ] = -np.inf  # items of the history are not recommended
            own = scores[:, rows]
            scores[:, rows] = -np.inf
            bar = np.partition(scores, -places, axis=1)[:, -places, None]
            comparable = np.isfinite(own) & (bar > 0)
            n_won += int((comparable & (own > bar)).sum())
            other = x @ mapped[rows].T
            positive = comparable & (other > 0)
            ratios.append(np.broadcast_to(bar, other.shape)[positive] / other[positive])
        needed = np.concatenate(ratios)
        if not n_won or n_won > len(needed):
            log.info("Hybrid: too little is known of which items compete: mapped vectors keep their scale")
            return 1.0
        return float(np.clip(np.partition(needed, n_won - 1)[n_won - 1], *SCALE_RANGE))

    # -- features of items ------------------------------------------------------------------------------------------

    def _learn_words(self, data: Dataset, has_event: np.ndarray) -> None:
        """Learn the text columns and the vocabulary of a TextCNN, and check the settings of pictures."""
        texts = [column.name for column in self._features().columns if isinstance(column, Text)]
        read: dict[str, Any] = {"texts": [], "han": False}
        self.words_ = np.zeros(0, dtype=np.uint8)  # type: ignore[misc]
        if self.map != "ridge":
            try:
                import torch  # noqa: F401
            except ModuleNotFoundError:
                raise MissingExtraError("torch", "deep", f"Hybrid with map={self.map}") from None
        if self.map == "text_cnn":
            from zhiyin.features.text_cnn import Words

            if not texts:
                raise ConfigError("map = text_cnn needs a column of text", remedy='name one: kinds="title=text"')
            read["texts"] = texts
            texts_of_items = _joined(data.items, texts)
            words = Words.learn(
                texts_of_items.filter(pl.Series(has_event)) if has_event.any() else texts_of_items, self.min_count
            )
            self.words_, read["han"] = words.words, words.han  # type: ignore[misc]
        if self.map == "image_cnn":
            if not self.images or not Path(self.images).is_dir():
                raise ConfigError(
                    f"map = image_cnn needs a folder of pictures, images = {self.images!r} is none",
                    remedy="images = a folder, and image = a column of paths if pictures are not named by item id",
                )
            if self.image and self.image not in data.items.columns:
                raise ConfigError(
                    f"image: there is no item column {self.image!r}", remedy=suggest(self.image, data.items.columns)
                )
        self.read_ = [read]  # type: ignore[misc]

    def _inputs(self, frame: pl.DataFrame) -> Inputs | RidgeInputs:
        """The input of the map for the rows of a frame."""
        if self.map == "ridge":
            return RidgeInputs(self.vectors_for(frame))
        from zhiyin.models.hybrid_networks import Inputs

        if self.map == "mlp":
            return Inputs(self.vectors_for(frame))
        if self.map == "image_cnn":
            return Inputs(self.vectors_for(frame), pictures=self._pictures(frame))
        texts = self.read_[0]["texts"]
        columns = self.table_for(frame).matrix(self._weights() | dict.fromkeys(texts, 0.0))
        return Inputs(columns, words=self._vocabulary_().encode(_joined(frame, texts), self.max_len))

    def _pictures(self, frame: pl.DataFrame) -> Images:
        if not Path(self.images).is_dir():  # learned there, and answered somewhere else
            log.warning("Hybrid: there is no folder of pictures %s: new items are known without theirs", self.images)
            return Images(pl.repeat(None, len(frame), dtype=pl.String, eager=True), Path(self.images), self.image_size)
        if self.image:
            paths = frame[self.image] if self.image in frame.columns else pl.repeat(None, len(frame), eager=True)
            return Images(paths.cast(pl.String), Path(self.images), self.image_size)
        if "id" not in frame.columns:
            raise ConfigError("pictures are named by item id, and there is none", remedy="a column id, or set image")
        return Images.of_folder(self.images, frame["id"], self.image_size)

    def _vocabulary_(self) -> Words:
        from zhiyin.features.text_cnn import Words

        if "_vocabulary" not in vars(self):
            self._vocabulary = Words(self.words_, self.read_[0]["han"])
        return self._vocabulary

    def _build(self, n_codes: int, out: int) -> Mapping:
        from zhiyin.models.hybrid_networks import build

        n_words = len(self._vocabulary_()) if self.map == "text_cnn" else 0
        return build(self.map, n_codes, n_words, out, hidden=self.hidden, dropout=self.dropout)

    def _net(self) -> Mapping:
        """The network in eval mode: the one just trained, or built from the weights that were loaded."""
        if "_network" not in vars(self):
            from zhiyin.models.network_weights import network_with

            weights = {name: array for name, array in self.map_.items() if name != "spread"}
            n_codes = len(weights["table.weight"])
            self._network = network_with(weights, lambda: self._build(n_codes, len(self.mean_)))
        return self._network

    def _identity(self, data: Dataset, run: Run) -> Identity:
        from zhiyin.models.neural.checkpoints import Identity

        settings = json.dumps(["Hybrid", settings_of(self), run.seed])
        return Identity(hashlib.blake2b(settings.encode(), digest_size=16).hexdigest(), data.fingerprint)

    # -- the collaborative model ------------------------------------------------------------------------------------

    def _keep_base(self, base: VectorRecommender) -> None:
        """Keep what the collaborative model has learned as arrays of this one; its item vectors become ours."""
        arrays: dict[str, np.ndarray] = {}
        values: dict[str, Any] = {}
        for name, value in vars(base).items():
            if not name.endswith("_") or name in ("context_", "item_vectors_", "training_log_"):
                continue
            if isinstance(value, np.ndarray):
                arrays[name] = value
            elif isinstance(value, dict) and value and all(isinstance(part, np.ndarray) for part in value.values()):
                arrays |= {f"{name}/{key}": part for key, part in value.items()}
            elif sparse.issparse(value):
                arrays |= {f"{name}/csr.{part}": getattr(value, part) for part in ("data", "indices", "indptr")}
                values[name] = {"csr": list(value.shape)}
            else:
                values[name] = value.item() if isinstance(value, np.generic) else value
        self.base_arrays_ = arrays  # type: ignore[misc]
        self.base_ = [  # type: ignore[misc]
            {"model": type(base).__name__, "settings": settings_of(base), "values": values}
        ]
        base.item_vectors_ = self.item_vectors_  # type: ignore[misc]

    def _collaborative(self) -> VectorRecommender:
        """The collaborative model over our item vectors; built once from the arrays that were loaded."""
        if "_base" not in vars(self):
            saved = self.base_[0]
            base = make(saved["model"], saved["settings"])
            assert isinstance(base, VectorRecommender)
            grouped: dict[str, dict[str, np.ndarray]] = {}
            for name, array in self.base_arrays_.items():
                head, inner, key = name.partition("/")
                if inner:
                    grouped.setdefault(head, {})[key] = array
                else:
                    setattr(base, head, array)
            for name, value in saved["values"].items():
                if isinstance(value, dict) and "csr" in value and name in grouped:
                    parts = tuple(grouped[name][f"csr.{part}"] for part in ("data", "indices", "indptr"))
                    grouped.pop(name)
                    value = sparse.csr_matrix(parts, shape=tuple(value["csr"]), copy=False)
                setattr(base, name, value)
            for name, group in grouped.items():
                setattr(base, name, group)
            base.item_vectors_ = self.item_vectors_  # type: ignore[misc]
            base.context_ = self._context()  # type: ignore[misc]
            self._base = base
        return self._base


@dataclasses.dataclass(frozen=True)
class RidgeInputs:
    """Input of a ridge map for n items: CSR float32[n, v]."""

    columns: sparse.csr_matrix


def ridge(
    f: sparse.csr_matrix, weights: np.ndarray, y: np.ndarray, reg: float, *, tolerance: float = 1e-4, steps: int = 300
) -> np.ndarray:
    """float32[v, d]: W that minimises sum over rows of weights_i |y_i - W f_i|² + reg |W|².

    By conjugate gradient on (Fᵀ D F + reg I) W = Fᵀ D Y, all columns of W at once and F left sparse, scaled by the
    diagonal; until every residual is `tolerance` of its right side, or `steps`.
    """
    if not f.shape[1] or not f.nnz:
        return np.zeros((f.shape[1], y.shape[1]), dtype=np.float32)
    used = np.flatnonzero(weights > 0)
    f, y = f[used], y[used]
    root = np.sqrt(weights[used]).astype(np.float32)
    f = sparse.csr_matrix(sparse.diags(root) @ f, dtype=np.float32)
    back = f.T.tocsr()
    right = np.asarray(back @ (root[:, None] * y), dtype=np.float32)
    scale = (1 / (np.asarray(f.multiply(f).sum(axis=0)).ravel() + reg)).astype(np.float32)[:, None]
    w = np.zeros_like(right)
    r = right.copy()
    z = scale * r
    p, size = z.copy(), (r * z).sum(axis=0)
    enough = tolerance**2 * (right * right).sum(axis=0)
    for _ in range(steps):
        if ((r * r).sum(axis=0) <= enough).all():
            break
        ap = back @ (f @ p) + np.float32(reg) * p
        step = size / np.maximum((p * ap).sum(axis=0), 1e-30)
        w += step * p
        r -= step * ap
        z = scale * r
        new_size = (r * z).sum(axis=0)
        p = z + (new_size / np.maximum(size, 1e-30)) * p
        size = new_size
    return w


def _joined(frame: pl.DataFrame, columns: list[str]) -> pl.Series:
    """The texts of several columns as one."""
    text_columns = [words_of(frame[name]).fill_null("").alias(name) for name in columns if name in frame.columns]
    if not text_columns:
        return pl.repeat("", len(frame), eager=True)
    return pl.DataFrame(text_columns).select(text=pl.concat_str(pl.all(), separator=" "))["text"]
