"""The measurements. Every one visits each target in turn, so that what disturbs the machine disturbs all."""

from __future__ import annotations

import statistics
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from botocore.exceptions import BotoCoreError, ClientError
from load import Job, Load, run
from memory import Growth, Snapshot, available, growth, snapshot, tree
from target import Target
from wire import WireError

SPREAD_TENANTS = 20
"""Tenants that a load is spread over, where it is spread."""

_SETTLE = 1.0
_REFILL = 0.3
_WARM_SECONDS = 2.0
_EDGE = 2  # batches, a hundred tenants
_GONE_TIMEOUT = 60.0
_BATCH = 50
_BATCH_TIMEOUT = 120.0
_CROWD_CLIENTS = 8
_SPARE_MEMORY = 2**30
_MAX_FAILURES = 5
_ERRORS = (BotoCoreError, ClientError, WireError, OSError)


@dataclass(frozen=True, slots=True)
class Case:
    """A kind of load: how many clients invoke how many tenants."""

    clients: int
    tenants: int


CASES = (Case(1, 1), Case(8, 1), Case(32, 1), Case(1, SPREAD_TENANTS), Case(8, SPREAD_TENANTS))


@dataclass(slots=True)
class Loads:
    """Loads on one target, one for each round and case."""

    samples: dict[Case, list[Load]] = field(default_factory=dict)
    failures: Counter[str] = field(default_factory=Counter)


@dataclass(slots=True)
class NewTenants:
    """First and second invokes of new tenants of one target, in seconds, and their environments' memory."""

    first: list[float] = field(default_factory=list)
    second: list[float] = field(default_factory=list)
    memory: Growth | None = None
    failures: Counter[str] = field(default_factory=Counter)

    def first_minus_warm(self) -> list[float]:
        """What being new cost each tenant, in seconds."""
        return [first - second for first, second in zip(self.first, self.second, strict=True)]


@dataclass(slots=True)
class Crowd:
    """Tenants of one function that were held at once.

    Attributes:
        held: those whose second invoke reached the same environment as the first.
        seconds: time to make them, with 8 clients.
        p50: median of their first invokes, in seconds.
        memory: for each of them.
        machine: bytes of the machine's available memory that each took, the kernel's part included.
        gone: seconds after DeleteFunction in which all their processes ended.
        early: environments made a second, of the first hundred.
        late: of the last hundred.
        warm_before: median warm latency of another tenant before they were made, in milliseconds.
        warm_beside: the same while they are held.
    """

    held: int = 0
    seconds: float = 0.0
    p50: float = 0.0
    memory: Growth | None = None
    machine: float = 0.0
    gone: float | None = None
    early: float = 0.0
    late: float = 0.0
    warm_before: float = 0.0
    warm_beside: float = 0.0
    failures: Counter[str] = field(default_factory=Counter)

    @property
    def slower(self) -> float | None:
        """Warm latency of another tenant beside the crowd, in terms of that before it."""
        return self.warm_beside / self.warm_before if self.warm_before else None

    @property
    def late_rate(self) -> float | None:
        """Rate at which the last hundred were made, in terms of that of the first hundred."""
        return self.late / self.early if self.early else None


class Clock:
    """The time that the whole benchmark may take."""

    def __init__(self, seconds: float) -> None:
        self._end = time.monotonic() + seconds

    def over(self, failures: Counter[str]) -> bool:
        """Whether it is used up; then that is noted among the failures."""
        if time.monotonic() < self._end:
            return False
        failures["the time limit was reached before all samples were taken"] = 1
        return True


def loads(targets: Sequence[Target], rounds: int, seconds: float, clock: Clock) -> list[Loads]:
    """Warm latency and throughput: rounds of closed-loop load of every case on every target."""
    results = [Loads() for _ in targets]
    rows = [
        (target, result, _create(target, "trivial", result.failures))
        for target, result in zip(targets, results, strict=True)
    ]
    # The first round makes the environments, and is not counted.
    for number in range(rounds + 1):
        for case in CASES:
            # Each target is the first to run as often as the last.
            for target, result, function in rows if number % 2 else reversed(rows):
                if function is None or clock.over(result.failures):
                    continue
                load = _load(target, function, case, seconds, result.failures)
                if load and number:
                    result.samples.setdefault(case, []).append(load)
    for target, result, function in rows:
        _delete(target, function, result.failures)
    return results


def new_tenants(targets: Sequence[Target], handler: str, count: int, clock: Clock, *, ahead: bool) -> list[NewTenants]:
    """First invokes of new tenants, one at a time, and the memory of their idle environments.

    Args:
        ahead: whether environments may be initialised before their tenant comes; then each comes after a pause in which
            that can be done.
    """
    results = [NewTenants() for _ in targets]
    rows = list(zip(targets, results, strict=True))
    functions = [_prepare(target, handler, result.failures, ahead=ahead) for target, result in rows]
    before = [_snapshot(target, result.failures) for target, result in rows]
    for number in range(count):
        for (target, result), function in zip(rows, functions, strict=True):
            stop = result.failures.total() >= _MAX_FAILURES or clock.over(result.failures)
            if function is not None and not stop:
                time.sleep(_REFILL if ahead else 0.0)
                _first_and_second(target, function, f"tenant-{number}", result)
    time.sleep(_SETTLE)
    for (target, result), function, snapshot_before in zip(rows, functions, before, strict=True):
        result.memory = _growth(target, snapshot_before, len(result.first), result.failures)
        _delete(target, function, result.failures)
    return results


def crowd(target: Target, count: int, clock: Clock) -> Crowd:
    """Hold many tenants of one function at once: make them, invoke each again, delete the function."""
    result = Crowd()
    function = _prepare(target, "trivial", result.failures, ahead=False)
    if function is None:
        return result
    result.warm_before = _warm(target, function, result.failures)
    before, free = _snapshot(target, result.failures), available()
    tenants = [f"tenant-{number}" for number in range(count)]
    first = _each_once(target, function, tenants, 1, failures=result.failures, clock=clock)
    made = sum(load.requests for load in first)
    result.seconds = sum(load.seconds for load in first)
    result.p50 = statistics.median(load.p50_ms for load in first) / 1000 if first else 0.0
    time.sleep(_SETTLE)
    result.memory = _growth(target, before, made, result.failures)
    result.machine = (free - available()) / max(made, 1)
    result.early, result.late = _rate(first[:_EDGE]), _rate(first[-_EDGE:])
    result.warm_beside = _warm(target, function, result.failures)
    again = _each_once(target, function, tenants[:made], 2, failures=result.failures, clock=clock)
    result.held = sum(load.requests for load in again)
    start = time.monotonic()
    _delete(target, function, result.failures)
    result.gone = _wait_gone(target, before, start)
    return result


def _each_once(
    target: Target, function: str, tenants: list[str], calls: int, *, failures: Counter[str], clock: Clock
) -> list[Load]:
    """Invoke each tenant once, in batches, for a signature is valid for five minutes only."""
    done: list[Load] = []
    for start in range(0, len(tenants), _BATCH):
        if clock.over(failures) or failures.total() >= _MAX_FAILURES:
            break
        if available() < _SPARE_MEMORY:
            failures[f"stopped at {start} tenants: less than 1 GiB of memory was left"] += 1
            break
        requests = [target.request(function, tenant, calls) for tenant in tenants[start : start + _BATCH]]
        job = Job(target.host, target.port, _CROWD_CLIENTS, _BATCH_TIMEOUT, repeat=False)
        try:
            load = run(job, requests)
        except WireError as error:
            failures[str(error)] += 1
            break
        failures.update(load.failures)
        done.append(load)
    return done


def _rate(loads: Sequence[Load]) -> float:
    seconds = sum(load.seconds for load in loads)
    return sum(load.requests for load in loads) / seconds if seconds else 0.0


def _warm(target: Target, function: str, failures: Counter[str]) -> float:
    """Median warm latency of the tenant that ``_prepare`` made, in milliseconds; 0 if it is not known."""
    try:
        load = run(Job(target.host, target.port, 1, _WARM_SECONDS, repeat=True), [target.request(function, "warm")])
    except _ERRORS as error:
        failures[f"warm: {error}"] += 1
        return 0.0
    failures.update(load.failures)
    return load.p50_ms


def _load(target: Target, function: str, case: Case, seconds: float, failures: Counter[str]) -> Load | None:
    try:
        # Signed for each sample: a signature is valid for five minutes.
        requests = [target.request(function, f"tenant-{number}") for number in range(case.tenants)]
        load = run(Job(target.host, target.port, case.clients, seconds, repeat=True), requests)
    except _ERRORS as error:
        failures[str(error)] += 1
        return None
    failures.update(load.failures)
    return load


def _first_and_second(target: Target, function: str, tenant: str, result: NewTenants) -> None:
    request = target.request(function, tenant)
    try:
        connection = target.connect()
        try:
            # A connection's first request is slower than the next ones: spend it on a tenant that is warm.
            connection.call(target.request(function, "warm"))
            first, second = connection.call(request), connection.call(request)
        finally:
            connection.close()
    except _ERRORS as error:
        result.failures[str(error)] += 1
    else:
        result.first.append(first)
        result.second.append(second)


def _prepare(target: Target, handler: str, failures: Counter[str], *, ahead: bool) -> str | None:
    """Create a function and invoke it once, so that its code is unpacked and its runtime loaded."""
    function = _create(target, handler, failures, ahead=ahead)
    if function is None:
        return None
    try:
        connection = target.connect()
        try:
            connection.call(target.request(function, "warm"))
        finally:
            connection.close()
    except _ERRORS as error:
        failures[f"the function does not answer: {error}"] += 1
        _delete(target, function, failures)
        return None
    _wait_quiet(target)
    return function


def _create(target: Target, handler: str, failures: Counter[str], *, ahead: bool = False) -> str | None:
    try:
        return target.create(handler, ahead=ahead)
    except _ERRORS as error:
        failures[f"CreateFunction: {error}"] += 1
        return None


def _delete(target: Target, function: str | None, failures: Counter[str]) -> None:
    if function is None:
        return
    try:
        target.delete(function)
    except _ERRORS as error:
        failures[f"DeleteFunction: {error}"] += 1


def _snapshot(target: Target, failures: Counter[str]) -> Snapshot | None:
    if target.pid is None:
        return None
    try:
        return snapshot(target.pid)
    except OSError as error:
        failures[f"memory: {error}"] += 1
        return None


def _growth(target: Target, before: Snapshot | None, made: int, failures: Counter[str]) -> Growth | None:
    after = _snapshot(target, failures) if before and made else None
    if not before or not after:
        return None
    grown = growth(before, after, made)
    if not grown.processes:
        failures[f"memory: no environment is a descendant of process {target.pid}, or none may be read"] += 1
        return None
    return grown


def _wait_quiet(target: Target) -> None:
    """Wait until no process comes or goes: an earlier function's environments may still be ending."""
    count = -1
    start = time.monotonic()
    while time.monotonic() < start + _GONE_TIMEOUT:
        time.sleep(_SETTLE)
        last, count = count, 0 if target.pid is None else len(tree(target.pid))
        if count == last:
            return


def _wait_gone(target: Target, before: Snapshot | None, start: float) -> float | None:
    """Seconds since start until no more processes are left than there were; None if it is not known or never."""
    if target.pid is None or before is None:
        return None
    while time.monotonic() < start + _GONE_TIMEOUT:
        if len(tree(target.pid)) <= len(before):
            return time.monotonic() - start
        time.sleep(0.05)
    return None
