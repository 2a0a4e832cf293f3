"""The calls as methods, listed once for both clients.

A type checker or an editor sees each with its own arguments: `Client` gives the value, `AsyncClient` what to await.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, Protocol, TypeVar, overload

from zhiyin.client import bringing, lists, page_keys, state, things
from zhiyin.client.call import Call, Calls

if TYPE_CHECKING:
    from zhiyin.client.clients import AsyncClient, Client

P = ParamSpec("P")
T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)


class Method(Protocol[P, T_co]):
    """What a call is as a method, to who reads types: it hangs on whose method it is."""

    @overload
    def __get__(self, client: Client, kind: type[Client] | None = None) -> Callable[P, T_co]: ...
    @overload
    def __get__(
        self, client: AsyncClient, kind: type[AsyncClient] | None = None
    ) -> Callable[P, Coroutine[Any, Any, T_co]]: ...
    @overload
    def __get__(self, client: None, kind: type[Any] | None = None) -> Callable[Concatenate[Any, P], Any]: ...


def method(build: Callable[P, Call[T] | Calls[T]]) -> Method[P, T]:
    """A method that has the call built and gives its answer, with the name, words and arguments of `build`."""

    @functools.wraps(build)
    def ask(client: Any, /, *args: P.args, **kwargs: P.kwargs) -> Any:
        return client._answer(functools.partial(build, *args, **kwargs))

    ask.__name__ = build.__name__.rstrip("_")
    whole = inspect.signature(build)
    own = inspect.Parameter("self", inspect.Parameter.POSITIONAL_ONLY)
    ask.__signature__ = whole.replace(parameters=[own, *whole.parameters.values()])  # type: ignore[attr-defined]
    return ask  # type: ignore[return-value]


class Methods:
    """What can be asked of a service."""

    event = method(bringing.event)
    events = method(bringing.events)

    recommend = method(lists.recommend)
    more = method(lists.more)
    rank = method(lists.rank)
    similar = method(lists.similar)
    similar_users = method(lists.similar_users)
    popular = method(lists.popular)
    trending = method(lists.trending)
    pages = method(lists.pages)
    impressions = method(lists.impressions)
    history = method(lists.history)
    list = method(lists.list_)
    replay = method(lists.replay)

    put_item = method(things.put_item)
    patch_item = method(things.patch_item)
    get_item = method(things.get_item)
    delete_item = method(things.delete_item)
    put_items = method(things.put_items)
    search = method(things.search)
    put_user = method(things.put_user)
    patch_user = method(things.patch_user)
    get_user = method(things.get_user)
    delete_user = method(things.delete_user)
    put_users = method(things.put_users)

    schema = method(state.schema)
    put_schema = method(state.put_schema)
    placements = method(state.placements)
    placement = method(state.placement)
    put_placement = method(state.put_placement)
    delete_placement = method(state.delete_placement)
    placement_versions = method(state.placement_versions)
    rollback_placement = method(state.rollback_placement)
    keys = method(page_keys.keys)
    add_key = method(page_keys.add_key)
    revoke_key = method(page_keys.revoke_key)
    page_token = method(page_keys.page_token)
    health = method(state.health)
    ready = method(state.ready)
