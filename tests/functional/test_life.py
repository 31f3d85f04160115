"""The life of environments on a real server: frozen, stopped, left, initialised ahead, evicted, limited, grown old."""

from __future__ import annotations

import http.client
import json
import os
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from botocore.exceptions import ClientError

from insula.sandbox.namespaces.driver import NamespacesDriver
from tests.conftest import Function
from tests.functional.deployment import COUNTER, deploy, eventually, sign
from tests.leftovers import alive, groups_named
from tests.metrics import DRIFTS, scrape
from tests.server import INSULA, Server, descendants

# Leaves its name where the host can find it, and does as it is told.
MARKED = """
import os, threading, time, uuid
ME = uuid.uuid4().hex
BORN = time.time()
count = 0
print("born", ME)

def tick():
    file, number = os.open("/tmp/ticks", os.O_CREAT | os.O_WRONLY), 0
    while True:
        number += 1
        os.pwrite(file, str(number).rjust(20).encode(), 0)
        time.sleep(0.001)

def handler(event, context):
    global count
    count += 1
    with open("/tmp/me", "w") as file:
        file.write(ME)
    if event == "tick":
        threading.Thread(target=tick, daemon=True).start()
    elif event is not None:
        time.sleep(event)
    return {"me": ME, "born": BORN, "count": count}
"""


def process_of(server: Server, me: str) -> int:
    """The process of a marked environment, as seen from the host."""
    found = []
    for pid in descendants(server.pid):
        with suppress(OSError):
            if Path(f"/proc/{pid}/root/tmp/me").read_text() == me:
                found.append(pid)
    return found[-1]  # behind its init


def throttled(function: Function, event: Any = None, tenant: str | None = None) -> str | None:
    """The message of a refusal with 429; None if it is answered."""
    try:
        function.invoke(event, tenant)
    except function.client.exceptions.TooManyRequestsException as error:
        return str(error.response["Error"]["Message"] or error.response["message"])
    return None


def test_a_background_thread_makes_no_progress_between_invocations(
    function: Callable[..., Function], server: Server
) -> None:
    marked = function(MARKED, tenancy=True)
    ticks = Path(f"/proc/{process_of(server, marked.invoke('tick', tenant='blue')['me'])}/root/tmp/ticks")

    def stands_still() -> bool:
        before = ticks.read_text()
        time.sleep(0.3)
        return before == ticks.read_text()

    eventually(stands_still)
    before = ticks.read_text()
    marked.invoke(0.3, tenant="green")  # the others' work is not its time
    assert ticks.read_text() == before
    marked.invoke(0.3, tenant="blue")
    assert int(ticks.read_text()) > int(before)


def test_an_environment_that_was_stopped_times_out_and_is_replaced(
    function: Callable[..., Function], server: Server
) -> None:
    marked = function(MARKED, tenancy=True, Timeout=2)
    blue, green = marked.invoke(tenant="blue"), marked.invoke(tenant="green")
    pid = process_of(server, blue["me"])
    (group,) = {
        line.rpartition("/")[2] for line in Path(f"/proc/{pid}/cgroup").read_text().splitlines() if "insula-" in line
    }
    os.kill(pid, signal.SIGSTOP)
    assert marked.fail(tenant="blue")["errorType"] == "Sandbox.Timedout"
    again = marked.invoke(tenant="blue")
    assert (again["me"] != blue["me"], again["count"]) == (True, 1)
    assert marked.invoke(tenant="green")["me"] == green["me"]
    eventually(lambda: not alive({pid}) and not groups_named(group))


def leave(server: Server, function: Function, event: Any) -> None:
    """Invoke it, and go away once it runs."""
    path = f"/2015-03-31/functions/{function.name}/invocations"
    body = json.dumps(event).encode()
    place = urlsplit(server.endpoint)
    assert place.hostname is not None
    connection = http.client.HTTPConnection(place.hostname, place.port)
    connection.request("POST", path, body, dict(sign(server, "POST", path, body).headers))
    eventually(lambda: scrape(server)["insula_starts_total,warm"] == 1)
    connection.close()


def test_a_client_that_goes_away_leaves_its_slot_to_the_function_until_that_has_ended(
    new_server: Callable[..., Server],
) -> None:
    server = new_server("--concurrency", "1")
    marked = deploy(server, MARKED, Timeout=30)
    first = marked.invoke()
    leave(server, marked, 2)
    assert throttled(marked) is not None
    eventually(lambda: throttled(marked) is None)
    assert marked.invoke() == {**first, "count": 4}  # the one that nobody heard, that which came after it, and this
    found = scrape(server)
    assert [found[name] for name in DRIFTS] == [0, 0, 0]


def test_every_caller_is_answered_once_when_the_spawner_is_killed(new_server: Callable[..., Server]) -> None:
    server = new_server()
    marked = deploy(server, MARKED, tenancy=True, Timeout=60)
    for number in range(6):
        marked.invoke(tenant=f"tenant-{number}")
    with ThreadPoolExecutor(6) as threads:
        calls = [threads.submit(marked.fail, 50, f"tenant-{number}") for number in range(6)]
        eventually(lambda: scrape(server)["insula_starts_total,warm"] == 6)
        os.kill(descendants(server.pid)[2], signal.SIGKILL)
        assert Counter(call.result()["errorType"] for call in calls) == {"Runtime.ExitError": 6}

    def works() -> bool:
        with suppress(ClientError):
            return marked.call(tenant="tenant-1").get("FunctionError") is None
        return False

    eventually(works)
    found = eventually(lambda: (now := scrape(server))["insula_invocations_running"] == 0 and now)
    assert [found[name] for name in DRIFTS] == [0, 0, 0]


def test_a_failed_init_is_tried_twice(function: Callable[..., Function], server: Server) -> None:
    broken = function("import nope\n")
    assert broken.fail()["errorType"] == "Runtime.ImportModuleError"
    assert reports(server, broken) == ["Phase: init\tStatus: error", "Phase: invoke\tStatus: error"]


@pytest.mark.slow
def test_an_init_that_hangs_has_ten_seconds_and_then_the_functions_timeout(
    function: Callable[..., Function], server: Server
) -> None:
    hanging = function("import time\ntime.sleep(600)\n", Timeout=2)
    error = hanging.fail()
    assert error["errorType"] == "Sandbox.Timedout"
    assert error["errorMessage"].endswith("Task timed out after 2.00 seconds")
    assert reports(server, hanging) == ["Phase: init\tStatus: timeout", "Phase: invoke\tStatus: timeout"]


def reports(server: Server, function: Function) -> list[str]:
    """Phase and status of each failed init, in the order of their log."""

    def find() -> list[str]:
        lines = [line for line in server.cli("logs", function.name).stdout.splitlines() if "INIT_REPORT" in line]
        return ["\t".join(line.split("\t")[1:3]) for line in lines]

    eventually(lambda: len(find()) == 2)
    return find()


def test_a_new_tenant_finds_an_environment_that_was_initialised_before_it_came(
    new_server: Callable[..., Server],
) -> None:
    server = new_server("--proactive", "1")
    marked = deploy(server, MARKED, tenancy=True)
    marked.invoke(tenant="blue")
    eventually(lambda: scrape(server)["insula_environments,unbound"] == 1)
    arrival = time.time()
    green = marked.invoke(tenant="green")
    assert green["born"] < arrival
    eventually(lambda: green["me"] in server.cli("logs", marked.name, "--tenant", "green").stdout)
    assert green["me"] not in server.cli("logs", marked.name, "--tenant", "blue").stdout


def test_a_function_may_have_nothing_initialised_ahead(new_server: Callable[..., Server]) -> None:
    server = new_server("--proactive", "5")
    counter = deploy(server, COUNTER, tenancy=True, Tags={"insula:proactive": "0"})
    for number in range(3):
        counter.invoke(tenant=f"tenant-{number}")
        time.sleep(1)  # in which the server would make one
    assert scrape(server)["insula_environments_made_total"] == 3


def test_at_the_limit_the_longest_idle_environment_makes_room_if_the_function_says_so(
    new_server: Callable[..., Server],
) -> None:
    server = new_server("--concurrency", "1")  # two environments
    counter = deploy(server, COUNTER, "evicting", tenancy=True, Tags={"insula:evict-idle": "true"})
    strict = deploy(server, COUNTER, "strict", tenancy=True)
    first, second = (counter.invoke(tenant=tenant) for tenant in ("first", "second"))
    third = counter.invoke(tenant="third")
    assert counter.invoke(tenant="second") == {**second, "count": 2}
    assert counter.invoke(tenant="third") == {**third, "count": 2}
    assert counter.invoke(tenant="first")["environment"] != first["environment"]
    for tenant in ("first", "second"):
        strict.invoke(tenant=tenant)
    assert throttled(strict, tenant="third") == "Rate exceeded"
    assert strict.invoke(tenant="first")["count"] == 2
    found = scrape(server)
    assert [found[name] for name in DRIFTS] == [0, 0, 0]


def test_provisioned_environments_are_in_progress_until_their_init_is_over(function: Callable[..., Function]) -> None:
    slow = function(
        "import os, time\ntime.sleep(3)\ndef handler(e, c): return os.environ['AWS_LAMBDA_INITIALIZATION_TYPE']\n"
    )
    slow.client.publish_version(FunctionName=slow.name)
    place = {"FunctionName": slow.name, "Qualifier": "1"}
    slow.client.put_provisioned_concurrency_config(**place, ProvisionedConcurrentExecutions=2)

    def state() -> tuple[str, int]:
        found = slow.client.get_provisioned_concurrency_config(**place)
        return found["Status"], found.get("AvailableProvisionedConcurrentExecutions", 0)

    assert state() == ("IN_PROGRESS", 0)
    eventually(lambda: state() == ("READY", 2))
    assert slow.invoke(Qualifier="1") == "provisioned-concurrency"


LIMITS = """
[tenants."narrow"]
concurrency = 1
[tenants."small"]
environments = 1
[tenants."slow"]
requests_per_second = 1
"""


def test_a_tenant_has_no_more_than_its_share_and_others_do_not_notice(
    new_server: Callable[..., Server], tmp_path: Path
) -> None:
    file = tmp_path / "limits.toml"
    file.write_text(LIMITS)
    server = new_server("--limits", str(file))
    marked = deploy(server, MARKED, tenancy=True, Timeout=30)

    def outcomes(tenant: str, event: Any, calls: int) -> list[str]:
        """What calls at once are refused for."""
        with ThreadPoolExecutor(calls) as threads:
            messages = threads.map(lambda _: throttled(marked, event, tenant), range(calls))
        return sorted(message for message in messages if message is not None)

    limited = "Rate Exceeded. Tenant {!r} {}, as many as this server lets it."
    assert outcomes("narrow", 2, 2) == [limited.format("narrow", "runs 1 invocations")]
    assert outcomes("small", 2, 2) == [limited.format("small", "has 1 execution environments")]
    assert outcomes("blue", 2, 3) == []
    assert set(outcomes("slow", None, 20)) == {limited.format("slow", "sends more than 1 requests a second")}
    assert outcomes("blue", None, 20) == []


def test_the_shares_are_read_again_on_sighup_and_a_broken_file_changes_nothing(
    new_server: Callable[..., Server], tmp_path: Path
) -> None:
    file = tmp_path / "limits.toml"
    file.write_text('[tenants."blue"]\nconcurrency = 0\n')
    server = new_server("--limits", str(file))
    counter = deploy(server, COUNTER, tenancy=True)

    def hang_up(text: str, answer: str) -> None:
        file.write_text(text)
        os.kill(server.pid, signal.SIGHUP)
        eventually(lambda: answer in server.log.read_text())

    assert throttled(counter, tenant="blue") is not None
    hang_up("[default]\nconcurrency = -1\n", "The limits stay as they were.")
    assert throttled(counter, tenant="blue") is not None
    assert throttled(counter, tenant="green") is None
    hang_up('[tenants."green"]\nconcurrency = 0\n', "the limits of tenants were read again")
    assert throttled(counter, tenant="blue") is None
    assert throttled(counter, tenant="green") is not None


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("[default]\nconcurency = 1\n", "[default] has no limit 'concurency': there are concurrency, environments"),
        ("[tenants.blue]\nenvironments = 1.5\n", "tenants.blue.environments is 1.5: a whole number"),
        ("not TOML", "are not as they must be"),
        (None, "cannot be read: No such file or directory."),
    ],
)
def test_a_server_with_broken_shares_does_not_start(tmp_path: Path, text: str | None, problem: str) -> None:
    file = tmp_path / "limits.toml"
    if text is not None:
        file.write_text(text)
    command: list[str | Path] = [INSULA, "serve", "--port", "0", "--data-dir", tmp_path / "data", "--limits", file]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert ended.returncode == 1
    assert f"The limits in {file}" in ended.stderr
    assert problem in ended.stderr
    assert "Traceback" not in ended.stderr
    data = tmp_path / "data"
    driver = NamespacesDriver({}, state=data / "sandbox", code=data / "code", layers=data / "layers")
    assert groups_named(driver._group) == []


@pytest.mark.slow
def test_an_environment_ends_at_its_maximum_age_though_it_is_used(new_server: Callable[..., Server]) -> None:
    server = new_server("--max-age", "60")
    marked = deploy(server, MARKED, tenancy=True)
    first = marked.invoke(tenant="blue")

    def another() -> bool:
        time.sleep(1)
        return bool(marked.invoke(tenant="blue")["me"] != first["me"])

    eventually(another, seconds=90)
    assert time.time() - first["born"] > 60
