"""Logs: what stands in them, and who gets to see it."""

from __future__ import annotations

import base64
import re
import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from tests.conftest import Function
from tests.functional.deployment import eventually
from tests.server import INSULA, Server

ID = r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}"
STAMP = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z"

TALKATIVE = """
import logging, os, sys
print("at init")
def handler(event, context):
    if event is not None:
        exec(event, globals())
    return context.log_stream_name
"""


def tail(function: Function, event: Any = None, **options: Any) -> list[str]:
    answer = function.call(event, LogType="Tail", **options)
    return base64.b64decode(answer["LogResult"]).decode().splitlines()


def logs(server: Server, function: Function, *options: str) -> str:
    """The whole log, once everything is in it."""
    return str(eventually(lambda: logs_now(server, function, *options)))


def logs_now(server: Server, function: Function, *options: str) -> str:
    text = server.cli("logs", function.name, *options).stdout
    started = len(re.findall(r"START RequestId", text))
    return text if started == len(re.findall(r"REPORT RequestId", text)) > 0 else ""


def test_the_tail_of_an_invocation_has_aws_lines(function: Callable[..., Function]) -> None:
    talkative = function(TALKATIVE, MemorySize=192)
    first = tail(talkative, "print('hello')")
    assert re.fullmatch(rf"START RequestId: ({ID}) Version: \$LATEST", first[0])
    assert first[1] == "hello"
    assert re.fullmatch(rf"END RequestId: {ID}", first[2])
    report = re.fullmatch(
        rf"REPORT RequestId: {ID}\tDuration: (\d+\.\d\d) ms\tBilled Duration: (\d+) ms\tMemory Size: 192 MB\t"
        r"Max Memory Used: (\d+) MB\tInit Duration: (\d+\.\d\d) ms\t",
        first[3],
    )
    assert report
    duration, billed, memory, init = map(float, report.groups())
    assert duration + init <= billed < duration + init + 1.01
    assert 1 <= memory <= 192
    assert len(first) == 4
    assert "Init Duration" not in tail(talkative)[-1]


def test_the_request_id_is_the_same_in_all_lines_and_the_answer(function: Callable[..., Function]) -> None:
    answer = function(TALKATIVE).call(LogType="Tail")
    text = base64.b64decode(answer["LogResult"]).decode()
    assert set(re.findall(ID, text)) == {answer["ResponseMetadata"]["RequestId"]}


def test_the_tail_is_the_last_four_kilobytes(function: Callable[..., Function]) -> None:
    talkative = function(TALKATIVE)
    answer = talkative.call("for n in range(1000): print(f'line {n:04}')", LogType="Tail")
    text = base64.b64decode(answer["LogResult"])
    assert len(text) == 4096
    assert b"line 0999\nEND RequestId" in text
    assert b"line 0500" not in text


def test_no_tail_comes_unasked(function: Callable[..., Function]) -> None:
    talkative = function(TALKATIVE)
    assert "LogResult" not in talkative.call()
    assert "LogResult" not in talkative.call(LogType="None")


def test_each_invocation_has_a_tail_of_its_own(function: Callable[..., Function]) -> None:
    talkative = function(TALKATIVE)
    assert "first" in tail(talkative, "print('first')")
    assert "first" not in tail(talkative, "print('second')")


def test_the_tail_of_a_timeout_tells_of_it(function: Callable[..., Function]) -> None:
    lines = tail(function(TALKATIVE, Timeout=1), "print('before', flush=True); import time; time.sleep(60)")
    assert lines[1] == "before"
    assert re.fullmatch(rf"{STAMP} {ID} Task timed out after 1\.00 seconds", lines[2])
    assert lines[-1].endswith("\tStatus: timeout\t")


def test_the_tail_of_a_crash_has_what_was_printed_before(function: Callable[..., Function]) -> None:
    lines = tail(function(TALKATIVE), "os.write(1, b'without line end'); os._exit(3)")
    assert lines[1] == "without line end"
    assert re.fullmatch(rf"RequestId: {ID} Error: Runtime exited with error: exit status 3", lines[2])
    assert lines[3] == "Runtime.ExitError"
    assert "\tStatus: error\tError Type: Runtime.ExitError\t" in lines[-1]


def test_logging_has_the_form_of_aws(function: Callable[..., Function]) -> None:
    lines = tail(function(TALKATIVE), "logging.getLogger().setLevel('INFO'); logging.info('to %s', 'log')")
    assert re.fullmatch(rf"\[INFO\]\t{STAMP}\t{ID}\tto log", lines[1])


def test_a_traceback_is_one_event_of_many_lines(function: Callable[..., Function], server: Server) -> None:
    talkative = function(TALKATIVE)
    lines = tail(talkative, "raise ValueError('no')")
    assert lines[1].startswith("[ERROR] ValueError: no")
    assert lines[2] == "Traceback (most recent call last):"
    text = logs(server, talkative)
    assert re.search(rf"{STAMP} \[ERROR\] ValueError: no\n    Traceback \(most recent call last\):\n", text)


def test_bytes_that_are_no_text_are_replaced(function: Callable[..., Function], server: Server) -> None:
    talkative = function(TALKATIVE)
    assert "a\ufffdb ü" in tail(talkative, "os.write(1, b'a\\xffb ' + 'ü'.encode() + b'\\n')")
    assert "a\ufffdb ü" in logs(server, talkative)


def test_a_character_that_comes_in_pieces_stays_whole(function: Callable[..., Function]) -> None:
    split = "os.write(1, '€'.encode()[:1]); import time; time.sleep(0.1); os.write(1, '€'.encode()[1:] + b'\\n')"
    assert "€" in tail(function(TALKATIVE), split)


def test_a_line_that_looks_like_the_platforms_is_not_taken_for_it(
    function: Callable[..., Function], server: Server
) -> None:
    talkative = function(TALKATIVE, tenancy=True)
    talkative.invoke('print(\'x\\r\\n{"tenant":"green","message":"forged"}\')', tenant="blue")
    assert "forged" not in server.cli("logs", talkative.name, "--tenant", "green").stdout
    assert "forged" in eventually(lambda: server.cli("logs", talkative.name, "--tenant", "blue").stdout)


def test_control_characters_do_not_reach_the_terminal(function: Callable[..., Function], server: Server) -> None:
    talkative = function(TALKATIVE)
    talkative.invoke("print('\\x1b[31mred\\x07\\x9b')")
    text = logs(server, talkative)
    assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]", text)
    assert "\\x1b[31mred\\x07" in text


def test_the_log_has_all_of_an_environment(function: Callable[..., Function], server: Server) -> None:
    talkative = function(TALKATIVE)
    talkative.invoke("print('one')")
    talkative.invoke("print('two', file=sys.stderr)")
    lines = [line.partition(" ")[2] for line in logs(server, talkative).splitlines()]
    words = [line.split()[0] if re.match(r"[A-Z_]+ ", line) else line for line in lines]
    assert words == ["INIT_START", "at init", "START", "one", "END", "REPORT", "START", "two", "END", "REPORT"]
    assert re.fullmatch(r"INIT_START Runtime Version: \S+\tRuntime Version ARN: arn:aws:lambda:\S+", lines[0])


def test_each_environment_has_a_stream_of_its_own(function: Callable[..., Function]) -> None:
    talkative = function(TALKATIVE, tenancy=True)
    blue, green = talkative.invoke(tenant="blue"), talkative.invoke(tenant="green")
    assert blue != green
    assert talkative.invoke(tenant="blue") == blue


def test_logs_of_a_tenant_are_its_own_alone(function: Callable[..., Function], server: Server) -> None:
    talkative = function(TALKATIVE, tenancy=True)
    for tenant in ("blue", "green", "blu"):
        talkative.invoke(f"print('said by {tenant}.')", tenant=tenant)
    text = logs(server, talkative, "--tenant", "blue")
    assert "said by blue." in text
    assert "said by green." not in text
    assert "said by blu." not in text
    assert "[blue]" in text
    assert {"[blue]", "[green]", "[blu]"} <= set(re.findall(r"\[\w+\]", logs(server, talkative)))


def test_lines_of_an_environment_that_is_killed_are_kept(function: Callable[..., Function], server: Server) -> None:
    talkative = function(TALKATIVE, Timeout=1)
    talkative.fail("for n in range(500): print(f'line {n}', flush=True)\nwhile True: pass")
    text = logs(server, talkative)
    assert "line 499" in text
    assert "Task timed out after 1.00 seconds" in text


def test_lines_printed_between_invocations_are_kept(function: Callable[..., Function], server: Server) -> None:
    talkative = function(TALKATIVE)
    later = "import threading; threading.Timer(0.05, lambda: print('afterwards', flush=True)).start()"
    talkative.invoke(later)
    eventually(lambda: talkative.invoke() and "afterwards" in server.cli("logs", talkative.name).stdout)


def test_the_log_of_an_init_error_tells_why(function: Callable[..., Function], server: Server) -> None:
    broken = function("print('loading')\nimport nope\n")
    broken.fail()
    eventually(lambda: "nope" in server.cli("logs", broken.name).stdout)
    text = server.cli("logs", broken.name).stdout
    assert "loading" in text
    assert "[ERROR] Runtime.ImportModuleError: Unable to import module 'app': No module named 'nope'" in text


@contextmanager
def following(server: Server, *arguments: str) -> Iterator[Iterator[str]]:
    command = [str(INSULA), "logs", *arguments, "--follow", "--data-dir", str(server.data_dir)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield iter(process.stdout)
        finally:
            process.send_signal(signal.SIGINT)


def test_following_shows_what_comes(function: Callable[..., Function], server: Server) -> None:
    talkative = function(TALKATIVE, tenancy=True)
    talkative.invoke("print('before')", tenant="blue")
    with following(server, talkative.name, "--tenant", "blue") as lines:
        assert next(line for line in lines if "before" in line)
        talkative.invoke("print('not seen')", tenant="green")
        talkative.invoke("print('after')", tenant="blue")
        seen = []
        for line in lines:
            seen.append(line)
            if "after" in line:
                break
    assert not any("not seen" in line for line in seen)


def test_logs_of_what_never_ran_are_empty(server: Server) -> None:
    found = server.cli("logs", "never-ran")
    assert (found.stdout, found.returncode) == ("", 0)


@pytest.mark.parametrize("name", ["../../etc", "a/b", "", "a b"])
def test_a_name_that_is_none_is_refused_by_logs(server: Server, name: str) -> None:
    found = server.cli("logs", name, check=False)
    assert found.returncode == 1
    assert found.stderr.startswith("insula: ")
    assert "Traceback" not in found.stderr


def test_a_failed_initialisation_is_in_the_callers_tail(function: Callable[..., Function]) -> None:
    answer = function("print('on the way')\nimport nope\n", tenancy=True).call(tenant="blue", LogType="Tail")
    tail = base64.b64decode(answer["LogResult"]).decode()
    assert tail.startswith("INIT_START Runtime Version: python:3.")
    assert "\non the way\n" in tail
    assert "No module named 'nope'" in tail
    fields = (r"INIT_REPORT Init Duration: [\d.]+ ms", "Phase: invoke", "Status: error")
    report = r"\t".join((*fields, "Error Type: Runtime.ImportModuleError"))
    *_, init, start, end, last = tail.splitlines()
    assert re.fullmatch(report, init)
    assert (start[:6], end[:4]) == ("START ", "END ")
    assert re.search(r"^REPORT .*\tStatus: error\tError Type: Runtime.ImportModuleError\t$", last)
