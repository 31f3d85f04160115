"""Functions that fail, and what AWS answers then."""

from __future__ import annotations

import re
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from tests.conftest import Function
from tests.functional.deployment import COUNTER, eventually, update
from tests.server import Server, descendants

ID = r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}"

# Does as it is told, and remembers how often it was.
OBEDIENT = """
import ctypes, os, signal, subprocess, sys, threading, time, uuid
ENVIRONMENT = uuid.uuid4().hex
count = 0
def handler(event, context):
    global count
    count += 1
    if event is not None:
        exec(event, globals())
    return {"environment": ENVIRONMENT, "count": count}
"""


def body(*lines: str) -> str:
    return "def handler(event, context):\n" + "".join(f"    {line}\n" for line in lines)


def test_an_exception_in_the_handler(function: Callable[..., Function]) -> None:
    failing = function("class Odd(Exception): pass\n" + body("raise Odd('no €')"))
    answer = failing.call()
    assert (answer["StatusCode"], answer["FunctionError"], answer["ExecutedVersion"]) == (200, "Unhandled", "$LATEST")
    assert failing.fail() | {"requestId": ""} == {
        "errorMessage": "no €",
        "errorType": "Odd",
        "requestId": "",
        "stackTrace": ["  File \"/var/task/app.py\", line 3, in handler\n    raise Odd('no €')\n"],
    }


def test_the_error_document_bears_the_request_id(function: Callable[..., Function]) -> None:
    failing = function(body("1 / 0"))
    assert re.fullmatch(ID, failing.fail()["requestId"])


def test_the_environment_lives_on_after_an_exception(function: Callable[..., Function]) -> None:
    obedient = function(OBEDIENT)
    first = obedient.invoke()
    assert obedient.fail("1 / 0")["errorType"] == "ZeroDivisionError"
    assert obedient.invoke() == {"environment": first["environment"], "count": 3}


def test_a_very_deep_recursion_is_an_error_like_others(function: Callable[..., Function]) -> None:
    failing = function(body("return handler(event, context)"))
    assert failing.fail()["errorType"] == "RecursionError"


def test_a_huge_error_message_is_answered(function: Callable[..., Function]) -> None:
    failing = function(body("raise ValueError('x' * event)"), MemorySize=512)
    assert len(failing.fail(100_000)["errorMessage"]) == 100_000
    assert failing.fail(8 << 20)["errorType"]
    assert failing.fail(3)["errorMessage"] == "xxx"


@pytest.mark.parametrize(
    ("source", "handler", "kind", "message"),
    [
        ("import nope", "app.handler", "Runtime.ImportModuleError", "Unable to import module 'app': No module named"),
        ("", "missing.handler", "Runtime.ImportModuleError", "Unable to import module 'missing': No module named"),
        ("def handler(:", "app.handler", "Runtime.UserCodeSyntaxError", "Syntax error in module 'app': invalid syntax"),
        ("", "app.handler", "Runtime.HandlerNotFound", "Handler 'handler' missing on module 'app'"),
        ("", "handler", "Runtime.MalformedHandlerName", "Bad handler 'handler': not enough values to unpack"),
        ("1 / 0", "app.handler", "ZeroDivisionError", "division by zero"),
    ],
)
def test_code_that_cannot_be_loaded(
    function: Callable[..., Function], source: str, handler: str, kind: str, message: str
) -> None:
    broken = function(source, Handler=handler)
    for _ in range(2):
        error = broken.fail()
        assert error["errorType"] == kind
        assert error["errorMessage"].startswith(message)
        assert set(error) == {"errorMessage", "errorType", "requestId", "stackTrace"}


@pytest.mark.parametrize(
    ("statement", "message"),
    [
        ("sys.exit(3)", "Runtime exited with error: exit status 3"),
        ("sys.exit('a message')", "Runtime exited with error: exit status 1"),
        ("os._exit(7)", "Runtime exited with error: exit status 7"),
        ("os._exit(0)", "Runtime exited without providing a reason"),
        ("sys.exit()", "Runtime exited without providing a reason"),
        ("ctypes.string_at(0)", "Runtime exited with error: signal: segmentation fault"),
        ("os.kill(os.getpid(), signal.SIGKILL)", "Runtime exited with error: signal: killed"),
        ("os.kill(os.getpid(), signal.SIGSEGV)", "Runtime exited with error: signal: segmentation fault"),
        ("os.kill(os.getpid(), signal.SIGTERM)", "Runtime exited with error: signal: terminated"),
        ("os.abort()", "Runtime exited with error: signal: aborted"),
    ],
)
def test_a_runtime_that_ends_is_answered_for_and_replaced(
    function: Callable[..., Function], statement: str, message: str
) -> None:
    obedient = function(OBEDIENT, tenancy=True)
    first, neighbour = obedient.invoke(tenant="blue"), obedient.invoke(tenant="green")
    error = obedient.fail(statement, tenant="blue")
    assert set(error) == {"errorType", "errorMessage"}
    assert error["errorType"] == "Runtime.ExitError"
    assert re.fullmatch(rf"RequestId: {ID} Error: {re.escape(message)}", error["errorMessage"])
    after = obedient.invoke(tenant="blue")
    assert (after["environment"] != first["environment"], after["count"]) == (True, 1)
    assert obedient.invoke(tenant="green") == {**neighbour, "count": 2}


@pytest.mark.parametrize("statement", ["import sys; sys.exit(1)", "import os; os._exit(1)"])
def test_a_runtime_that_ends_during_init_is_answered_for(function: Callable[..., Function], statement: str) -> None:
    error = function(statement).fail()
    assert error["errorType"] == "Runtime.ExitError"
    assert error["errorMessage"].endswith("Error: Runtime exited with error: exit status 1")


def test_a_timeout(function: Callable[..., Function]) -> None:
    obedient = function(OBEDIENT, tenancy=True, Timeout=1)
    first, neighbour = obedient.invoke(tenant="blue"), obedient.invoke(tenant="green")
    error = obedient.fail("time.sleep(60)", tenant="blue")
    assert set(error) == {"errorType", "errorMessage"}
    assert error["errorType"] == "Sandbox.Timedout"
    assert re.fullmatch(rf"RequestId: {ID} Error: Task timed out after 1\.00 seconds", error["errorMessage"])
    after = obedient.invoke(tenant="blue")
    assert (after["environment"] != first["environment"], after["count"]) == (True, 1)
    assert obedient.invoke(tenant="green") == {**neighbour, "count": 2}


@pytest.mark.parametrize(
    "statement",
    [
        "while True: pass",
        "signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(60)",
        "os.close(1); os.close(2); time.sleep(60)",
        "os.fork(); time.sleep(60)",
    ],
)
def test_nothing_outlives_a_timeout(function: Callable[..., Function], server: Server, statement: str) -> None:
    obedient = function(OBEDIENT, Timeout=1)
    before = set(descendants(server.pid))
    assert obedient.fail(statement)["errorType"] == "Sandbox.Timedout"
    eventually(lambda: len(set(descendants(server.pid)) - before) <= 4)  # two that are kept in store
    assert obedient.invoke()["count"] == 1


def test_an_init_error_is_mended_by_an_update(function: Callable[..., Function]) -> None:
    broken = function("import nope\n", tenancy=True)
    assert broken.fail(tenant="blue")["errorType"] == "Runtime.ImportModuleError"
    update(broken, COUNTER)
    assert broken.invoke(tenant="blue")["count"] == 1


def test_init_errors_of_many_callers_are_all_answered(function: Callable[..., Function]) -> None:
    broken = function("import nope\n")
    with ThreadPoolExecutor(12) as threads:
        errors = list(threads.map(lambda _: broken.fail(), range(24)))
    assert {error["errorType"] for error in errors} == {"Runtime.ImportModuleError"}


@pytest.mark.slow
def test_an_init_that_never_ends_is_answered_for(function: Callable[..., Function]) -> None:
    hanging = function("import time\ntime.sleep(600)\n")
    neighbour = function(COUNTER)
    with ThreadPoolExecutor(1) as threads:
        running = threads.submit(hanging.fail)
        assert neighbour.invoke()["count"] == 1
        assert running.result()["errorType"] == "Sandbox.Timedout"


@pytest.mark.parametrize(
    "statement",
    [
        "x = bytearray(400 << 20)",
        "x = [bytes([i]) * (10 << 20) for i in range(60)]",
        "subprocess.run([sys.executable, '-c', 'x = bytearray(400 << 20)'], check=True); os._exit(9)",
    ],
    ids=["at once", "in pieces", "in a child"],
)
def test_memory_over_the_limit(function: Callable[..., Function], statement: str) -> None:
    obedient = function(OBEDIENT, tenancy=True, Timeout=20)
    neighbour = obedient.invoke(tenant="green")
    error = obedient.fail(statement, tenant="blue")
    assert error["errorType"] == "Runtime.OutOfMemory"
    assert re.fullmatch(rf"RequestId: {ID} Error: Runtime exited with error: signal: killed", error["errorMessage"])
    assert obedient.invoke(tenant="blue")["count"] == 1
    assert obedient.invoke(tenant="green") == {**neighbour, "count": 2}


def test_memory_within_the_limit(function: Callable[..., Function]) -> None:
    assert function(OBEDIENT, MemorySize=256, Timeout=20).invoke("x = b'1' * (200 << 20); del x")["count"] == 1


def test_a_full_tmp_is_no_lack_of_memory(function: Callable[..., Function]) -> None:
    fill = body(
        "import os",
        "written = 0",
        "try:",
        "    with open('/tmp/full', 'wb', buffering=0) as file:",
        "        while True:",
        "            written += file.write(b'1' * (1 << 20))",
        "except OSError as error:",
        "    os.unlink('/tmp/full')",
        "    return [error.errno, written >> 20]",
    )
    filling = function(fill, Timeout=30)
    assert filling.invoke() == [28, 512]


def test_tmp_has_the_size_that_was_asked_for(function: Callable[..., Function]) -> None:
    size = body("import os", "s = os.statvfs('/tmp')", "return s.f_blocks * s.f_frsize >> 20")
    assert function(size, EphemeralStorage={"Size": 777}).invoke() == 777


def test_files_without_number_do_not_fill_the_host(function: Callable[..., Function]) -> None:
    litter = body(
        "try:",
        "    for number in range(10_000_000):",
        "        open(f'/tmp/{number}', 'w').close()",
        "except OSError as error:",
        "    return error.errno",
    )
    assert function(litter, Timeout=60, MemorySize=1769).invoke() == 28


def test_a_counted_fork_bomb_is_held_at_the_limit_of_processes(
    function: Callable[..., Function], server: Server
) -> None:
    bomb = body(
        "import os, signal",
        "children = 0",
        "try:",
        "    while children < 5000:",
        "        if os.fork() == 0:",
        "            signal.pause()",
        "        children += 1",
        "except OSError as error:",
        "    return [error.errno, children]",
    )
    before = set(descendants(server.pid))
    bombing = function(bomb, Timeout=60, MemorySize=2048)
    number, children = bombing.invoke()
    assert number == 11
    assert 500 < children < 1024
    bombing.client.delete_function(FunctionName=bombing.name)
    eventually(lambda: len(set(descendants(server.pid)) - before) <= 2)


@pytest.mark.parametrize("memory", [pytest.param(128, marks=pytest.mark.slow), 2048])
def test_a_wild_fork_bomb_is_answered_for_and_others_notice_nothing(
    function: Callable[..., Function], server: Server, memory: int
) -> None:
    # Without environments made ahead, which come as they please: processes are counted.
    obedient = function(OBEDIENT, tenancy=True, Timeout=2, MemorySize=memory, Tags={"insula:proactive": "0"})
    neighbour = obedient.invoke(tenant="green")
    before = set(descendants(server.pid))
    with ThreadPoolExecutor(1) as threads:
        bomb = "while True:\n    try: os.fork()\n    except OSError: pass"
        running = threads.submit(obedient.fail, bomb, "blue")
        counts = [obedient.invoke(tenant="green")["count"] for _ in range(5)]
        assert running.result()["errorType"] in {"Sandbox.Timedout", "Runtime.OutOfMemory", "Runtime.ExitError"}
    assert counts == [2, 3, 4, 5, 6]
    assert obedient.invoke(tenant="green") == {**neighbour, "count": 7}
    eventually(lambda: len(set(descendants(server.pid)) - before) <= 3)
    assert obedient.invoke(tenant="blue")["count"] == 1


def test_threads_without_number_are_held(function: Callable[..., Function]) -> None:
    obedient = function(OBEDIENT, Timeout=20, MemorySize=1024)
    error = obedient.fail(
        "threading.stack_size(65536)\nwhile True: threading.Thread(target=time.sleep, args=[60], daemon=True).start()"
    )
    assert (error["errorType"], error["errorMessage"]) == ("RuntimeError", "can't start new thread")


def test_descriptors_without_number_are_held(function: Callable[..., Function]) -> None:
    error = function(OBEDIENT, MemorySize=256).fail("x = [os.dup(0) for _ in range(5000)]")
    assert (error["errorType"], error["errorMessage"]) == ("OSError", "[Errno 24] Too many open files")


def test_much_output_does_not_stop_the_function(function: Callable[..., Function]) -> None:
    loud = function(OBEDIENT, tenancy=True, Timeout=60)
    neighbour = loud.invoke(tenant="green")
    assert loud.invoke("for _ in range(300): print('x' * 100_000)", tenant="blue")["count"] == 1
    assert loud.invoke("os.write(1, b'y' * (5 << 20))", tenant="blue")["count"] == 2
    assert loud.invoke(tenant="green") == {**neighbour, "count": 2}


def test_output_without_end_ends_at_the_timeout(function: Callable[..., Function]) -> None:
    loud = function(OBEDIENT, tenancy=True, Timeout=2)
    neighbour = loud.invoke(tenant="green")
    with ThreadPoolExecutor(1) as threads:
        running = threads.submit(loud.fail, "while True: os.write(1, b'x' * 60_000 + b'\\n')", "blue")
        assert loud.invoke(tenant="green") == {**neighbour, "count": 2}
        assert running.result()["errorType"] == "Sandbox.Timedout"


def test_a_thread_that_lives_on_does_not_hold_up_the_next_invocation(function: Callable[..., Function]) -> None:
    obedient = function(OBEDIENT)
    first = obedient.invoke("threading.Thread(target=time.sleep, args=[60], daemon=True).start()")
    assert obedient.invoke() == {**first, "count": 2}


def test_a_crowd_of_dying_environments_leaves_the_function_usable(function: Callable[..., Function]) -> None:
    obedient = function(OBEDIENT, tenancy=True, Timeout=20)

    def kill(number: int) -> Any:
        return obedient.fail("os._exit(1)", tenant=f"tenant-{number % 5}")["errorType"]

    with ThreadPoolExecutor(10) as threads:
        assert set(threads.map(kill, range(40))) == {"Runtime.ExitError"}
    assert obedient.invoke(tenant="tenant-1")["count"] == 1
