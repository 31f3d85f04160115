"""The server: puts the parts together. Nothing else knows them all."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import ipaddress
import json
import logging
import os
import platform
import random
import resource
import signal
import socket
import sys
import time
import uuid
from dataclasses import dataclass, field
from pathlib import Path

from insula import __version__
from insula.artifacts.code import CodeStore
from insula.artifacts.layers import unpacked_layers
from insula.dispatch.dispatcher import Dispatcher, Policy
from insula.dispatch.quotas import Quotas
from insula.front.limits import Limits
from insula.front.server import Front
from insula.lambda_api.activation import Activation
from insula.lambda_api.app import LambdaApi, Page
from insula.lambda_api.context import Services
from insula.lambda_api.download import CodeLinks
from insula.lambda_api.provision import restore
from insula.lambda_api.service import load_service
from insula.lambda_api.sigv4 import Credential, Verifier
from insula.model.errors import InvalidParameterValueException
from insula.model.function import FunctionVersion
from insula.model.limits import ACCOUNT_CONCURRENCY
from insula.model.settings import FunctionSettings, function_settings
from insula.model.share import Shares
from insula.sandbox.driver import Driver, SandboxError
from insula.sandbox.namespaces.driver import NamespacesDriver
from insula.sandbox.process.driver import ProcessDriver
from insula.sandbox.runtimes import default_folder, default_runtime, load_runtimes
from insula.store.catalog import Catalog
from insula.store.shares import SharesError, load_shares
from insula.telemetry.logs import LogStore
from insula.telemetry.metrics import CONTENT_TYPE, Metrics

ISOLATIONS = ("namespaces", "none")
_ENDPOINT_FILE = "server.json"
_GRACE_SECONDS = 20.0
_COLLECT_SECONDS = 600.0

logger = logging.getLogger("insula")


class StartError(Exception):
    """The server cannot start; the message says why and what to do."""


@dataclass(frozen=True, slots=True)
class Settings:
    """What ``insula serve`` is told.

    Attributes:
        port: 0 takes a free one.
        account: the account that the first access key, and callers under ``no_auth``, belong to.
        concurrency: invocations that may run at once in the account.
        policy: how long environments are kept, and what lies ready.
        limits: file of tenants' shares; read again on SIGHUP.
    """

    data_dir: Path
    host: str = "127.0.0.1"
    port: int = 9900
    region: str = "us-east-1"
    account: str = "000000000000"
    no_auth: bool = False
    isolation: str = "namespaces"
    concurrency: int = ACCOUNT_CONCURRENCY
    policy: Policy = field(default_factory=Policy)
    limits: Path | None = None


async def serve(settings: Settings) -> None:
    """Run the server until SIGTERM or SIGINT, then stop gracefully.

    Raises:
        StartError: it cannot start.
    """
    if settings.no_auth and not _is_loopback(settings.host):
        raise StartError(
            f"--no-auth is refused on {settings.host}: anyone who reaches it could run code. "
            "Use it on 127.0.0.1 only, or sign requests (`insula env` prints a key)."
        )
    _raise_descriptor_limit()
    with contextlib.ExitStack() as stack:
        sock = stack.enter_context(_listen(settings))
        catalog = stack.enter_context(contextlib.closing(Catalog.open(settings.data_dir)))
        if not catalog.access_keys(settings.account):
            catalog.create_access_key(settings.account)
        await _serve(settings, catalog, sock)


async def _serve(settings: Settings, catalog: Catalog, sock: socket.socket) -> None:
    data = settings.data_dir
    quotas = Quotas(settings.concurrency, shares=_shares(settings))  # refused before anything is begun
    code = CodeStore(data / "code")
    layers = CodeStore(data / "layers")
    await _collect_once(catalog, code, layers, set())
    logs = LogStore(data / "logs", clock=time.time)
    background: list[asyncio.Task[None]] = []
    async with contextlib.AsyncExitStack() as stack:  # whatever happens, the host is left as it was
        stack.push_async_callback(_cancel, background)
        driver = await _start_driver(settings, stack)
        functions = _Functions(catalog, code, layers)
        dispatcher = Dispatcher(driver, functions, logs, quotas, settings.policy, available_memory=_available_memory)
        stack.push_async_callback(dispatcher.close, grace=0.0)
        _reload_on_hangup(settings, quotas)
        activation = Activation(catalog, _new_id)
        stack.push_async_callback(activation.close)
        services = Services(
            region=settings.region,
            architecture={"x86_64": "x86_64", "aarch64": "arm64"}[platform.machine()],
            catalog=catalog,
            code=code,
            layers=layers,
            invoker=dispatcher,
            activation=activation,
            links=CodeLinks((code, layers), os.urandom(32), time.time),
            concurrency=settings.concurrency,
            isolates=driver.isolates,
            check_runtime=driver.check_runtime,
            clock=time.time,
            new_id=_new_id,
            random=random.random,
        )
        verifier = None if settings.no_auth else _verifier(settings, catalog)
        pages = {b"/metrics": Page(Metrics(dispatcher.counts).render, CONTENT_TYPE, local=True)}
        app = LambdaApi(load_service(), services, verifier=verifier, account=settings.account, pages=pages)
        activation.resume()
        restore(services)
        work = (logs.run(), dispatcher.run(), _collect(catalog, code, layers, dispatcher))
        background.extend(asyncio.create_task(each) for each in work)
        _settle_interpreter()
        await _serve_http(app, settings, sock)


async def _start_driver(settings: Settings, stack: contextlib.AsyncExitStack) -> Driver:
    driver = _driver(settings)
    stack.push_async_callback(driver.close)
    try:
        await driver.start()
        if isinstance(driver, NamespacesDriver):
            await driver.warm(default_runtime())
    except SandboxError as error:
        raise StartError(str(error)) from error
    return driver


async def _cancel(tasks: list[asyncio.Task[None]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


@dataclass(frozen=True, slots=True)
class _Functions:
    """What the dispatcher knows of functions."""

    catalog: Catalog
    code_store: CodeStore
    layer_store: CodeStore

    def current(self, function: FunctionVersion) -> FunctionVersion | None:
        return self.catalog.function(function.account, function.name, function.version)

    def settings(self, function: FunctionVersion) -> FunctionSettings:
        try:
            return function_settings(self.catalog.tags(function.account, function.name))
        except InvalidParameterValueException as error:  # stored by another release
            logger.warning("%s: %s The default is used.", function.arn, error)
            return FunctionSettings()

    def code(self, function: FunctionVersion) -> Path:
        return self.code_store.unpacked_path(function.code_sha256)

    def layers(self, function: FunctionVersion) -> tuple[Path, ...]:
        return unpacked_layers(self.layer_store, function)


def _shares(settings: Settings) -> Shares:
    return Shares() if settings.limits is None else load_shares(settings.limits)


def _reload_on_hangup(settings: Settings, quotas: Quotas) -> None:
    """Read the tenants' shares again on SIGHUP; a file that is wrong changes nothing."""

    def reload() -> None:
        try:
            quotas.shares = _shares(settings)
            logger.info("the limits of tenants were read again")
        except SharesError as error:
            logger.error("%s The limits stay as they were.", error)  # noqa: TRY400 - its words say all

    asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, reload)


def _available_memory() -> int:
    """Bytes that processes can still get: proc_meminfo(5)."""
    with Path("/proc/meminfo").open() as file:
        return next(int(line.split()[1]) << 10 for line in file if line.startswith("MemAvailable:"))


async def _collect(catalog: Catalog, code: CodeStore, layers: CodeStore, dispatcher: Dispatcher) -> None:
    """Remove archives that no function and no environment needs any more, for ever."""
    while True:
        await asyncio.sleep(_COLLECT_SECONDS)
        await _collect_once(catalog, code, layers, dispatcher.code_in_use())


async def _collect_once(catalog: Catalog, code: CodeStore, layers: CodeStore, running: set[str]) -> None:
    functions = catalog.all_functions()
    await code.collect(running | {function.code_sha256 for function in functions})
    published = {version.sha256 for version in catalog.layers.all_versions()}
    held = {layer.sha256 for function in functions for layer in function.layers}
    await layers.collect(running | published | held)


async def _serve_http(app: LambdaApi, settings: Settings, sock: socket.socket) -> None:
    # Connections take no more than half of the descriptors: environments need some, too.
    descriptors, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    limits = Limits(connections=min(Limits().connections, descriptors // 2))
    front = Front(app, limits, grace=_GRACE_SECONDS)
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, front.stop)
    endpoint = f"http://{_url_host(settings.host)}:{sock.getsockname()[1]}"
    _write_endpoint(settings, endpoint)
    logger.info("Insula %s serves AWS Lambda's API at %s (isolation: %s)", __version__, endpoint, settings.isolation)
    await front.serve(sock)


def _write_endpoint(settings: Settings, endpoint: str) -> None:
    """Leave word for `insula env`; by a rename, so that it is there whole or not at all."""
    file = settings.data_dir / _ENDPOINT_FILE
    partial = file.with_suffix(".partial")
    partial.write_text(json.dumps({"endpoint": endpoint, "region": settings.region, "account": settings.account}))
    partial.replace(file)


def read_endpoint(data_dir: Path) -> dict[str, str]:
    """Where the server of this data folder is, or was last: endpoint, region and account.

    Raises:
        StartError: there never was one, or what it left is damaged.
    """
    try:
        found = json.loads((data_dir / _ENDPOINT_FILE).read_text())
        return {key: str(found[key]) for key in ("endpoint", "region", "account")}
    except FileNotFoundError:
        problem = f"No server has run on {data_dir}"
    except (OSError, ValueError, TypeError, KeyError) as error:
        problem = f"{data_dir / _ENDPOINT_FILE} cannot be read ({error})"
    raise StartError(f"{problem}. Start one: insula serve --data-dir {data_dir}")


def _driver(settings: Settings) -> Driver:
    runtimes = load_runtimes(default_folder())
    if settings.isolation == "none":
        return ProcessDriver(runtimes)
    if default_runtime() not in runtimes:
        raise StartError("No runtime is installed. Run: insula runtimes install")
    data = settings.data_dir
    return NamespacesDriver(runtimes, state=data / "sandbox", code=data / "code", layers=data / "layers")


def _verifier(settings: Settings, catalog: Catalog) -> Verifier:
    def find(access_key: str) -> Credential | None:
        found = catalog.credential(access_key)
        return None if found is None else Credential(access_key, *found)

    return Verifier(find, settings.region, time.time)


def _listen(settings: Settings) -> socket.socket:
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    try:
        sock = socket.create_server((settings.host, settings.port), family=family, backlog=2048)
    except OSError as error:
        raise StartError(
            f"Cannot listen on {settings.host} port {settings.port}: {error.strerror}. "
            "Is another server running? --port takes another number, or 0 for any free one."
        ) from error
    sock.setblocking(False)
    return sock


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _url_host(host: str) -> str:
    if host in ("0.0.0.0", "::"):  # noqa: S104 - clients of this host reach it on loopback
        return "127.0.0.1"
    return f"[{host}]" if ":" in host else host


def _raise_descriptor_limit() -> None:
    """Each environment needs five descriptors here."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def _settle_interpreter() -> None:
    """Keep the interpreter's own pauses out of invocations."""
    gc.collect()
    gc.freeze()  # what was made until now, the service model above all, lives as long as the server
    gc.set_threshold(10_000, 20, 50)
    sys.setswitchinterval(0.0005)  # 5 ms is how long the thread that writes logs would else hold up the event loop


def _new_id() -> str:
    return str(uuid.uuid4())
