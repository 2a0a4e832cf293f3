"""What a service found that it cannot use and went on without: rows, versions, rules, placements, types."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from zhiyin.core.errors import ZhiyinError

# Entries that /ready tells.
MOST = 20


@dataclasses.dataclass(frozen=True)
class SetAside:
    """One thing that is not used. what: which, by its name or its sequence number in the store, never by an id of a
    user or an item. mend: the command or request that mends it."""

    what: str
    reason: str
    mend: str

    def as_json(self) -> dict[str, str]:
        return dataclasses.asdict(self)


def told(found: Iterable[SetAside]) -> dict[str, Any]:
    """What /ready says of it: nothing where there is nothing."""
    entries = list(found)
    return {"set_aside": [entry.as_json() for entry in entries[:MOST]]} if entries else {}


def of_project(config: Path, address: str) -> list[dict[str, str]]:
    """What the service of a project would set aside, with the ids that its store knows: for who keeps the store, on a
    terminal. Nothing is written, no key is made, and nothing is answered."""
    from zhiyin.data.config import load_config
    from zhiyin.pipeline.bundles import Bundles
    from zhiyin.pipeline.rules_config import answer_settings
    from zhiyin.service.live import Live
    from zhiyin.service.placements import Placements
    from zhiyin.store.database import Store

    path = address.removeprefix("sqlite:///")
    if "://" not in path and not Path(path).is_file():
        return []
    settings = load_config(config)
    with contextlib.ExitStack() as stack:
        store = stack.enter_context(contextlib.closing(Store(address)))
        live = stack.enter_context(contextlib.closing(Live(
            Bundles(config.parent / settings.train.output / "bundles"), store, answer_settings(settings, config),
            settings.weights, types=settings.schema.types, watch=False,
        )))  # fmt: skip
        view = live.serving
        placements = Placements(store, None, None if view is None else view.answers)
        users = live.unfit_users()
        found = [*live.set_aside(), *placements.set_aside()]
        found += [live.unfit_column("users", column, keys) for column, keys in users.items()]
        ids = {} if view is None else {f"items.{name}": sorted(keys)[:MOST] for name, keys in view.unfit.items()}
        ids |= {f"users.{name}": sorted(keys)[:MOST] for name, keys in users.items()}
        for table in ("items", "users"):
            ids |= {f"change {seq} of {table}": [store.id_of(table, seq)] for seq in live.unreadable(table)}
    return [one.as_json() | ({"reason": f"{one.reason}: {', '.join(ids[one.what])}"} if one.what in ids else {})
            for one in found]  # fmt: skip


def reason_of(error: BaseException) -> str:
    """An error in one line, without what it quotes: other libraries' errors may hold values of rows."""
    if isinstance(error, ZhiyinError):
        return error.message.splitlines()[0][:200]
    return f"it cannot be loaded ({type(error).__name__})"
