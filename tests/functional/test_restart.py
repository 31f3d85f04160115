"""Stopping, killing and starting again: nothing is lost that was promised, and nothing stays behind."""

from __future__ import annotations

import json
import os
import signal
import urllib.error
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import pytest
from botocore.exceptions import BotoCoreError, ClientError

from tests.conftest import Function
from tests.functional.deployment import COUNTER, deploy, eventually, send, update
from tests.leftovers import alive, descriptors, groups
from tests.server import Server, descendants

NAP = """
import os, subprocess, time
def handler(event, context):
    print("began", flush=True)
    if event.get("child"):
        subprocess.Popen(["sleep", "600"], start_new_session=True)
    time.sleep(event.get("seconds", 0))
    return "done"
"""


def began(server: Server, running: Future[Any], times: int = 1) -> None:
    """Wait until the function "hello" is in its handler, on account of an invocation that must not end before."""

    def check() -> bool:
        assert not running.done(), running.result()
        return server.cli("logs", "hello").stdout.count(" began") >= times

    eventually(check)


def test_a_stop_lets_a_running_invocation_finish(new_server: Callable[..., Server]) -> None:
    server = new_server()
    nap = deploy(server, NAP, Timeout=20)
    with ThreadPoolExecutor(1) as threads:
        running = threads.submit(nap.invoke, {"seconds": 3})
        began(server, running)
        status = server.stop(signal.SIGTERM)
        assert running.result() == "done"
    assert status == 0
    with pytest.raises(OSError):
        send(server, "GET", "/healthz")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stop_leaves_nothing(new_server: Callable[..., Server], number: int) -> None:
    server = new_server()
    nap = deploy(server, NAP, tenancy=True, Timeout=20)
    for tenant in ("blue", "green"):
        nap.invoke({"child": True}, tenant=tenant)
    processes, folders = set(descendants(server.pid)), groups(server)
    assert len(processes) > 5
    assert folders
    assert server.stop(number) == 0
    assert alive(processes) == set()
    assert {folder for folder in folders if folder.exists()} == set()
    assert not any(folder.parent.exists() for folder in folders)


def test_all_functions_are_there_after_a_restart(new_server: Callable[..., Server]) -> None:
    server = new_server()
    client = server.client()
    one = deploy(server, COUNTER, "one", tenancy=True, Tags={"a": "b"}, Environment={"Variables": {"COLOUR": "ü"}})
    client.publish_version(FunctionName="one")
    update(one, "def handler(event, context):\n    return 'second'\n")
    deploy(server, NAP, "two", Timeout=17)

    def picture() -> str:
        client = server.client()
        shown = [client.get_function(FunctionName=name) for name in ("one", "two")]
        versions = client.list_versions_by_function(FunctionName="one")["Versions"]
        for answer in shown:
            del answer["ResponseMetadata"], answer["Code"]["Location"]
        return json.dumps([shown, versions], sort_keys=True)

    before = picture()
    server.stop()
    server.start()
    assert picture() == before
    again = Function(server.client(), "one")
    assert again.invoke(tenant="blue") == "second"
    assert again.invoke(tenant="blue", Qualifier="1")["count"] == 1
    assert Function(server.client(), "two").invoke({}) == "done"


def test_what_was_answered_survives_kill_9(new_server: Callable[..., Server]) -> None:
    server = new_server()
    client = server.client()
    for number in range(5):
        deploy(server, f"def handler(event, context):\n    return {number}\n", f"f{number}")
    client.delete_function(FunctionName="f0")
    client.update_function_configuration(FunctionName="f1", Description="just changed")
    server.stop(signal.SIGKILL)
    server.start()
    found = {f["FunctionName"]: f["Description"] for f in server.client().list_functions()["Functions"]}
    assert found == {"f1": "just changed", "f2": "", "f3": "", "f4": ""}
    assert [Function(server.client(), f"f{number}").invoke() for number in range(1, 5)] == [1, 2, 3, 4]
    client = server.client()
    client.get_waiter("function_updated_v2").wait(FunctionName="f1", WaiterConfig={"Delay": 0})


def test_kill_9_of_the_server_leaves_nothing(new_server: Callable[..., Server]) -> None:
    server = new_server()
    nap = deploy(server, NAP, tenancy=True, Timeout=60)
    nap.invoke({"child": True}, tenant="blue")
    with ThreadPoolExecutor(1) as threads:
        running = threads.submit(nap.call, {"seconds": 50}, "green")
        began(server, running, times=2)
        processes, folders = set(descendants(server.pid)), groups(server)
        assert len(folders) >= 2
        server.stop(signal.SIGKILL)
        with pytest.raises(BotoCoreError):
            running.result()
    eventually(lambda: not alive(processes))
    server.start()
    assert {folder for folder in folders if folder.exists()} == set()
    assert Function(server.client(), "hello").invoke({}, tenant="blue") == "done"


@pytest.mark.parametrize("generation", [0, 1, 2], ids=["outermost", "middle", "innermost"])
def test_kill_9_of_the_spawner_is_survived(new_server: Callable[..., Server], generation: int) -> None:
    server = new_server()
    nap = deploy(server, NAP, tenancy=True, Timeout=60)
    nap.invoke({}, tenant="blue")
    with ThreadPoolExecutor(1) as threads:
        running = threads.submit(nap.fail, {"seconds": 50}, "green")
        began(server, running, times=2)
        processes, folders = set(descendants(server.pid)), groups(server)
        os.kill(descendants(server.pid)[generation], signal.SIGKILL)
        assert running.result()["errorType"] == "Runtime.ExitError"

    def works() -> bool:
        try:
            return bool(nap.invoke({}, tenant="blue") == "done")
        except ClientError:
            return False

    eventually(works)
    assert nap.invoke({}, tenant="green") == "done"
    eventually(lambda: not alive(processes))
    eventually(lambda: not {folder for folder in folders if folder.exists()})


def test_a_killed_environment_is_replaced(new_server: Callable[..., Server]) -> None:
    server = new_server()
    show = deploy(server, "import uuid\nME = uuid.uuid4().hex\ndef handler(event, context):\n    return ME\n")
    first = show.invoke()
    for pid in descendants(server.pid)[3:]:  # behind the spawner: the function's, and those that are kept in store
        os.kill(pid, signal.SIGKILL)
    assert eventually(lambda: show.call().get("FunctionError") is None)
    assert show.invoke() != first


@pytest.mark.slow
def test_rounds_of_create_invoke_and_delete_leave_nothing(new_server: Callable[..., Server]) -> None:
    server = new_server()

    def play(number: int) -> None:
        made = deploy(server, COUNTER + f"# {number % 50}\n", f"f{number}", tenancy=True)
        assert made.invoke(tenant="blue")["count"] == 1
        made.client.delete_function(FunctionName=made.name)

    for number in range(10):
        play(number)
    clients = 10  # connections that boto3 keeps
    before, processes = len(descriptors(server.pid)), len(descendants(server.pid))
    for number in range(10, 210):
        play(number)
    eventually(lambda: len(descriptors(server.pid)) <= before + clients)
    eventually(lambda: len(descendants(server.pid)) <= processes)
    eventually(lambda: len(groups(server)) <= 4 * 12)
    assert server.client().list_functions()["Functions"] == []


def test_deleted_functions_leave_no_process_and_no_cgroup(new_server: Callable[..., Server]) -> None:
    server = new_server()
    made = deploy(server, NAP, tenancy=True)
    made.invoke({}, tenant="warm-up")
    folders = groups(server)
    processes = set(descendants(server.pid))
    for number in range(5):
        made.invoke({"child": True}, tenant=f"tenant-{number}")
    added = set(descendants(server.pid)) - processes
    assert len(added) >= 10
    made.client.delete_function(FunctionName="hello")
    eventually(lambda: len(alive(added)) <= 4)  # two that are kept in store, each with its init
    eventually(lambda: len(groups(server) - folders) <= 2 * 12)


def test_idle_environments_end_after_their_time(new_server: Callable[..., Server]) -> None:
    server = new_server("--idle-timeout", "1")
    counter = deploy(server, COUNTER, tenancy=True)
    first = counter.invoke(tenant="blue")
    before = set(descendants(server.pid))
    eventually(lambda: before - set(descendants(server.pid)))
    assert counter.invoke(tenant="blue")["environment"] != first["environment"]


def test_a_server_that_was_never_asked_stops(new_server: Callable[..., Server]) -> None:
    assert new_server().stop() == 0


def test_a_stop_with_a_client_that_sends_nothing(new_server: Callable[..., Server]) -> None:
    server = new_server("--isolation", "none")
    client = server.client()
    client.list_functions()  # its connection stays open
    assert server.stop() == 0
    with pytest.raises((BotoCoreError, urllib.error.URLError)):
        client.list_functions()
