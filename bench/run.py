"""Measure a Lambda endpoint next to the bare floor. See README.md beside this file.

python bench/run.py                                        an Insula of its own
python bench/run.py --endpoint http://127.0.0.1:9900 ...   any endpoint that listens already
"""

from __future__ import annotations

import argparse
import ipaddress
import json
import signal
import sys
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import fields
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

import servers
from measure import Clock, Loads, crowd, loads, new_tenants
from report import Results, machine, markdown
from target import HANDLERS, Access, Settings, Target

_Number = TypeVar("_Number", int, float)


def main() -> int:
    """Run the benchmark; 0: nothing failed, 1: an answer was wrong or missing, 2: it could not start."""
    parser = _parser()
    options = parser.parse_args()
    if options.endpoint:
        _check_endpoint(parser, options.endpoint, options.remote)
    # So that a `kill` or a CI time limit ends the servers too.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    try:
        with ExitStack() as stack:
            targets = _targets(options, stack)
            facts = machine()
            results = _measure(targets, options)
    except servers.StartError as error:
        print(f"bench: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("bench: interrupted; nothing is reported", file=sys.stderr)
        return 130
    print(markdown(results, facts))
    if options.json:
        try:
            options.json.write_text(json.dumps(_raw(results, facts, options), indent=1, default=_plain) + "\n")
        except OSError as error:
            print(f"bench: cannot write {options.json}: {error.strerror}", file=sys.stderr)
            return 2
    return 1 if any(results.failures()) else 0


def _targets(options: argparse.Namespace, stack: ExitStack) -> tuple[Target, Target]:
    """The endpoint and the floor."""
    settings = Settings(options.runtime, options.role, options.memory)
    floor, floor_pid = stack.enter_context(servers.floor())
    access: Access
    pid: int | None
    if options.endpoint:
        access = Access(options.endpoint, options.access_key, options.secret_key, options.region)
        pid, label = options.pid, options.label
    else:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-")))
        access, pid = stack.enter_context(servers.insula(folder))
        label = "insula"
    targets = Target(label, access, settings, pid), Target("floor", floor, settings, floor_pid)
    for target in targets:
        stack.callback(target.close)
    return targets


def _measure(targets: tuple[Target, Target], options: argparse.Namespace) -> Results:
    clock = Clock(options.time_limit)
    _progress("warm latency and throughput")
    loaded = loads(targets, options.rounds, options.seconds, clock)
    tenants = {}
    for handler in HANDLERS:
        _progress(f"new tenants, {handler} handler")
        tenants[handler] = new_tenants(targets, handler, options.tenants, clock, ahead=False)
    _progress("new tenants, trivial handler, environments initialised ahead")
    ahead = new_tenants(targets, "trivial", options.tenants, clock, ahead=True)
    crowds = []
    for target in targets:
        _progress(f"{options.crowd} tenants held at once, {target.label}")
        crowds.append(crowd(target, options.crowd, clock))
    return Results((targets[0].label, targets[1].label), loaded, tenants, ahead, crowds)


def _raw(results: Results, facts: dict[str, object], options: argparse.Namespace) -> dict[str, object]:
    given = {name: str(value) for name, value in vars(options).items() if name != "secret_key"}
    return {
        "machine": facts,
        "options": given,
        "labels": results.labels,
        "loads": [_raw_loads(result) for result in results.loads],
        "new_tenants": results.new_tenants,
        "new_tenants_ahead": results.ahead,
        "crowds": results.crowds,
    }


def _raw_loads(result: Loads) -> dict[str, object]:
    samples = [{"case": case, "rounds": samples} for case, samples in result.samples.items()]
    return {"samples": samples, "failures": result.failures}


def _plain(value: Any) -> dict[str, object]:
    """A dataclass as JSON; what json.dumps does not know."""
    return {item.name: getattr(value, item.name) for item in fields(value)}


def _progress(text: str) -> None:
    print(f"bench: {text}", file=sys.stderr, flush=True)


def _check_endpoint(parser: argparse.ArgumentParser, endpoint: str, remote: bool) -> None:
    address = urlsplit(endpoint)
    if address.scheme != "http" or not address.hostname or address.path.strip("/"):
        parser.error(f"--endpoint {endpoint}: expected http://HOST:PORT, without TLS or a path")
    try:
        loopback = ipaddress.ip_address(address.hostname).is_loopback
    except ValueError:
        loopback = address.hostname == "localhost"
    if not loopback and not remote:
        parser.error(f"--endpoint {endpoint} is not on this machine; add --remote if you may load it")


def _bounded(kind: Callable[[str], _Number], low: _Number, high: _Number) -> Callable[[str], _Number]:
    def number(text: str) -> _Number:
        value = kind(text)
        if not low <= value <= high:
            raise argparse.ArgumentTypeError(f"{text}: expected {low} to {high}")
        return value

    return number


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description="Measure a Lambda endpoint next to the bare floor.")
    add = parser.add_argument
    add("--endpoint", metavar="URL", help="endpoint to measure (default: start an insula)")
    add("--label", default="endpoint", help="its name in the tables")
    add("--access-key", default="bench", help="access key of the endpoint")
    add("--secret-key", default="bench", help="its secret key")
    add("--region", default="us-east-1", help="region that requests are signed for")
    add("--pid", type=int, help="root of the endpoint's process tree, for its memory")
    add("--remote", action="store_true", help="allow an endpoint that is not on loopback")
    add("--runtime", default=f"python3.{sys.version_info.minor}", help="runtime of the functions")
    add("--role", default="arn:aws:iam::000000000000:role/bench", help="execution role of the functions")
    add("--memory", type=_bounded(int, 128, 10240), default=1769, help="MB; 1769, the default, is one vCPU")
    add("--rounds", type=_bounded(int, 1, 50), default=5, help="rounds of load (default 5)")
    add("--seconds", type=_bounded(float, 0.1, 60.0), default=2.0, help="length of one load (default 2)")
    add("--tenants", type=_bounded(int, 1, 500), default=50, help="new tenants of each handler (default 50)")
    add("--crowd", type=_bounded(int, 1, 2500), default=500, help="tenants held at once (default 500)")
    add("--time-limit", type=_bounded(float, 1.0, 7200.0), default=1200.0, help="seconds (default 1200)")
    add("--json", type=Path, metavar="FILE", help="write the raw figures there")
    return parser


if __name__ == "__main__":
    sys.exit(main())
