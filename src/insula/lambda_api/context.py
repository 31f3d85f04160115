"""What an operation works with: the services behind the API, and the request that it answers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from insula.artifacts.code import CodeStore
from insula.dispatch.provision import Provisioned
from insula.lambda_api.activation import Activation
from insula.lambda_api.download import CodeLinks
from insula.model.arn import FunctionArn, parse_reference
from insula.model.function import FunctionVersion
from insula.model.invocation import Invocation, InvocationResult
from insula.store.catalog import Catalog


class Invoker(Protocol):
    """Runs invocations: the dispatcher."""

    async def invoke(self, invocation: Invocation) -> InvocationResult:
        """Run once and wait for the outcome. Raises LambdaError."""
        ...

    def retire(self, deployment: str) -> None:
        """Let the environments of a superseded deployment finish, and end them."""
        ...

    def reserve(self, account: str, name: str, concurrency: int | None) -> None:
        """From now on a function has this reserved concurrency; None: none. Idempotent."""
        ...

    def provision(self, function: FunctionVersion, count: int) -> None:
        """Keep so many environments of a version initialised from now on; 0: none. Idempotent."""
        ...

    def provisioned(self, deployment: str) -> Provisioned:
        """How far the environments of ``provision`` are."""
        ...


@dataclass(frozen=True, slots=True)
class Services:
    """What all requests share.

    Attributes:
        layers: archives of layers.
        concurrency: invocations that may run at once in an account.
        isolates: whether environments stand behind a wall that tenants may share the host behind.
        check_runtime: raises RuntimeMissingError for a runtime that this host lacks.
        architecture: ``x86_64`` or ``arm64``, the host's.
        clock: seconds since the epoch.
        new_id: a fresh UUID, for revisions and deployments.
        random: a number from 0 up to, and without, 1; chooses among the versions of an alias.
    """

    region: str
    architecture: str
    catalog: Catalog
    code: CodeStore
    layers: CodeStore
    invoker: Invoker
    activation: Activation
    links: CodeLinks
    concurrency: int
    isolates: bool
    check_runtime: Callable[[str], None]
    clock: Callable[[], float]
    new_id: Callable[[], str]
    random: Callable[[], float]


@dataclass(slots=True)
class Context:
    """One request.

    Attributes:
        account: the caller's, established by the signature.
        base_url: scheme and host that the caller used.
        trace_id: the X-Ray header that the caller sent, not validated; empty if none.
    """

    services: Services
    account: str
    request_id: str
    base_url: str = ""
    trace_id: str = ""

    def reference(self, request: Mapping[str, Any]) -> FunctionArn:
        """The function that a request names by FunctionName and Qualifier. Raises LambdaError."""
        return parse_reference(
            request["FunctionName"],
            region=self.services.region,
            account=self.account,
            qualifier=request.get("Qualifier"),
        )
