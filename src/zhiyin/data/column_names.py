"""Names of columns: the words they hold, and how well a name suits a role."""

from __future__ import annotations

import re
import unicodedata

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
ROLE_WORDS = {role: set(words.split()) for role, words in _NAMES.items()}
# Words that name a role only where no column is named by one of the above. A header is not recognised by them.
_SECONDARY_NAMES = {
    "user": "session household cust username profilename nickname nick cookie device visit patient student subscriber",
    "item": "app aid doc document hotel anime manga beer wine venue location joke merchant reference shop restaurant "
    "course job page channel podcast episode url artname",
    "rating": "overall hours playtime ratio episodes",
    "kind": "",
}
_SECONDARY_WORDS = {role: set(words.split()) for role, words in _SECONDARY_NAMES.items()}
# These name an item or a user only together with an id: "location_id", not "location".
_NEED_ID = {"location", "device", "visit", "patient", "student", "job", "channel", "page", "shop", "cust"}
# Names of a whole that has many items: a track is the item, its artist is not.
_WHOLES = {"artist", "place", "artname", "channel", "podcast"}
_PRICE = r"price|cost|amount"
_MONEY = rf"{_PRICE}|revenue|salary|income"
_COMPOUND_TIME = re.compile(
    r"(event|order|review|purchase|transaction|click|invoice|session|view|visit|utc|unix)(date|time|datetime|timestamp)"
)
_ID_WORDS = {"id", "code", "no", "number", "key", "identifier"}
ITEM_DETAILS = {
    "title", "name", "description", "price", "category", "categories", "genre", "genres", "brand",
    "author", "authors", "class", "year",
}  # fmt: skip
USER_DETAILS = {
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


_ID_STEMS = ROLE_WORDS["user"] | ROLE_WORDS["item"] | _SECONDARY_WORDS["user"] | _SECONDARY_WORDS["item"] | {"app"}


def words(name: str) -> list[str]:
    """A column name in lower-case words: "CustomerID" and "customer_id" are both ["customer", "id"]."""
    plain = "".join(part for part in unicodedata.normalize("NFKD", name) if not unicodedata.combining(part))
    spaced = re.sub(r"(?<=[a-z])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", plain)
    raw_words = [word for word in re.split(r"[^a-zA-Z0-9]+", spaced.lower()) if word]
    out: list[str] = []
    for word in raw_words:  # "userid" -> user, id
        compound = _COMPOUND_TIME.fullmatch(word)
        if word[:-2] in _ID_STEMS and word.endswith("id"):
            out += [word[:-2], "id"]
        elif word[:-4] in _ID_STEMS and word.endswith("name"):
            out += [word[:-4], "name"]
        else:
            out += compound.groups() if compound else [word]
    return out


# Words of column names in other scripts.
FOREIGN_WORDS = {
    "user": "用户|会员|客户|顾客|买家|使用者|ユーザー|会員|顧客|사용자|고객|пользовател|клиент",
    "item": "商品|物品|产品|電影|电影|图书|书籍|歌曲|音乐|视频|文章|店铺|アイテム|映画|상품|아이템|товар|фильм",
    "time": "时间|日期|時間|日時|日付|时刻|시간|날짜|время|дата",
    "rating": "评分|打分|分数|数量|次数|評価|点数|평점|수량|оценка|количество",
    "kind": "行为|动作|事件|类型|行動|행동|이벤트|событие|действие",
}


def name_score(role: str, name: str) -> float:
    """How well a column name suits a role: 0: not at all; from 1 on, the name is one of the role."""
    if not name.isascii() and re.search(FOREIGN_WORDS[role], name.lower()):
        described = role in ("user", "item") and re.search("名|标题|標題|タイトル|имя|назван", name.lower())
        return 0.5 if described else 2.0 + (role in ("user", "item") and bool(re.search(r"(?i)id|编号|號|号", name)))
    parts = [word.rstrip("s") if word not in ROLE_WORDS[role] else word for word in words(name)]
    hits = sum(part in ROLE_WORDS[role] for part in parts)
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
    attributes = ROLE_WORDS["rating"] | ROLE_WORDS["time"] | ROLE_WORDS["kind"] | ITEM_DETAILS | USER_DETAILS
    attributes -= {"name", "title", "description"}
    return named[-1] in attributes or named[0] in ROLE_WORDS["rating"]


def secondary_score(role: str, name: str) -> float:
    """`name_score` by secondary words; 0 where the name holds none."""
    parts = words(name)
    stems = {part if part in _SECONDARY_WORDS[role] else part.rstrip("s") for part in parts}
    hits = stems & _SECONDARY_WORDS[role]
    has_id = bool(_ID_WORDS & set(parts)) or "sha1" in parts
    if role in ("user", "item"):
        if "name" in parts and ROLE_WORDS[role] & set(parts):
            return 1.0 - 0.1 * bool(_WHOLES & set(parts))  # names of tracks where no ids of tracks are
        if _is_attribute(parts) or (hits <= _NEED_ID and not has_id):
            return 0.0
    if not hits:
        return 0.0
    return 1.0 + sum(part in hits for part in parts) / len(parts) + has_id - 0.1 * bool(_WHOLES & stems)


def is_price(name: str) -> bool:
    """Whether a column is named as the price of an item."""
    return re.search(_PRICE, name, re.IGNORECASE) is not None


def is_money(name: str) -> bool:
    """Whether a column is named as an amount of money: a price or an income."""
    return re.search(_MONEY, name, re.IGNORECASE) is not None


def is_amount(name: str) -> bool:
    """Whether a column is named as one that holds numbers: a price, a count, a year."""
    return bool(_AMOUNTS & {word.rstrip("s") for word in words(name)} | (_AMOUNTS & set(words(name))))
