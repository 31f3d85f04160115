"""One environment: bound once, checked at the last step, and its log."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from insula.dispatch.environment import Environment, State, TenancyViolationError
from insula.model.function import FunctionVersion
from insula.model.invocation import Invocation, InvocationResult
from insula.model.limits import INIT_TIMEOUT_SECONDS, LOG_TAIL_BYTES
from insula.sandbox.driver import Exit, SandboxSpec
from tests.simulation.fakes import FakeSandbox, FakeStream, new_function, new_invocation, settle
from tests.simulation.loop import run

FUNCTION = new_function()


class Owner:
    """Remembers what it was told."""

    def __init__(self) -> None:
        self.started = 0
        self.ending = 0
        self.idle = 0
        self.ended = 0
        self.failed: list[Callable[[Invocation], InvocationResult]] = []

    def on_idle(self, environment: Environment) -> None:
        self.idle += 1

    def on_started(self, environment: Environment) -> None:
        self.started += 1

    def dismiss(self, environment: Environment) -> None:
        raise NotImplementedError

    def on_unready(self, environment: Environment) -> None:
        self.ending += 1

    def on_failed_start(self, environment: Environment, outcome: Callable[[Invocation], InvocationResult]) -> bool:
        self.failed.append(outcome)
        return True

    def payloads(self) -> list[bytes]:
        """What callers get who waited for starts that failed."""
        return [outcome(new_invocation(FUNCTION, "blue")).payload for outcome in self.failed]

    def on_ended(self, environment: Environment) -> None:
        self.ended += 1


class Bench:
    """An open environment with all that is around it."""

    def __init__(self, function: FunctionVersion = FUNCTION) -> None:
        loop = asyncio.get_running_loop()
        self.sandbox = FakeSandbox(SandboxSpec("0" * 32, function.runtime, Path("d1"), (), {}, function.memory, 512))
        self.stream = FakeStream("s")
        self.owner = Owner()
        self.settled: list[Environment] = []
        self.environment = Environment(
            function,
            self.sandbox,
            self.stream,
            self.owner,
            on_settled=self.settled.append,
            clock=loop.time,
            wall=lambda: 1_800_000_000.0,
        )

    async def idle(self, tenant: str | None = "blue") -> Bench:
        await self.environment.open()
        self.environment.bind(tenant)
        self.sandbox.poll()
        return self

    async def end(self) -> None:
        self.sandbox.kill()
        await self.environment.wait()


def document(payload: bytes) -> Any:
    return json.loads(payload)


def test_an_environment_is_bound_once() -> None:
    async def main() -> None:
        bench = await Bench().idle("blue")
        for tenant in ("green", "blue", None):
            with pytest.raises(TenancyViolationError, match="bound to 'blue'"):
                bench.environment.bind(tenant)
        assert not bench.sandbox.alive
        assert bench.environment.tenant == "blue"
        await bench.end()

    run(main())


def test_binding_to_no_tenant_is_binding_too() -> None:
    async def main() -> None:
        bench = await Bench().idle(None)
        with pytest.raises(TenancyViolationError):
            bench.environment.bind("blue")
        await bench.end()

    run(main())


@pytest.mark.parametrize(
    ("function", "tenant"),
    [
        (FUNCTION, "green"),
        (FUNCTION, "Blue"),
        (FUNCTION, "blue "),
        (FUNCTION, None),
        (FUNCTION, ""),
        (new_function("d2"), "blue"),
        (new_function("d2", version="1"), "blue"),
    ],
)
def test_an_invocation_of_another_tenant_or_deployment_kills_and_is_not_handed_over(
    function: FunctionVersion, tenant: str | None
) -> None:
    async def main() -> None:
        bench = await Bench().idle("blue")
        with pytest.raises(TenancyViolationError, match="was killed"):
            bench.environment.run(new_invocation(function, tenant))
        assert bench.sandbox.served == []
        assert not bench.sandbox.alive
        await bench.end()

    run(main())


def test_an_environment_that_was_never_bound_runs_nothing() -> None:
    async def main() -> None:
        bench = Bench(new_function(tenancy=None))
        await bench.environment.open()
        bench.sandbox.poll()
        with pytest.raises(TenancyViolationError):
            bench.environment.run(new_invocation(new_function(tenancy=None), None))
        assert bench.sandbox.served == []
        await bench.end()

    run(main())


@pytest.mark.parametrize("state", [State.STARTING, State.BUSY, State.FINISHING, State.ENDED])
def test_an_environment_that_is_not_idle_runs_nothing(state: State) -> None:
    async def main() -> None:
        bench = Bench()
        await bench.environment.open()
        bench.environment.bind("blue")
        if state is not State.STARTING:
            bench.sandbox.poll()
            first = bench.environment.run(new_invocation(FUNCTION, "blue", 1))
        if state is State.FINISHING:
            bench.sandbox.answer()
        if state is State.ENDED:
            bench.sandbox.die(Exit(1, None))
            await first
            await bench.environment.wait()
        assert bench.environment.state is state
        with pytest.raises(TenancyViolationError, match=state.name):
            bench.environment.run(new_invocation(FUNCTION, "blue", 2))
        assert [invocation.request_id[-1] for invocation in bench.sandbox.served] in ([], ["1"])
        await bench.end()

    run(main())


def test_init_over_limit_fails_the_start_and_ends_the_environment() -> None:
    async def main() -> None:
        bench = Bench()
        await bench.environment.open()
        await bench.environment.wait()
        assert asyncio.get_running_loop().time() == INIT_TIMEOUT_SECONDS
        assert "Task timed out after 10.00 seconds" in document(bench.owner.payloads()[0])["errorMessage"]
        assert bench.owner.ended == 1

    run(main())


def test_an_init_error_is_the_runtimes_own_document() -> None:
    async def main() -> None:
        bench = Bench()
        await bench.environment.open()
        bench.sandbox.fail_init(b'{"errorType":"Runtime.ImportModuleError"}')
        await bench.environment.wait()
        assert bench.owner.payloads() == [b'{"errorType":"Runtime.ImportModuleError"}']

    run(main())


def test_a_runtime_that_polls_after_its_init_error_is_not_ready() -> None:
    async def main() -> None:
        bench = Bench()
        bench.sandbox.teardown = 1.0
        await bench.environment.open()
        bench.sandbox.fail_init(b"{}")
        bench.sandbox.alive = True  # its processes are not dead yet
        bench.sandbox.poll()
        assert bench.owner.idle == 0
        bench.sandbox.alive = False
        await bench.environment.wait()
        assert len(bench.owner.failed) == 1

    run(main())


def test_cpu_is_shared_from_the_first_poll_on_and_once() -> None:
    async def main() -> None:
        bench = await Bench().idle()
        result = bench.environment.run(new_invocation(FUNCTION, "blue"))
        bench.sandbox.answer()
        bench.sandbox.poll()
        await result
        assert bench.sandbox.invocations_begun == 1
        await bench.end()

    run(main())


def test_the_runtime_is_told_its_deadline() -> None:
    async def main() -> None:
        bench = await Bench().idle()
        bench.environment.run(new_invocation(FUNCTION, "blue"))
        assert bench.sandbox.deadline_ms == 1_800_000_003_000
        await bench.end()

    run(main())


def test_a_timeout_answers_kills_and_says_so_in_the_log() -> None:
    async def main() -> None:
        bench = await Bench().idle()
        bench.sandbox.teardown = 5.0
        started = asyncio.get_running_loop().time()
        result = await bench.environment.run(new_invocation(FUNCTION, "blue"))
        assert asyncio.get_running_loop().time() - started == 3.0  # before the sandbox is gone
        assert document(result.payload)["errorType"] == "Sandbox.Timedout"
        assert document(result.payload)["errorMessage"].endswith("Task timed out after 3.00 seconds")
        assert (result.error, bench.environment.state) == ("Unhandled", State.ENDING)
        assert not bench.sandbox.alive
        assert any(line.endswith("Task timed out after 3.00 seconds") for line in bench.stream.lines)
        assert bench.stream.lines[-1].endswith("Status: timeout\t")
        await bench.environment.wait()
        assert bench.owner.ended == 1

    run(main())


def test_a_runtime_that_answers_and_never_polls_again_is_ended_at_its_deadline() -> None:
    async def main() -> None:
        bench = await Bench().idle()
        future = bench.environment.run(new_invocation(FUNCTION, "blue"))
        await asyncio.sleep(1)
        bench.sandbox.answer(b'"mine"')
        assert (await future).payload == b'"mine"'
        await bench.environment.wait()
        assert asyncio.get_running_loop().time() == pytest.approx(3.0)
        assert bench.stream.lines[-1].startswith("REPORT")

    run(main())


def test_the_deadline_of_an_invocation_ends_with_the_next_poll() -> None:
    async def main() -> None:
        bench = await Bench().idle()
        future = bench.environment.run(new_invocation(FUNCTION, "blue"))
        bench.sandbox.answer()
        await future
        bench.sandbox.poll()
        await asyncio.sleep(60)
        assert bench.environment.state is State.IDLE
        await bench.end()

    run(main())


@pytest.mark.parametrize(
    ("how", "kind", "message"),
    [
        (Exit(1, None), "Runtime.ExitError", "exit status 1"),
        (Exit(None, 11), "Runtime.ExitError", "signal: segmentation fault"),
        (Exit(None, 9, out_of_memory=True), "Runtime.OutOfMemory", "signal: killed"),
    ],
)
def test_a_crash_while_busy_answers_with_how_it_ended(how: Exit, kind: str, message: str) -> None:
    async def main() -> None:
        bench = await Bench().idle()
        future = bench.environment.run(new_invocation(FUNCTION, "blue"))
        bench.sandbox.die(how)
        result = await future
        assert document(result.payload)["errorType"] == kind
        assert document(result.payload)["errorMessage"].endswith(message)
        await bench.environment.wait()
        assert bench.stream.lines[-1].endswith(f"Error Type: {kind}\t")

    run(main())


def test_more_memory_than_the_function_has_ends_it() -> None:
    async def main() -> None:
        bench = await Bench().idle()
        future = bench.environment.run(new_invocation(FUNCTION, "blue"))
        bench.sandbox.memory_used = 128 << 20
        bench.environment.check_memory()
        assert bench.sandbox.alive
        bench.sandbox.memory_used += 1
        bench.environment.check_memory()
        assert document((await future).payload)["errorType"] == "Runtime.OutOfMemory"
        await bench.environment.wait()

    run(main())


def test_an_answer_that_is_too_large_is_an_error_and_the_environment_lives() -> None:
    async def main() -> None:
        bench = await Bench().idle()
        future = bench.environment.run(new_invocation(FUNCTION, "blue"))
        bench.sandbox.answer_too_much()
        result = await future
        assert (result.error, document(result.payload)["errorType"]) == ("Unhandled", "Function.ResponseSizeTooLarge")
        bench.sandbox.poll()
        assert bench.environment.state is State.IDLE
        await bench.end()

    run(main())


def test_only_the_first_invocation_reports_init() -> None:
    async def main() -> None:
        bench = Bench()
        await bench.environment.open()
        bench.environment.bind("blue")
        await asyncio.sleep(0.25)
        bench.sandbox.poll()
        for number in (1, 2):
            future = bench.environment.run(new_invocation(FUNCTION, "blue", number))
            bench.sandbox.answer()
            await future
            bench.sandbox.poll()
        await settle()
        reports = [line for line in bench.stream.lines if line.startswith("REPORT")]
        assert reports[0].endswith("Init Duration: 250.00 ms\t")
        assert "Init Duration" not in reports[1]
        await bench.end()

    run(main())


# The log


async def logged(output: bytes, *, tail: bool = True) -> tuple[list[str], bytes]:
    """The log lines and the tail of an invocation that prints this and answers."""
    bench = await Bench().idle()
    future = bench.environment.run(new_invocation(FUNCTION, "blue", tail=tail))
    bench.sandbox.write(output)
    bench.sandbox.answer()
    result = await future
    await bench.end()
    return bench.stream.lines, result.log_tail or b""


def test_start_comes_before_output_and_end_after_all_of_it() -> None:
    lines, tail = run(logged(b"one\ntwo\n"))
    kinds = [line.split(" ")[0] for line in lines]
    assert kinds == ["INIT_START", "START", "one", "two", "END", "REPORT"]
    assert tail.decode().splitlines() == lines[1:]


def test_the_last_line_needs_no_end() -> None:
    lines, tail = run(logged(b"whole\npartial"))
    assert [line.split(" ")[0] for line in lines] == ["INIT_START", "START", "whole", "partial", "END", "REPORT"]
    assert b"\npartial\nEND" in tail


def test_a_line_that_comes_in_parts_is_one_event() -> None:
    async def main() -> None:
        bench = await Bench().idle()
        future = bench.environment.run(new_invocation(FUNCTION, "blue"))
        for part in (b"a ", b"whole ", b"line\n"):
            bench.sandbox.write(part)
            await asyncio.sleep(0.05)
        bench.sandbox.answer()
        await future
        assert "a whole line" in bench.stream.lines
        await bench.end()

    run(main())


def test_what_init_printed_stands_before_start() -> None:
    async def main() -> None:
        bench = Bench()
        await bench.environment.open()
        bench.environment.bind("blue")
        bench.sandbox.write(b"init\n")
        bench.sandbox.poll()
        future = bench.environment.run(new_invocation(FUNCTION, "blue", tail=True))
        bench.sandbox.answer()
        assert b"init" not in ((await future).log_tail or b"")
        assert [line.split(" ")[0] for line in bench.stream.lines][:3] == ["INIT_START", "init", "START"]
        await bench.end()

    run(main())


def test_invalid_utf8_is_replaced_and_a_carriage_return_keeps_a_traceback_one_event() -> None:
    lines, _ = run(logged(b"\xff\xfe!\nTraceback\rFile\n"))
    assert "\ufffd\ufffd!" in lines
    assert "Traceback\nFile" in lines


def test_nobody_gets_a_tail_who_did_not_ask() -> None:
    assert run(logged(b"secret\n", tail=False))[1] == b""


def test_a_tail_is_the_last_4_kb() -> None:
    lines, tail = run(logged(b"".join(b"%06d\n" % number for number in range(5000))))
    assert len(tail) == LOG_TAIL_BYTES
    assert tail.decode().splitlines()[-1] == lines[-1]
    assert b"004999\nEND" in tail
    assert b"000001" not in tail


def test_a_flood_neither_holds_up_the_answer_nor_grows_the_tail() -> None:
    async def main() -> None:
        bench = await Bench().idle()
        invocation = new_invocation(FUNCTION, "blue", tail=True)
        future = bench.environment.run(invocation)
        for _ in range(100):
            bench.sandbox.write(b"x" * 1023 + b"\n" + b"\n" * 1024)
            await asyncio.sleep(0.02)
            kept = bench.environment._log.tail
            assert kept is not None
            assert len(kept) <= 5 * LOG_TAIL_BYTES
        bench.sandbox.answer()
        assert len((await future).log_tail or b"") == LOG_TAIL_BYTES
        await bench.end()

    run(main())


def test_a_line_without_end_is_cut_at_256_kib() -> None:
    async def main() -> None:
        bench = await Bench().idle()
        future = bench.environment.run(new_invocation(FUNCTION, "blue"))
        for _ in range(30):
            bench.sandbox.write(b"x" * 32768)
            await asyncio.sleep(0.02)
        bench.sandbox.answer()
        await future
        await settle()
        written = [line for line in bench.stream.lines if line.startswith("xxx")]
        assert sum(map(len, written)) == 30 * 32768
        assert max(map(len, written)) <= (1 << 18) + (1 << 16)
        await bench.end()

    run(main())


def test_the_last_words_of_a_crash_are_kept() -> None:
    async def main() -> None:
        bench = await Bench().idle()
        future = bench.environment.run(new_invocation(FUNCTION, "blue", tail=True))
        bench.sandbox.write(b"last words")
        bench.sandbox.die(Exit(1, None))
        result = await future
        await bench.environment.wait()
        assert b"last words" in (result.log_tail or b"")
        assert bench.stream.closed

    run(main())


def test_an_event_is_the_functions_or_the_platforms() -> None:
    async def main() -> None:
        bench = await Bench().idle()
        future = bench.environment.run(new_invocation(FUNCTION, "blue"))
        bench.sandbox.write(b"END RequestId: forged\n")
        await settle()
        bench.sandbox.answer()
        await future
        assert ("END RequestId: forged", False) in bench.stream.events
        assert {kind for line, kind in bench.stream.events if line.startswith(("INIT", "START", "REPORT"))} == {True}
        await bench.end()

    run(main())


def test_the_caller_is_answered_before_the_log_is_written() -> None:
    async def main() -> None:
        bench = await Bench().idle()
        future = bench.environment.run(new_invocation(FUNCTION, "blue"))
        future.add_done_callback(lambda _: seen.append(list(bench.stream.lines)))
        seen: list[list[str]] = []
        bench.sandbox.answer()
        await settle()
        assert [line.split(" ")[0] for line in seen[0]] == ["INIT_START", "START"]
        assert [line.split(" ")[0] for line in bench.stream.lines][2:] == ["END", "REPORT"]
        await bench.end()

    run(main())


def test_the_log_of_an_invocation_ends_before_the_next_begins() -> None:
    """A runtime with two connections may ask for its next event while it answers."""

    async def main() -> None:
        bench = await Bench().idle()
        for number in (1, 2):
            bench.environment.run(new_invocation(FUNCTION, "blue", number))
            bench.sandbox.answer()
            bench.sandbox.poll()
        bench.sandbox.die(Exit(1, None))
        await bench.environment.wait()
        kinds = [line.split(" ")[0] for line in bench.stream.lines]
        assert kinds == ["INIT_START", "START", "END", "REPORT", "START", "END", "REPORT"]

    run(main())
