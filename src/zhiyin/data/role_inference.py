"""What the columns mean, guessed from names, types and contents; every guess is said and can be overruled."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable

import polars as pl

from zhiyin.core.durations import UNITS
from zhiyin.core.errors import DataError, nearest
from zhiyin.data.column_roles import ROLES, Roles
from zhiyin.data.event_schema import KNOWN_KINDS
from zhiyin.data.ids import ids_of_floats, match_spelling
from zhiyin.data.timestamps import looks_like_times, numeric_unit, read_clock, to_microseconds

_NAMES = {
    "user": "user customer visitor client member account reviewer reader viewer listener person buyer shopper uid "
    "kunde kunden nutzer benutzer kaufer utilisateur acheteur usuario cliente utente comprador klient gebruiker",
    "item": "item product movie film book article track song artist asin sku stock video news poi ad game "
    "business recipe post place listing iid isbn artikel produkt ware produit producto articulo prodotto articolo "
    "produto livre libro livro pelicula",
    "time": "time timestamp date datetime ts dt dat when day created updated added at unixtime moment "
    "datum zeit zeitpunkt uhrzeit heure fecha hora tijd",
    "rating": "rating score stars weight value quantity qty count plays listens amount preference grade "
    "bewertung menge anzahl sterne quantite valoracion puntuacion calificacion cantidad voto nota quantita",
    "kind": "kind event action behavior behaviour interaction type feedback ereignis aktion evenement evento accion",
}
_WORDS = {role: set(words.split()) for role, words in _NAMES.items()}
# Words that name a role only where no column is named by one of the above. A header is not recognised by them.
_SECONDARY_NAMES = {
    "user": "session household cust username profilename nickname nick cookie device visit patient student subscriber",
    "item": "app aid doc document hotel anime manga beer wine venue location joke merchant reference shop restaurant "
    "course job page channel podcast episode url artname",
    "rating": "overall hours playtime ratio episodes",
    "kind": "",
}
_SECONDARY_WORDS = {role: set(words.split()) for role, words in _SECONDARY_NAMES.items()}
# Of these an item or a user is named only with an id beside: "location_id", not "location".
_NEED_ID = {"location", "device", "visit", "patient", "student", "job", "channel", "page", "shop", "cust"}
# Names of a whole that has many items: a track is the item, its artist is not.
_WHOLES = {"artist", "place", "artname", "channel", "podcast"}
# Columns that say of each row whether something happened.
_OUTCOMES = {"click", "clicked", "label", "like", "liked", "purchased", "converted", "conversion"}
_COMPOUND_TIME = re.compile(
    r"(event|order|review|purchase|transaction|click|invoice|session|view|visit|utc|unix)(date|time|datetime|timestamp)"
)
_ID_WORDS = {"id", "code", "no", "number", "key", "identifier"}
_ITEM_DETAILS = {
    "title", "name", "description", "price", "category", "categories", "genre", "genres", "brand",
    "author", "authors", "class", "year",
}  # fmt: skip
_USER_DETAILS = {
    "country", "age", "gender", "sex", "city", "state", "region", "job", "occupation", "zip", "language",
}  # fmt: skip
_AMOUNTS = {
    "price", "cost", "amount", "year", "rating", "score", "star", "stock", "count", "quantity", "qty", "weight",
    "length", "width", "height", "duration", "minute", "second", "page", "age", "discount", "margin", "sale", "view",
    "popularity", "plays", "listens", "value", "grade", "percent", "number", "level", "total", "rank",
}  # fmt: skip
# Columns that summarise the very events one wants to predict.
LEAKING = re.compile(
    r"(avg|average|mean|n|num|total|work|text)?_?(ratings?|reviews?|votes?|clicks?|views?|sales|plays|purchases)_?"
    r"(count|counts|avg|average|mean|total|sum|\d)$|"
    r"^(n|num|number_of|total)_(ratings|reviews|votes|clicks|views|sales|plays|purchases)$"
    r"|^(average|avg|mean)_?(rating|score|stars)$|popularity|bestseller",
    re.IGNORECASE,
)


_ID_STEMS = _WORDS["user"] | _WORDS["item"] | _SECONDARY_WORDS["user"] | _SECONDARY_WORDS["item"] | {"app"}


def words(name: str) -> list[str]:
    """A column name in lower-case words: "CustomerID" and "customer_id" are both ["customer", "id"]."""
    plain = "".join(part for part in unicodedata.normalize("NFKD", name) if not unicodedata.combining(part))
    spaced = re.sub(r"(?<=[a-z])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", plain)
    found = [word for word in re.split(r"[^a-zA-Z0-9]+", spaced.lower()) if word]
    out: list[str] = []
    for word in found:  # "userid" -> user, id
        compound = _COMPOUND_TIME.fullmatch(word)
        if word[:-2] in _ID_STEMS and word.endswith("id"):
            out += [word[:-2], "id"]
        elif word[:-4] in _ID_STEMS and word.endswith("name"):
            out += [word[:-4], "name"]
        else:
            out += compound.groups() if compound else [word]
    return out


# Words of column names in other scripts.
_FOREIGN = {
    "user": "用户|会员|客户|顾客|买家|使用者|ユーザー|会員|顧客|사용자|고객|пользовател|клиент",
    "item": "商品|物品|产品|電影|电影|图书|书籍|歌曲|音乐|视频|文章|店铺|アイテム|映画|상품|아이템|товар|фильм",
    "time": "时间|日期|時間|日時|日付|时刻|시간|날짜|время|дата",
    "rating": "评分|打分|分数|数量|次数|評価|点数|평점|수량|оценка|количество",
    "kind": "行为|动作|事件|类型|行動|행동|이벤트|событие|действие",
}


def name_score(role: str, name: str) -> float:
    """How well a column name suits a role: 0 not at all, from 1 on it is named so."""
    if not name.isascii() and re.search(_FOREIGN[role], name.lower()):
        described = role in ("user", "item") and re.search("名|标题|標題|タイトル|имя|назван", name.lower())
        return 0.5 if described else 2.0 + (role in ("user", "item") and bool(re.search(r"(?i)id|编号|號|号", name)))
    parts = [word.rstrip("s") if word not in _WORDS[role] else word for word in words(name)]
    hits = sum(part in _WORDS[role] for part in parts)
    if not hits:
        return 0.0
    score = 2.0 if len(parts) == 1 else 1.0 + hits / len(parts)
    if role in ("user", "item"):
        score += 1.0 if _ID_WORDS & set(parts) else 0.0
        score -= 1.5 if {"name", "title", "url", "description"} & set(parts) else 0.0
        score -= 1.0 if _is_attribute(parts) else 0.0
        score += 1.0 if {"parent", "asin"} <= set(parts) else 0.0  # its variants share the page of a product
        score -= 0.1 if _WHOLES & set(parts) else 0.0
    if role == "kind" and _ID_WORDS & set(parts):
        score -= 1.5
    if role == "rating" and {"id", "key", "code"} & set(parts):
        score -= 1.5
    return score


def _is_attribute(parts: list[str]) -> bool:
    """Whether a name is of an attribute of an item or user, as its last word tells: "Book-Rating", "item category"."""
    named = [part for part in parts if part not in _ID_WORDS]
    if len(named) < 2:
        return False
    attributes = _WORDS["rating"] | _WORDS["time"] | _WORDS["kind"] | _ITEM_DETAILS | _USER_DETAILS
    attributes -= {"name", "title", "description"}
    return named[-1] in attributes or named[0] in _WORDS["rating"]


def _secondary_score(role: str, name: str) -> float:
    """As `name_score`, by words that say less; 0 for none."""
    parts = words(name)
    stems = {part if part in _SECONDARY_WORDS[role] else part.rstrip("s") for part in parts}
    hits = stems & _SECONDARY_WORDS[role]
    has_id = bool(_ID_WORDS & set(parts)) or "sha1" in parts
    if role in ("user", "item"):
        if "name" in parts and _WORDS[role] & set(parts):
            return 1.0 - 0.1 * bool(_WHOLES & set(parts))  # names of tracks where no ids of tracks are
        if _is_attribute(parts) or (hits <= _NEED_ID and not has_id):
            return 0.0
    if not hits:
        return 0.0
    return 1.0 + sum(part in hits for part in parts) / len(parts) + has_id - 0.1 * bool(_WHOLES & stems)


def is_amount(name: str) -> bool:
    """Whether a column is named as one that holds numbers: a price, a count, a year."""
    return bool(_AMOUNTS & {word.rstrip("s") for word in words(name)} | (_AMOUNTS & set(words(name))))


def _fits(role: str, column: pl.Series, named: bool = False) -> bool:
    """Whether the contents can play the role at all; `named`: the column is called so."""
    seen = column.drop_nulls()
    if not len(seen) or column.dtype.is_nested():
        return False
    if role == "time":
        return looks_like_times(column, named)
    if role == "rating":
        return column.dtype.is_numeric() or column.dtype == pl.Boolean
    if role == "kind":
        return seen.n_unique() <= 50 and column.dtype in (pl.String, pl.Categorical, pl.Int64)
    return not column.dtype.is_temporal()


def guess_roles(sample: pl.DataFrame, given: dict[str, str] | None = None, source: str = "") -> Roles:
    """The roles of an event log's columns.

    `given` are roles the caller is sure of. Raises DataError when user or item cannot be found or named.
    """
    given = {role: column for role, column in (given or {}).items() if column is not None}
    for role, column in given.items():
        if role not in ROLES:
            raise DataError(f"there is no role {role!r}", file=source, remedy=nearest(role, list(ROLES)))
        if column not in sample.columns:
            raise DataError(f"there is no column {column!r}", file=source, remedy=nearest(column, sample.columns))
    found = dict(given)
    free = [name for name in sample.columns if name not in found.values()]
    # Contents tell time from numbers better than names do: unnamed columns are judged by them, in the end.
    for role in ("time", "user", "item", "rating", "kind"):
        if role in found:
            continue
        named = _best_named(role, sample, free, name_score)
        if role == "user" and named is not None and 2 * sample[named].null_count() > len(sample):
            named = _best_named(role, sample, free, _secondary_score) or named  # sessions, where few are signed in
        if named is not None:
            found[role] = named
            free.remove(named)
    for role in ("user", "item", "rating"):
        named = _best_named(role, sample, free, _secondary_score) if role not in found else None
        if named is not None:
            found[role] = named
            free.remove(named)
    if "time" not in found:
        _guess_time(sample, free, found)
    elif "time" not in given:
        _prefer_clock(sample, free, found)
    _guess_by_contents(sample, free, found)
    missing = [role for role in ("user", "item") if role not in found]
    if missing:
        remedy = f'name it: columns={{"{missing[0]}": "..."}}, or {missing[0]} = "..." in zhiyin.toml'
        if len(sample.columns) == 1:
            remedy = f"name what stands between the fields: separator = ... under [read], or --assume; or {remedy}"
        raise DataError(
            f"no column looks like the {' or the '.join(missing)}; columns: {_shortened(sample.columns)}"
            + "".join(map(_unfit, [(role, sample) for role in missing])),
            file=source, remedy=remedy,
        )  # fmt: skip
    clock = _clock_beside(sample, free, found) if "time" in found else None
    if clock is not None:
        free.remove(clock)
    details = _details(sample, free, found["user"], found["item"])
    return Roles(**found, **details, clock=clock)  # type: ignore[arg-type]


def _best_named(role: str, sample: pl.DataFrame, free: list[str], score_of: Callable[[str, str], float]) -> str | None:
    """The column whose name suits a role best, of those whose contents do; the first of equals."""
    scored = [(score_of(role, name), -i, name) for i, name in enumerate(free)]
    best = max((one for one in scored if one[0] >= 1 and _fits(role, sample[one[2]], True)), default=None)
    return best[2] if best else None


def _prefer_clock(sample: pl.DataFrame, free: list[str], found: dict[str, str]) -> None:
    """Where the times are whole days, take a column of moments instead that is named as one and is of the event."""
    if _has_clock(sample[found["time"]]):
        return
    keys = [found[role] for role in ("user", "item") if role in found]
    for name in free:
        suits = name_score("time", name) >= 1 and _fits("time", sample[name], True) and _has_clock(sample[name])
        if suits and not any(_depends(sample, name, key) for key in keys):
            free[free.index(name)] = found["time"]
            found["time"] = name
            return


def _clock_beside(sample: pl.DataFrame, free: list[str], found: dict[str, str]) -> str | None:
    """The column that holds the time of day of the events where the times are whole days: "time" beside "date",
    "InvoiceTime" beside "InvoiceDate"."""
    if _has_clock(sample[found["time"]]):
        return None
    days = _without_time_words(found["time"])
    for name in free:
        read = len(sample) - read_clock(sample[name]).null_count()
        written = len(sample) - sample[name].null_count()
        if read and 2 * read > written and _without_time_words(name) in (days, ()):
            return name
    return None


def _without_time_words(name: str) -> tuple[str, ...]:
    """What a name says besides that it is of a day, a time or an hour."""
    foreign = re.sub(_FOREIGN["time"], "", name.lower())
    plain = words(name) if name.isascii() else [foreign] if foreign else []
    return tuple(word for word in plain if word not in _WORDS["time"] | {"hour", "clock", "of", "the"})


def _has_clock(column: pl.Series) -> bool:
    """Whether moments of a column are more than days."""
    times = to_microseconds(column).drop_nulls()
    return bool((times % UNITS["d"] != 0).any())


def _shortened(names: list[str]) -> str:
    shown = ", ".join(name if len(name) <= 60 else name[:57] + "..." for name in names[:20])
    return shown + (f" and {len(names) - 20} more" if len(names) > 20 else "")


def _unfit(pair: tuple[str, pl.DataFrame]) -> str:
    """Why a column that is named like a role cannot play it, as the end of a sentence."""
    role, sample = pair
    named = next((name for name in sample.columns if name_score(role, name) >= 1), None)
    if named is None:
        return ""
    dtype = sample[named].dtype
    if _is_blank(sample[named]):
        return f"; {named} is empty"
    return (
        f"; {named} holds {'lists or objects' if dtype.is_nested() else dtype}"
        if not _fits(role, sample[named])
        else ""
    )


def _guess_time(sample: pl.DataFrame, free: list[str], found: dict[str, str]) -> None:
    """A column of moments, whatever it is called: typed so, else of texts with a clock in them."""
    typed = [name for name in free if sample[name].dtype in (pl.Datetime, pl.Date) and not _is_blank(sample[name])]
    texts = [
        name
        for name in free
        if sample[name].dtype == pl.String
        and bool(sample[name].drop_nulls().head(100).str.contains(r"\d[T ]?\d{1,2}:\d{2}").all())
        and looks_like_times(sample[name])
    ]
    keys = [found[role] for role in ("user", "item") if role in found]
    for name in [*typed, *texts]:
        if not any(_depends(sample, name, key) for key in keys):  # a birthday describes the user
            found["time"] = name
            free.remove(name)
            return


def ignored(sample: pl.DataFrame, roles: Roles) -> list[str]:
    """Sentences about columns of the log that are not used, those first that are named like a role."""
    used = {
        roles.user,
        roles.item,
        roles.time,
        roles.rating,
        roles.kind,
        roles.clock,
        *roles.item_columns,
        *roles.user_columns,
    }
    left = [name for name in sample.columns if name not in used]
    said = []
    for role, what in (("time", "times"), ("rating", "numbers"), ("kind", "kinds of events")):
        if getattr(roles, role) is None:
            named = [name for name in left if name_score(role, name) >= 1 and not _is_blank(sample[name])]
            said += [
                f"no {what}: {name} is named like one, but what stands in it does not read as {what}"
                if role == "time"
                else f"{name} is named like a {role}, but what stands in it does not read as {what}"
                for name in named[:1]
            ]
    outcomes = [name for name in left if roles.rating is None and _is_outcome(sample[name])][:1]
    said += [
        f'{name} is 0 in some rows, and these count as events too (else: columns={{"rating": "{name}"}} and '
        f'weights={{"{name} > 0": 1}})'
        for name in outcomes
    ]
    blank = [name for name in left if _is_blank(sample[name])]
    if blank:
        said.append(f"not used, because empty: {_shortened(blank)}")
    rest = [
        name
        for name in left
        if name not in (*blank, *outcomes) and not any(f"{name} is named" in told for told in said)
    ]
    if rest:
        shown = ", ".join(rest[:8]) + (f" and {len(rest) - 8} more" if len(rest) > 8 else "")
        said.append(f"not used: {shown}; they describe neither the item nor the user nor the event")
    return said


def _is_outcome(column: pl.Series) -> bool:
    """Whether a column says of each row whether something happened, and of some that it did not: clicks and labels."""
    if not _OUTCOMES & set(words(column.name)) or not (column.dtype.is_numeric() or column.dtype == pl.Boolean):
        return False
    return set(column.drop_nulls().cast(pl.Float64).unique()) == {0.0, 1.0}


def _is_blank(column: pl.Series) -> bool:
    return column.null_count() == len(column)


def _guess_by_contents(sample: pl.DataFrame, free: list[str], found: dict[str, str]) -> None:
    """Roles of columns whose names say nothing: a file without a header, for instance."""
    unnamed = [name for name in free if re.fullmatch(r"column_\d+|_?\d+", name)]
    if len(unnamed) < len(sample.columns):  # beside columns with names, one that counts the rows is an index
        unnamed = [name for name in unnamed if not _counts_rows(sample[name])]
    if "time" not in found:
        for name in unnamed:
            if sample[name].dtype.is_numeric() and _fits("time", sample[name]):
                found["time"] = name
                unnamed.remove(name)
                free.remove(name)
                break
    ids = [name for name in unnamed if sample[name].n_unique() > 1 or len(sample) == 1]
    ids = sorted(ids, key=lambda name: sample[name].dtype.is_float())  # coordinates and amounts are no ids
    kinds = [name for name in ids if "kind" not in found and _holds_kinds(sample[name])]
    if kinds and len(ids) > 2:
        found["kind"] = kinds[0]
        for names in (ids, unnamed, free):
            names.remove(kinds[0])
    needed = [role for role in ("user", "item") if role not in found]
    if len(needed) <= len(ids):
        for role, name in zip(needed, ids):
            found[role] = name
            free.remove(name)
            unnamed.remove(name)
    if "rating" not in found:
        for name in unnamed:  # a category or a coordinate is the same in every event of an item
            if sample[name].dtype.is_numeric() and not ("item" in found and _depends(sample, name, found["item"])):
                found["rating"] = name
                free.remove(name)
                break


def _holds_kinds(column: pl.Series) -> bool:
    """Whether the texts of a column are kinds of events by name, such as "view" and "buy"."""
    if column.dtype != pl.String or column.n_unique() > 20:
        return False
    return set(column.drop_nulls().str.to_lowercase().unique()) <= KNOWN_KINDS


def _counts_rows(column: pl.Series) -> bool:
    """Whether a column counts the rows, as programs write an index."""
    if not column.dtype.is_integer() or column.null_count() or len(column) < 2:
        return False
    return column[0] in (0, 1) and bool((column.diff().drop_nulls() > 0).all())


def _details(sample: pl.DataFrame, free: list[str], user: str, item: str) -> dict[str, tuple[str, ...]]:
    """Columns of the log that describe the item or the user: named so, or constant for each."""
    details: dict[str, tuple[str, ...]] = {"item_columns": (), "user_columns": ()}
    for name in free:
        parts = set(words(name))
        if parts & _ITEM_DETAILS:
            side = "item_columns"
        elif parts & _USER_DETAILS:
            side = "user_columns"
        elif _depends(sample, name, item):
            side = "item_columns"
        elif _depends(sample, name, user):
            side = "user_columns"
        else:
            continue
        details[side] += (name,)
    return details


def _depends(sample: pl.DataFrame, name: str, key: str) -> bool:
    """Whether nearly every repeated key has one value of the column, and the column is no constant."""
    groups = (
        sample.lazy()
        .select(key, name)
        .drop_nulls()
        .group_by(key)
        .agg(pl.len().alias("rows"), pl.col(name).n_unique().alias("values"))
        .filter(pl.col("rows") > 1)
        .collect()
    )
    return len(groups) >= 20 and _share(groups["values"] == 1) >= 0.95 and sample[name].n_unique() > 1


def guess_key(sample: pl.DataFrame, role: str, known: pl.Series) -> tuple[str, float, list[str]]:
    """The column of an items or users table that holds the ids of the log.

    Judged by how many of the log's ids (`known`) the column holds; names decide between equals. Returns the
    column, the share of the log's ids it holds (0..1), and the other columns that hold some.
    """
    text = known.cast(pl.String)
    shares = {}
    for name in sample.columns:
        column = sample[name]
        if column.dtype.is_temporal() or column.dtype.is_nested() or column.dtype in (pl.Boolean, pl.Binary):
            continue
        if column.n_unique() < 0.5 * len(sample):
            continue
        ids = ids_of_floats(column) if column.dtype.is_float() or column.dtype.is_decimal() else column
        shares[name] = _share(text.is_in(match_spelling(ids.cast(pl.String), text).unique().implode()))
    best = max(shares, key=lambda name: (round(shares[name], 3), name_score(role, name)), default="")
    others = [name for name, share in shares.items() if name != best and share > 0]
    return best, shares.get(best, 0.0), others


_FROM = {"user", "follower", "source", "src", "from", "who", "truster", "user1", "id1", "person", "member", "uid"}
_TO = {
    "friend", "other", "followee", "following", "followed", "target", "dst", "destination", "to", "whom", "trustee",
    "user2", "id2", "contact", "peer", "neighbor", "neighbour", "leader",
}  # fmt: skip
_TIE = {"weight", "strength", "tie", "trust", "closeness", "count", "messages", "value"}


def guess_links(sample: pl.DataFrame, given: dict[str, str | None], source: str = "") -> dict[str, str]:
    """Who (`user`), whom (`other`) and, where there is one, how much (`weight`): the columns of a table of links.

    Names decide; without a known name the first two columns are who and whom. `given` are roles the caller is sure of.
    Raises DataError when there are not two columns.
    """
    found = {role: column for role, column in given.items() if column}
    for column in found.values():
        if column not in sample.columns:
            raise DataError(f"there is no column {column!r}", file=source, remedy=nearest(column, sample.columns))
    free = [name for name in sample.columns if name not in found.values()]
    ids = [name for name in free if not sample[name].dtype.is_nested() and not sample[name].dtype.is_temporal()]

    def take(role: str, known: set[str]) -> None:
        named = next((name for name in ids if known & {word.rstrip("s") for word in words(name)}), None)
        if role not in found and named is not None:
            found[role] = named
            ids.remove(named)

    take("other", _TO)
    take("user", _FROM)
    for role in ("user", "other"):
        rest = [name for name in ids if not _TIE & set(words(name))] or ids
        if role not in found and rest:
            found[role] = rest[0]
            ids.remove(rest[0])
    if "user" not in found or "other" not in found:
        raise DataError(
            "a table of links needs two columns of users: who and whom",
            file=source,
            remedy='name them: columns={"link_user": "...", "link_other": "..."}',
        )
    numbers = [name for name in ids if sample[name].dtype.is_numeric()]
    named = [name for name in numbers if _TIE & set(words(name))]
    unnamed = [n for n in numbers if re.fullmatch(r"column_\d+", n) and numeric_unit(sample[n].drop_nulls()) is None]
    if "weight" not in found and (named or unnamed):
        found["weight"] = (named or unnamed)[0]
    return found


def _share(hits: pl.Series) -> float:
    """Share of true values, 0 for none."""
    return float(hits.sum() or 0) / max(1, len(hits))
