"""From a request to its list and its trace, and from a trace to the same list again.

A trace holds what a list was made of and cannot be found again: the request, the settings of the placement, the moment,
what was done by then. Candidates, scores and reasons are found again by making the list anew.
"""

from __future__ import annotations

import base64
import contextlib
import dataclasses
import json
import time
import zlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import numpy as np

from zhiyin.api.requests import Ask, Setting
from zhiyin.core.errors import ConfigError
from zhiyin.core.uid import fresh_id
from zhiyin.data.histories import Histories
from zhiyin.pipeline.exposure import deficits
from zhiyin.pipeline.request import Answer, Request
from zhiyin.pipeline.rules import Boost, Exposure
from zhiyin.ranking.live_index import IndexState
from zhiyin.service.feature_index_updater import index_at
from zhiyin.service.feature_log import DELETED, FeatureLog, write_features
from zhiyin.service.placements import DEFAULT, Placements
from zhiyin.service.request_context import CURRENT
from zhiyin.service.serving_state import ServingState
from zhiyin.service.trace_encoding import TraceQuota, encode_request, request_of, strip_trace, trace_size
from zhiyin.service.version_view import Past, View
from zhiyin.store.trace_writer import TraceWriter
from zhiyin.store.traces import Trace

# Items that pages of one list show in all, and bytes of a page's token once unpacked.
MOST_PAGED, UNPACKED = 2_000, 1 << 20


@dataclasses.dataclass(frozen=True)
class ListResult:
    """A list as it was made."""

    list_id: str
    view: View
    placement: str
    version: int
    request: Request
    answer: Answer
    next: str | None
    shown: np.ndarray

    @property
    def items(self) -> list[str]:
        return [str(item) for item in self.answer.items]


class ListService:
    """Makes lists of one shop, and traces of them."""

    def __init__(
        self,
        live: ServingState,
        placements: Placements,
        traces: TraceWriter,
        budget: float | None = None,
        features: FeatureLog | None = None,
    ) -> None:
        self.live, self.placements, self.traces, self.budget = live, placements, traces, budget
        self.features = features or FeatureLog()
        self.trace_quota = TraceQuota()
        self._old: tuple[tuple[int, int], View] | None = None
        self._index: tuple[tuple[int, int], IndexState | None] | None = None
        # Hears of each list, and where it came from.
        self.listed: Callable[[ListResult, str], None] = lambda made, origin: None

    # -- making -----------------------------------------------------------------------------------------------------

    def create(
        self, ask: Ask, origin: str = "recommendations", like: str | None = None, out: Sequence[str] = ()
    ) -> ListResult:
        """The list for a request. `like`: the item of a list of similar ones. `out`: not to be listed.

        Raises ConfigError for a request that cannot be.
        """
        view = self.live.view()
        name = ask.placement or DEFAULT
        version, setting = self.placements.get(name)
        list_id, now = fresh_id(), time.time_ns() // 1000 if ask.now is None else ask.now
        past, user_columns, who = None, {}, ask.user or ask.session
        shown_often: dict[str, int] = {}
        frequency = view.answers.rules.frequency
        if who is not None:
            window = None if frequency is None else frequency.seconds
            past, counts = self.live.lately(view, ask.user, ask.session, window)
            shown_often = {item: n for item, n in counts.items() if frequency and n >= frequency.at_most}
            if ask.user is not None:
                user_columns = self.live.user_columns(ask.user)
        route = route_of(origin, like)
        paged = unpacked(ask.page, route) if ask.page else []
        request = merged(ask, setting, view, now, list_id, [*paged, *out], past, closed=origin == "rank")
        targets = view.answers.rules.exposure if origin != "rank" else ()
        request = dataclasses.replace(
            request, user_columns=user_columns, shown=dict(shown_often),
            budget=request.budget or self.budget, deficits=self._deficits(view, targets),
        )  # fmt: skip
        if view.loaded.index is not None and self.features.chooses(list_id):
            request = dataclasses.replace(request, features="shown")
        shown = view.shown  # a moment later it may be another
        with reading(view) as state:
            answer = self._answer(view, shown, request, origin, like, state)
        after = [*paged, *(str(item) for item in answer.items)]
        more = origin != "rank" and len(answer.items) >= request.k
        made = ListResult(list_id, view, name, version, request, answer, next_page(after, more, route), shown)
        if frequency is not None and who is not None:
            self.live.state.record_showings(who, made.items, frequency.seconds)
        if targets:
            self._tally(view, targets, answer.exposed.ravel().tolist())
        self._trace(made, ask, past, now, origin, like, [*paged, *out], state)
        self.listed(made, origin)
        return made

    def _tally(self, view: View, targets: tuple[Exposure, ...], more: list[float]) -> list[float]:
        """Sums of what each target's group was exposed, of all lists under the rules of the house."""
        halves = [target.seconds for target in targets for _ in range(3)]
        return self.live.state.tally(f"exposure-{view.loaded.house}", more, halves)

    def _deficits(self, view: View, targets: tuple[Exposure, ...]) -> list[float] | None:
        """What each target's group lacks by now; None without targets."""
        if not targets:
            return None
        sums = self._tally(view, targets, [0.0] * (3 * len(targets)))
        return deficits(targets, np.array(sums)).round(6).tolist()

    def _answer(
        self, view: View, shown: np.ndarray, request: Request, origin: str, like: str | None, state: IndexState | None
    ) -> Answer:
        answers = view.answers
        if like is not None:
            return answers.similar(like, request, shown)
        if origin == "popular":
            worth = np.concatenate([view.known.popularity, np.zeros(answers.new_items.m, np.float32)])
            return answers.list_by_score(worth, request, shown, "popular")
        if origin == "trending":
            return answers.list_by_score(self.live.trending.worth(view), request, shown, "trending")
        return answers.ask(request, shown, None if state is None else state.index)

    def _trace(
        self,
        made: ListResult,
        ask: Ask,
        past: Past | None,
        now: int,
        origin: str,
        like: str | None,
        out: Sequence[str],
        state: IndexState | None,
    ) -> None:
        answer, request = made.answer, made.request
        head, arrays = encode_request(ask, out, made.view)
        head |= {
            "origin": origin,
            "place_version": made.version,
            "seq": made.view.seq,
            "house": made.view.loaded.house,
            "now": now,
            "items": made.items,
            "method": answer.method,
            "sources": list(answer.sources),
            "anonymous": ask.user is None,
        }
        told = {
            "like": like, "degraded": answer.degraded, "left_out": answer.left_out,
            "user_columns": dict(request.user_columns), "deficits": request.deficits,
            "often": {str(i): n for i, n in request.shown.items()},
        }  # fmt: skip
        head |= {name: value for name, value in told.items() if value}
        arrays |= {
            "scores": np.asarray(answer.scores, np.float32),
            "ranks": answer.ranks.astype(np.int16),
        }
        write_features(head, arrays, answer, state)
        if request.explore > 0:
            arrays["propensities"] = answer.propensities
        if past is not None:
            head["code"] = past.code
            arrays |= {f"past_{name}": part for name, part in past.tail.items() if len(part)}
            if len(past.seen):
                arrays["past_seen"] = past.seen
            if answer.features is not None:
                arrays["past_seqs"] = past.seqs
        away = made.view.away(made.shown)
        hidden = made.view.hidden
        if len(away) != len(hidden):  # what changed a moment ago
            arrays["away"] = away
        current = CURRENT.get()
        if not self.trace_quota.allow("" if current is None else current.key, trace_size(head, arrays)):
            head, arrays = strip_trace(head, arrays)
        trace = Trace(
            made.list_id,
            ask.user or ask.session,
            time.time_ns() // 1000,
            made.view.version,
            made.placement,
            head,
            arrays,
        )
        self.traces.put(trace)
        if answer.features is not None and "not_kept" not in head:
            self.features.remembered.append(made.list_id)

    # -- telling ----------------------------------------------------------------------------------------------------

    def to_json(self, made: ListResult, ask: Ask | Any, begun: float) -> dict[str, Any]:
        """What a list is told as."""
        answer, view = made.answer, made.view
        rows: list[dict[str, Any]] = [{"item": str(i), "score": s} for i, s in zip(answer.items, answer.scores)]
        if ask.fields:
            for row, code in zip(rows, view.ids.encode(answer.items).tolist()):
                row["columns"] = view.row(code, ask.fields)
        if ask.explain and answer.reasons:
            titles = self._titles(view, answer)
            for row, reason in zip(rows, answer.reasons):
                row |= {"reason": reason.to_dict(), "sentence": reason.sentence(ask.language, titles)}
        if ask.explain and answer.ranks.size:
            for row, ranks in zip(rows, answer.ranks.tolist()):
                row["sources"] = {name: rank + 1 for name, rank in zip(answer.sources, ranks) if rank >= 0}
        found = {
            "list_id": made.list_id,
            "version": view.version,
            "placement": made.placement,
            "method": answer.method,
            "items": rows,
            "next": made.next,
            "degraded": answer.degraded + sorted(answer.left_out) + (["rules"] if view.unruled else []),
        }
        if ask.explain or made.request.closed:
            found["removed"] = [{"item": str(row["item"]), "rule": row["rule"]} for row in answer.removed]
        return found | {"milliseconds": round(1e3 * (time.perf_counter() - begun), 3)}

    @staticmethod
    def _titles(view: View, answer: Answer) -> dict[Any, str]:
        """Titles of the items that reasons speak of."""
        column = view.title
        if column is None:
            return {}
        named = list({said["item"] for reason in answer.reasons for said in reason.because})
        codes = view.ids.encode(named)
        found = {name: view.row(int(code), [column]).get(column) for name, code in zip(named, codes) if code >= 0}
        return {name: str(title) for name, title in found.items() if title}

    # -- again ------------------------------------------------------------------------------------------------------

    def replay(self, trace: Trace, explain: bool = False) -> tuple[bool, Answer | None, str]:
        """Make a list again. Whether it is the same, the list, and why not.

        The version must still be there, the rules of the house the same, and the events that its ranker knew of.
        """
        head = trace.head
        view, why = self.view_of(trace)
        if view is None:
            return False, None, why
        state, why = self.index_of(trace, view)
        if why:
            return False, None, why
        answer = self.again(trace, view, state, explain=explain)
        same = [str(item) for item in answer.items] == head["items"]
        near = same and np.allclose(answer.scores, trace.arrays["scores"], rtol=1e-5, atol=1e-6)
        why = "" if near else ("items differ" if not same else "scores differ")
        if not near and head["origin"] == "trending":
            why = "what is trending has moved on"
        return near, answer, why

    def again(
        self,
        trace: Trace,
        view: View,
        state: IndexState | None,
        *,
        explain: bool = False,
        features: Literal["none", "shown", "all"] = "none",
        past: Past | None = None,
    ) -> Answer:
        """The list of a trace, made by a view and a state of its index. past: what was done by then; None: as the trace
        has it."""
        head = trace.head
        ask, out = request_of(head, trace.arrays, view)
        setting = self.placements.at(trace.placement, head["place_version"])
        if "code" in head and past is None:
            tail = {name: trace.arrays.get(f"past_{name}", np.zeros(0, kind)) for name, kind in _TAIL.items()}
            past = view.recalled(head["code"], tail, trace.arrays.get("past_seen", np.zeros(0, np.int32)))
        user = None if head["anonymous"] else trace.user
        ask = ask.model_copy(update={"user": user, "explain": explain})
        closed = head["origin"] == "rank"
        request = merged(ask, setting, view, head["now"], trace.list_id, out, past, closed=closed)
        request = dataclasses.replace(
            request, user_columns=head.get("user_columns", {}), budget=None, deficits=head.get("deficits"),
            shown=dict(head.get("often", {})),
            skip=tuple(head.get("degraded", ())), features=features,
        )  # fmt: skip
        shown = np.ones(len(view.ids), dtype=bool)
        if "away" in trace.arrays:
            away = trace.arrays["away"]
            shown[away[away < len(shown)]] = False
        else:
            codes = view.encode(sorted(view.hidden)) if view.hidden else np.zeros(0, np.int64)
            shown[codes[codes >= 0]] = False
        return self._answer(view, shown, request, head["origin"], head.get("like"), state)

    def index_of(self, trace: Trace, view: View) -> tuple[IndexState | None, str]:
        """The index that a list was ranked by, made again from the log; and why it cannot be."""
        if "index" not in trace.head:
            return None, ""
        seq, events = trace.head["index"]
        key = (trace.version, seq)
        kept = self._index
        if kept is None or kept[0] != key:
            kept = self._index = (key, index_at(self.live.store, view, seq))
        state = kept[1]
        if state is None or state.events != events:
            return None, DELETED
        return state, ""

    def view_of(self, trace: Trace) -> tuple[View | None, str]:
        """The view that a list was made by."""
        now, head = self.live.now, trace.head
        if "not_kept" in head:
            return None, str(head["not_kept"])
        if now.loaded.house != head["house"]:
            return None, "the rules of the house have changed since"
        if now.version == trace.version and now.seq == head["seq"]:
            return now, ""
        key = (trace.version, head["seq"])
        if self._old is not None and self._old[0] == key:
            return self._old[1], ""
        loaded = now.loaded
        if now.version != trace.version:
            if trace.version not in self.live.bundles.versions():
                return None, f"version {trace.version} is gone"
            loaded = self.live.load(self.live.bundles.get(trace.version))
        view, _ = self.live.view_of(loaded, until=head["seq"])
        view.seq = head["seq"]
        self._old = (key, view)
        return view, ""


def reading(view: View) -> contextlib.AbstractContextManager[IndexState | None]:
    """The state of a version's index, for one list; None where it has none."""
    return contextlib.nullcontext() if view.loaded.index is None else view.loaded.index.reading()


_TAIL: Mapping[str, Any] = {
    "items": np.int32, "weights": np.float32, "times": np.int64, "kinds": np.uint8, "values": np.float32
}  # fmt: skip


def merged(
    ask: Ask,
    setting: Setting,
    view: View,
    now: int,
    list_id: str,
    out: Sequence[str],
    past: Past | None,
    *,
    closed: bool = False,
) -> Request:
    """What a request and its placement ask for together: filters both hold, the rest the request overrules. closed: of
    the items that the request includes no other, so that nothing is explored."""
    given = ask.model_fields_set

    def chosen(name: str) -> Any:
        return getattr(ask, name) if name in given else getattr(setting, name)

    filters = [text for text in (setting.filter, ask.filter) if text.strip()]
    filter = filters[0] if len(filters) == 1 else " AND ".join(f"({text})" for text in filters)
    history: Histories | list[Any] = [] if ask.history is None else list(ask.history)
    return Request(
        # Of one whom the version does not know, or must not, its columns of users say nothing.
        user=None if ask.user is None or past is None or past.code < 0 else ask.user,
        history=history if past is None else past.history,
        seen=() if past is None else view.ids.raw(past.seen),
        k=chosen("k"),
        filter=filter,
        boosts=tuple(Boost(b.when, str(b.multiply), str(b.add)) for b in (*setting.boosts, *ask.boosts)),
        include=None if ask.include is None else list(ask.include),
        exclude=[*setting.exclude, *ask.exclude, *out],
        pins={slot: item for slot, item in (setting.pins | ask.pins).items() if str(item) not in out},
        exclude_seen=chosen("exclude_seen"),
        diversity=chosen("diversity"),
        balance=chosen("balance"),
        context=ask.context,
        now=now,
        explore=0.0 if closed else setting.explore,
        closed=closed,
        seed=int(list_id[-16:], 16),
        budget=None if setting.budget is None else setting.budget / 1e3,
        explain=ask.explain,
    )


def route_of(origin: str, like: str | None = None) -> str:
    """The route that gives lists of an origin, and takes their page tokens."""
    return f"/v1/items/{like}/similar" if like is not None else f"/v1/{origin}"


def packed(items: Sequence[str], route: str) -> str:
    """A page token: the items listed so far, and the route that the token is for."""
    plain = json.dumps([route, *items], ensure_ascii=False).encode("utf-8", "surrogatepass")
    return base64.urlsafe_b64encode(zlib.compress(plain, 1)).decode().rstrip("=")


def next_page(listed: Sequence[str], more: bool, route: str) -> str | None:
    """`next` of a page: listed: what it and those before it hold. more: whether there is more; None where there is not,
    and where pages hold as many as they may."""
    return packed(listed, route) if more and len(listed) < MOST_PAGED else None


def unpacked(token: str, route: str) -> list[str]:
    """The items of a page token. Raises ConfigError for what is none, and for a token of another route."""
    try:
        raw = base64.urlsafe_b64decode(token + "=" * (-len(token) % 4))
        opened = zlib.decompressobj()
        listed = json.loads(opened.decompress(raw, UNPACKED))
        if opened.unconsumed_tail or not isinstance(listed, list) or not 1 <= len(listed) <= MOST_PAGED + 1:
            raise ValueError
        if not all(isinstance(part, str) and part for part in listed):
            raise ValueError
        own, *items = listed
        if not own.startswith("/v1/") or len(own) > 300 or any(len(item) > 256 for item in items):
            raise ValueError
    except (ValueError, zlib.error, RecursionError):
        raise ConfigError("this is no page", column="page", remedy="send what `next` said, unchanged") from None
    if own != route:
        raise ConfigError(f"this page belongs to {own}", column="page", remedy=f"ask {own} for it, not {route}")
    return items
