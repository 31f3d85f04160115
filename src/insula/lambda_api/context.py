"""What an operation works with: the services behind the API, and the request that it answers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from insula.artifacts.code import CodeStore
from insula.lambda_api.activation import Activation
from insula.lambda_api.download import CodeLinks
from insula.model.arn import FunctionArn, parse_reference
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


@dataclass(frozen=True, slots=True)
class Services:
    """What all requests share.

    Attributes:
        isolates: whether environments stand behind a wall that tenants may share the host behind.
        check_runtime: raises RuntimeMissingError for a runtime that this host lacks.
        architecture: ``x86_64`` or ``arm64``, the host's.
        clock: seconds since the epoch.
        new_id: a fresh UUID, for revisions and deployments.
    """

    region: str
    architecture: str
    catalog: Catalog
    code: CodeStore
    invoker: Invoker
    activation: Activation
    links: CodeLinks
    isolates: bool
    check_runtime: Callable[[str], None]
    clock: Callable[[], float]
    new_id: Callable[[], str]


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
