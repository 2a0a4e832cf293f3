"""From the wire models to the `Request` of the pipeline: the one place where their fields are mapped."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from zhiyin.api.requests import BoostBody, ListOptions, PlacementSettings, RecommendRequest
from zhiyin.data.histories import Histories
from zhiyin.pipeline.request import Request
from zhiyin.pipeline.rules import Boost
from zhiyin.service.user_history import UserHistory
from zhiyin.service.version_view import View


def request_of_options(options: ListOptions) -> Request:
    """The request of a stranger with these options alone."""
    return Request(
        k=options.k,
        filter=options.filter,
        boosts=_boosts(options.boosts),
        exclude=options.exclude,
        pins=options.pins,
        exclude_seen=options.exclude_seen,
        diversity=options.diversity,
        balance=options.balance,
    )


def build_request(
    ask: RecommendRequest,
    setting: PlacementSettings,
    view: View,
    now: int,
    list_id: str,
    listed: Sequence[str],
    history: UserHistory | None,
    *,
    closed: bool = False,
    **others: Any,
) -> Request:
    """The request to the pipeline of an HTTP request and the settings of its placement.

    Filters and boosts of both apply; any other option of the request overrules that of the placement.

    Parameters
    ----------
    now: microseconds UTC.
    listed: items that are not to be listed, since pages before hold them.
    history: of the user or the session; None: as the request gives it.
    closed: list only items that the request includes, so that nothing is explored.
    others: further fields of the pipeline's request.
    """
    given = ask.model_fields_set

    def option(name: str) -> Any:
        return getattr(ask, name) if name in given else getattr(setting, name)

    filters = [text for text in (setting.filter, ask.filter) if text.strip()]
    own_history: Histories | list[Any] = [] if ask.history is None else list(ask.history)
    fields = {
        # Columns of a user whom the version does not know, or may not, are not read from the catalogue.
        "user": None if ask.user is None or history is None or history.code < 0 else ask.user,
        "history": own_history if history is None else history.history,
        "seen": () if history is None else view.ids.raw(history.new_items),
        "k": option("k"),
        "filter": filters[0] if len(filters) == 1 else " AND ".join(f"({text})" for text in filters),
        "boosts": _boosts([*setting.boosts, *ask.boosts]),
        "include": None if ask.include is None else list(ask.include),
        "exclude": [*setting.exclude, *ask.exclude, *listed],
        "pins": {slot: item for slot, item in (setting.pins | ask.pins).items() if str(item) not in listed},
        "exclude_seen": option("exclude_seen"),
        "diversity": option("diversity"),
        "balance": option("balance"),
        "context": ask.context,
        "now": now,
        "explore": 0.0 if closed else setting.explore,
        "closed": closed,
        "seed": int(list_id[-16:], 16),
        "explain": ask.explain,
    }
    return Request(**(fields | others))


def _boosts(boosts: Sequence[BoostBody]) -> tuple[Boost, ...]:
    return tuple(Boost(boost.when, str(boost.multiply), str(boost.add)) for boost in boosts)
