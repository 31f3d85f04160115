"""The command ``insula``."""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import re
import shlex
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from insula import __version__
from insula.dispatch.dispatcher import Policy
from insula.model.errors import LambdaError
from insula.model.limits import ACCOUNT_CONCURRENCY
from insula.sandbox.driver import RuntimeMissingError, SandboxError
from insula.sandbox.installation import install
from insula.sandbox.interpreters import find_interpreters
from insula.sandbox.probe import examine
from insula.sandbox.runtimes import default_folder, missing
from insula.server import ISOLATIONS, Settings, StartError, read_endpoint, serve
from insula.store.keys import first_access_key
from insula.store.schema import CatalogError
from insula.store.shares import SharesError
from insula.telemetry.logs import LogEvent, follow_events, read_events


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line; exits with 0, or 1 after a message on standard error."""
    options = _parser().parse_args(arguments)
    try:
        options.run(options)
    except (StartError, CatalogError, SandboxError, SharesError, LambdaError) as error:
        sys.exit(f"insula: {error}")
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # the reader, such as head, has enough
    except KeyboardInterrupt:
        sys.exit(130)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="insula", description="A function platform with AWS Lambda's API and tenant isolation mode."
    )
    parser.add_argument("--version", action="version", version=f"insula {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    _add_serve(commands.add_parser("serve", help="run the server"))
    command = commands.add_parser("env", help='print settings for AWS clients: eval "$(insula env)"')
    _add_data_dir(command)
    command.set_defaults(run=_env)
    _add_logs(commands.add_parser("logs", help="print the log of a function"))
    command = commands.add_parser("doctor", help="say what this host can do, what is missing and how to get it")
    command.set_defaults(run=_doctor)
    command = commands.add_parser("runtimes", help="install the clients of the language runtimes of this host")
    command.add_argument(
        "action",
        choices=["install"],
        help="install: fetch AWS's clients, from PyPI (with boto3) for Python, by npm for Node.js",
    )
    command.add_argument(
        "names", nargs="*", metavar="RUNTIME", help="such as python3.12 or nodejs22.x; default: every one found"
    )
    command.set_defaults(run=_runtimes)
    return parser


def _add_data_dir(parser: argparse.ArgumentParser) -> None:
    default = os.environ.get("INSULA_DATA_DIR") or str(Path.home() / ".local/share/insula")
    parser.add_argument(
        "--data-dir", type=Path, default=Path(default), metavar="DIR", help=f"state of the server (default: {default})"
    )


def _add_serve(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--host", type=_address, default="127.0.0.1", help="address to listen on (default: 127.0.0.1)")
    parser.add_argument("--port", type=_number(0, 65535), default=9900, help="default: 9900; 0: any free port")
    _add_data_dir(parser)
    parser.add_argument(
        "--region", type=_region, default="us-east-1", help="AWS region to stand for (default: us-east-1)"
    )
    parser.add_argument("--account-id", type=_account, default="000000000000", help="default: 000000000000")
    parser.add_argument("--no-auth", action="store_true", help="do not check signatures; only on loopback")
    parser.add_argument(
        "--isolation",
        choices=ISOLATIONS,
        default="namespaces",
        help="wall around environments (default: namespaces); none: no wall, and no tenant-isolated functions",
    )
    parser.add_argument(
        "--concurrency",
        type=_number(1, 100_000),
        default=ACCOUNT_CONCURRENCY,
        help=f"invocations at once in the account (default: {ACCOUNT_CONCURRENCY}); each 1000 allow every function "
        "2500 tenant environments",
    )
    parser.add_argument(
        "--idle-timeout",
        type=_number(1, 86_400),
        default=600,
        metavar="SECONDS",
        help="end an environment that had no work for so long (default: 600)",
    )
    parser.add_argument(
        "--max-age",
        type=_number(60, 7 * 86_400),
        default=14_400,
        metavar="SECONDS",
        help="end an environment so long after its start, once it is idle (default: 14400)",
    )
    parser.add_argument(
        "--proactive",
        type=_number(0, 100),
        default=10,
        metavar="N",
        help="keep up to N environments of each tenant-isolated function initialised and bound to no tenant, "
        "as many as new ones were lately needed (default: 10; 0: none)",
    )
    parser.add_argument(
        "--reserve-memory",
        type=_number(0, 1_000_000),
        default=512,
        metavar="MB",
        help="end idle environments, the longest idle first, when the host has less memory left (default: 512)",
    )
    parser.add_argument(
        "--limits",
        type=Path,
        metavar="FILE",
        help="TOML file of what one tenant may use (see docs/behavior.md); read again on SIGHUP",
    )
    parser.set_defaults(run=_serve)


def _add_logs(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("function", metavar="FUNCTION", help="name of the function")
    parser.add_argument("--tenant", metavar="T", help="only environments of this tenant id")
    parser.add_argument("--follow", action="store_true", help="wait for more")
    _add_data_dir(parser)
    parser.set_defaults(run=_logs)


def _number(low: int, high: int) -> type[int]:
    def convert(text: str) -> int:
        value = int(text)
        if not low <= value <= high:
            raise argparse.ArgumentTypeError(f"{value} is not between {low} and {high}")
        return value

    convert.__name__ = "number"
    return convert  # type: ignore[return-value]  # argparse calls it, as it would call int


def _region(text: str) -> str:
    if not re.fullmatch(r"[a-z]{2,4}(-[a-z]{2,16}){1,3}-[0-9]", text):
        raise argparse.ArgumentTypeError(f"{text!r} is not a region: a name such as us-east-1 is expected")
    return text


def _address(text: str) -> str:
    if not text.strip():  # to the operating system, nothing means every address
        raise argparse.ArgumentTypeError("an address is expected, such as 127.0.0.1")
    return text


def _account(text: str) -> str:
    if len(text) != 12 or not text.isascii() or not text.isdigit():
        raise argparse.ArgumentTypeError(f"{text!r} is not an account id: 12 digits are expected")
    return text


def _serve(options: argparse.Namespace) -> None:
    import uvloop  # noqa: PLC0415 - only the server needs it

    logging.basicConfig(format="%(asctime)s %(levelname)s %(name)s: %(message)s", level=logging.INFO, stream=sys.stderr)
    settings = Settings(
        data_dir=options.data_dir,
        host=options.host,
        port=options.port,
        region=options.region,
        account=options.account_id,
        no_auth=options.no_auth,
        isolation=options.isolation,
        concurrency=options.concurrency,
        policy=Policy(
            idle_seconds=options.idle_timeout,
            max_age=options.max_age,
            proactive=options.proactive,
            reserve_memory=options.reserve_memory << 20,
        ),
        limits=options.limits,
    )
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(serve(settings))


def _env(options: argparse.Namespace) -> None:
    server = read_endpoint(options.data_dir)
    key = first_access_key(options.data_dir)
    variables = {
        "AWS_ENDPOINT_URL_LAMBDA": server["endpoint"],
        "AWS_ACCESS_KEY_ID": key.access_key,
        "AWS_SECRET_ACCESS_KEY": key.secret,
        "AWS_DEFAULT_REGION": server["region"],
        "AWS_REGION": server["region"],
    }
    for name, value in variables.items():
        print(f"export {name}={shlex.quote(value)}")
    print("unset AWS_SESSION_TOKEN AWS_PROFILE")


def _logs(options: argparse.Namespace) -> None:
    account = read_endpoint(options.data_dir)["account"]
    read = follow_events if options.follow else read_events
    for event in read(options.data_dir / "logs", account, options.function, tenant=options.tenant):
        print(_line(event), flush=options.follow)


def _line(event: LogEvent) -> str:
    """One event: control characters are shown, not sent to the terminal; a traceback keeps its lines."""
    time = datetime.fromtimestamp(event.timestamp / 1000, UTC).strftime("%Y-%m-%dT%H:%M:%S.%f")[:-3] + "Z"
    text = "".join(c if c.isprintable() or c in "\t\n\u00a0" else f"\\x{ord(c):02x}" for c in event.message)
    tenant = f" [{event.tenant}]" if event.tenant is not None else ""
    return f"{time}{tenant} {text.replace(chr(10), chr(10) + '    ')}"


def _doctor(options: argparse.Namespace) -> None:  # noqa: ARG001
    missing_parts = 0
    for finding in examine():
        mark = {True: "ok     ", False: "MISSING", None: "info   "}[finding.ok]
        print(f"{mark} {finding.name}: {finding.detail}")
        if finding.ok is not True and finding.remedy:
            print(f"        → {finding.remedy}")
        missing_parts += finding.ok is False
    if missing_parts:
        sys.exit(f"insula: {missing_parts} missing. `insula serve` will not run functions on less isolation.")
    print("This host can run tenant-isolated functions behind namespaces.")


def _runtimes(options: argparse.Namespace) -> None:
    found = find_interpreters()
    for name in options.names:
        if name not in found:
            raise missing(name)
    installed = 0
    for name in options.names or found:
        try:
            runtime = install(found[name], default_folder())
        except RuntimeMissingError as error:
            if options.names:
                raise
            print(f"insula: left out: {error}", file=sys.stderr)
        else:
            print(f"{name}: {runtime.interpreter}")
            installed += 1
    if not installed:
        sys.exit("insula: no runtime was installed. Python 3.10 or newer is needed: apt-get install python3")
