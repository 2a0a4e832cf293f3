"""The pages in a real browser over the real service: what people see, and what a shop's page sends."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

pytest.importorskip("starlette")

from starlette.applications import Starlette
from starlette.testclient import TestClient

from tests.service.conftest import eventually
from tests.service.running import running
from zhiyin.api.requests import RecommendRequest
from zhiyin.client import PageKey
from zhiyin.service import pages
from zhiyin.service.app import create_app

HERE = Path(pages.__file__).parent
# Chromium of the system: what playwright would download is not needed.
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


# -- the files, without a browser ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def files() -> TestClient:
    return TestClient(Starlette(routes=pages.routes()))


@pytest.mark.parametrize(("path", "kind"), [
    ("/try", "text/html"), ("/try/try.css", "text/css"), ("/try/try.js", "text/javascript"),
    ("/zhiyin.js", "text/javascript"),
])  # fmt: skip
def test_files_and_their_headers(files: TestClient, path: str, kind: str) -> None:
    answer = files.get(path)
    assert answer.status_code == 200
    assert answer.headers["content-type"] == f"{kind}; charset=utf-8"
    policy = answer.headers["content-security-policy"]
    assert "default-src 'self'; connect-src 'self'; img-src 'self' data:" in policy
    assert "unsafe" not in policy
    assert answer.headers["cache-control"] == "no-cache"
    assert answer.headers["x-content-type-options"] == "nosniff"
    again = files.get(path, headers={"If-None-Match": f'"other", W/{answer.headers["etag"]}'})
    assert (again.status_code, again.content) == (304, b"")
    assert again.headers["etag"] == answer.headers["etag"]


@pytest.mark.parametrize(
    "name", ["zhiyin.js", "__init__.py", "..%2f__init__.py", "%2e%2e/app.py", "try.html", "nothing"]
)
def test_no_other_file_is_sent(files: TestClient, name: str) -> None:
    assert files.get(f"/try/{name}").status_code == 404


def test_nothing_comes_from_elsewhere_and_no_data_becomes_markup() -> None:
    for file in HERE.iterdir():
        if file.suffix not in (".html", ".css", ".js"):
            continue
        text = file.read_text().replace("http://www.w3.org/2000/svg", "").replace("https://recommend.shop.example", "")
        assert "://" not in text.replace('"://', ""), file.name
        for word in ("innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", "Function(", "@import"):
            assert word not in text, f"{word} in {file.name}"


# -- the browser -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    if CHROMIUM is None:
        pytest.skip("Chromium is not installed: apt-get install chromium")
    playwright = pytest.importorskip(
        "playwright.sync_api", reason="playwright is not installed: pip install playwright"
    )
    with playwright.sync_playwright() as engine:
        # Its sandbox needs rights that containers run by root do not have.
        arguments = ["--no-sandbox"] if hasattr(os, "geteuid") and os.geteuid() == 0 else []
        browser = engine.chromium.launch(executable_path=CHROMIUM, args=arguments)
        yield browser
        browser.close()


class Site:
    """A shop that answers over a real port, and browsers that look at it."""

    def __init__(self, url: str, shop: Any, chromium: Any) -> None:
        self.url, self.shop, self.store, self.keys, self._chromium = url, shop, shop.store, shop.shown, chromium
        self.wrong: list[str] = []
        self.asked: list[Any] = []
        self._contexts: list[Any] = []

    def browser(self, width: int = 1100, language: str = "en-US", **more: Any) -> Any:
        """A page of a browser without a past. What it complains of, and what it asks of others, is wrong."""
        context = self._chromium.new_context(viewport={"width": width, "height": 900}, locale=language, **more)
        context.set_default_timeout(15_000)
        self._contexts.append(context)
        page = context.new_page()
        page.on("pageerror", lambda error: self.wrong.append(str(error)))
        page.on("console", lambda said: self.wrong.append(said.text) if "Content Security" in said.text else None)
        page.on("request", self._seen)
        return page

    def _seen(self, request: Any) -> None:
        self.asked.append(request)
        if not request.url.startswith((self.url, "data:")):
            self.wrong.append(f"asked {request.url}")

    def lists(self) -> list[dict[str, Any]]:
        """What was asked of POST /v1/recommendations, in order."""
        return [json.loads(r.post_data) for r in self.asked if r.url.endswith("/v1/recommendations")]

    def close(self) -> None:
        for context in self._contexts:
            context.close()


@pytest.fixture
def site(opened: Callable[..., Any], chromium: Any) -> Iterator[Site]:
    shop = opened(rate=100_000)
    with running(create_app([shop])) as url:
        made = Site(url, shop, chromium)
        yield made
        made.close()
    assert not made.wrong


def visit(site: Site, **more: Any) -> Any:
    """The page to try, opened with keys, its first list there."""
    page = site.browser(**more)
    page.goto(f"{site.url}/try#key={site.keys['page']}&users=u1,u3")
    page.wait_for_selector("#rows li")
    page.wait_for_selector("#shelf li")
    return page


def items(page: Any, where: str = "#rows") -> list[str]:
    return page.eval_on_selector_all(f"{where} li", "rows => rows.map(row => row.dataset.item)")


def after(page: Any, work: Callable[[], Any]) -> None:
    """Do something, and wait for the list that follows from it."""
    with page.expect_response(lambda answer: answer.url.endswith("/v1/recommendations")):
        work()
    page.wait_for_selector("#rows:not([aria-busy])", state="attached")


def clicked(page: Any, item: str) -> None:
    after(page, page.locator(f"#shelf li[data-item='{item}'] button").click)


def test_a_click_changes_the_list_and_it_says_why(site: Site) -> None:
    page = visit(site)
    assert page.url == f"{site.url}/try"  # the keys are out of the address
    assert "zy_" not in page.content()
    assert not re.search("zy_|eyJ", page.evaluate("JSON.stringify(localStorage)"))
    before = items(page)
    assert len(before) == 10
    assert page.inner_text("#name") == "a stranger"
    page.fill("#search", "garden number1")
    page.wait_for_selector("#shelf li[data-item=i1]")
    clicked(page, "i1")
    now = items(page)
    assert now != before
    assert "i1" not in now
    assert page.locator("#past li").all_inner_texts() == ["garden rose tulip soil number1"]
    assert (
        page.locator("#rows .why").first.inner_text().startswith("Because you viewed “garden rose tulip soil number1”")
    )
    # What moved is marked as it moved.
    rows = page.locator("#rows li").all()
    marks = [row.locator(".mark").all_inner_texts() for row in rows]
    for at, (item, said) in enumerate(zip(now, marks)):
        was = before.index(item) if item in before else None
        wanted = "new" if was is None else f"▲ {was - at}" if was > at else f"▼ {at - was}" if was < at else None
        assert (said[0].split("\n")[0] if said else None) == wanted
    fresh = sum(item not in before for item in now)
    assert f"{fresh} new" in page.inner_text("#moved")
    # Clicks in the list count as well, and say which list.
    after(page, page.locator("#rows li button").first.click)
    user = site.lists()[-1]["user"]
    kept = site.store.history(user)
    assert [event.item for event in kept] == ["i1", now[0]]
    assert {event.kind for event in kept} == {"view"}
    assert kept[0].list_id is None
    assert kept[1].list_id


def test_pulls_variety_length_and_a_condition(site: Site) -> None:
    page = visit(site)
    assert site.lists()[-1]["diversity"] == "none"
    after(page, lambda: page.locator("#variety").press("ArrowRight"))
    asked = site.lists()[-1]
    assert (asked["diversity"], asked["balance"], asked["explain"]) == ("mmr", 0.9, True)
    assert page.inner_text("#variety-says") == "10 %"
    after(page, lambda: page.fill("#k", "4"))
    assert len(items(page)) == 4
    assert page.get_attribute("#filter", "placeholder").startswith("price < ")
    after(page, lambda: page.fill("#filter", "price < 6 and genre = 'odd'"))
    held = items(page)
    assert sorted(held) == ["i1", "i3", "i5"]
    # A mistake is told beside the field, with what to do; the list stays.
    after(page, lambda: page.fill("#filter", "prize < 6"))
    assert "prize" in page.inner_text("#filter-error")
    assert "price" in page.locator("#filter-error span").inner_text()
    assert page.get_attribute("#filter", "aria-invalid") == "true"
    assert items(page) == held
    assert page.is_hidden("#trouble")
    # An example, made of the columns that there are, sets it right.
    after(page, page.locator("#examples button", has_text="genre").click)
    assert page.inner_text("#filter-error") == ""
    assert page.get_attribute("#filter", "aria-invalid") is None
    assert len(items(page)) == 4
    after(page, lambda: page.fill("#filter", "price > 1000"))
    assert page.is_visible("#empty")


def test_examples_of_conditions_work_whatever_the_columns(site: Site) -> None:
    made = TestClient(create_app([site.shop]))
    head = {"Authorization": f"Bearer {site.keys['admin']}"}
    lines: list[dict[str, Any]] = [
        {"id": f"i{n}", "columns": {"title": f"film {n}", "the cost": n + 0.5, "genres": ["it's", "b"][: 1 + n % 2]}}
        for n in range(40)
    ]
    lines[0]["columns"]["about"] = "long " * 40
    body = "\n".join(map(json.dumps, lines))
    assert made.post("/v1/items", content=body, headers=head).json()["accepted"] == 40
    page = visit(site)
    texts = page.locator("#examples button").all_inner_texts()
    assert texts[0].startswith('"the cost" < ')
    assert texts[1:] == ["'it''s' IN genres"]
    for button in page.locator("#examples button").all():
        after(page, button.click)
        assert page.inner_text("#filter-error") == ""
        assert items(page)
    assert "long" not in page.inner_text("#list")
    assert "the cost" in page.locator("#rows .about").first.inner_text()


def test_becoming_someone_who_was_here_before(site: Site) -> None:
    page = visit(site)
    clicked(page, items(page, "#shelf")[0])
    assert page.locator("#users option").count() >= 2
    page.fill("#user", "u3")
    after(page, page.locator("#become button").first.click)
    assert page.inner_text("#name") == "u3"
    assert page.locator("#past li").count() == 0
    assert "learned" in page.inner_text("#past-empty")
    assert page.locator("#rows .mark").count() == 0
    first = items(page, "#shelf")[1]
    clicked(page, first)
    again = visit(site)
    again.fill("#user", "u3")
    again.press("#user", "Enter")
    again.wait_for_selector("#past li")
    assert again.locator("#past li").count() == 1
    assert "number" in again.inner_text("#past")  # the title, not the id
    after(again, again.locator("#stranger").click)
    assert again.inner_text("#name") == "a stranger"
    assert again.locator("#past li").count() == 0


def test_two_languages(site: Site) -> None:
    page = visit(site, language="zh-CN")
    assert page.get_attribute("html", "lang") == "zh"
    assert page.inner_text("h1") == "点您喜欢的"
    assert all(text.endswith("。") for text in page.locator("#rows .why").all_inner_texts())
    after(page, page.locator("[data-language=en]").click)
    assert page.inner_text("h1") == "Click what you like"
    assert page.get_attribute("html", "lang") == "en"
    assert page.get_attribute("[data-language=en]", "aria-pressed") == "true"
    page.reload()
    page.wait_for_selector("#rows li")
    assert page.inner_text("h1") == "Click what you like"
    english, chinese = (set(re.findall(r"(\w+):", part)) for part in (HERE / "try.js").read_text().split("zh: {")[0:2])
    said = set(re.findall(r'data-say(?:-placeholder)?="(\w+)"', (HERE / "try.html").read_text()))
    assert said <= english
    assert said <= chinese


def test_titles_are_text_and_never_markup(site: Site) -> None:
    evil = "<img src=x onerror=\"document.title='owned'\"><b>rocket</b> evil"
    site.shop.live.record_changes("items", {})  # a store without items is fine too
    made = TestClient(create_app([site.shop]))
    head = {"Authorization": f"Bearer {site.keys['admin']}"}
    assert made.put("/v1/items/evil'%22%3E", json={"title": evil, "price": 1.0}, headers=head).status_code == 200
    page = visit(site)
    page.fill("#search", "evil")
    page.wait_for_selector("#shelf li:first-child:last-child")
    assert page.locator("#shelf .name").inner_text() == evil
    after(page, page.locator("#shelf button").click)
    assert page.locator("#past li").inner_text() == evil
    assert page.locator("main img, main b").count() == 0
    assert page.title() != "owned"


def test_keys_are_asked_for_and_kept_in_the_tab_only(site: Site) -> None:
    page = site.browser()
    page.goto(f"{site.url}/try")
    page.wait_for_selector("#door:not([hidden])")
    page.fill("#key", "zy_read_wrong")
    page.click("#keys button")
    page.wait_for_selector("#trouble:not([hidden])")
    assert "not known" in page.inner_text("#trouble")
    assert page.is_visible("#door")
    page.fill("#key", site.keys["admin"])
    page.press("#key", "Enter")
    page.wait_for_selector("#rows li")
    clicked(page, items(page, "#shelf")[0])
    assert page.input_value("#key") == ""
    page.reload()
    page.wait_for_selector("#rows li")
    page.click("#leave")
    assert page.is_visible("#door")
    assert page.evaluate("sessionStorage.getItem('zhiyin.keys')") is None
    # A key of another kind is said, not hidden.
    page.fill("#key", site.keys["read"])
    page.press("#key", "Enter")
    page.wait_for_selector("#trouble:not([hidden])")
    assert "--scope page" in page.inner_text("#trouble")
    assert page.is_visible("#door")
    assert all(site.keys["read"] not in request.url for request in site.asked)


# Texts whose contrast with what is behind them is under 4.5 to 1 (WCAG AA).
CONTRAST = """() => {
  const rgb = text => (text.match(/[\\d.]+/g) || [0, 0, 0, 0]).map(Number);
  const part = v => v / 255 <= .03928 ? v / 255 / 12.92 : ((v / 255 + .055) / 1.055) ** 2.4;
  const light = ([r, g, b]) => .2126 * part(r) + .7152 * part(g) + .0722 * part(b);
  const style = node => getComputedStyle(node), bad = [];
  for (const node of document.querySelectorAll("body *")) {
    const texts = [...node.childNodes].some(n => n.nodeType === 3 && n.data.trim());
    if (!texts || !node.checkVisibility() || node.closest(".hidden, .skip")) continue;
    let back = node, opacity = 1;
    while (back && (rgb(style(back).backgroundColor)[3] ?? 1) === 0) back = back.parentElement;
    for (let at = node; at; at = at.parentElement) opacity *= Number(style(at).opacity);
    const ground = rgb(style(back || document.body).backgroundColor).slice(0, 3);
    const ink = rgb(style(node).color).slice(0, 3).map((v, i) => v * opacity + ground[i] * (1 - opacity));
    const [a, b] = [light(ink), light(ground)].sort((x, y) => y - x), ratio = (a + .05) / (b + .05);
    if (ratio < 4.5) bad.push(`${node.textContent.trim().slice(0, 30)} ${ratio.toFixed(2)}`);
  }
  return bad;
}"""
SMALL = "nodes => nodes.filter(n => n.checkVisibility() && n.getBoundingClientRect().height < 32).map(n => n.id)"
NAMELESS = "nodes => nodes.filter(n => !n.labels.length || !n.labels[0].textContent.trim()).map(n => n.id)"


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 1100])
def test_it_fits_and_can_be_read(site: Site, scheme: str, width: int) -> None:
    page = visit(site, width=width, color_scheme=scheme, reduced_motion="reduce")
    clicked(page, items(page, "#shelf")[0])
    assert page.evaluate("document.getAnimations().length") == 0  # who wants no motion gets none
    after(page, lambda: page.fill("#filter", "prize < 6 and " + "x" * 100 + " > 1"))
    page.wait_for_selector("#filter-error:not(:empty)")
    assert page.evaluate("document.documentElement.scrollWidth") == width
    assert page.evaluate(CONTRAST) == []
    assert page.eval_on_selector_all("button, input", SMALL) == []
    assert page.eval_on_selector_all("input", NAMELESS) == []
    assert page.get_attribute("#moved", "aria-live") == "polite"
    top = [page.locator(at).bounding_box()["y"] for at in ("#shelf-title", "#list-title")]
    assert (top[1] > top[0] + 200) if width < 860 else (abs(top[1] - top[0]) < 60)
    assert page.is_visible("#toast") <= (width < 860)


def test_it_works_with_keys_alone(site: Site) -> None:
    page = visit(site)
    page.focus("#search")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.closest('#shelf li') !== null")
    assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"
    after(page, lambda: page.keyboard.press("Enter"))
    assert page.locator("#past li").count() == 1
    # Who clicks in the list stays in the list.
    page.locator("#rows button").first.focus()
    after(page, lambda: page.keyboard.press("Enter"))
    assert page.evaluate("document.activeElement.closest('#list') !== null")


# -- what a shop's page sends ----------------------------------------------------------------------------------------


def shop_page(site: Site, page: Any, key: str | None = None) -> None:
    """A page of a shop that has the script, at the address of the service."""
    body = "<!doctype html><title>shop</title><script src=/zhiyin.js></script>"
    page.route("**/shop", lambda route: route.fulfill(body=body, content_type="text/html"))
    page.goto(f"{site.url}/shop")
    start(site, page, key)


def start(site: Site, page: Any, key: str | None = None) -> None:
    given = {"url": site.url, "key": key or site.keys["events"], "readKey": site.keys["read"], "user": "shopper"}
    page.evaluate("given => zhiyin.init(given)", given)


def waiting(page: Any) -> int:
    return page.evaluate("JSON.parse(localStorage.getItem('zhiyin.queue') || '[]').length")


def sent(site: Site) -> list[list[dict[str, Any]]]:
    """Events of each request to the service."""
    return [json.loads(r.post_data)["events"] for r in site.asked if r.url.endswith("/v1/events")]


def test_events_go_in_batches(site: Site) -> None:
    page = site.browser()
    page.clock.install()
    shop_page(site, page)
    page.evaluate("for (const n of [1, 2, 3]) zhiyin.track(`i${n}`, 'view', {listId: 'L', value: n})")
    page.clock.run_for(1_500)
    assert not sent(site)
    page.clock.run_for(600)
    eventually(lambda: waiting(page) == 0)
    assert [len(batch) for batch in sent(site)] == [3]
    kept = site.store.history("shopper")
    assert [(e.item, e.kind, e.value, e.list_id) for e in kept] == [(f"i{n}", "view", float(n), "L") for n in (1, 2, 3)]
    # Twenty do not wait.
    page.evaluate("for (let n = 0; n < 20; n++) zhiyin.track(`i${n}`)")
    page.clock.run_for(1)
    eventually(lambda: waiting(page) == 0)
    assert [len(batch) for batch in sent(site)] == [3, 20]
    assert site.store.count() == 23


def test_a_retry_is_no_second_click(site: Site) -> None:
    page = site.browser()
    page.clock.install()
    shop_page(site, page)
    answers = [{"status": 503, "headers": {"Retry-After": "3"}}, {"status": 429}, "lost"]

    def wrong(route: Any) -> None:
        if not answers:
            route.continue_()
        elif (answer := answers.pop(0)) == "lost":  # it arrived, the answer did not
            route.fetch()
            route.abort()
        else:
            route.fulfill(**answer, body="{}")

    page.route("**/v1/events", wrong)
    page.evaluate("zhiyin.track('i1'); zhiyin.track('i2')")
    for asked in range(1, 5):
        eventually(lambda n=asked: page.clock.run_for(500) or len(sent(site)) >= n)  # type: ignore[misc]
        page.wait_for_timeout(1)
    eventually(lambda: waiting(page) == 0)
    batches = sent(site)
    assert len(batches) == 4
    assert len({json.dumps(batch) for batch in batches}) == 1
    assert site.store.count() == 2


def test_what_is_not_sent_outlives_the_page(site: Site) -> None:
    page = site.browser()
    shop_page(site, page)
    page.route("**/v1/events", lambda route: route.abort())
    page.evaluate("for (let n = 0; n < 1050; n++) zhiyin.track(`i${n}`)")
    assert waiting(page) == 1_000  # of the oldest it lets go, and says so
    assert page.evaluate("zhiyin.dropped") == 50
    page.reload()
    page.unroute("**/v1/events")
    start(site, page)
    eventually(lambda: page.wait_for_timeout(10) or waiting(page) == 0)
    assert site.store.count() == 1_000
    assert {event.item for event in site.store.history("shopper")} == {f"i{n}" for n in range(50, 1_050)}


@pytest.mark.parametrize("answer", [408, 425, 429, 500, 502, 503, 504, 507, 520, 401, "abort"])
def test_nothing_is_lost_while_the_service_may_recover(site: Site, answer: int | str) -> None:
    page = site.browser()
    page.clock.install()
    shop_page(site, page)
    state = {"wrong": True}

    def away(route: Any) -> None:
        if not state["wrong"]:
            route.continue_()
        elif answer == "abort":
            route.abort()
        else:
            route.fulfill(status=answer, body="oh no")

    page.route("**/v1/events", away)
    page.evaluate("for (let n = 0; n < 30; n++) zhiyin.track(`i${n}`)")
    for asked in (1, 2, 3):
        eventually(lambda n=asked: page.clock.run_for(5_000) or len(sent(site)) >= n)  # type: ignore[misc]
        page.wait_for_timeout(1)
    assert waiting(page) == 30
    state["wrong"] = False
    eventually(lambda: page.clock.run_for(10_000) or page.wait_for_timeout(5) or waiting(page) == 0)
    assert {event.item for event in site.store.history("shopper")} == {f"i{n}" for n in range(30)}
    assert page.evaluate("zhiyin.dropped") == 0


@pytest.mark.parametrize("status", [422, 500])
def test_one_event_that_spoils_a_request_costs_itself_alone(site: Site, status: int) -> None:
    page = site.browser()
    page.clock.install()
    shop_page(site, page)

    def spoiled(route: Any) -> None:
        if '"bad"' in route.request.post_data:
            route.fulfill(status=status, body="{}")
        else:
            route.continue_()

    page.route("**/v1/events", spoiled)
    page.evaluate("for (let n = 0; n < 10; n++) zhiyin.track(n === 3 ? 'bad' : `i${n}`)")
    left = 0 if status == 422 else 1  # what may be the service's own fault is tried again
    eventually(lambda: page.clock.run_for(10_000) or page.wait_for_timeout(5) or waiting(page) == left)
    eventually(lambda: page.clock.run_for(10_000) or page.wait_for_timeout(5) or site.store.count() == 9)
    assert page.evaluate("zhiyin.dropped") == 1 - left


def test_a_browser_without_room_keeps_events_for_its_page(site: Site) -> None:
    page = site.browser()
    page.clock.install()
    shop_page(site, page)
    page.evaluate("zhiyin.track('i1')")
    page.evaluate("void (Storage.prototype.setItem = () => { throw new Error('full'); })")
    page.evaluate("zhiyin.track('i2'); zhiyin.track('i3')")
    page.clock.run_for(2_100)
    eventually(lambda: page.wait_for_timeout(5) or site.store.count() == 3)


def test_leaving_sends_what_waits(site: Site) -> None:
    page = site.browser()
    shop_page(site, page)
    page.evaluate("zhiyin.track('i7', 'purchase')")
    page.goto("about:blank")
    eventually(lambda: site.store.count() == 1)
    assert site.store.history("shopper")[0].kind == "purchase"


def test_what_is_refused_does_not_come_back(site: Site) -> None:
    page = site.browser()
    shop_page(site, page, key=site.keys["read"])
    said = page.evaluate("zhiyin.track('i1'), zhiyin.flush().catch(error => error.status)")
    assert said == 403
    assert waiting(page) == 0
    assert page.evaluate("zhiyin.flush()") is None


def test_requests_stay_small(site: Site) -> None:
    page = site.browser()
    shop_page(site, page)
    page.evaluate("for (let n = 0; n < 19; n++) zhiyin.track('知'.repeat(250) + n, 'view', {listId: '音'.repeat(256)})")
    page.evaluate("localStorage.setItem('zhiyin.queue', JSON.stringify([].concat(...Array(9).fill(0).map((_, n) => "
                  "JSON.parse(localStorage.getItem('zhiyin.queue')).map(e => ({...e, id: e.id + n}))))))")  # fmt: skip
    assert waiting(page) == 171
    page.evaluate("dispatchEvent(new Event('pagehide'))")
    eventually(lambda: page.wait_for_timeout(10) or waiting(page) < 171)
    page.evaluate("zhiyin.flush()")
    assert site.store.count() == 171
    sizes = [len(r.post_data.encode()) for r in site.asked if r.url.endswith("/v1/events")]
    assert 20_000 < max(sizes) <= 60_000


def test_lists_for_a_visitor(site: Site) -> None:
    page = site.browser()
    shop_page(site, page)
    got = page.evaluate("zhiyin.recommend({k: 3, fields: ['title']})")
    assert len(got["items"]) == 3
    assert site.lists()[-1] == {"user": "shopper", "k": 3, "fields": ["title"]}
    page.evaluate("zhiyin.recommend({k: 3, history: ['i1']})")
    assert "user" not in site.lists()[-1]
    rest = page.evaluate("zhiyin.recommend({k: 3, filter: 'price < 6'}).then(list => zhiyin.more(list))")
    assert site.lists()[-1]["filter"] == "price < 6"
    assert 0 < len(rest["items"]) <= 3
    assert page.evaluate("zhiyin.more({next: null})") is None
    said = page.evaluate("zhiyin.recommend({filter: 'prize < 3'}).catch(e => [e.status, e.message, e.remedy])")
    assert said[0] == 400
    assert "prize" in said[1]
    assert "price" in said[2]
    # Without a name a visitor has one of this browser's own, the same on the next page.
    first = page.evaluate("zhiyin.init({url: '', key: 'k'})")
    page.reload()
    assert page.evaluate("zhiyin.init({url: '', key: 'k'})") == first
    assert re.fullmatch(r"[0-9a-f-]{32,36}", first)
    assert quote(first) == first


# -- page tokens -------------------------------------------------------------------------------------------------------


class TokenServer:
    """What the shop's own server does: signs a token for the user of its session. `users`: whom each token names."""

    def __init__(self, site: Site, page: Any) -> None:
        self.signer, self.key = PageKey(site.keys["page"]), site.keys["page"]
        self.user, self.session, self.expires, self.asked, self.away = "shopper", "session-of-shopper", "1h", 0, False
        body = "<!doctype html><title>shop</title><script src=/zhiyin.js></script>"
        page.route("**/shop", lambda route: route.fulfill(body=body, content_type="text/html"))
        page.route("**/zhiyin-token", self._answer)
        page.goto(f"{site.url}/shop")
        self.start(page)

    def _answer(self, route: Any) -> None:
        self.asked += 1
        if self.away:
            route.abort()
            return
        token = self.signer.token(user=self.user, session=self.session, expires=self.expires)
        route.fulfill(body=str(token), content_type="text/plain")

    def start(self, page: Any) -> None:
        page.evaluate("""() => { zhiyin.init({token: async () => {
            const answer = await fetch("/zhiyin-token");
            return answer.text();
        }}); }""")


def flushed(page: Any) -> Any:
    return page.evaluate("zhiyin.flush().then(() => 'sent', error => error.status ?? 'away')")


def test_a_page_has_a_token_and_no_key(site: Site) -> None:
    page = site.browser()
    server = TokenServer(site, page)
    page.evaluate("zhiyin.track('i1', 'view')")
    assert flushed(page) == "sent"
    assert [(e.user, e.item) for e in site.store.history("shopper")] == [("shopper", "i1")]
    assert len(page.evaluate("zhiyin.recommend({k: 3})")["items"]) == 3
    assert site.lists() == [{"k": 3}]  # the token says for whom
    first = page.evaluate("zhiyin.recommend({k: 3}).then(async list => [list, await zhiyin.more(list)])")
    assert not {row["item"] for row in first[0]["items"]} & {row["item"] for row in first[1]["items"]}
    assert len(page.evaluate("zhiyin.get('/v1/items/i1/similar?k=2')")["items"]) == 2
    assert page.evaluate("zhiyin.recommend({user: 'u4'}).catch(error => error.status)") == 403
    assert page.evaluate("zhiyin.get('/v1/users/u4/history').catch(error => error.status)") == 403
    assert server.asked == 1
    assert all("zy_" not in str(request.headers) + (request.post_data or "") for request in site.asked)


def test_a_token_is_renewed_when_it_ends(site: Site) -> None:
    page = site.browser()
    page.clock.install()
    server = TokenServer(site, page)
    server.expires = "10m"
    page.evaluate("zhiyin.recommend({k: 3})")
    page.clock.run_for(8 * 60_000)
    page.evaluate("zhiyin.recommend({k: 3})")
    assert server.asked == 1
    page.clock.run_for(2 * 60_000)
    # However many ask at once, one token is fetched for all.
    page.evaluate("Promise.all([1, 2, 3].map(k => zhiyin.recommend({k})))")
    assert server.asked == 2


def test_a_token_that_is_refused_is_renewed_and_nothing_is_lost(site: Site) -> None:
    """The page key is rotated: the tokens of the old one hold no longer."""
    page = site.browser()
    server = TokenServer(site, page)
    page.evaluate("zhiyin.recommend({k: 3})")
    _, secret = site.shop.keys.add("web-2", ["page"])
    site.shop.keys.revoke("page")
    page.evaluate("zhiyin.track('i1'); zhiyin.track('i2')")
    assert flushed(page) == 401  # the shop's server still signs by the old key
    assert waiting(page) == 2
    assert page.evaluate("zhiyin.recommend({k: 3}).catch(error => error.status)") == 401
    server.signer = PageKey(secret)
    assert flushed(page) == "sent"
    assert waiting(page) == 0
    assert {event.item for event in site.store.history("shopper")} == {"i1", "i2"}


def test_events_wait_while_there_is_no_token(site: Site) -> None:
    page = site.browser()
    page.clock.install()
    server = TokenServer(site, page)
    server.away = True
    page.evaluate("zhiyin.track('i1')")
    eventually(lambda: page.clock.run_for(1_000) or server.asked > 2)
    assert waiting(page) == 1
    assert not sent(site)
    server.away = False
    eventually(lambda: page.clock.run_for(1_000) or waiting(page) == 0)
    assert [event.item for event in site.store.history("shopper")] == ["i1"]


def test_events_of_who_was_here_before_stay_theirs(site: Site) -> None:
    page = site.browser()
    server = TokenServer(site, page)
    page.evaluate("zhiyin.recommend({k: 3})")
    page.route("**/v1/events", lambda route: route.abort())
    page.evaluate("zhiyin.track('i1')")
    assert flushed(page) == "away"
    page.unroute("**/v1/events")
    server.user, server.session = "other", "session-of-other"
    page.reload()
    server.start(page)
    page.evaluate("zhiyin.track('i2')")
    assert flushed(page) == "sent"
    assert [event.item for event in site.store.history("other")] == ["i2"]
    assert waiting(page) == 1
    # They go with the next token of their own user.
    server.user, server.session = "shopper", "session-of-shopper"
    page.reload()
    server.start(page)
    assert flushed(page) == "sent"
    assert waiting(page) == 0
    assert [event.item for event in site.store.history("shopper")] == ["i1"]


def test_one_event_that_may_not_be_does_not_take_the_others_along(site: Site) -> None:
    page = site.browser()
    TokenServer(site, page)
    others = site.shop.list_service.create(RecommendRequest(user="u4")).list_id
    page.evaluate("zhiyin.recommend({k: 3})")
    page.evaluate(
        "id => { for (let n = 0; n < 9; n++) zhiyin.track(`i${n}`, 'view', n === 4 ? {listId: id} : {}); }", others
    )
    assert flushed(page) == 403
    assert waiting(page) == 0
    assert {event.item for event in site.store.history("shopper")} == {f"i{n}" for n in range(9) if n != 4}


GUIDE = Path(__file__).parents[2] / "docs" / "guide.md"


def test_what_the_guide_says_of_pages_works(site: Site) -> None:
    """Its server and its page, as they stand there but for addresses."""
    guide = GUIDE.read_text("utf-8")
    (server,) = [block for block in re.findall("```python\n(.*?)```", guide, re.S) if "PageKey(" in block]
    (page_body,) = re.findall("```html\n(.*?)```", guide, re.S)
    assert not re.search(r"\bkey|zy_", page_body, re.IGNORECASE)
    names: dict[str, Any] = {"PAGE_KEY": site.keys["page"]}
    exec(server, names)  # noqa: S102
    session = {"user": "shopper", "zhiyin": "session-of-shopper"}
    page = site.browser()
    said: list[str] = []
    page.on("console", lambda message: said.append(message.text))
    page.route("**/zhiyin-token", lambda route: route.fulfill(body=names["zhiyin_token"](session)))
    body = "<!doctype html><title>shop</title>" + page_body.replace("https://recommend.example", site.url)
    page.route("**/shop", lambda route: route.fulfill(body=body, content_type="text/html"))
    page.goto(f"{site.url}/shop")
    eventually(lambda: page.wait_for_timeout(10) or site.store.history("shopper"))
    assert [event.item for event in site.store.history("shopper")] == ["film 7"]
    eventually(lambda: page.wait_for_timeout(10) or said)
    assert said[0].count("Object") == 10
    assert site.store.count() == 1
