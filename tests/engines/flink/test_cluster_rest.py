"""The client of the JobManager's REST API: what it asks, and errors of one line that say what to do."""

from __future__ import annotations

import socket
import threading
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.engines.flink.stub_jobmanager import StubJobManager
from zhiyin.core.errors import ConfigError, EngineError
from zhiyin.engines.flink.rest import JobManager, UnknownJobError, first_cause, parse_address

ID = "a" * 32
TRACE = """org.apache.flink.runtime.JobException: Recovery is suppressed by NoRestartBackoffTimeStrategy
\tat org.apache.flink.runtime.X.handle(X.java:1)
Caused by: java.util.concurrent.CompletionException: java.lang.IllegalStateException: no folder
\tat java.base/java.util.concurrent.Y.z(Y.java:2)
Caused by: java.io.FileNotFoundException: /data/streams/events does not exist
\t... 3 more
"""


def stub(answers: dict[str, list[tuple[int, Any]]]) -> StubJobManager:
    return StubJobManager(answers)


def test_jobs_and_states() -> None:
    listed = {"jobs": [{"jid": ID, "name": "trending", "state": "FAILED", "start-time": 1_500, "end-time": 2_000}]}
    answers = {"GET /jobs/overview": [(200, listed)], f"GET /jobs/{ID}/status": [(200, {"status": "FAILED"})]}
    with stub(answers).serving() as server:
        client = JobManager(server.address)
        (job,) = client.jobs()
        assert (job.id, job.name, job.state, job.start, job.ended) == (ID, "trending", "FAILED", 1.5, True)
        assert client.state(ID) == "FAILED"


# As Flink 2.3 answers for a job's detail and for its status.
UNKNOWN = [
    (404, f"org.apache.flink.runtime.rest.NotFoundException: Job {ID} not found\n\tat a.B.c", f"Job {ID} not found"),
    (500, "Internal server error.\nCaused by: org.apache.flink.runtime.messages.FlinkJobNotFoundException: "
          f"Could not find Flink job ({ID})\n\tat a.B.c", "Could not find Flink job"),
]  # fmt: skip


@pytest.mark.parametrize(("status", "text", "match"), UNKNOWN)
def test_an_unknown_job_is_none_or_its_own_error(status: int, text: str, match: str) -> None:
    answer = (status, {"errors": [text]})
    with stub({f"GET /jobs/{ID}/status": [answer], f"GET /jobs/{ID}": [answer]}).serving() as server:
        client = JobManager(server.address)
        assert client.state(ID) is None
        with pytest.raises(UnknownJobError, match=f"{server.address}.*{match}"):
            client.job(ID)


def test_a_missing_path_is_no_unknown_job() -> None:
    with stub({}).serving() as server, pytest.raises(EngineError, match="refuses GET") as caught:
        JobManager(server.address).overview()
    assert not isinstance(caught.value, UnknownJobError)


def test_a_savepoint_is_waited_for() -> None:
    pending: dict[str, Any] = {"status": {"id": "IN_PROGRESS"}, "operation": None}
    done = {"status": {"id": "COMPLETED"}, "operation": {"location": "file:/points/savepoint-1"}}
    answers = {
        f"POST /jobs/{ID}/stop": [(202, {"request-id": "t1"})],
        f"GET /jobs/{ID}/savepoints/t1": [(200, pending), (200, done)],
    }
    with stub(answers).serving() as server:
        assert JobManager(server.address).stop_with_savepoint(ID, "file:///points") == "file:/points/savepoint-1"
        assert server.requests[0] == (
            f"POST /jobs/{ID}/stop",
            {"targetDirectory": "file:///points", "drain": False},
        )


def test_a_savepoint_that_fails_says_its_first_cause() -> None:
    failed = {"status": {"id": "COMPLETED"}, "operation": {"failure-cause": {"class": "x", "stack-trace": TRACE}}}
    answers = {
        f"POST /jobs/{ID}/stop": [(202, {"request-id": "t1"})],
        f"GET /jobs/{ID}/savepoints/t1": [(200, failed)],
    }
    with stub(answers).serving() as server, pytest.raises(EngineError) as caught:
        JobManager(server.address).stop_with_savepoint(ID, "file:///points")
    assert "FileNotFoundException: /data/streams/events does not exist" in caught.value.message
    assert "\n" not in caught.value.message


def test_a_savepoint_that_never_comes_ends() -> None:
    answers = {
        f"POST /jobs/{ID}/stop": [(202, {"request-id": "t1"})],
        f"GET /jobs/{ID}/savepoints/t1": [(200, {"status": {"id": "IN_PROGRESS"}})],
    }
    with stub(answers).serving() as server, pytest.raises(EngineError, match="within 0 s"):
        JobManager(server.address).stop_with_savepoint(ID, "file:///points", seconds=0)


def test_the_cause_of_a_failure() -> None:
    history = {"exceptionHistory": {"entries": [{"exceptionName": "x", "stacktrace": TRACE}]}}
    answers = {f"GET /jobs/{ID}/exceptions": [(200, history), (200, {"exceptionHistory": {"entries": []}})]}
    with stub(answers).serving() as server:
        client = JobManager(server.address)
        assert client.failure(ID) == "FileNotFoundException: /data/streams/events does not exist"
        assert client.failure(ID) is None


def test_metrics_are_summed_by_the_server() -> None:
    path = f"/jobs/{ID}/vertices/v1/subtasks/metrics"
    answers: dict[str, list[tuple[int, Any]]] = {
        f"GET {path}": [(200, [{"id": "Source__e[1].numRecordsOut"}, {"id": "numBytesIn"}])],
        f"GET {path}?get=Source__e%5B1%5D.numRecordsOut&agg=sum": [
            (200, [{"id": "Source__e[1].numRecordsOut", "sum": 7.0}])
        ],
    }
    with stub(answers).serving() as server:
        client = JobManager(server.address)
        assert client.operator_sums(ID, "v1", "numRecordsOut") == {"Source__e[1].numRecordsOut": 7.0}
        assert client.operator_sums(ID, "v1", "numLateRecords") == {}


def test_nobody_listens() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{unused.getsockname()[1]}"
        with pytest.raises(EngineError) as caught:
            JobManager(address).overview()
    assert address in caught.value.message
    assert "refused" in caught.value.message.lower()
    assert "zhiyin stream start" in str(caught.value.remedy)


def test_one_who_listens_and_says_nothing_is_not_waited_for() -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        with pytest.raises(EngineError, match=r"nothing within 0\.1 s"):
            JobManager(f"127.0.0.1:{silent.getsockname()[1]}", timeout=0.1).jobs()


@pytest.mark.parametrize(
    ("answer", "match"),
    [
        (b"SSH-2.0-OpenSSH\r\n", "does not speak HTTP"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n<html></h", "is no JSON"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 900\r\n\r\n{", "does not speak HTTP"),
    ],
)
def test_another_program_at_the_address(answer: bytes, match: str) -> None:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()

        def respond() -> None:
            connection, _ = server.accept()
            with connection:
                connection.recv(65536)
                connection.sendall(answer)

        thread = threading.Thread(target=respond)
        thread.start()
        try:
            with pytest.raises(EngineError, match=match):
                JobManager(f"127.0.0.1:{server.getsockname()[1]}").overview()
        finally:
            thread.join()


def test_a_refusal_has_one_line() -> None:
    errors = ["Internal server error.", "<Exception on server side:\njava.util.concurrent.CompletionException: "
              "java.lang.RuntimeException: boom\n\tat x.Y.z(Y.java)\nEnd of exception on server side>"]  # fmt: skip
    with stub({"GET /overview": [(500, {"errors": errors})]}).serving() as server, pytest.raises(EngineError) as caught:
        JobManager(server.address).overview()
    assert caught.value.message.endswith("RuntimeException: boom")
    assert "\n" not in caught.value.message


@pytest.mark.parametrize(
    ("url", "address"),
    [("flink://h:1234", "h:1234"), ("flink://h", "h:8081"), ("flink://[::1]:80/", "[::1]:80")],
)
def test_addresses(url: str, address: str) -> None:
    assert parse_address(url) == address


@pytest.mark.parametrize("url", ["h:8081", "spark://h:1", "flink://", "flink://h:0", "flink://h:99999", "flink://a b"])
def test_addresses_of_no_cluster(url: str) -> None:
    with pytest.raises(ConfigError, match="no Flink cluster"):
        parse_address(url)


@given(st.text())
def test_a_cause_is_one_line_of_any_trace(trace: str) -> None:
    cause = first_cause(trace)
    assert cause.strip()
    assert len(cause.splitlines()) == 1
    assert len(cause) <= 300
