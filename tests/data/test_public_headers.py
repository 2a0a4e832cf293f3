"""Roles of the columns of public data sets, by the headers they have and rows like theirs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import polars as pl
import pytest

from zhiyin.core.errors import DataError
from zhiyin.data.reading import read
from zhiyin.data.role_inference import guess_roles, ignored
from zhiyin.data.source_opening import open_table

SECOND = 1_700_000_000


def item_of(row: int) -> int:
    return row * 7 % 31


# Cells by what they are; a cell that is none of these is one of the words between bars, in turn.
CELLS: dict[str, Callable[[int], object]] = {
    "user": lambda n: 1000 + n % 13,
    "item": lambda n: 50_000 + item_of(n),
    "user-name": lambda n: f"A{n % 13:012X}",
    "item-name": lambda n: f"B00{item_of(n):07d}",
    "item-hash": lambda n: f"{item_of(n) * 2_654_435_761 % 2**32:08x}",
    "isbn": lambda n: f"{item_of(n):09d}X",
    "title": lambda n: f"Some Thing {item_of(n)}",
    "whole": lambda n: f"w{item_of(n) % 11}",
    "category": lambda n: 4000 + item_of(n) % 5,
    "latitude": lambda n: f"30.23{item_of(n):03d}",
    "hash": lambda n: f"{n * 2_654_435_761 % 2**32:08x}",
    "row": lambda n: n + 1,
    "order": lambda n: 536_365 + n // 3,
    "stars": lambda n: n % 5 + 1,
    "float": lambda n: f"{n % 50}.5",
    "amount": lambda n: n * 991,
    "seconds": lambda n: SECOND + 61 * n,
    "milliseconds": lambda n: 1000 * (SECOND + 61 * n),
    "day": lambda n: f"2017-{n % 12 + 1:02d}-{n % 28 + 1:02d}",
    "moment": lambda n: f"2014-04-07T10:51:{n % 60:02d}.277Z",
    "mdy": lambda n: f"11/{n % 28 + 1}/2010 8:26",
    "twitter": lambda n: f"Tue Apr 03 18:00:{n % 60:02d} +0000 2012",
    "signed-in": lambda n: "NA" if n % 3 else 1000 + n % 13,
}

# Header, cells, and user, item, time, rating and kind ("-" for none). No header: columns are numbered.
LOGS = {
    "Book-Crossing": ("User-ID;ISBN;Book-Rating", "user isbn stars", "User-ID ISBN - Book-Rating -"),
    "Amazon 2014": (
        "reviewerID,asin,helpful,overall,summary,unixReviewTime,reviewTime",
        "user-name item-name 0|3 4.0|5.0 Good|Bad seconds day",
        "reviewerID asin unixReviewTime overall -",
    ),
    "Amazon 2023": (
        "rating,title,text,asin,parent_asin,user_id,timestamp,helpful_vote,verified_purchase",
        "4.0|5.0 Good|Bad fine|poor hash item-name user-name milliseconds 0|2 True|False",
        "user_id parent_asin timestamp rating -",
    ),
    "Yelp": (
        "review_id,user_id,business_id,stars,useful,funny,cool,text,date",
        "hash user-name item-name 4.0|5.0 0|1 0|2 0|1 fine|poor day",
        "user_id business_id date stars -",
    ),
    "Last.fm 360K": (
        "user_sha1\tartist_mbid\tartname\tplays", "user-name item-hash title amount", "user_sha1 artist_mbid - plays -",
    ),
    "Last.fm, names of artists": ("user_sha1\tartname\tplays", "user-name title amount", "user_sha1 artname - plays -"),
    "Last.fm 1K": (
        "userid\ttimestamp\tmusicbrainz-artist-id\tartist-name\tmusicbrainz-track-id\ttrack-name",
        "user-name moment whole whole item-hash title",
        "userid musicbrainz-track-id timestamp - -",
    ),
    "Last.fm tags": (
        "userID\tartistID\ttagID\ttimestamp", "user item row milliseconds", "userID artistID timestamp - -",
    ),
    "Netflix": ("Cust_Id,Movie_Id,Rating,Date", "user item stars day", "Cust_Id Movie_Id Date Rating -"),
    "Steam": ("user_id,appid,hours", "user item float", "user_id appid - hours -"),
    "Steam reviews": (
        "app_id,helpful,funny,date,is_recommended,hours,user_id,review_id",
        "item 0|1 0|1 day true|false float user row",
        "user_id app_id date hours -",
    ),
    "Steam plays": (
        "user_id,item_id,item_name,playtime_forever", "user item title amount", "user_id item_id - playtime_forever -",
    ),
    "Goodreads": (
        "user_id,book_id,is_read,rating,is_reviewed", "hash item 0|1 stars 0|1", "user_id book_id - rating -",
    ),
    "Goodreads reviews": (
        "user_id,book_id,review_id,rating,date_added,date_updated,read_at,n_votes",
        "user-name item hash stars twitter twitter twitter 0|3",
        "user_id book_id date_added rating -",
    ),
    "MIND": ("User_ID\tTime\tNews_ID\tClick", "user-name mdy item-name 0|1", "User_ID News_ID Time - -"),
    "Taobao": (None, "user item category pv|buy|cart|fav seconds", "column_1 column_2 column_5 - column_4"),
    "Tianchi": (
        "user_id,item_id,behavior_type,item_category,time", "user item 1|2|3|4 category day",
        "user_id item_id time - behavior_type",
    ),
    "Tmall": (
        "user_id,item_id,cat_id,seller_id,brand_id,time_stamp,action_type",
        "user item category category category 829|1111 0|2|3",
        "user_id item_id - - action_type",
    ),
    "Tmall merchants": ("user_id,merchant_id,label", "user item 0|1", "user_id merchant_id - - -"),
    "KuaiRec": (
        "user_id,video_id,play_duration,video_duration,date,timestamp,watch_ratio",
        "user item amount category 20200705|20200706 seconds float",
        "user_id video_id timestamp watch_ratio -",
    ),
    "KuaiRand": (
        "user_id,video_id,date,hourmin,time_ms,is_click,is_like,play_time_ms,duration_ms,tab",
        "user item 20220422|20220423 100|200 milliseconds 0|1 0|1 amount category 1|4",
        "user_id video_id time_ms - -",
    ),
    "Tenrec": (
        "user_id,item_id,click,follow,like,share,video_category,watching_times,gender,age",
        "user item 0|1 0 0|1 0 category 1|2|5 1|2 3|4",
        "user_id item_id - - -",
    ),
    "Diginetica": (
        "sessionId;userId;itemId;timeframe;eventdate",
        "user signed-in item amount day", "sessionId itemId eventdate - -",
    ),
    "Yoochoose": (None, "user moment item 0|S", "column_1 column_3 column_2 - -"),
    "Yoochoose buys": (
        "SessionID,Timestamp,ItemID,Price,Quantity", "user moment item 12462|1046 1|2",
        "SessionID ItemID Timestamp Quantity -",
    ),
    "RetailRocket": (
        "timestamp,visitorid,event,itemid,transactionid", "milliseconds user view|addtocart|transaction item 17|18|19",
        "visitorid itemid timestamp - event",
    ),
    "Online Retail": (
        "InvoiceNo,StockCode,Description,Quantity,InvoiceDate,UnitPrice,CustomerID,Country",
        "order item-name title 6|-1|2 mdy 2.55|3.39 user France|Spain",
        "CustomerID StockCode InvoiceDate Quantity -",
    ),
    "Online Retail II": (
        "Invoice,StockCode,Description,Quantity,InvoiceDate,Price,Customer ID,Country",
        "order item-name title 6|-1|2 moment 2.55|3.39 user France|Spain",
        "Customer ID,StockCode,InvoiceDate,Quantity,-",
    ),
    "Instacart": (
        "order_id,product_id,add_to_cart_order,reordered,user_id,order_number,order_dow,order_hour_of_day",
        "order item 1|2|3 0|1 user stars 2|3 8|7|12",
        "user_id product_id - - -",
    ),
    "H&M": (
        "t_dat,customer_id,article_id,price,sales_channel_id", "day user-name item 0.05|0.03 1|2",
        "customer_id article_id t_dat - -",
    ),
    "Foursquare": (
        "userId,venueId,venueCategoryId,venueCategory,latitude,longitude,timezoneOffset,utcTimestamp",
        "user item-hash category whole latitude latitude -240 twitter",
        "userId venueId utcTimestamp - -",
    ),
    "Gowalla": (None, "user moment latitude latitude item", "column_1 column_5 column_2 - -"),
    "Gowalla with a header": (
        "user,check-in time,latitude,longitude,location id", "user moment latitude latitude item",
        "user,location id,check-in time,-,-",
    ),
    "MyAnimeList": ("user_id,anime_id,rating", "user item -1|8|10", "user_id anime_id - rating -"),
    "MyAnimeList lists": (
        "username,anime_id,my_watched_episodes,my_score,my_status,my_last_updated",
        "user-name item amount stars 1|2 seconds",
        "username anime_id my_last_updated my_score -",
    ),
    "BeerAdvocate": (
        "brewery_id,brewery_name,review_time,review_overall,review_profilename,beer_style,beer_name,beer_beerid",
        "category whole seconds float user-name IPA|Stout title item",
        "review_profilename beer_beerid review_time review_overall -",
    ),
    "A shop of several categories": (
        "event_time,event_type,product_id,category_id,brand,price,user_id,user_session",
        "moment view|cart|purchase item category sony|lg float user hash",
        "user_id product_id event_time - event_type",
    ),
    "OTTO": ("session,aid,ts,type", "user item milliseconds clicks|carts|orders", "session aid ts - type"),
    "Dunnhumby": (
        "household_key,BASKET_ID,DAY,PRODUCT_ID,QUANTITY,SALES_VALUE,STORE_ID",
        "user order row item 1|2 1.39|0.82 364|31",
        "household_key PRODUCT_ID - QUANTITY -",
    ),
    "Ta-Feng": (
        "TRANSACTION_DT,CUSTOMER_ID,AGE_GROUP,PIN_CODE,PRODUCT_SUBCLASS,PRODUCT_ID,AMOUNT,ASSET,SALES_PRICE",
        "mdy user 45-49 115 category item 2|1 24|48 30|46",
        "CUSTOMER_ID PRODUCT_ID TRANSACTION_DT AMOUNT -",
    ),
    "Jester": ("user_id,joke_id,rating", "user item float", "user_id joke_id - rating -"),
    "Spotify playlists": (
        "user_id,artistname,trackname,playlistname", "user-name whole title mine|rock", "user_id trackname - - -",
    ),
    "CiteULike": ("user_id,doc_id", "user item", "user_id doc_id - - -"),
    "Adressa": ("userId,documentId,time", "user-name item-hash seconds", "userId documentId time - -"),
    "Globo": (
        "user_id,session_id,session_start,session_size,click_article_id,click_timestamp",
        "user order day 2|3 item milliseconds",
        "user_id click_article_id click_timestamp - -",
    ),
    "Trivago": (
        "user_id,session_id,timestamp,step,action_type,reference,platform",
        "user-name hash seconds row view|click item AU|BR",
        "user_id reference timestamp - action_type",
    ),
}  # fmt: skip


def cell_of(cell: str, row: int) -> str:
    if cell in CELLS:
        return str(CELLS[cell](row))
    words = cell.split("|")
    return words[row % len(words)]


def write_log(folder: Path, name: str) -> Path:
    """A log of 60 rows under the header of a data set."""
    header, cells, _ = LOGS[name]
    separator = next((mark for mark in "\t;" if header and mark in header), ",")
    rows = [separator.join(cell_of(cell, n) for cell in cells.split()) for n in range(60)]
    path = folder / "log.csv"
    path.write_text("\n".join([header, *rows] if header else rows) + "\n")
    return path


@pytest.mark.parametrize("name", LOGS)
def test_the_roles_of_a_public_data_set_are_those_of_its_header(name: str, tmp_path: Path) -> None:
    roles = guess_roles(open_table(write_log(tmp_path, name)).sample)
    expected = LOGS[name][2].split("," if "," in LOGS[name][2] else " ")
    assert [roles.user, roles.item, roles.time or "-", roles.rating or "-", roles.kind or "-"] == expected


def test_rows_that_say_that_nothing_happened_are_named(tmp_path: Path) -> None:
    sample = open_table(write_log(tmp_path, "Tenrec")).sample
    notes = ignored(sample, guess_roles(sample))
    assert any(note.startswith("click is 0 in some rows, and these count as events too") for note in notes)


@pytest.mark.parametrize(
    "columns",
    [
        ["user_id", "age", "location", "job"],
        ["item_id", "title", "isbn_count", "store"],
        ["movieId", "title", "genres"],
    ],
)
def test_tables_of_users_and_of_items_are_no_logs(columns: list[str]) -> None:
    with pytest.raises(DataError, match="no column looks like"):
        guess_roles(pl.DataFrame({name: ["a", "b"] for name in columns}))


def test_dates_with_the_zone_before_the_year_are_read(tmp_path: Path) -> None:
    path = tmp_path / "log.csv"
    path.write_text("user_id,book_id,date_added\nu,b,Fri Aug 25 13:55:02 -0700 2017\n")
    assert read(path).events["time"].to_list() == [1_503_694_502_000_000]
