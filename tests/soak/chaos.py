"""What happens to the functions and to their environments while they are called: changes, and kills."""

from __future__ import annotations

import contextlib
import os
import random
import signal
from collections.abc import Iterator, Sequence
from pathlib import Path
from threading import Event
from typing import Any

from botocore.exceptions import ClientError

from tests.server import Server
from tests.soak.functions import Kind
from tests.soak.ledger import Ledger

_CHANGE_SECONDS = 1.0  # between changes, about
_STRIKE_SECONDS = 0.7
_SPAWNER_STRIKES = 50  # one in so many hits a spawner
_ALIAS = "live"


class Changes:
    """The one who changes the functions.

    Args:
        layer: ARN of the layer with the extension.
    """

    def __init__(self, server: Server, kinds: Sequence[Kind], ledger: Ledger, draw: random.Random, layer: str) -> None:
        self._kinds = kinds
        self._ledger = ledger
        self._draw = draw
        self._client = server.client()
        self._layer = layer
        self._newest = dict.fromkeys((kind.name for kind in kinds), 0)

    def run(self, stop: Event) -> None:
        """Change one after the other until it is told to stop."""
        acts = [self._code, self._configuration, self._anew, self._reserve, self._point]
        while not stop.wait(self._draw.expovariate(1 / _CHANGE_SECONDS)):
            (act,) = self._draw.choices(acts, [4, 3, 1, 2, 3])
            kind = self._draw.choice([kind for kind in self._kinds if kind.alias or act != self._point])
            try:
                act(kind)
            except ClientError as error:
                self._ledger.problem(f"{act.__name__} of {kind.name}: {error}")
        self._client.close()

    def make(self, kind: Kind) -> None:
        """Create a function."""
        self._newest[kind.name] += 1
        package = kind.package(self._newest[kind.name])
        self._client.create_function(Code={"ZipFile": package}, **kind.options(self._layer))
        self._wait("function_active_v2", kind)
        if kind.alias:
            version = self._client.publish_version(FunctionName=kind.name)["Version"]
            self._client.create_alias(FunctionName=kind.name, Name=_ALIAS, FunctionVersion=version)

    def remove(self, kind: Kind) -> None:
        """Delete a function."""
        self._client.delete_function(FunctionName=kind.name)

    def _code(self, kind: Kind) -> None:
        self._newest[kind.name] += 1
        self._client.update_function_code(FunctionName=kind.name, ZipFile=kind.package(self._newest[kind.name]))
        self._wait("function_updated_v2", kind)
        self._ledger.note("update of code")

    def _configuration(self, kind: Kind) -> None:
        variables = {"Variables": {"ROUND": str(self._draw.random())}}
        self._client.update_function_configuration(FunctionName=kind.name, Environment=variables)
        self._wait("function_updated_v2", kind)
        self._ledger.note("update of configuration")

    def _anew(self, kind: Kind) -> None:
        self.remove(kind)
        self.make(kind)
        self._ledger.note("deletion and creation")

    def _reserve(self, kind: Kind) -> None:
        count = self._draw.choice([0, 2, 10, None, None])
        if count is None:
            self._client.delete_function_concurrency(FunctionName=kind.name)
        else:
            self._client.put_function_concurrency(FunctionName=kind.name, ReservedConcurrentExecutions=count)
        self._ledger.note("change of reserved concurrency")
        if count == 0:
            self._client.delete_function_concurrency(FunctionName=kind.name)

    def _point(self, kind: Kind) -> None:
        """Publish, and let the alias go over to the new version, first with a share."""
        old = self._client.get_alias(FunctionName=kind.name, Name=_ALIAS)["FunctionVersion"]
        new = self._client.publish_version(FunctionName=kind.name)["Version"]
        if new == old:
            return
        alias: dict[str, Any] = {"FunctionName": kind.name, "Name": _ALIAS}
        self._client.update_alias(**alias, RoutingConfig={"AdditionalVersionWeights": {new: 0.3}})
        self._client.update_alias(**alias, FunctionVersion=new, RoutingConfig={"AdditionalVersionWeights": {}})
        self._client.delete_function(FunctionName=kind.name, Qualifier=old)
        self._ledger.note("change of an alias")

    def _wait(self, waiter: str, kind: Kind) -> None:
        self._client.get_waiter(waiter).wait(FunctionName=kind.name, WaiterConfig={"Delay": 0.1, "MaxAttempts": 600})
        self._ledger.generations[kind.name] = self._newest[kind.name]


class Kills:
    """The one who kills processes of environments, of prepared children, and now and then a whole spawner."""

    def __init__(self, server: Server, ledger: Ledger, draw: random.Random) -> None:
        self._server = server
        self._ledger = ledger
        self._draw = draw
        self._strikes = 0

    def run(self, stop: Event) -> None:
        """Strike now and then, until it is told to stop."""
        while not stop.wait(self._draw.expovariate(1 / _STRIKE_SECONDS)):
            self.strike()

    def strike(self) -> None:
        """Strike once."""
        chains = [list(_chain(spawner)) for spawner in _children(self._server.pid)]
        self._strikes += 1
        if self._strikes % _SPAWNER_STRIKES == _SPAWNER_STRIKES // 2:
            self._hit(self._draw.choice(self._draw.choice(chains)), signal.SIGKILL, "kill of a spawner")
            return
        inits = [pid for chain in chains for pid in _children(chain[-1])]
        if not inits:
            return
        init = self._draw.choice(inits)  # of an environment, or of a prepared sandbox
        pid = self._draw.choice(_children(init) or [init])
        (what,) = self._draw.choices(["process", "init", "stop"], [6, 2, 2])
        if what == "process":
            self._hit(pid, signal.SIGKILL, "kill of a process")
        elif what == "init":
            self._hit(init, signal.SIGKILL, "kill of an init")
        else:
            self._hit(pid, signal.SIGSTOP, "stop of a process")

    def _hit(self, pid: int, number: int, what: str) -> None:
        """Send a signal to a process, if it is still one of the server's: its number may be another's by now."""
        with contextlib.suppress(ProcessLookupError):
            process = os.pidfd_open(pid)
            try:
                if self._server.pid in _ancestors(pid):
                    signal.pidfd_send_signal(process, number)
                    self._ledger.note(what)
            finally:
                os.close(process)


def _chain(pid: int) -> Iterator[int]:
    """A spawner's processes, the outermost first; the children of the last are environments."""
    yield pid
    for _ in range(2):
        below = _children(pid)
        if not below:
            return
        pid = below[0]
        yield pid


def _children(pid: int) -> list[int]:
    found: list[int] = []
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        with contextlib.suppress(OSError):
            found += map(int, task.read_text().split())
    return found


def _ancestors(pid: int) -> set[int]:
    found: set[int] = set()
    with contextlib.suppress(OSError):
        while pid > 1:
            pid = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
            found.add(pid)
    return found
