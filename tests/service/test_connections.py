"""Connections and what comes over them, byte by byte: who says nothing, too much, or too slowly, keeps nobody out."""

from __future__ import annotations

import asyncio
import json
import random
import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

pytest.importorskip("starlette")
pytest.importorskip("uvicorn")

from zhiyin.service import connections as limits
from zhiyin.service import http_connection as module
from zhiyin.service import request_json
from zhiyin.service.app import create_app
from zhiyin.service.connections import Connections, limited
from zhiyin.service.errors import RefusedError
from zhiyin.service.request_limits import MAX_BODY_BYTES

from .conftest import eventually


class Port:
    """A service on a port, spoken to in bytes."""

    def __init__(self, shop: Any, connections: Connections) -> None:
        import uvicorn

        self.shop, self.connections = shop, connections
        self.socket = socket.create_server(("127.0.0.1", 0), backlog=2_048)
        self.port = self.socket.getsockname()[1]
        config = uvicorn.Config(create_app([shop]), log_config=None, access_log=False, ws="none",
                                http=limited(connections), timeout_graceful_shutdown=1)  # fmt: skip
        self.server = uvicorn.Server(config)
        self.thread = threading.Thread(target=self.server.run, kwargs={"sockets": [self.socket]}, daemon=True)
        self.thread.start()
        eventually(lambda: self.server.started)

    def open(self, address: str = "127.0.0.1") -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), timeout=10, source_address=(address, 0))

    def ask(self, data: bytes, address: str = "127.0.0.1") -> bytes:
        """What is answered until the connection ends or nothing more comes."""
        with self.open(address) as one:
            one.sendall(data)
            return read(one)

    def close(self) -> None:
        self.server.should_exit = True
        self.thread.join(10)
        self.socket.close()


def read(one: socket.socket) -> bytes:
    """One answer, or what came of it."""
    found = b""
    try:
        while part := one.recv(65_536):
            found += part
            head, end, body = found.partition(b"\r\n\r\n")
            if end and (b"content-length: %d\r" % len(body)) in head.lower() + b"\r":
                return found
    except (TimeoutError, ConnectionError):
        pass
    return found


@pytest.fixture
def port(opened: Callable[..., Any]) -> Iterator[Callable[..., Port]]:
    started: list[Port] = []

    def start(**limits: Any) -> Port:
        started.append(Port(opened(), Connections(**limits)))
        return started[-1]

    yield start
    for one in started:
        one.close()


HEALTH = b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n"


def test_silent_connections_keep_nobody_out(port: Callable[..., Port]) -> None:
    """Neither of their own address nor of any other."""
    one = port(limit=300, of_one=200)
    busy = one.open()
    busy.sendall(HEALTH)
    assert read(busy).startswith(b"HTTP/1.1 200")
    silent = [one.open() for _ in range(400)]
    for other in silent[::40]:
        other.sendall(b"G")
    assert one.ask(HEALTH).startswith(b"HTTP/1.1 200")
    assert one.ask(HEALTH, "127.0.0.2").startswith(b"HTTP/1.1 200")
    more = [one.open("127.0.0.3") for _ in range(150)]  # now all together are too many
    assert one.ask(HEALTH, "127.0.0.4").startswith(b"HTTP/1.1 200")
    assert len(one.connections) <= 300
    busy.sendall(HEALTH)  # who asked for something before stays
    assert read(busy).startswith(b"HTTP/1.1 200")
    for other in [*silent, *more, busy]:
        other.close()
    eventually(lambda: len(one.connections) == 0)
    assert one.connections.evicted > 200
    assert one.connections.refused == 0


def test_a_proxy_may_have_more(port: Callable[..., Port]) -> None:
    one = port(of_one=5, trusted=["127.0.0.9/32"])
    many = [one.open("127.0.0.9") for _ in range(20)]
    eventually(lambda: len(one.connections) == 20)
    few = [one.open("127.0.0.8") for _ in range(20)]
    eventually(lambda: one.connections.evicted == 15)
    for other in [*many, *few]:
        other.close()


def test_headers_have_an_end(port: Callable[..., Port]) -> None:
    one = port()
    begun = b"GET /health HTTP/1.1\r\nHost: x\r\n"
    for much in (begun + b"X-A: " + b"a" * 100_000, b"GET /" + b"a" * 100_000,
                 begun + b"".join(b"X-%d: %s\r\n" % (n, b"y" * 1_000) for n in range(90))):  # fmt: skip
        answer = one.ask(much)
        assert answer.startswith(b"HTTP/1.1 431"), answer[:100]
        assert b"connection: close" in answer
    many = begun + b"".join(b"X-%d: y\r\n" % n for n in range(200)) + b"\r\n"
    assert one.ask(many).startswith(b"HTTP/1.1 400")
    most = begun + b"X-A: " + b"a" * 60_000 + b"\r\n\r\n"
    assert one.ask(most).startswith(b"HTTP/1.1 200")
    with one.open() as kept:  # each request of a connection has the whole of it
        for _ in range(3):
            kept.sendall(most)
            assert read(kept).startswith(b"HTTP/1.1 200")
        kept.sendall(HEALTH * 50)
        found = b""
        while found.count(b"HTTP/1.1 200") < 50:
            part = kept.recv(65_536)
            assert part
            found += part


def test_who_is_slow_is_let_go(port: Callable[..., Port], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "HEADER_SECONDS", 0.2)
    monkeypatch.setattr(limits, "CHECK_SECONDS", 0.05)
    one = port()
    with one.open() as silent, one.open() as slow, one.open() as kept:
        kept.sendall(HEALTH)
        assert read(kept).startswith(b"HTTP/1.1 200")
        slow.sendall(b"GET /health HTTP/1.1\r\nHo")
        assert read(slow).startswith(b"HTTP/1.1 408")
        assert read(silent) == b""
        kept.sendall(HEALTH)
        assert read(kept).startswith(b"HTTP/1.1 200")


def test_a_body_is_not_read_before_the_key_is_known(port: Callable[..., Port]) -> None:
    one = port()
    size = MAX_BODY_BYTES - 1
    head = b"POST /v1/recommendations HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
    for line in (b"", b"Authorization: Bearer nobody\r\n", b"Authorization: Basic eDp5\r\n"):
        whole = head + line + b"Content-Length: %d\r\n\r\n" % size + b"x" * size
        assert one.ask(whole).startswith(b"HTTP/1.1 401")
        with one.open() as waits:  # answered before any of the body was sent
            waits.sendall(head + line + b"Content-Length: %d\r\n\r\n" % size)
            answer = read(waits)
            assert answer.startswith(b"HTTP/1.1 401")
            assert b"connection: close" in answer
    with one.open() as waits:
        waits.sendall(head + b"Expect: 100-continue\r\nContent-Length: 10\r\n\r\n")
        assert read(waits).startswith(b"HTTP/1.1 401")


@pytest.fixture
def parsed(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Bytes of each part of a body that was parsed, of any connection."""
    sizes: list[int] = []
    on_body = module.Connection.on_body

    def count(self: module.Connection, body: bytes) -> None:
        sizes.append(len(body))
        on_body(self, body)

    monkeypatch.setattr(module.Connection, "on_body", count)
    return sizes


PREFLIGHT = b"Origin: https://x.example\r\nAccess-Control-Request-Method: POST\r\n"


UNWANTED = [
    (b"POST /v1/events", b"Authorization: Bearer nobody\r\n", b"401"), (b"POST /v1/nothing", b"", b"401"),
    (b"GET /v1/popular", b"", b"401"), (b"POST /health", b"", b"405"), (b"GET /health", b"", b"200"),
    (b"POST /nothing", b"", b"404"), (b"OPTIONS /v1/events", b"", b"405"), (b"OPTIONS /v1/events", PREFLIGHT, b"200"),
]  # fmt: skip


def test_a_body_that_nobody_wants_is_not_parsed(opened: Callable[..., Any], parsed: list[int]) -> None:
    """Nobody without a key makes the service look at more of a body than came along with the headers, in whatever
    pieces it comes; the answer is read all the same, and the connection ends with it."""
    one = Port(opened(origins=["https://x.example"]), Connections())
    for line, more, status in UNWANTED:
        head = line + b" HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n" + more
        long = head + b"Content-Length: 1000000\r\n\r\n" + b"x" * 1_000_000
        tiny = head + b"Transfer-Encoding: chunked\r\n\r\n" + b"1\r\nx\r\n" * 100_000 + b"0\r\n\r\n"
        end = long.index(b"\r\n\r\n") + 4
        for whole, cut in ((long, 0), (tiny, 0), (tiny, tiny.index(b"\r\n\r\n") + 3), (long, end)):
            parsed.clear()
            with one.open() as sender:
                sender.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                sender.sendall(whole[:cut])
                sender.sendall(whole[cut:])
                answer = b""
                while part := sender.recv(65_536):  # to the end of the connection
                    answer += part
            assert answer.startswith(b"HTTP/1.1 " + status), answer[:100]
            assert b"connection: close" in answer or more == PREFLIGHT, answer
            assert sum(parsed) <= module.MAX_PARSED_AHEAD
    one.close()


def test_requests_are_the_same_in_whatever_pieces_they_come(port: Callable[..., Port]) -> None:
    one = port()
    key = b"Authorization: Bearer " + one.shop.shown["read"].encode() + b"\r\n"
    ask = b"POST /v1/recommendations HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n" + key
    rng = random.Random(3)

    def request(k: int) -> bytes:
        body = b'{"k":%d,"exclude":["%s"]}' % (k, b"x" * rng.choice([1, 10, 200]))
        body += b" " * rng.choice([0, 0, 3_000, 70_000, 300_000])
        kind = rng.randrange(3)
        if kind == 0:
            return b"GET /v1/popular?k=%d HTTP/1.1\r\nHost: x\r\n" % k + key + b"\r\n"
        if kind == 1:
            return ask + b"Content-Length: %d\r\n\r\n" % len(body) + body
        size = rng.choice([50, 5_000])
        parts = [body[at : at + size] for at in range(0, len(body), size)]
        return (
            ask
            + b"Transfer-Encoding: chunked\r\n\r\n"
            + b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in [*parts, b""])
        )

    for _ in range(12):
        wanted = [rng.randint(1, 9) for _ in range(8)]
        stream = b"".join(map(request, wanted))
        with one.open() as sender:
            sender.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            answers = sender.makefile("rb")
            cuts = sorted(rng.randrange(len(stream)) for _ in range(rng.choice([0, 3, 30])))
            for start, stop in zip([0, *cuts], [*cuts, len(stream)], strict=True):
                sender.sendall(stream[start:stop])
            assert [len(json.loads(answer)["items"]) for answer in bodies(answers, len(wanted))] == wanted


def bodies(answers: Any, number: int) -> Iterator[bytes]:
    """The bodies of so many answers of one connection, all of them 200."""
    for _ in range(number):
        assert answers.readline().startswith(b"HTTP/1.1 200")
        size = 0
        while (line := answers.readline().lower()) != b"\r\n":
            size = int(line.split(b":")[1]) if line.startswith(b"content-length:") else size
        yield answers.read(size)


def test_what_is_no_http_behind_a_request_is_not_answered_in_its_place(
    port: Callable[..., Port], caplog: pytest.LogCaptureFixture
) -> None:
    one = port()
    asked = b"GET /v1/popular?k=3 HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer "
    asked += one.shop.shown["read"].encode() + b"\r\n\r\n"
    for number, garbage in ((1, b"\0\1\2"), (3, b"GET / HTTP/9.x\r\n\r\n" * 200), (2, b"x" * 100_000)):
        with one.open() as sender:
            sender.sendall(asked * number + garbage)
            answers = sender.makefile("rb")
            assert [len(json.loads(body)["items"]) for body in bodies(answers, number)] == [3] * number
            rest = answers.read()
            assert not rest or rest.startswith(b"HTTP/1.1 400")  # the answer to what came behind them
    # A body that breaks off is answered for its own request, once.
    broken = b"DELETE /nothing HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\nno size\r\n"
    with one.open() as sender:
        sender.sendall(broken)
        answers = sender.makefile("rb")
        assert answers.readline().startswith(b"HTTP/1.1 400")
        assert answers.read().count(b"HTTP/1.1") == 0
    assert one.ask(HEALTH).startswith(b"HTTP/1.1 200")
    assert not [record for record in caplog.records if record.levelname == "ERROR"], caplog.text


def test_small_pieces_are_gathered(port: Callable[..., Port], monkeypatch: pytest.MonkeyPatch) -> None:
    """Each read costs the same, of one byte or of thousands: a request is read so many times and no more."""
    reads = [0]
    received = module.Connection.data_received

    def count(self: module.Connection, data: bytes) -> None:
        reads[0] += 1
        received(self, data)

    monkeypatch.setattr(module.Connection, "data_received", count)
    one = port()
    whole = b"GET /health HTTP/1.1\r\nHost: x\r\nX: " + b"y" * 500 + b"\r\n\r\n"
    with one.open() as sender:
        sender.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for byte in whole:
            sender.sendall(bytes([byte]))
        assert read(sender).startswith(b"HTTP/1.1 200")
    assert reads[0] < len(whole) // 4


def test_a_body_is_not_of_a_hundred_thousand_chunks(port: Callable[..., Port], parsed: list[int]) -> None:
    one = port()
    head = b"POST /v1/recommendations HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nAuthorization: Bearer "
    head += one.shop.shown["read"].encode() + b"\r\nTransfer-Encoding: chunked\r\n\r\n"
    few = b"2\r\n{}\r\n" + b"1\r\n \r\n" * 1_000 + b"0\r\n\r\n"
    assert one.ask(head + few).startswith(b"HTTP/1.1 200")
    assert one.ask(head + b"1\r\n \r\n" * 100_000 + few).startswith(b"HTTP/1.1 400")
    assert len(parsed) < 10_000


def test_room_for_refused_bodies_is_bounded_and_given_back(port: Callable[..., Port]) -> None:
    one = port()
    one.connections.windows = 3
    head = b"POST /v1/events HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000\r\n\r\n"
    waiting = [one.open() for _ in range(6)]
    for sender in waiting:
        sender.sendall(head)
        assert read(sender).startswith(b"HTTP/1.1 401")
    assert len(one.connections) == 6  # so that what is still sent is no error
    eventually(lambda: one.connections.windows == 0)
    for sender in waiting:
        sender.close()
    eventually(lambda: one.connections.windows == 3)


def test_who_goes_on_sending_is_cut_off(port: Callable[..., Port], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_DISCARDED_BYTES", 1 << 20)
    one = port()
    endless = b"POST /v1/events HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
    endless += (b"8000\r\n" + b"x" * 0x8000 + b"\r\n") * 2_000
    with one.open() as sender, pytest.raises(OSError, match=r"reset|Broken"):
        sender.sendall(endless)
    eventually(lambda: len(one.connections) == 0)


def test_a_trailer_is_no_header(port: Callable[..., Port]) -> None:
    one = port()
    key = one.shop.shown["read"].encode()

    def sent(first: bytes, last: bytes) -> bytes:
        head = b"POST /v1/recommendations HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n" + first
        return one.ask(head + b"Transfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n" + last + b"\r\n")

    right = b"Authorization: Bearer " + key + b"\r\n"
    assert sent(b"", right).startswith(b"HTTP/1.1 401")
    assert sent(right, b"").startswith(b"HTTP/1.1 200")
    assert sent(right, b"Authorization: Bearer nobody\r\n").startswith(b"HTTP/1.1 200")
    for path in (b"/v1/recommendations", b"/v1/popular"):  # by both ways, whichever comes first
        for two in (right + b"Authorization: Bearer nobody\r\n", b"Authorization: Bearer nobody\r\n" + right):
            method = b"GET " if path.endswith(b"popular") else b"POST "
            body = b"Content-Type: application/json\r\nContent-Length: 2\r\n\r\n{}" if method == b"POST " else b"\r\n"
            assert one.ask(method + path + b" HTTP/1.1\r\nHost: x\r\n" + two + body).startswith(b"HTTP/1.1 400")


def test_many_bodies_at_once_are_bounded() -> None:
    """Of one process, whoever sends them."""
    from zhiyin.service.request_limits import RequestLimitMiddleware

    async def never(scope: Any, receive: Any, send: Any) -> None:
        raise AssertionError

    async def play() -> None:
        app, statuses, go = RequestLimitMiddleware(never, bodies=1_000), [], asyncio.Event()

        async def one(size: int) -> None:
            parts = [b"x" * size]

            async def receive() -> Any:
                if parts:
                    return {"type": "http.request", "body": parts.pop(), "more_body": True}
                await go.wait()
                return {"type": "http.disconnect"}

            async def send(message: Any) -> None:
                statuses.append(message.get("status"))

            scope = {"type": "http", "method": "POST", "path": "/v1/x", "headers": [(b"transfer-encoding", b"chunked")]}
            await app(scope, receive, send)

        held = [asyncio.create_task(one(400)) for _ in range(2)]
        async with asyncio.timeout(10):
            while app._held < 800:
                await asyncio.sleep(0.001)
        await one(400)
        assert 503 in statuses
        go.set()
        await asyncio.gather(*held)
        assert app._held == 0

    asyncio.run(play())


SHAPES = {
    "names": "{" + ",".join(f'"a{n}":1' for n in range(200_000)) + "}",
    "context": '{"context":{' + ",".join(f'"{n}":[]' for n in range(200_000)) + "}}",
    "pins": '{"pins":{' + ",".join(f'"{n}":1' for n in range(200_000)) + "}}",
    "numbers": '{"exclude":[' + "1," * 1_000_000 + "1]}",
    "texts": '{"include":[' + '"",' * 1_000_000 + '""]}',
    "lists": '{"context":{"a":[' + "[]," * 1_000_000 + "[]]}}",
    "depth": '{"context":' + "[" * 1_000_000 + "]" * 1_000_000 + "}",
    "boosts": '{"boosts":[{' + ",".join(f'"{n}":1' for n in range(200_000)) + "}]}",
    "text": '{"user":"' + "x" * 4_000_000 + '"}',
    "objects": '{"context":{"a":[' + '{"a":1,"b":2,"c":3},' * 45_000 + "{}]}}",
    "wrong": '{"exclude":[' + ",".join(f'"{n}\\u0000"' for n in range(9_000)) + "]}",
}


def test_a_body_of_too_many_names_is_refused_before_it_is_built(monkeypatch: pytest.MonkeyPatch) -> None:
    """What builds objects stops all other threads, so it is not begun."""
    monkeypatch.setattr(request_json, "orjson", None)
    for name in ("names", "context", "pins", "objects", "depth", "lists"):
        with pytest.raises(RefusedError) as refused:
            request_json.loads(SHAPES[name].encode())
        assert refused.value.status == 422


@pytest.mark.parametrize("name", list(SHAPES))
@pytest.mark.parametrize("path", ["/v1/recommendations", "/v1/pages", "/v1/placements/p", "/v1/items/i1", "/v1/events"])
def test_what_is_too_much_is_refused_at_its_shape(service: Any, name: str, path: str) -> None:
    """One error is told, and what it costs does not grow with how many there are."""
    method = "PUT" if "placements" in path or "items" in path else "POST"
    headers = {"Content-Type": "application/json"}
    begun = time.process_time()
    answer = service.request(method, path, content=SHAPES[name], headers=headers)
    took = time.process_time() - begun
    if name == "wrong" and path == "/v1/items/i1":
        return  # a column may be a long list of texts
    assert answer.status_code in (400, 422), answer.text[:200]
    assert len(json.dumps(answer.json())) < 1_000
    assert took < 3.0  # of processor time: a twentieth of a second as JSON, ten seconds as a model with all its errors
