"""What every live state does, wherever it holds things: inherit `StateConformance` and say how one is made."""

from __future__ import annotations

import itertools
import threading
from collections import Counter
from collections.abc import Callable, Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zhiyin.store.frequency_counts import DAY_SECONDS, MAX_SHOWINGS_PER_USER
from zhiyin.store.live_state import MAX_EVENTS_PER_USER, LiveState, Recent
from zhiyin.store.records import Event

NOW = 1_700_000_000_000_000


_numbers = itertools.count(1)


def event(n: int, user: str = "alice", **more: object) -> Event:
    """An event of moment n, with the next sequence number."""
    return Event(user, f"film {n}", NOW + n, id=f"{user}-{n}", seq=next(_numbers), **more)  # type: ignore[arg-type]


class Shop:
    """A plain store, and how often it was asked."""

    def __init__(self) -> None:
        self.log: list[Event] = []
        self.forgotten: dict[str, int] = {}
        self.asked = 0

    def now(self, user: str) -> Recent:
        last = [e for e in self.log if e.user == user][-MAX_EVENTS_PER_USER:]
        return Recent(tuple(sorted(last, key=lambda e: e.time)), self.forgotten.get(user, 0))

    def load(self, user: str) -> Callable[[], Recent]:
        def ask() -> Recent:
            self.asked += 1
            return self.now(user)

        return ask

    def forget(self, user: str, moment: int) -> None:
        self.log = [e for e in self.log if e.user != user]
        self.forgotten[user] = moment


class Clock:
    def __init__(self) -> None:
        self.seconds = 1_700_000_000.0

    def __call__(self) -> float:
        return self.seconds


class StateConformance:
    holds = True

    @pytest.fixture(scope="class")
    @classmethod
    def make(cls) -> Iterator[Callable[[Callable[[], float]], LiveState]]:
        """Of a clock a state with nothing in it."""
        raise NotImplementedError

    @pytest.fixture
    def clock(self) -> Clock:
        return Clock()

    @pytest.fixture
    def state(self, make: Callable[[Callable[[], float]], LiveState], clock: Clock) -> Iterator[LiveState]:
        made = make(clock)
        yield made
        made.close()

    @pytest.fixture
    def shop(self) -> Shop:
        return Shop()

    # -- events -----------------------------------------------------------------------------------------------------

    def test_what_was_heard_counts_in_the_next_answer(self, state: LiveState, shop: Shop) -> None:
        assert state.recent("alice", shop.load("alice")) == Recent()
        for n in range(3):
            shop.log.append(event(n))
            state.add_events([event(n)])
            assert state.recent("alice", shop.load("alice")).events == tuple(event(m) for m in range(n + 1))
        assert shop.asked == (1 if self.holds else 4)
        assert state.users == (1 if self.holds else 0)

    def test_every_field_comes_back(self, state: LiveState, shop: Shop) -> None:
        state.recent("知音 🎧", shop.load("知音 🎧"))
        whole = Event("知音 🎧", 'a:"b"\\', NOW, "观看", 2.5, "id:1", "list 1", 7)
        bare = Event("知音 🎧", "c", NOW + 1, id="2", seq=2**40)
        shop.log += [whole, bare]
        state.add_events([whole, bare])
        for _ in range(2):
            found = state.recent("知音 🎧", shop.load("知音 🎧"))
            assert found == Recent((whole, bare), 0)
            assert [e.seq for e in found.events] == [7, 2**40]

    def test_late_events_find_their_place_and_those_of_one_moment_stay_as_they_came(
        self, state: LiveState, shop: Shop
    ) -> None:
        shop.log += [event(5), event(9)]
        state.recent("alice", shop.load("alice"))
        same = [Event("alice", f"b{n}", NOW + 7, id=f"z{9 - n}", seq=n + 90) for n in range(4)]
        for late in [event(1), *same]:
            shop.log.append(late)
            state.add_events([late])
        items = [e.item for e in state.recent("alice", shop.load("alice")).events]
        assert items == ["film 1", "film 5", "b0", "b1", "b2", "b3", "film 9"]

    def test_heard_twice_counts_once(self, state: LiveState, shop: Shop) -> None:
        shop.log += [event(1), event(2)]
        state.recent("alice", shop.load("alice"))
        state.add_events([event(2), event(2)])
        state.add_events([event(1)])
        assert state.recent("alice", shop.load("alice")).events == (event(1), event(2))

    def test_the_events_that_came_last_are_kept(self, state: LiveState, shop: Shop) -> None:
        shop.log += [event(n) for n in range(MAX_EVENTS_PER_USER + 20)]
        assert state.recent("alice", shop.load("alice")) == shop.now("alice")
        for start in (2_000, 3_000, 1_000):  # the last ones late
            new = [event(start + n) for n in range(300)]
            shop.log += new
            state.add_events(new)
            assert state.recent("alice", shop.load("alice")) == shop.now("alice")

    def test_many_users_at_once(self, state: LiveState, shop: Shop) -> None:
        names = [f"u{n}" for n in range(700)]
        for name in names[::2]:
            state.recent(name, shop.load(name))
        new = [event(n, user=name) for n in range(3) for name in names]
        shop.log += new
        state.add_events(new)
        assert state.users == (350 if self.holds else 0)
        of: dict[str, list[Event]] = {}
        for each in new:
            of.setdefault(each.user, []).append(each)
        for name in names[:100]:
            assert state.recent(name, lambda name=name: Recent(tuple(of[name]))).events == tuple(of[name])
        many = [event(n, user="u0") for n in range(10, 2_500)]
        state.add_events(many)
        found = state.recent("u0", lambda: Recent(tuple(many[-MAX_EVENTS_PER_USER:])))
        assert found.events == tuple(many[-MAX_EVENTS_PER_USER:])

    def test_what_load_raises_goes_through_and_spoils_nothing(self, state: LiveState, shop: Shop) -> None:
        def fails() -> Recent:
            raise KeyError("the store is away")

        with pytest.raises(KeyError):
            state.recent("alice", fails)
        shop.log.append(event(1))
        state.add_events([event(1)])
        assert state.recent("alice", shop.load("alice")).events == (event(1),)

    # -- races ------------------------------------------------------------------------------------------------------

    def slow(self, state: LiveState, shop: Shop, meanwhile: Callable[[], None]) -> Recent:
        """A load that has read the store when `meanwhile` happens in another thread."""
        read, done = threading.Barrier(2, timeout=10), threading.Barrier(2, timeout=10)
        asked = []

        def load() -> Recent:
            found = shop.now("alice")
            asked.append(1)
            if len(asked) == 1:
                read.wait()
                done.wait()
            return found

        got: list[Recent] = []
        thread = threading.Thread(target=lambda: got.append(state.recent("alice", load)))
        thread.start()
        read.wait()
        meanwhile()
        done.wait()
        thread.join(10)
        assert len(got) == 1
        return got[0]

    def test_heard_while_loading_is_not_lost(self, state: LiveState, shop: Shop) -> None:
        shop.log.append(event(1))

        def meanwhile() -> None:
            shop.log.append(event(2))
            state.add_events([event(2)])

        self.slow(state, shop, meanwhile)
        assert state.recent("alice", shop.load("alice")).events == (event(1), event(2))

    def test_heard_while_loading_and_loaded_too_is_not_doubled(self, state: LiveState, shop: Shop) -> None:
        shop.log += [event(1), event(2)]
        self.slow(state, shop, lambda: state.add_events([event(2)]))
        assert state.recent("alice", shop.load("alice")).events == (event(1), event(2))

    def test_a_faster_reader_does_not_hide_it(self, state: LiveState, shop: Shop) -> None:
        shop.log.append(event(1))

        def meanwhile() -> None:
            state.recent("alice", shop.load("alice"))  # fills
            shop.log.append(event(2))
            state.add_events([event(2)])
            state.recent("alice", shop.load("alice"))

        self.slow(state, shop, meanwhile)
        assert state.recent("alice", shop.load("alice")).events == (event(1), event(2))

    def test_forgotten_while_loading_does_not_come_back(self, state: LiveState, shop: Shop) -> None:
        shop.log.append(event(1))

        def meanwhile() -> None:
            shop.forget("alice", NOW)
            state.forget("alice", NOW)

        found = self.slow(state, shop, meanwhile)
        if self.holds:
            assert found == Recent((), NOW)
        assert state.recent("alice", shop.load("alice")) == Recent((), NOW)

    def test_many_threads(self, state: LiveState, shop: Shop) -> None:
        lock, wrong = threading.Lock(), []

        def act(name: str) -> None:
            for n in range(40):
                new = event(n, user=name)
                with lock:
                    shop.log.append(new)
                state.add_events([new])
                with lock:
                    want = [e.id for e in shop.now(name).events]
                got = [e.id for e in state.recent(name, lambda: snapshot(name)).events]
                if not set(want) <= set(got) or len(set(got)) != len(got):
                    wrong.append((want, got))

        def snapshot(name: str) -> Recent:
            with lock:
                return shop.now(name)

        def act_again(name: str) -> None:
            for _ in range(40):
                state.recent(name, lambda: snapshot(name))

        threads = [threading.Thread(target=act, args=(f"u{n}",)) for n in range(4)]
        threads += [threading.Thread(target=act_again, args=(f"u{n}",)) for n in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
        assert wrong == []

    # -- forgetting -------------------------------------------------------------------------------------------------

    def test_whom_another_program_forgot(self, state: LiveState, shop: Shop) -> None:
        shop.log += [event(1), event(2)]
        assert len(state.recent("alice", shop.load("alice")).events) == 2
        state.record_showings("alice", ["film 1"])
        shop.forget("alice", NOW + 5)
        state.forget_all()
        assert state.recent("alice", shop.load("alice")) == Recent((), NOW + 5)
        assert state.recent("alice", shop.load("alice")) == Recent((), NOW + 5)

    def test_forgotten(self, state: LiveState, shop: Shop, clock: Clock) -> None:
        shop.log += [event(1), event(1, user="bob")]
        for name in ("alice", "bob"):
            state.recent(name, shop.load(name))
            state.record_showings(name, ["x"])
        shop.forget("alice", NOW + 5)
        state.forget("alice", NOW + 5)
        assert state.recent("alice", shop.load("alice")) == Recent((), NOW + 5)
        assert state.showing_counts("alice") == {}
        # One that the store has removed too, heard only now: its thread was slower than the one that forgot.
        state.add_events([event(1)])
        assert state.recent("alice", shop.load("alice")) == Recent((), NOW + 5)
        shop.log.append(event(9))
        state.add_events([event(9)])
        assert state.recent("alice", shop.load("alice")) == Recent((event(9),), NOW + 5)
        assert state.recent("bob", shop.load("bob")).events == (event(1, user="bob"),)
        assert state.showing_counts("bob") == {"x": 1}

    # -- shown ------------------------------------------------------------------------------------------------------

    def test_showings_are_counted(self, state: LiveState, clock: Clock) -> None:
        assert state.showing_counts("alice") == {}
        state.record_showings("alice", ["a", "b:1", "知"])
        state.record_showings("alice", ["a"])
        state.record_showings("alice", [])
        assert state.showing_counts("alice") == {"a": 2, "b:1": 1, "知": 1}
        assert state.showing_counts("bob") == {}

    def test_showings_pass_within_a_day(self, state: LiveState, clock: Clock) -> None:
        state.record_showings("alice", ["a"])
        clock.seconds += DAY_SECONDS - 10
        state.record_showings("alice", ["a", "b"])
        clock.seconds += 11
        assert state.showing_counts("alice") == {"a": 1, "b": 1}
        clock.seconds += DAY_SECONDS
        assert state.showing_counts("alice") == {}

    def test_sums_are_added_up_and_decay(self, state: LiveState, clock: Clock) -> None:
        halves = [100.0, 1_000.0]
        assert state.tally("a", [0, 0], halves) == [0, 0]
        state.tally("a", [1.5, 4], halves)
        state.tally("a", [0.5, 4], halves)
        assert state.tally("b", [1, 1], halves) == [1, 1]
        assert state.tally("a", [0, 0], halves) == [2, 8]
        clock.seconds += 1.0
        state.tally("a", [0, 0], halves)
        clock.seconds += 1_000.0
        assert state.tally("a", [0, 0], halves) == pytest.approx([2 * 2**-10.01, 8 * 2**-1.001], rel=0.02)
        state.forget_all()  # sums are of nobody
        assert state.tally("a", [0, 1], halves)[1] == pytest.approx(5, rel=0.02)

    @pytest.mark.parametrize("window", [1.0, 3_600.0, 90 * DAY_SECONDS])
    def test_showings_count_within_any_window(self, state: LiveState, clock: Clock, window: float) -> None:
        state.record_showings("alice", ["a"], window)
        clock.seconds += window / 2
        state.record_showings("alice", ["a", "b"], window)
        assert state.showing_counts("alice", window) == {"a": 2, "b": 1}
        assert state.showing_counts("alice", window / 4) == {"a": 1, "b": 1}
        clock.seconds += 0.75 * window
        assert state.showing_counts("alice", window) == {"a": 1, "b": 1}
        clock.seconds += window / 2
        state.record_showings("alice", ["c"], window)
        assert state.showing_counts("alice", window) == {"c": 1}
        assert state.showing_counts("alice", 10 * window) == {"c": 1}  # what is older is not kept

    def test_the_last_showings_are_counted(self, state: LiveState) -> None:
        for start in range(0, MAX_SHOWINGS_PER_USER + 500, 500):
            state.record_showings("alice", [f"i{start + n}" for n in range(500)])
        assert state.showing_counts("alice") == {f"i{n}": 1 for n in range(500, MAX_SHOWINGS_PER_USER + 500)}
        for _ in range(MAX_SHOWINGS_PER_USER // 1_000 + 1):
            state.record_showings("alice", ["x"] * 1_000)
        assert state.showing_counts("alice") == {"x": MAX_SHOWINGS_PER_USER}

    # -- against a plain model --------------------------------------------------------------------------------------

    steps = st.lists(
        st.one_of(
            st.tuples(st.just("act"), st.sampled_from("ab"), st.lists(st.integers(0, 9), min_size=1, max_size=4)),
            st.tuples(st.just("burst"), st.sampled_from("ab"), st.integers(0, 400)),
            st.tuples(st.just("again"), st.sampled_from("ab"), st.just(0)),
            st.tuples(st.just("ask"), st.sampled_from("ab"), st.just(0)),
            st.tuples(st.just("act while asked"), st.sampled_from("ab"), st.integers(0, 9)),
            st.tuples(st.just("forget"), st.sampled_from("ab"), st.just(0)),
            st.tuples(st.just("show"), st.sampled_from("ab"), st.lists(st.sampled_from("xyz"), max_size=5)),
            st.tuples(st.just("wait"), st.just("a"), st.sampled_from([1, 70, 1_000])),
        ),
        max_size=25,
    )

    def test_as_a_plain_model(self, make: Callable[[Callable[[], float]], LiveState]) -> None:
        given(steps=self.steps)(lambda steps: self.follow(make, steps))()

    def follow(self, make: Callable[[Callable[[], float]], LiveState], steps: list[tuple[str, str, object]]) -> None:
        clock, shop = Clock(), Shop()
        state = make(clock)
        shown: dict[str, Counter[str]] = {"a": Counter(), "b": Counter()}
        barred = set()  # from counting, for a while, which not every state takes from our clock
        number = 0

        def act(user: str, moments: list[int]) -> None:
            nonlocal number
            new = []
            for moment in moments:
                number += 1
                new.append(Event(user, f"i{number}", NOW + moment, value=float(moment), id=f"e{number}", seq=number))
            shop.log += new
            state.add_events(new)

        for what, user, arg in steps:
            if what == "act":
                act(user, arg)  # type: ignore[arg-type]
            elif what == "burst":
                act(user, [n * 7919 % 1_000 for n in range(arg)])  # type: ignore[arg-type]
            elif what == "again":
                # Of those still at hand: the store tells a retry of an older one from a new event.
                state.add_events(shop.now(user).events[-3:])
            elif what == "act while asked":

                def load(user: str = user, moment: int = arg) -> Recent:  # type: ignore[assignment]
                    found = shop.now(user)
                    act(user, [moment])
                    return found

                state.recent(user, load)
            elif what == "forget":
                moment = NOW + number
                shop.forget(user, moment)
                state.forget(user, moment)
                shown[user].clear()
                barred.add(user)
            elif what == "show":
                if user not in barred:
                    state.record_showings(user, arg)  # type: ignore[arg-type]
                    shown[user].update(arg)  # type: ignore[arg-type]
            elif what == "wait":
                clock.seconds += arg  # type: ignore[operator]
            assert state.showing_counts(user) == dict(shown[user])
            if what != "wait":
                assert state.recent(user, shop.load(user)) == shop.now(user)
        state.close()
