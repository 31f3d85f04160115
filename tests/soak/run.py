"""Minutes of mixed load on a real `insula serve`, with changes and kills; then nothing may be left.

Exits with 1 if a promise was broken.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import os
import random
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from threading import Event, Thread

from tests.leftovers import alive, descriptors, groups, groups_named, mounts_under, network_namespace, pinned, roots
from tests.metrics import DRIFTS, scrape
from tests.server import Server, descendants
from tests.soak.chaos import Changes, Kills
from tests.soak.functions import TIMEOUT, Kind, kinds, layer
from tests.soak.ledger import Ledger
from tests.soak.load import UNTOLD, Caller

_CALLERS = 12
_OPTIONS = ("--idle-timeout", "3", "--proactive", "3", "--max-age", "60", "--concurrency", "150")
_SETTLE_SECONDS = 60.0
_SET_CHILD_SUBREAPER = 36  # prctl(2)


@dataclass(frozen=True, slots=True)
class Level:
    """What a server holds that has no function: two prepared sandboxes of each runtime that was used, and itself."""

    descriptors: Counter[str]
    processes: int
    groups: int
    namespaces: int
    memory: int

    @classmethod
    def of(cls, server: Server) -> Level:
        """The level of the moment."""
        pages = int(Path(f"/proc/{server.pid}/statm").read_text().split()[1])
        resident = pages * os.sysconf("SC_PAGE_SIZE") >> 20
        held, processes = Counter(descriptors(server.pid)), alive(descendants(server.pid))
        namespaces = {network_namespace(pid) for pid in processes}
        return cls(held, len(processes), len(groups(server)), len(namespaces), resident)

    def above(self, other: Level) -> list[str]:
        """What is more than in the other."""
        found = [f"{count} descriptors: {what}" for what, count in (self.descriptors - other.descriptors).items()]
        if self.processes > other.processes:
            found.append(f"{self.processes - other.processes} processes")
        if self.groups > other.groups:
            found.append(f"{self.groups - other.groups} cgroups")
        if self.namespaces > other.namespaces:
            found.append(f"{self.namespaces - other.namespaces} network namespaces")
        return found


class Soak:
    """One soak.

    Args:
        folder: for everything that is made.
        seed: of its chance.
    """

    def __init__(self, folder: Path, seed: int) -> None:
        self.ledger = Ledger()
        self.server = Server(folder / "data", *_OPTIONS)
        self._folder = folder
        self._draw = random.Random(seed)
        self._kinds = kinds()
        self._pinned = pinned()

    def run(self, minutes: float) -> None:
        """Start the server, load it, stop it, and look for what is left."""
        temporary = self._folder / "tmp"
        temporary.mkdir()
        os.environ["TMPDIR"] = str(temporary)
        self.server.start()
        client = self.server.client()
        layer_arn = client.publish_layer_version(LayerName="soak", Content={"ZipFile": layer()})["LayerVersionArn"]
        client.close()
        changes = Changes(self.server, self._kinds, self.ledger, self._chance(), layer_arn)
        with _functions(changes, self._kinds):
            self._warm_up()
        before = self._settled()
        names = roots(self.server)
        with _functions(changes, self._kinds):
            self._load(changes, minutes)
            self._wait("all invocations to settle", lambda: not scrape(self.server)["insula_invocations_running"])
        after = self._settled(before)
        self.ledger.problems += [f"left in the server that runs: {what}" for what in after.above(before)]
        found = scrape(self.server)
        self._check_counts(found)
        self._stop(names, temporary)
        self._report(before, after, found)

    def _chance(self) -> random.Random:
        return random.Random(self._draw.random())

    def _warm_up(self) -> None:
        """Use every runtime once, so that what it keeps is there."""
        caller = Caller(self.server, self._kinds, self.ledger, self._chance())
        for kind in self._kinds:
            caller.call(kind)
        self.ledger.outcomes.clear()

    def _load(self, changes: Changes, minutes: float) -> None:
        stop = Event()
        callers = [Caller(self.server, self._kinds, self.ledger, self._chance()) for _ in range(_CALLERS)]
        kills = Kills(self.server, self.ledger, self._chance())
        works = [*(caller.run for caller in callers), changes.run, kills.run]
        threads = [Thread(target=work, args=[stop], daemon=True) for work in works]
        for thread in threads:
            thread.start()
        end = time.monotonic() + minutes * 60
        while time.monotonic() < end:
            time.sleep(min(5.0, max(0.0, end - time.monotonic())))
            self._check_drift(scrape(self.server))
        stop.set()
        for thread in threads:
            thread.join(60)
            if thread.is_alive():
                self.ledger.problem("a caller was never answered")

    def _settled(self, before: Level | None = None) -> Level:
        """The level of the server once it has no environment, and, if there was one before, is back at that."""
        self._wait("all environments to end", lambda: not _environments(scrape(self.server)))
        if before is not None:
            self._wait("the level from before", lambda: not Level.of(self.server).above(before))
        else:
            time.sleep(2)  # the store of prepared sandboxes is filled up
        return Level.of(self.server)

    def _wait(self, what: str, check: Callable[[], bool]) -> None:
        deadline = time.monotonic() + _SETTLE_SECONDS + TIMEOUT
        while not check():
            if time.monotonic() > deadline:
                self.ledger.problem(f"waited in vain for {what}")
                return
            time.sleep(0.25)

    def _check_drift(self, found: dict[str, float]) -> None:
        self.ledger.problems += [f"{name} is {found[name]}" for name in DRIFTS if found[name]]

    def _check_counts(self, found: dict[str, float]) -> None:
        self._check_drift(found)
        for name in ("insula_security_violations_total", "insula_invocations_running"):
            if found[name]:
                self.ledger.problem(f"{name} is {found[name]}")
        strikes = self.ledger.deeds
        most = strikes["kill of a process"] + strikes["kill of an init"] + _CALLERS * 2 * strikes["kill of a spawner"]
        untold = sum(count for (_, outcome), count in self.ledger.outcomes.items() if outcome in UNTOLD)
        if untold > most:
            self.ledger.problem(f"{untold} invocations failed by themselves, and the kills explain {most}")
        log = self.server.log.read_text()
        if "Traceback" in log:
            self.ledger.problem("the server's log has a traceback")

    def _stop(self, names: set[str], temporary: Path) -> None:
        """Stop the server; nothing of it may be there then."""
        data = self.server.data_dir
        if self.server.stop() != 0:
            self.ledger.problem("the server did not stop properly")
        _reap()
        left = {
            "process": [str(pid) for pid in descendants(os.getpid())],
            "cgroup": [str(path) for name in names for path in groups_named(name)],
            "mount": mounts_under(data),
            "network namespace": sorted(pinned() - self._pinned),
            "temporary file": [str(path) for path in (*temporary.rglob("*"), *_litter(data))],
        }
        self.ledger.problems += [f"left behind: {what} {each}" for what, found in left.items() for each in found]

    def abort(self) -> None:
        """End the server if it still runs: something went wrong."""
        if self.server.process is not None and self.server.process.poll() is None:
            self.ledger.problem("the soak did not come to its end")
            self.server.stop()

    def _report(self, before: Level, after: Level, found: dict[str, float]) -> None:
        rows: list[tuple[str, str, object]] = [
            *((name, outcome, count) for (name, outcome), count in sorted(self.ledger.outcomes.items())),
            *(("the soak", deed, count) for deed, count in sorted(self.ledger.deeds.items())),
            *(("metrics", name.removeprefix("insula_"), int(value)) for name, value in sorted(found.items())),
            ("server", "descriptors before, after", f"{before.descriptors.total()}, {after.descriptors.total()}"),
            ("server", "processes before, after", f"{before.processes}, {after.processes}"),
            ("server", "cgroups before, after", f"{before.groups}, {after.groups}"),
            ("server", "MiB resident before, after", f"{before.memory}, {after.memory}"),
            ("server", "network namespaces before, after", f"{before.namespaces}, {after.namespaces}"),
        ]
        for who, what, count in rows:
            print(f"{who:<12} {what:<60} {count}")


@contextlib.contextmanager
def _functions(changes: Changes, made: list[Kind]) -> Iterator[None]:
    """All functions, from their making to their end."""
    for kind in made:
        changes.make(kind)
    yield
    for kind in made:
        changes.remove(kind)


def _environments(found: dict[str, float]) -> float:
    return sum(value for name, value in found.items() if name.startswith("insula_environments,"))


def _litter(data: Path) -> list[Path]:
    """Files of which nothing should be left when no server runs."""
    partial = [path for path in data.rglob("*") if ".partial" in path.name]
    return [*partial, *data.glob("*/incoming/*"), *data.glob("sandbox/root/*")]


def _reap() -> None:
    """Wait for what was left to this process, and ended."""
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass


def main() -> None:
    """Run a soak, print what happened, and fail if a promise was broken."""
    parser = argparse.ArgumentParser(description="Soak a server.")
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--seed", type=int, default=random.randrange(1 << 32))
    options = parser.parse_args()
    # What loses its parent comes to this process, so that none escapes the last look.
    if ctypes.CDLL(None).prctl(_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0:
        sys.exit("prctl(PR_SET_CHILD_SUBREAPER) was refused")
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that the server is stopped
    with tempfile.TemporaryDirectory(prefix="insula-soak-") as folder:
        soak = Soak(Path(folder), options.seed)
        try:
            soak.run(options.minutes)
        finally:
            soak.abort()
            if soak.ledger.problems and soak.server.log.exists():
                print(*soak.server.log.read_text().splitlines()[-40:], sep="\n", file=sys.stderr)
    problems = Counter(soak.ledger.problems)
    print(f"\nseed {options.seed}, {options.minutes:g} minutes: {len(problems)} problems")
    for problem, count in problems.most_common(50):
        print(f"  {count} x {problem}")
    sys.exit(1 if problems else 0)


if __name__ == "__main__":
    main()
