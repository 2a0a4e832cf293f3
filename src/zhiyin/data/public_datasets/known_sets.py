"""The public data sets, with their addresses, checksums and columns."""

from __future__ import annotations

from collections.abc import Callable

from zhiyin.core.errors import DataError, suggest
from zhiyin.data.public_datasets.preparation import (
    CHECKINS_FILE,
    prepare_adjacency,
    prepare_checkins,
    prepare_movielens_1m,
    prepare_movielens_100k,
)
from zhiyin.data.public_datasets.public_set import GIB, PublicSet, Remote

_GROUPLENS = "https://files.grouplens.org/datasets"
_ML_LICENCE = "GroupLens: research use, cite Harper & Konstan 2015, no redistribution or commercial use unasked"
_ML_COLUMNS = {
    "user": "userId",
    "item": "movieId",
    "rating": "rating",
    "time": "timestamp",
    "item_id": "movieId",
}
_TIDY = {
    "user": "user",
    "item": "item",
    "rating": "rating",
    "time": "time",
    "item_id": "item",
    "user_id": "user",
}


def _movielens(name: str, archive: str, shape: str, **checksum: str) -> PublicSet:
    page = f"https://grouplens.org/datasets/movielens/{name.removeprefix('latest-').removesuffix('-small')}/"
    return PublicSet(
        f"movielens-{name}",
        f"MovieLens {name}: ratings of films, 0.5 to 5, with times",
        page if not name.startswith("latest") else "https://grouplens.org/datasets/movielens/latest/",
        _ML_LICENCE,
        shape,
        (Remote(f"{_GROUPLENS}/movielens/{archive}.zip", **checksum),),  # type: ignore[arg-type]
        events="ratings.csv",
        items="movies.csv",
        columns=_ML_COLUMNS,
    )


_SUM = f"{_GROUPLENS}/movielens/ml-latest-small.zip.md5"
_ALL = (
    PublicSet(
        "movielens-100k",
        "MovieLens 100k: ratings of films, 1 to 5, with times and users' age, gender and job (1998)",
        "https://grouplens.org/datasets/movielens/100k/",
        _ML_LICENCE,
        "943 users, 1,682 items, 100,000 ratings",
        (Remote(f"{_GROUPLENS}/movielens/ml-100k.zip", digest="md5:0e33842e24a9c977be4e0107933c0723"),),
        events="ratings.tsv",
        items="items.tsv",
        users="users.tsv",
        columns=_TIDY,
        raw=("u.data", "u.item", "u.user"),
        prepare=prepare_movielens_100k,
    ),
    PublicSet(
        "movielens-1m",
        "MovieLens 1M: ratings of films, 1 to 5, with times and users' age, gender and job (2003)",
        "https://grouplens.org/datasets/movielens/1m/",
        _ML_LICENCE,
        "6,040 users, 3,706 rated of 3,883 items, 1,000,209 ratings",
        (Remote(f"{_GROUPLENS}/movielens/ml-1m.zip", digest="md5:c4d9eecfca2ab87c1945afe126590906"),),
        events="ratings.tsv",
        items="items.tsv",
        users="users.tsv",
        columns=_TIDY,
        raw=("ratings.dat", "movies.dat", "users.dat"),
        prepare=prepare_movielens_1m,
    ),
    # This one is made anew from time to time: its checksum is asked for, not written here.
    _movielens("latest-small", "ml-latest-small", "610 users, 9,742 items, 100,836 ratings", digest_url=_SUM),
    _movielens(
        "20m", "ml-20m", "138,493 users, 27,278 items, 20,000,263 ratings",
        digest="md5:cd245b17a1ae2cc31bb14903e1204af3",
    ),
    _movielens(
        "25m", "ml-25m", "162,541 users, 62,423 items, 25,000,095 ratings",
        digest="md5:6b51fb2759a8657d3bfcbfc42b592ada",
    ),
    _movielens(
        "32m", "ml-32m", "200,948 users, 87,585 items, 32,000,204 ratings",
        digest="md5:d472be332d4daa821edc399621853b57",
    ),
    PublicSet(
        "goodbooks-10k",
        "Goodbooks-10k: ratings of books, 1 to 5, without times; its book columns leak",
        "https://github.com/zygmuntz/goodbooks-10k",
        "CC BY-SA 4.0",
        "53,424 users, 10,000 items, 5,976,479 ratings",
        (
            Remote("https://raw.githubusercontent.com/zygmuntz/goodbooks-10k/master/ratings.csv"),
            Remote("https://raw.githubusercontent.com/zygmuntz/goodbooks-10k/master/books.csv"),
        ),
        events="ratings.csv",
        items="books.csv",
        columns={"user": "user_id", "item": "book_id", "rating": "rating", "item_id": "book_id"},
    ),
    PublicSet(
        "online-retail",
        "Online Retail: a British gift shop's invoices with returns, 2010-12 to 2011-12",
        "https://archive.ics.uci.edu/dataset/352/online+retail",
        "CC BY 4.0, UCI Machine Learning Repository (Chen 2015)",
        "541,909 lines, of which 406,829 name one of 4,372 customers",
        (Remote("https://archive.ics.uci.edu/static/public/352/data.csv", "online_retail.csv", limit=GIB),),
        events="online_retail.csv",
        columns={
            "user": "CustomerID", "item": "StockCode", "time": "InvoiceDate", "rating": "Quantity",
            "item_columns": ["Description"], "user_columns": ["Country"],
        },
    ),
    PublicSet(
        "gowalla",
        "Gowalla check-ins in LightGCN's published random 80/20 split, without times",
        "https://github.com/gusye1234/LightGCN-PyTorch",
        "research use; check-ins from SNAP (Cho, Myers & Leskovec 2011), split by He et al. 2020",
        "29,858 users, 40,981 items, 810,128 train and 217,242 test pairs",
        (
            Remote("https://raw.githubusercontent.com/gusye1234/LightGCN-PyTorch/master/data/gowalla/train.txt"),
            Remote("https://raw.githubusercontent.com/gusye1234/LightGCN-PyTorch/master/data/gowalla/test.txt"),
        ),
        events="train.tsv",
        test="test.tsv",
        columns={"user": "user", "item": "item"},
        raw=("train.txt", "test.txt"),
        prepare=prepare_adjacency,
    ),
    PublicSet(
        "gowalla-checkins",
        "Gowalla check-ins with times and places, 2009-02 to 2010-10",
        "https://snap.stanford.edu/data/loc-Gowalla.html",
        "research use; cite Cho, Myers & Leskovec 2011 (SNAP)",
        "107,092 users, 1,280,969 places, 6,442,890 check-ins",
        (Remote(f"https://snap.stanford.edu/data/{CHECKINS_FILE}"),),
        events="checkins.parquet",
        columns={"user": "user", "time": "time", "item": "place", "item_columns": ["latitude", "longitude"]},
        raw=(CHECKINS_FILE,),
        prepare=prepare_checkins,
    ),
    PublicSet(
        "lastfm-hetrec",
        "Last.fm (HetRec 2011): how often users listened to artists, without times; friends and tags",
        "https://grouplens.org/datasets/hetrec-2011/",
        "non-commercial research use; cite Cantador, Brusilovsky & Kuflik 2011 and Last.fm",
        "1,892 users, 17,632 artists, 92,834 listens",
        (
            Remote(
                f"{_GROUPLENS}/hetrec2011/hetrec2011-lastfm-2k.zip",
                digest="sha256:6738f48195667ff03caaab4d32ca9a3133d8cc026b7c3cdaf6ce1010e913c59c",
            ),
        ),
        events="user_artists.dat",
        items="artists.dat",
        columns={"user": "userID", "item": "artistID", "rating": "weight", "item_id": "id"},
    ),
)  # fmt: skip
SETS = {each.name: each for each in _ALL}

# Categories as their addresses spell them.
_AMAZON_2023 = (
    "All_Beauty", "Amazon_Fashion", "Appliances", "Arts_Crafts_and_Sewing", "Automotive",
    "Baby_Products", "Beauty_and_Personal_Care", "Books", "CDs_and_Vinyl",
    "Cell_Phones_and_Accessories", "Clothing_Shoes_and_Jewelry", "Digital_Music", "Electronics",
    "Gift_Cards", "Grocery_and_Gourmet_Food", "Handmade_Products", "Health_and_Household",
    "Health_and_Personal_Care", "Home_and_Kitchen", "Industrial_and_Scientific", "Kindle_Store",
    "Magazine_Subscriptions", "Movies_and_TV", "Musical_Instruments", "Office_Products",
    "Patio_Lawn_and_Garden", "Pet_Supplies", "Software", "Sports_and_Outdoors", "Subscription_Boxes",
    "Tools_and_Home_Improvement", "Toys_and_Games", "Video_Games", "Unknown",
)  # fmt: skip
_AMAZON_2014 = (
    "Beauty", "Amazon_Instant_Video", "Apps_for_Android", "Automotive", "Baby", "Books",
    "CDs_and_Vinyl", "Cell_Phones_and_Accessories", "Clothing_Shoes_and_Jewelry", "Digital_Music",
    "Electronics", "Grocery_and_Gourmet_Food", "Health_and_Personal_Care", "Home_and_Kitchen",
    "Kindle_Store", "Movies_and_TV", "Musical_Instruments", "Office_Products", "Patio_Lawn_and_Garden",
    "Pet_Supplies", "Sports_and_Outdoors", "Tools_and_Home_Improvement", "Toys_and_Games",
    "Video_Games",
)  # fmt: skip


def _amazon_2023(category: str) -> PublicSet:
    base = "https://mcauleylab.ucsd.edu/public_datasets/data/amazon_2023/benchmark/5core/rating_only"
    return PublicSet(
        f"amazon-2023/{category}",
        f"Amazon reviews 2023, {category.replace('_', ' ')}: ratings 1 to 5 with times, 5-core",
        "https://amazon-reviews-2023.github.io",
        "research use; cite Hou et al. 2024",
        "5-core: every user and item has at least 5 reviews",
        (Remote(f"{base}/{category}.csv.gz"),),
        events=f"{category}.csv.gz",
        columns={"user": "user_id", "item": "parent_asin", "rating": "rating", "time": "timestamp"},
    )


def _amazon_2014(category: str) -> PublicSet:
    file = f"reviews_{category}_5.json.gz"
    return PublicSet(
        f"amazon-2014/{category}",
        f"Amazon reviews 2014, {category.replace('_', ' ')}: ratings 1 to 5 with times and texts, 5-core",
        "https://jmcauley.ucsd.edu/data/amazon/",
        "research use; cite McAuley et al. 2015, He & McAuley 2016",
        "5-core: every user and item has at least 5 reviews",
        (Remote(f"https://snap.stanford.edu/data/amazon/productGraph/categoryFiles/{file}", limit=16 * GIB),),
        events=file,
        # Names and texts belong to reviews, not to items or users: no column describes those.
        columns={
            "user": "reviewerID",
            "item": "asin",
            "rating": "overall",
            "time": "unixReviewTime",
            "item_columns": [],
            "user_columns": [],
        },
    )


FAMILIES: dict[str, tuple[Callable[[str], PublicSet], tuple[str, ...]]] = {
    "amazon-2023": (_amazon_2023, _AMAZON_2023),
    "amazon-2014": (_amazon_2014, _AMAZON_2014),
}


def listed() -> list[PublicSet]:
    """All sets in the order they are shown; a family such as amazon-2023 stands as "amazon-2023/CATEGORY"."""
    return [*SETS.values(), *(family("CATEGORY") for family, _ in FAMILIES.values())]


def find(name: str) -> PublicSet:
    """The set of this name. Raises DataError with the nearest known one."""
    if name in SETS:
        return SETS[name]
    family, _, category = name.partition("/")
    if family in FAMILIES:
        make, categories = FAMILIES[family]
        canonical = next((name for name in categories if name.lower() == category.lower()), None)
        if canonical is None:
            raise DataError(f"{family} has no category {category!r}", remedy=suggest(category, list(categories)))
        return make(canonical)
    set_names = [*SETS, *(f"{family}/{categories[0]}" for family, (_, categories) in FAMILIES.items())]
    raise DataError(f"there is no public set {name!r}", remedy=suggest(name, set_names))
