"""Submits rendered SQL to Flink. A script for Flink's own Python: it imports the standard library and pyflink only.

    PYTHON submit.py < request

The first line of standard input is a request, one JSON object:

| key | meaning |
|---|---|
| address | "host:port" of the REST interface of a session cluster; null: a cluster inside this process |
| settings | options of Flink that hold for all jobs, text to text |
| jobs | list of {"name", "statements": [SQL, ...], "savepoint": path or null, "settings": options of this job} |

A statement is SET 'key' = 'value', an INSERT (all of a job run as one), or any other SQL of Flink's (CREATE ...).
Standard output has a JSON object a line: {"job": name, "id": hexadecimal id of Flink's} for each job in their order,
or {"job": name, "error": one line} and exit status 1; jobs submitted before stay submitted. Standard error has the
whole of an error.

With a cluster inside this process, the process then waits until all jobs have ended, and writes {"job", "state",
"seconds"} for each; "seconds" is how long it ran. Its further lines of standard input are commands: `stop FOLDER` takes
a savepoint of each running job into FOLDER, ends it and writes {"job", "savepoint"}; `cancel` ends all. The end of
standard input is `cancel`: the cluster never outlives its parent.
"""

from __future__ import annotations

import json
import re
import sys
import threading
import traceback
from typing import Any

LOCAL_SETTINGS = {
    "rest.address": "127.0.0.1",
    "rest.bind-address": "127.0.0.1",
    "rest.bind-port": "0",
    "jobmanager.rpc.address": "127.0.0.1",
    "jobmanager.bind-host": "127.0.0.1",
    "taskmanager.host": "127.0.0.1",
    "taskmanager.bind-host": "127.0.0.1",
}
# Seconds that a savepoint may take with which a job ends.
STOP_SECONDS = 300
SET = re.compile(r"SET\s+'((?:[^']|'')+)'\s*=\s*'((?:[^']|'')*)'\s*", re.IGNORECASE)
_CONNECTOR = re.compile(r"Could not find any factory for identifier '([\w-]+)'")


def first_cause(error: BaseException) -> str:
    """The innermost cause of an exception of Java or Python, one line."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    causes = [line.removeprefix("Caused by: ") for line in lines if line.startswith("Caused by: ")]
    text = causes[-1] if causes else next((line for line in lines if not line.startswith("An error occurred")), "")
    connector = _CONNECTOR.search(text)
    if connector:
        name = connector[1]
        return f"the jar of the connector {name!r} is missing: put flink-sql-connector-{name}-*.jar into pyflink/lib"
    return re.sub(r"^(: )?([a-z]\w*\.)+", "", text) or type(error).__name__


def table_environment(settings: dict[str, str]) -> Any:
    """A TableEnvironment of a streaming job with these options."""
    from pyflink.common import Configuration
    from pyflink.table import EnvironmentSettings, TableEnvironment

    configuration = Configuration()
    for key, value in settings.items():
        configuration.set_string(key, value)
    return TableEnvironment.create(
        EnvironmentSettings.new_instance().in_streaming_mode().with_configuration(configuration).build()
    )


def submit(job: dict[str, Any], address: str | None, settings: dict[str, str]) -> Any:
    """Submit one job and return its JobClient."""
    options = {**(LOCAL_SETTINGS if address is None else {}), **settings, **(job.get("settings") or {})}
    options["pipeline.name"] = job["name"]
    if address is None:
        options["execution.target"] = "local"
    else:
        host, _, port = address.rpartition(":")
        options |= {"execution.target": "remote", "execution.attached": "false"}
        options |= {"rest.address": host, "rest.port": port}
    if job.get("savepoint"):
        options["execution.state-recovery.path"] = job["savepoint"]
    inserts: list[str] = []
    others: list[str] = []
    for statement in job["statements"]:
        setting = SET.fullmatch(statement)
        if setting:
            options[setting[1].replace("''", "'")] = setting[2].replace("''", "'")
        else:
            (inserts if statement.split(None, 1)[0].upper() == "INSERT" else others).append(statement)
    environment = table_environment(options)
    for statement in others:
        environment.execute_sql(statement)
    statements = environment.create_statement_set()
    for statement in inserts:
        statements.add_insert_sql(statement)
    return statements.execute().get_job_client()


class MiniClusterJobs:
    """The jobs of the cluster inside this process. Each has a MiniCluster, which goes as soon as the job has ended."""

    def __init__(self) -> None:
        self.clients: dict[str, Any] = {}
        self._ended: set[str] = set()
        # Held while a command is carried out: the process does not end before it is answered.
        self.busy = threading.Lock()

    def obey(self, commands: Any) -> None:
        """Carry out commands until the end of the file, then cancel what runs."""
        for line in commands:
            command, _, argument = line.strip().partition(" ")
            with self.busy:
                if command == "stop":
                    self.stop(argument)
                elif command == "cancel":
                    self.cancel()
                else:
                    write({"job": None, "error": f"{command!r} is no command: stop FOLDER or cancel"})
        with self.busy:
            self.cancel()

    def stop(self, folder: str) -> None:
        from pyflink.java_gateway import get_gateway

        # Of the Java client: the method of pyflink calls one that Flink 2 does not have any more.
        jvm = get_gateway().jvm
        canonical = jvm.org.apache.flink.core.execution.SavepointFormatType.CANONICAL
        stopping = [
            (name, client._j_job_client.stopWithSavepoint(False, folder, canonical)) for name, client in self._running()
        ]
        for name, savepoint in stopping:
            try:
                write(
                    {"job": name, "savepoint": savepoint.get(STOP_SECONDS, jvm.java.util.concurrent.TimeUnit.SECONDS)}
                )
            except Exception as error:
                write({"job": name, "error": first_cause(error)})

    def cancel(self) -> None:
        for name, client in self._running():
            try:
                client.cancel().result()
            except Exception as error:
                if name not in self._ended:  # else it ended by itself meanwhile
                    write({"job": name, "error": first_cause(error)})

    def wait(self) -> bool:
        """Wait until all have ended. Returns whether none failed."""
        success = True
        for name, client in self.clients.items():
            report: dict[str, Any] = {"job": name, "state": "FINISHED"}
            try:
                report["seconds"] = client.get_job_execution_result().result().get_net_runtime() / 1000
            except Exception as error:
                cause = first_cause(error)
                if "JobCancellationException" in str(error):
                    report["state"] = "CANCELED"
                else:
                    report |= {"state": "FAILED", "error": cause}
                    success = False
            self._ended.add(name)
            write(report)
        return success

    def _running(self) -> list[tuple[str, Any]]:
        return [(name, client) for name, client in self.clients.items() if name not in self._ended]


def write(value: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(value) + "\n")
    sys.stdout.flush()


def main() -> int:
    request = json.loads(sys.stdin.readline())
    address = request.get("address")
    local = MiniClusterJobs()
    for job in request["jobs"]:
        try:
            client = submit(job, address, request.get("settings") or {})
        except Exception as error:
            traceback.print_exc()
            write({"job": job["name"], "error": first_cause(error)})
            if address is None:
                local.cancel()
            return 1
        write({"job": job["name"], "id": str(client.get_job_id())})
        local.clients[job["name"]] = client
    if address is not None:
        return 0
    threading.Thread(target=local.obey, args=(sys.stdin,), daemon=True).start()
    success = local.wait()
    with local.busy:
        return 0 if success else 1


if __name__ == "__main__":
    sys.exit(main())
