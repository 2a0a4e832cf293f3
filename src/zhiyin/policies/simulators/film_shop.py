"""A simulated film shop: users with known, drifting tastes, who generate a log and respond to recommendations.

How a user u comes to a film i on day t. Both have vectors over genres, latent factors and price:

    attraction(u, i, t) = taste_u(t) · film_i + quality_i + novelty · exp(-age_i(t) / 21 days)
    taste_u(t)          = before_u cos(φ) + after_u sin(φ),  φ = turn_u · t   (a rotation keeps its strength)
    P(click)            = sigmoid(attraction - 4.5)

A session of the log views films drawn without replacement, each with weight

    exp(attraction + visibility + theme + habit)

where visibility is what the shop puts up front, a Zipf law that swings with fashion; theme is a genre of the
evening; habit is what the user did before (a bought film is seldom looked at again, one left in the cart
often).
Views become carts and purchases by attraction. So the log is biased by exposure as real logs are, while
`probability` and `respond` know the truth.
"""

from __future__ import annotations

import dataclasses
from functools import cached_property
from pathlib import Path

import numpy as np
import polars as pl
from scipy.special import expit

from zhiyin.core.atomic_files import whole_file
from zhiyin.core.durations import SECOND, microseconds
from zhiyin.core.parallel import for_chunks
from zhiyin.core.params import check_settings, list_length, param, settings_of
from zhiyin.core.run import Run
from zhiyin.data.column_roles import Roles
from zhiyin.data.dataset import Dataset
from zhiyin.data.event_schema import EventSchema
from zhiyin.policies.simulators.film_texts import GENRES, N_FACTORS, write_texts

START = 1_735_689_600 * SECOND  # 2025-01-01 00:00 UTC
DAY = microseconds("1d")
COUNTRIES = ("DE", "FR", "GB", "IT", "JP", "PL", "US")
AGES = ("18-24", "25-34", "35-44", "45-54", "55+")
KINDS = ("view", "cart", "purchase", "dislike")

_NOVELTY_DAYS = 21.0
_CLICK_OFFSET = 4.5  # about 1 random film in 20 would be clicked, and about half of a user's best ten
_MAX_VIEWS = 12  # with the longest gaps a session still ends on the day it began
_CELLS = 1_000_000  # users × items scored at once: 4 MB an array, and the same whatever the threads
_WEEK = np.array([0.9, 0.9, 0.8, 0.9, 1.3, 1.6, 1.3])  # sessions by weekday, Monday first


@dataclasses.dataclass
class Films:
    """The catalogue as the simulator sees it; a row a film, in the order of the ids.

    vectors: float32[n, genres + factors + 1], the last column minus the price, standardised.
    quality, visibility: float32[n], log odds. season, phase: float32[n], days and radians of the swing of
    visibility. released: int32[n], day of release, negative before the log begins.
    genres: int[n, 3], codes into GENRES, -1 for none. price: float64[n], in whole and .99.
    """

    vectors: np.ndarray
    quality: np.ndarray
    visibility: np.ndarray
    season: np.ndarray
    phase: np.ndarray
    released: np.ndarray
    genres: np.ndarray
    price: np.ndarray


@dataclasses.dataclass
class People:
    """The users as the simulator sees them; a row a user, in the order of the ids.

    before, after: float32[n, genres + factors], between which the taste turns. turn: float32[n], radians a
    day. thrift: float32[n], log odds a standard deviation of price. joined: int32[n], day. pace: float64[n],
    relative number of sessions. age, country: int[n], codes into AGES and COUNTRIES.
    """

    before: np.ndarray
    after: np.ndarray
    turn: np.ndarray
    thrift: np.ndarray
    joined: np.ndarray
    pace: np.ndarray
    age: np.ndarray
    country: np.ndarray


@dataclasses.dataclass
class FilmShop:
    """A film shop with a log, a catalogue and users whose responses to slates can be simulated.

    The same fields give the same log, byte for byte, on any number of threads.

    >>> shop = FilmShop(n_users=50, n_items=40, days=30)
    >>> shop.log().n_users, shop.probability(np.array([0]), np.array([[3, 4]]), day=10).shape
    (50, (1, 2))
    """

    n_users: int = param(2000, "users", at_least=1)
    n_items: int = param(1200, "films", at_least=1)
    days: int = param(120, "length of the log in days", at_least=1)
    seed: int = param(0, "every draw descends from it", at_least=0)
    sessions: float = param(9.0, "sessions of a user over the whole period, on average", at_least=0)
    taste: float = param(1.0, "how much users differ: 0 makes them all alike", at_least=0)
    theme: float = param(2.0, "how much a session keeps to one genre", at_least=0)
    drift: float = param(0.8, "radians a taste turns over the period, on average", at_least=0)
    novelty: float = param(1.8, "how much a new film attracts", at_least=0)
    arrivals: float = param(0.25, "share of the films released within the period", at_least=0, at_most=0.9)
    fashion: float = param(1.0, "how far the visibility of a film swings over the weeks", at_least=0)
    zipf: float = param(1.4, "exponent of the visibility of films by rank", at_least=0)

    # -- What there is ---------------------------------------------------------------------------------------

    @cached_property
    def films(self) -> Films:
        """The hidden attributes of the catalogue."""
        rng, n = self._rng(1), self.n_items
        appeal = rng.dirichlet(np.full(len(GENRES), 3.0))  # some genres have more films
        order = np.argsort(-(np.log(appeal) + rng.gumbel(size=(n, len(GENRES)))), axis=1)[:, :3]
        how_many = rng.choice([1, 2, 3], size=(n, 1), p=[0.3, 0.45, 0.25])
        genres = np.where(np.arange(3) < how_many, order, -1)
        share = np.zeros((n, len(GENRES) + 1))  # the last column takes the places without a genre
        np.put_along_axis(share, genres, np.array([1.0, 0.6, 0.4]), axis=1)
        share = share[:, :-1] / share[:, :-1].sum(axis=1, keepdims=True)
        factors = rng.normal(size=(n, N_FACTORS))
        quality = 0.5 * rng.normal(size=n)
        new = rng.permutation(n) < round(self.arrivals * n)
        rank = np.empty(n)
        rank[np.argsort(-(quality - 0.5 * new + rng.normal(size=n)), kind="stable")] = np.arange(1, n + 1)
        visibility = -self.zipf * np.log(rank + n / 80)  # the same share of events to the head at any n
        old = np.minimum(-1, -np.ceil(rng.gamma(1.2, 3500, size=n)))
        released = np.where(new, rng.integers(0, self.days, size=n), np.maximum(old, -25_000))
        price = np.round(4 + 8 * np.exp(old / 4000) * (~new) + 12 * new + rng.gamma(2.0, 1.5, size=n)) - 0.01
        dearness = (price - price.mean()) / max(price.std(), 1e-9)
        return Films(
            np.column_stack([share, factors, -dearness]).astype(np.float32),
            quality.astype(np.float32),
            visibility.astype(np.float32),
            rng.uniform(60, 180, size=n).astype(np.float32),
            rng.uniform(0, 2 * np.pi, size=n).astype(np.float32),
            released.astype(np.int32),
            genres,
            price,
        )

    @cached_property
    def people(self) -> People:
        """The hidden attributes of the users."""
        rng, n = self._rng(2), self.n_users
        age = rng.choice(len(AGES), size=n, p=[0.2, 0.3, 0.2, 0.15, 0.15])
        country = rng.integers(0, len(COUNTRIES), size=n)
        by_age = rng.normal(size=(len(AGES), len(GENRES)))
        by_country = rng.normal(size=(len(COUNTRIES), len(GENRES)))
        group = 0.3 * by_age[age] + 0.15 * by_country[country]
        earlier, later = -rng.integers(1, 700, size=n), rng.integers(0, self.days, size=n)
        joined = np.where(rng.random(n) < 0.65, earlier, later)
        return People(
            self._tastes(rng, group),
            self._tastes(rng, group),
            (self.drift / self.days * rng.uniform(0.5, 1.5, size=n)).astype(np.float32),
            (0.3 * rng.gamma(1.5, 1.0, size=n)).astype(np.float32),
            joined.astype(np.int32),
            np.exp(rng.normal(-0.32, 0.8, size=n)),  # log-normal with mean 1
            age,
            country,
        )

    def _tastes(self, rng: np.random.Generator, group: np.ndarray) -> np.ndarray:
        """float32[n, genres + factors]: a few favourite genres (a skewed gamma), any direction of factors."""
        shape = 0.4
        favourite = (rng.gamma(shape, size=group.shape) - shape) / np.sqrt(shape)
        factors = rng.normal(size=(len(group), N_FACTORS)) / 2
        return (self.taste * np.column_stack([1.4 * favourite + group, factors])).astype(np.float32)

    @cached_property
    def items(self) -> pl.DataFrame:
        """The catalogue: id, title, description, genres, year, price, released."""
        films = self.films
        second = np.where(films.genres[:, 1] < 0, films.genres[:, 0], films.genres[:, 1])
        factors = films.vectors[:, len(GENRES) : -1]
        titles, texts = write_texts(np.column_stack([films.genres[:, 0], second]), factors, self._rng(3))
        released = _dates(films.released)
        return pl.DataFrame(
            {
                "id": _ids("f", self.n_items),
                "title": titles,
                "description": texts,
                "genres": [[GENRES[code] for code in row if code >= 0] for row in films.genres.tolist()],
                "year": released.dt.year().cast(pl.Int32),
                "price": films.price,
                "released": released,
            }
        )

    @cached_property
    def users(self) -> pl.DataFrame:
        """The users: id, country, age_group, joined."""
        people = self.people
        return pl.DataFrame(
            {
                "id": _ids("u", self.n_users),
                "country": [COUNTRIES[code] for code in people.country.tolist()],
                "age_group": [AGES[code] for code in people.age.tolist()],
                "joined": _dates(people.joined),
            }
        )

    # -- The truth, for policies -----------------------------------------------------------------------------

    def tastes(self, users: np.ndarray, day: float | np.ndarray) -> np.ndarray:
        """Tastes of user codes int[n] on a day (or days float[n]): float32[n, genres + factors]."""
        angle = (self.people.turn[users] * np.asarray(day, dtype=np.float32))[:, None]
        return self.people.before[users] * np.cos(angle) + self.people.after[users] * np.sin(angle)

    def attraction(self, users: np.ndarray, items: np.ndarray, day: float | np.ndarray) -> np.ndarray:
        """Log odds of interest of users int[n] in items int[n, k]: float32[n, k]; -inf before the release."""
        films, day = self.films, np.broadcast_to(np.asarray(day, dtype=np.float32), len(users))
        fit = np.einsum("nd,nkd->nk", self._wants(users, day), films.vectors[items])
        return fit + films.quality[items] + _newness(day[:, None] - films.released[items], self.novelty)

    def probability(self, users: np.ndarray, items: np.ndarray, day: float | np.ndarray) -> np.ndarray:
        """P(click | looked at) of users int[n] for items int[n, k]: float32[n, k]; 0 before the release."""
        return expit(self.attraction(users, items, day) - _CLICK_OFFSET)

    def purchase_probability(self, users: np.ndarray, items: np.ndarray, day: float | np.ndarray) -> np.ndarray:
        """P(bought | clicked) of users int[n] for items int[n, k]: float32[n, k], as views of the log become purchases.

        Novelty attracts clicks, and sells nothing.
        """
        day = np.broadcast_to(np.asarray(day, dtype=np.float32), len(users))
        fit = np.einsum("nd,nkd->nk", self._wants(users, day), self.films.vectors[items])
        in_cart, bought = _purchase_chances(fit + self.films.quality[items])
        return in_cart * bought

    @staticmethod
    def examination(k: int) -> np.ndarray:
        """P(looked at) of the places of a slate, 1 / sqrt(place) with places from 1: float32[k]."""
        return (1 / np.sqrt(np.arange(1, list_length(k) + 1))).astype(np.float32)

    def respond(
        self, users: np.ndarray, slates: np.ndarray, day: float | np.ndarray, rng: np.random.Generator
    ) -> np.ndarray:
        """Clicks bool[n, k] of users int[n] on slates int[n, k], drawn place by place.

        A position-based model: P(click at r) = examination(k)[r] · probability(users, slates, day)[:, r].
        """
        chance = self.probability(users, slates, day) * self.examination(slates.shape[1])
        return rng.random(chance.shape, dtype=np.float32) < chance

    # -- The log ---------------------------------------------------------------------------------------------

    def log(self, run: Run | None = None) -> Dataset:
        """The shop's log with its catalogue and users. Ratings (1 to 5) are the values of some purchases."""
        events = self._events(run or Run())
        weights = EventSchema.of(KINDS).weights(KINDS, None)
        frame = pl.DataFrame(
            {
                "user": self.users["id"].gather(events["user"]),
                "item": self.items["id"].gather(events["item"]),
                "time": events["time"],
                "kind": pl.Series(KINDS).gather(events["kind"]).cast(pl.Categorical),
                "value": pl.Series(events["value"]).fill_nan(None),
                "weight": weights[events["kind"]],
            }
        )
        roles = Roles(user="user", item="item", time="time", rating="rating", kind="kind")
        note = f"a simulated film shop, seed {self.seed}"
        return Dataset.build(frame, users=self.users, items=self.items, roles=roles, notes=(note,))

    def write(self, folder: str | Path, run: Run | None = None) -> Path:
        """Write events.csv (by time), items.csv (genres joined by |) and users.csv. Returns the folder."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        log = self.log(run)
        events = log.events.select(
            log.users["id"].gather(log.events["user"]).alias("user"),
            log.items["id"].gather(log.events["item"]).alias("item"),
            pl.col("time").cast(pl.Datetime("us")).dt.strftime("%Y-%m-%dT%H:%M:%SZ"),
            "kind",
            pl.col("value").cast(pl.Int8).alias("rating"),
        )
        items = self.items.with_columns(pl.col("genres").list.join("|"))
        events = events.sort("time", maintain_order=True)
        for name, frame in (("events", events), ("items", items), ("users", self.users)):
            with whole_file(folder / f"{name}.csv") as draft:
                frame.write_csv(draft)
        return folder

    def _events(self, run: Run) -> dict[str, np.ndarray]:
        """All events: user, item, kind (codes), time (µs), value (float32, NaN where none)."""
        check_settings(FilmShop, settings_of(self))
        owner, days, clock = self._sessions()
        counts = np.bincount(owner, minlength=self.n_users)
        firsts = np.cumsum(counts) - counts
        # Busy users first: users of about as many sessions share a chunk, so that its rounds stay full.
        order = np.argsort(-counts, kind="stable")
        table = self._shelf()
        chunk = max(16, _CELLS // self.n_items)
        parts: dict[int, dict[str, np.ndarray]] = {}

        def work(start: int, stop: int) -> None:
            users = order[start:stop]
            rng = self._rng(5, start)
            parts[start] = self._chunk(users, firsts[users], counts[users], days, clock, table, rng)

        for_chunks(work, self.n_users, run, chunk, "Simulating")
        return {name: np.concatenate([parts[start][name] for start in sorted(parts)]) for name in parts[0]}

    def _sessions(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Sessions by (user, day), at most one a day, at least one a user: user, day, second of the day."""
        rng, people = self._rng(4), self.people
        first = np.maximum(people.joined, 0)
        busy = np.concatenate([[0], np.cumsum(_WEEK[(2 + np.arange(self.days)) % 7])])  # day 0 is a Wednesday
        share = (busy[-1] - busy[first]) / busy[-1]
        counts = np.maximum(1, rng.poisson(self.sessions * people.pace * share))
        owner = np.repeat(np.arange(self.n_users), counts)
        spot = busy[first][owner] + rng.random(len(owner)) * (busy[-1] - busy[first])[owner]
        day = np.clip(np.searchsorted(busy, spot, side="right") - 1, first[owner], self.days - 1)
        owner, day = np.divmod(np.unique(owner * self.days + day), self.days)
        hour = np.clip(rng.normal(19, 3.5, size=len(owner)), 6, 22)  # evenings
        return owner, day, (hour * 3600).astype(np.int64)

    def _shelf(self) -> np.ndarray:
        """What attracts all users alike, by day: float32[days, n_items]; -inf before the release."""
        films = self.films
        day = np.arange(self.days, dtype=np.float32)[:, None]
        swing = self.fashion * np.sin(2 * np.pi * day / films.season + films.phase)
        return films.quality + films.visibility + swing + _newness(day - films.released, self.novelty)

    def _wants(self, users: np.ndarray, day: np.ndarray) -> np.ndarray:
        """Taste vectors with thrift, to be multiplied with the vectors of films."""
        return np.column_stack([self.tastes(users, day), self.people.thrift[users]])

    def _chunk(
        self,
        users: np.ndarray,
        firsts: np.ndarray,
        counts: np.ndarray,
        days: np.ndarray,
        clock: np.ndarray,
        shelf: np.ndarray,
        rng: np.random.Generator,
    ) -> dict[str, np.ndarray]:
        """Events of users (most sessions first): round r simulates the r-th session of all who have one."""
        films = self.films
        habit = np.zeros((len(users), self.n_items), dtype=np.float32)
        rounds = []
        for r in range(counts[0]):
            n = int(np.searchsorted(-counts, -r, side="left"))  # users with more than r sessions
            who, day = users[:n], days[firsts[:n] + r]
            wants = self._wants(who, day.astype(np.float32))
            themed = wants.copy()
            liking = wants[:, : len(GENRES)] + rng.gumbel(size=(n, len(GENRES)))
            themed[np.arange(n), liking.argmax(axis=1)] += self.theme
            # The k smallest of Exp(1) / weight are a draw without replacement by weight (exponential race).
            race = themed @ films.vectors.T
            race += shelf[day]
            race += habit[:n]
            with np.errstate(over="ignore"):
                np.exp(np.negative(race, out=race), out=race)
            # Never 0: the race of an unreleased film is infinite, and must stay so.
            race *= np.maximum(rng.standard_exponential(race.shape, dtype=np.float32), 1e-12)
            k = min(_MAX_VIEWS, self.n_items)
            seen = np.argpartition(race, k - 1, axis=1)[:, :k]
            finish = np.take_along_axis(race, seen, axis=1)
            by_finish = np.argsort(finish, axis=1, kind="stable")
            seen = np.take_along_axis(seen, by_finish, axis=1)
            released = np.isfinite(np.take_along_axis(finish, by_finish, axis=1))
            shown = released & (np.arange(k) < 1 + rng.poisson(2.6, size=(n, 1)))
            row, place = np.nonzero(shown)
            item = seen[row, place]
            pull = np.einsum("nd,nd->n", wants[row], films.vectors[item]) + films.quality[item]
            kinds, values, last = _outcomes(pull, rng)
            habit[row, item] += np.array([-1.0, 1.0, -6.0, -4.0], dtype=np.float32)[last]
            gaps = np.clip(rng.gamma(2.0, 40.0, size=shown.shape), 20, 180)
            starts = clock[firsts[:n] + r][:, None] + np.cumsum(gaps, axis=1) - gaps
            # Up to four steps within the time given to one film: view, look again, cart, purchase.
            seconds = starts[shown][:, None] + gaps[shown][:, None] * np.array([0.0, 0.35, 0.6, 0.85])
            view, step = np.nonzero(kinds >= 0)
            moment = day[row[view]] * DAY + seconds[view, step].astype(np.int64) * SECOND + START
            rounds.append((who[row[view]], item[view], kinds[view, step], moment, values[view, step]))
        columns = (np.concatenate(parts) for parts in zip(*rounds))
        return dict(zip(("user", "item", "kind", "time", "value"), columns))

    def _rng(self, *stream: int) -> np.random.Generator:
        return Run(seed=self.seed).rng(11, *stream)


def _outcomes(pull: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """What came of views, given their attraction float32[m].

    Returns kinds int8[m, 4] (codes into KINDS by step, -1 for no event), values float32[m, 4] (ratings of
    purchases, NaN elsewhere) and the last kind of each view, int8[m].
    """
    m = len(pull)
    draw = rng.random((m, 5))
    in_cart, buys = _purchase_chances(pull)
    cart = draw[:, 0] < in_cart
    bought = cart & (draw[:, 1] < buys)
    dislike = ~cart & (draw[:, 2] < 0.1 * expit(-pull - 1.0))
    again = cart & (draw[:, 3] < 0.3)
    kinds = np.full((m, 4), -1, dtype=np.int8)
    kinds[:, 0] = 0
    kinds[again, 1] = 0
    kinds[cart, 2] = 1
    kinds[bought, 3] = 2
    kinds[dislike, 2] = 3
    values = np.full((m, 4), np.nan, dtype=np.float32)
    rated = bought & (draw[:, 4] < 0.4)
    stars = 2.0 + 0.35 * pull[rated] + 0.8 * rng.normal(size=int(rated.sum()))
    values[rated, 3] = np.clip(np.round(stars), 1, 5)
    return kinds, values, np.where(dislike, 3, cart.astype(np.int8) + bought).astype(np.int8)


def _purchase_chances(pull: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """P(put in the cart | viewed) and P(bought | in the cart), by the attraction without novelty."""
    return expit(0.5 * pull - 3.4), expit(0.3 * pull - 1.3)


def _newness(age: np.ndarray, novelty: float) -> np.ndarray:
    """Log odds by the age of a film in days: float32, decaying from `novelty`; -inf before the release."""
    fresh = novelty * np.exp(-np.maximum(age, 0) / _NOVELTY_DAYS)
    return np.where(age < 0, -np.inf, fresh).astype(np.float32)


def _ids(letter: str, n: int) -> pl.Series:
    """ "f0001", "f0002", ...: so wide that their order as text is their order as numbers."""
    return pl.Series("id", [f"{letter}{i:0{max(4, len(str(n)))}d}" for i in range(1, n + 1)])


def _dates(day: np.ndarray) -> pl.Series:
    return pl.Series(START + day.astype(np.int64) * DAY).cast(pl.Datetime("us")).dt.date()
