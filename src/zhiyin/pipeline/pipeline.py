"""Pipeline: several retrievers, one order, rules and reasons; itself a recommender, evaluated and served as one.

Each source retrieves its best items; the union is ordered by a learned ranker, by a blend, or by a single source:
whichever is best for the user's segment on windows that nothing was fitted on.
"""

from __future__ import annotations

import dataclasses
import json
from bisect import bisect_right
from collections.abc import Callable
from importlib.util import find_spec
from operator import is_
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import numpy as np

from zhiyin.core.atomic_files import read_json
from zhiyin.core.errors import ConfigError
from zhiyin.core.params import list_length, param, settings_of
from zhiyin.core.registry import specification
from zhiyin.core.run import Run, log
from zhiyin.data.dataset import Dataset
from zhiyin.data.histories import Histories
from zhiyin.models.loading import load as load_model
from zhiyin.models.masked_search import Mask
from zhiyin.models.recommender import Recommender
from zhiyin.models.registry import parse
from zhiyin.models.saving import write as write_model
from zhiyin.models.training_context import TrainingContext
from zhiyin.pipeline.fitting_plan import FittingPlan
from zhiyin.pipeline.list_plan import Fill, best_items
from zhiyin.pipeline.pipeline_fitting import SEGMENT_STARTS, SEGMENTS, learn, segments_of
from zhiyin.pipeline.probabilities import probabilities
from zhiyin.pipeline.slate import Ragged
from zhiyin.pipeline.time_windows import WindowPlan, plan_windows
from zhiyin.ranking import registry as rankers
from zhiyin.ranking.asof import AsOf
from zhiyin.ranking.candidate_plan import CandidatePlan, ScoredCandidates
from zhiyin.ranking.examples import Candidates
from zhiyin.ranking.feature_builder import FeatureBuilder
from zhiyin.ranking.loading import load as load_ranker
from zhiyin.ranking.ranker import Ranker

T = TypeVar("T")
# Requests whose candidates are in memory at once: with their features some hundred MB.
MAX_BATCH_REQUESTS = 512
# The ranker of `auto`: there are few requests with a relevant candidate, so trees are small and learn slowly.
DEFAULT_RANKER = "trees:leaves=7,min_leaf=50,learning_rate=0.03"


@dataclasses.dataclass
class Pipeline(Recommender):
    """Retrieve, rank, re-rank.

    Learned state: `sources_`, the fitted retrievers by name; `choices_`, the method of each segment of users;
    `weights_` of the blend; `ranker_` and `builder_` where a ranker was worth it; `report_`, what each choice was made
    by.
    """

    scores_empty_histories: ClassVar[bool] = True
    _parts = ("sources_", "ranker_", "builder_")
    _keeps_log = False  # sources and ranker keep theirs

    sources: str = param("popular:half_life=7d; itemknn; transitions; als", "retrievers with their settings, between ;")
    candidates: int = param(100, "items that each source names", at_least=1, at_most=10_000, tune=(50, 500), log=True)
    ranker: str = param(
        "auto",
        "what orders candidates if it beats the blends; none: blends alone; auto: boosted trees if installed",
    )
    windows: int = param(
        6,
        "stretches of the log: the first to learn blends and the ranker from, the last to choose by",
        at_least=1,
        at_most=20,
    )
    share: float = param(0.1, "share of the events in each of them", at_least=0.001, at_most=0.5)
    metric: str = param("ndcg@10", "what methods are chosen by")
    exclude_seen: bool = param(True, "judge by items that are new to the user, as they will be shown")

    sources_: ClassVar[dict[str, Recommender]]
    choices_: ClassVar[dict[str, str]]
    weights_: ClassVar[np.ndarray]
    report_: ClassVar[dict[str, Any]]
    ranker_: ClassVar[Ranker | None]
    builder_: ClassVar[FeatureBuilder | None]
    # What it was trained for, as `training_goals` names it; older versions do not say so.
    goal_: ClassVar[str] = "ranking"
    _plan_of_parts: ClassVar[tuple[tuple[Any, ...], CandidatePlan] | None] = None

    # -- learning ---------------------------------------------------------------------------------------------------

    def _fit(self, data: Dataset, run: Run) -> None:
        self._learn(data, run, self.plan(data, run), None)

    def fit_within(self, data: Dataset, windows: WindowPlan, fitting: FittingPlan, run: Run | None = None) -> Pipeline:
        """As `fit`, within the time of a plan: `sources` no longer names what it has dropped. Returns self.

        Parameters
        ----------
        windows: the result of `plan` for `data`.
        fitting: the plan, whose sources are those of `_parse_sources`.
        """
        self.fit_by(lambda data, run: self._learn(data, run, windows, fitting), data, run or Run())
        return self

    def _learn(self, data: Dataset, run: Run, windows: WindowPlan, fitting: FittingPlan | None) -> None:
        learned = learn(
            self._parse_sources(),
            data,
            windows,
            candidates=self.candidates,
            ranker=self._ranker(),
            metric=self.metric,
            run=run,
            fitting=fitting,
        )
        if fitting is not None:
            self.sources = "; ".join(learned.sources)
        self.sources_, self.weights_, self.report_ = learned.sources, learned.weights, learned.report  # type: ignore[misc]
        self.choices_ = {name: choice.method for name, choice in learned.choices.items()}  # type: ignore[misc]
        self.ranker_, self.builder_ = learned.ranker, learned.builder  # type: ignore[misc]

    def plan(self, data: Dataset, run: Run | None = None) -> WindowPlan:
        """The windows of a log that `fit` learns from and chooses by; tune sources on its `tune` part alone."""
        return plan_windows(data, self.windows, self.share, self.exclude_seen, run or Run())

    def _ranker(self) -> Ranker | None:
        """The ranker to learn, if any."""
        if self.ranker == "auto" and not find_spec("lightgbm"):
            log.info('pipeline: no learned ranker, for lightgbm is not installed: pip install "zhiyin[rank]"')
            return None
        return (
            None
            if self.ranker in ("", "none")
            else rankers.parse(DEFAULT_RANKER if self.ranker == "auto" else self.ranker)
        )

    def _parse_sources(self) -> dict[str, Recommender]:
        """The sources, unfitted, by the text that names them. Raises ConfigError for one that is unknown or twice."""
        models: dict[str, Recommender] = {}
        for text in filter(None, (part.strip() for part in self.sources.split(";"))):
            if text in models:
                raise ConfigError(f"source {text!r} is named twice", remedy="name each once")
            models[text] = parse(text)
            if isinstance(models[text], Pipeline):
                raise ConfigError("a pipeline cannot be a source of a pipeline", remedy="name its sources instead")
        if not models:
            raise ConfigError("a pipeline needs a source", remedy='sources = "als; popular:half_life=7d"')
        return models

    def refit(self, data: Dataset, run: Run | None = None) -> Pipeline:
        """A pipeline whose sources know all of `data`, with the methods, weights and ranker that this one has learned.

        What is learned by holding days back stays as it is; so the last days can be learned from after they were used
        to judge, at the price of one fit of each source.
        """
        self._context()
        if self.goal_ != "ranking":
            raise ConfigError(f"a version for {self.goal_} is trained anew", remedy=f"zhiyin train --goal {self.goal_}")
        run = run or Run()
        refitted = type(self)(**settings_of(self))
        refitted.sources_ = {name: model.fit(data, run) for name, model in self._parse_sources().items()}  # type: ignore[misc]
        refitted.choices_, refitted.weights_ = dict(self.choices_), self.weights_  # type: ignore[misc]
        refitted.report_, refitted.ranker_, refitted.builder_ = self.report_, self.ranker_, None  # type: ignore[misc]
        if self.builder_ is not None:
            refitted.builder_ = FeatureBuilder.learn(data, refitted.sources_, like=self.builder_, run=run)  # type: ignore[misc]
        refitted.context_ = TrainingContext.of(data, run)  # type: ignore[misc]
        return refitted

    @classmethod
    def wrapping(cls, model: Recommender) -> Pipeline:
        """A pipeline whose only source is a fitted model, in the order of its scores."""
        name = specification(model)
        pipeline = cls(sources=name, ranker="none")
        pipeline.context_ = model._context()  # type: ignore[misc]
        pipeline.sources_, pipeline.choices_ = {name: model}, dict.fromkeys(("all", *SEGMENTS), name)  # type: ignore[misc]
        pipeline.weights_, pipeline.report_ = np.ones((2, 2), np.float32), {}  # type: ignore[misc]
        pipeline.ranker_ = pipeline.builder_ = None  # type: ignore[misc]
        return pipeline

    @property
    def rating_model(self) -> Any:
        """The first source that predicts ratings; None where none does, or nothing is learned yet."""
        sources = self.sources_.values() if self.is_fitted else ()
        return next((model.rating_model for model in sources if model.rating_model is not None), None)

    def predict(
        self, users: Any, items: Any, *, times: Any = None, histories: Any = None, run: Run | None = None
    ) -> np.ndarray:
        """Predicted ratings of pairs, as `RatingModel.predict`, by `rating_model`.

        Raises ConfigError where no source predicts ratings.
        """
        self._context()
        if self.rating_model is None:
            raise ConfigError("no source of the pipeline predicts ratings", remedy="zhiyin train --goal rating")
        return self.rating_model.predict(users, items, times=times, histories=histories, run=run)

    @property
    def has_times(self) -> bool:
        """Whether the log it learned from has times."""
        return self._context().window[1] > 0

    # -- answering --------------------------------------------------------------------------------------------------

    def rank(
        self,
        histories: Histories,
        k: int,
        *,
        exclude: Histories | None = None,
        allowed: np.ndarray | Mask | None = None,
        run: Run | None = None,
        label: str = "",
    ) -> tuple[np.ndarray, np.ndarray]:
        """As `Recommender.rank`; places that the candidates leave free are filled with what is popular."""
        context, run = self._context(), run or Run()
        if run.approximate is None:
            run = dataclasses.replace(run, approximate=False)
        k = min(list_length(k), len(context.item_ids))
        allowed = context.mask(allowed)
        items = np.full((len(histories), k), -1, dtype=np.int32)
        best = np.full((len(histories), k), -np.inf, dtype=np.float32)
        with run.bar(label, len(histories)) as advance:
            for start, batch in histories.chunks(MAX_BATCH_REQUESTS):
                stop = start + len(batch)
                seen = exclude.rows(start, stop) if exclude is not None else None
                candidates = self.retrieve(batch, k, exclude=seen, allowed=allowed, run=run)
                scores = self.order(batch, candidates, run)
                offsets = np.asarray(candidates.offsets, np.int64)
                wanted = np.maximum(0, k - np.diff(offsets))
                excluded = Ragged.empty(len(batch)) if seen is None else Ragged(seen.offsets, seen.items)
                order = context.in_order(allowed) if wanted.any() else excluded.values[:0]
                fill = Fill(excluded.offsets, excluded.values, order, allowed.bits, wanted)
                items[start:stop], best[start:stop] = best_items(
                    offsets, candidates.items, np.asarray(scores, np.float32), k, fill, run
                )
                advance(len(batch))
        return items, best

    def retrieve(
        self,
        histories: Histories,
        k: int = 0,
        *,
        exclude: Histories | None = None,
        allowed: np.ndarray | Mask | None = None,
        run: Run | None = None,
    ) -> Candidates:
        """What the sources name for each history, at least k items each; where one is asked about, by their indices
        unless the run says otherwise."""
        run = run or Run()
        if run.approximate is None:
            run = dataclasses.replace(run, approximate=True)
        plan = self._candidate_plan()
        return plan.retrieve(histories, max(self.candidates, k), run, exclude=exclude, allowed=allowed)

    def prepare(self, run: Run | None = None) -> None:
        for source in self.sources_.values():
            source.prepare(run)
        self._plan_of_parts = None  # type: ignore[misc]

    def order(
        self,
        histories: Histories,
        candidates: Candidates,
        run: Run | None = None,
        index: AsOf | None = None,
        *,
        ranker: bool = True,
    ) -> np.ndarray:
        """float32[m]: scores of candidates, as `scored`."""
        return self.scored(histories, candidates, run, index, ranker=ranker).scores

    def scored(
        self,
        histories: Histories,
        candidates: Candidates,
        run: Run | None = None,
        index: AsOf | None = None,
        *,
        method: str | None = None,
        ranker: bool = True,
    ) -> ScoredCandidates:
        """Scores of candidates, comparable within a request; of one request also what the ranker read.

        Parameters
        ----------
        index: what the ranker knows of items, where it has heard of more than the pipeline has learned.
        method: "rrf", "weighted", "ranker", or the name of a source; None: that of the segment of each user.
        ranker: without it, reciprocal ranks stand in for the learned ranker.
        """
        plan = self._candidate_plan()
        if method is not None:
            methods = np.full(len(histories), plan.method_codes[method], dtype=np.int8)
        else:
            of_segment = [self.choices_[name] for name in SEGMENTS]
            of_segment = of_segment if ranker else ["rrf" if name == "ranker" else name for name in of_segment]
            codes = np.array([plan.method_codes[name] for name in of_segment], dtype=np.int8)
            methods = codes[segments_of(histories.positives)]
        return plan.score(histories, candidates, methods, run or Run(), index)

    def probabilities(
        self,
        histories: Histories,
        offsets: np.ndarray,
        items: np.ndarray,
        *,
        run: Run | None = None,
        index: AsOf | None = None,
    ) -> dict[str, np.ndarray]:
        """By label, "click" or "purchase", float32[m] probabilities of the items of n requests; see the module
        `probabilities`. Raises ConfigError for a version that was not trained for them."""
        return probabilities(self, histories, offsets, items, run=run, index=index)

    def method_of(self, history: Histories) -> str:
        """What orders the candidates of one history."""
        return self.choices_[SEGMENTS[bisect_right(SEGMENT_STARTS, int(history.positives[0]))]]

    def _candidate_plan(self) -> CandidatePlan:
        """The plan of the learned parts, made again where one of them was replaced."""
        sources = self.sources_.values()
        parts = (*sources, *[source.context_ for source in sources], self.weights_, self.ranker_, self.builder_)
        held = self._plan_of_parts
        if held is None or len(held[0]) != len(parts) or not all(map(is_, held[0], parts)):
            held = parts, CandidatePlan(self.sources_, self.weights_, self.ranker_, self.builder_)
            self._plan_of_parts = held  # type: ignore[misc]
        return held[1]

    def _score(self, histories: Histories, run: Run) -> np.ndarray:
        """Candidates above all others, the others by popularity."""
        context = self._context()
        n, n_items = len(histories), len(context.item_ids)
        level = np.empty(n_items, dtype=np.float32)
        level[:] = context.priority / max(1, n_items) - 2  # -2 .. -1, by popularity
        scores = np.tile(level, (n, 1))
        for start, batch in histories.chunks(MAX_BATCH_REQUESTS):
            candidates = self.retrieve(batch, run=run)
            candidate_scores = self.order(batch, candidates, run)
            low = np.full(len(batch), np.inf, np.float32)
            np.minimum.at(low, candidates.owners, candidate_scores)
            scores[start + candidates.owners, candidates.items] = candidate_scores - low[candidates.owners]
        return scores

    def _similar(self, items: np.ndarray, run: Run) -> np.ndarray:
        return self._by_first(
            lambda model: model._similar(items, run), lambda: super(Pipeline, self)._similar(items, run)
        )

    def _most_similar(self, items: np.ndarray, k: int, run: Run) -> tuple[np.ndarray, np.ndarray]:
        return self._by_first(
            lambda model: model._most_similar(items, k, run), lambda: super(Pipeline, self)._most_similar(items, k, run)
        )

    def _similar_to_item(self, item: int, k: int, run: Run) -> tuple[np.ndarray, np.ndarray]:
        return self._by_first(
            lambda model: model._similar_to_item(item, k, run),
            lambda: super(Pipeline, self)._similar_to_item(item, k, run),
        )

    def _by_first(self, ask: Callable[[Recommender], T], otherwise: Callable[[], T]) -> T:
        """What the first source says that knows which items are similar."""
        for source in self.sources_.values():
            try:
                return ask(source)
            except ConfigError:
                continue
        return otherwise()

    # -- on disk ----------------------------------------------------------------------------------------------------

    def _write_parts(self, folder: Path) -> None:
        for number, source in enumerate(self.sources_.values()):
            place = folder / f"source-{number}"
            place.mkdir()
            write_model(source, place, self._context())
        (folder / "pipeline.json").write_text(json.dumps({"sources": list(self.sources_)}, indent=1) + "\n")
        if self.ranker_ is not None and self.builder_ is not None:
            self.ranker_.save(folder / "ranker")
            self.builder_.save(folder / "features")

    def _read_parts(self, folder: Path, mmap: bool) -> None:
        names = read_json(folder / "pipeline.json", "train again", names=("sources",))["sources"]
        self.sources_ = {  # type: ignore[misc]
            name: load_model(folder / f"source-{number}", mmap=mmap, parent=self._context())
            for number, name in enumerate(names)
        }
        self.ranker_ = self.builder_ = None  # type: ignore[misc]
        if (folder / "ranker").exists():
            self.ranker_ = load_ranker(folder / "ranker")  # type: ignore[misc]
            self.builder_ = FeatureBuilder.load(folder / "features", self.sources_)  # type: ignore[misc]
