"""The load generator: a closed loop over raw connections, run as a process of its own.

Each of the connections sends its next request as soon as its answer is complete and checked. It is one
thread over epoll. A job comes as JSON on standard input and the result leaves as JSON on standard output, so
that the caller's interpreter takes no part in the measurement.
"""

from __future__ import annotations

import gc
import json
import select
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import cycle

from wire import TIMEOUT, Reader, Request, WireError, connect

_MAX_FAILURES = 200


@dataclass(frozen=True, slots=True)
class Job:
    """What to send.

    Attributes:
        host: where to connect to.
        port: where to connect to.
        clients: connections.
        seconds: how long requests are sent.
        repeat: go through the requests again and again; else each is sent once.
    """

    host: str
    port: int
    clients: int
    seconds: float
    repeat: bool


@dataclass(frozen=True, slots=True)
class Load:
    """What came back.

    Attributes:
        requests: answers that were right.
        seconds: from the first request to the last answer.
        p50_ms, p99_ms, max_ms: of the right answers.
        failures: what went wrong, and how often.
    """

    requests: int
    seconds: float
    p50_ms: float
    p99_ms: float
    max_ms: float
    failures: dict[str, int]

    @property
    def rate(self) -> float:
        """Right answers a second."""
        return self.requests / self.seconds if self.seconds else 0.0


def run(job: Job, requests: Sequence[Request]) -> Load:
    """Run a job in a subprocess and wait for its result.

    Raises:
        WireError: the generator itself failed; the message is its last words.
    """
    texts = [(request.raw.decode("latin-1"), request.expected.decode("latin-1")) for request in requests]
    try:
        done = subprocess.run(
            [sys.executable, __file__],
            input=json.dumps({"job": asdict(job), "requests": texts}),
            capture_output=True,
            text=True,
            timeout=job.seconds + 2 * TIMEOUT,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise WireError(f"load generator: {error}") from error
    if done.returncode:
        raise WireError(f"load generator: {done.stderr.strip().splitlines()[-1]}")
    return Load(**json.loads(done.stdout))


def quantile(values: Sequence[float], share: float) -> float:
    """The smallest value that at least this share of all values does not exceed; 0 for no values."""
    ordered = sorted(values)
    return ordered[max(0, -(-int(share * 1000) * len(ordered) // 1000) - 1)] if ordered else 0.0


class _Client:
    """One connection and the request that it waits for."""

    def __init__(self, job: Job) -> None:
        self.socket = connect(job.host, job.port)
        self.request: Request
        self._reader = Reader()
        self._sent = 0.0

    def send(self, request: Request) -> None:
        self.request = request
        self._sent = time.perf_counter()
        self.socket.sendall(request.raw)

    def receive(self) -> tuple[float, str | None] | None:
        """The latency and the problem of the answer, or None while it is not complete."""
        data = self.socket.recv(65536)
        if not data:
            raise WireError("connection closed without an answer")
        if not self._reader.feed(data):
            return None
        return time.perf_counter() - self._sent, self._reader.take(self.request.expected)


class _Generator:
    def __init__(self, job: Job, requests: Sequence[Request]) -> None:
        self._job = job
        self._queue: Iterator[Request] = cycle(requests) if job.repeat else iter(requests)
        self._poll = select.epoll()
        self._clients: dict[int, _Client] = {}
        self._latencies: list[float] = []
        self._failures: Counter[str] = Counter()

    def drive(self) -> Load:
        start = last = time.perf_counter()
        self._deadline = start + self._job.seconds
        for _ in range(self._job.clients):
            self._open()
        while self._clients and time.perf_counter() < self._deadline + TIMEOUT:
            for descriptor, _ in self._poll.poll(1.0):
                self._serve(self._clients[descriptor])
                last = time.perf_counter()
        if self._clients:
            self._failures[f"no answer within {TIMEOUT:.0f} s"] += len(self._clients)
        if not self._job.repeat and (left := sum(1 for _ in self._queue)):
            self._failures[f"not sent within {self._job.seconds:.0f} s"] += left
        values = self._latencies
        p50, p99, most = (1000 * quantile(values, share) for share in (0.5, 0.99, 1.0))
        return Load(len(values), last - start, p50, p99, most, dict(self._failures))

    def _open(self) -> None:
        """Open a connection and send a request on it, if there is one left."""
        request = self._next()
        if request is None:
            return
        client = _Client(self._job)
        client.send(request)
        self._clients[client.socket.fileno()] = client
        self._poll.register(client.socket, select.EPOLLIN)

    def _next(self) -> Request | None:
        if time.perf_counter() >= self._deadline or self._failures.total() >= _MAX_FAILURES:
            return None
        return next(self._queue, None)

    def _serve(self, client: _Client) -> None:
        try:
            result = client.receive()
            if result is None:
                return
            latency, problem = result
            if problem:
                self._failures[problem] += 1
            else:
                self._latencies.append(latency)
            request = self._next()
            if request is None:
                self._drop(client.socket)
            else:
                client.send(request)
        except (OSError, WireError) as error:
            self._failures[f"connection: {error}"] += 1
            self._drop(client.socket)
            self._open()

    def _drop(self, connection: socket.socket) -> None:
        del self._clients[connection.fileno()]
        self._poll.unregister(connection)
        connection.close()


def main() -> None:
    """Read a job from standard input, run it, write its result to standard output."""
    order = json.load(sys.stdin)
    requests = [Request(raw.encode("latin-1"), expected.encode("latin-1")) for raw, expected in order["requests"]]
    gc.disable()
    print(json.dumps(asdict(_Generator(Job(**order["job"]), requests).drive())))


if __name__ == "__main__":
    main()
