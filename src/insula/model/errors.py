"""Errors that the Lambda API answers with.

One class per AWS error. A class carries its wire name (``code``), its HTTP status and the letter case of the
body's message key, which differs per error on AWS; subclassing registers it in ``LambdaError.registry``.

    LambdaError
    ├── ValidationException                 400  a request that breaks the service model
    ├── InvalidParameterValueException      400
    ├── InvalidRequestContentException      400
    ├── NotImplementedException             501  an operation or form that Insula does not have yet
    ├── AccessError
    │   ├── MissingAuthenticationTokenException   403
    │   ├── IncompleteSignatureException    400
    │   ├── InvalidSignatureException       403
    │   ├── UnrecognizedClientException     403
    │   └── AccessDeniedException           403
    ├── ResourceNotFoundException           404
    ├── UnknownOperationException           404
    ├── ResourceConflictException           409
    ├── PreconditionFailedException         412
    ├── RequestEntityTooLargeException      413
    ├── CodeStorageExceededException        400
    ├── AliasLimitExceededException         400
    ├── ProvisionedConcurrencyConfigNotFoundException  404
    ├── TooManyRequestsException            429
    ├── ServiceException                    500
    └── ServiceUnavailableException         503  the server is stopping
"""

from __future__ import annotations

from typing import ClassVar

STALE_REVISION = (
    "The Revision Id provided does not match the latest Revision Id. "
    "Call the GetFunction/GetAlias API to retrieve the latest Revision Id"
)


class LambdaError(Exception):
    """An answer of the Lambda API other than success.

    Attributes:
        code: AWS's name of the error, sent in ``x-amzn-ErrorType``.
        status: HTTP status.
        message_key: ``message`` or ``Message``, as AWS spells it in this error's body.
        fault_type: the body's ``Type`` (``User`` or ``Service``); None where AWS sends none.
    """

    registry: ClassVar[dict[str, type[LambdaError]]] = {}
    code: ClassVar[str] = "ServiceException"
    status: ClassVar[int] = 500
    message_key: ClassVar[str] = "message"
    fault_type: ClassVar[str | None] = "User"

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        cls.code = cls.__name__
        LambdaError.registry[cls.code] = cls

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message

    def body(self) -> dict[str, object]:
        """The JSON body that AWS sends for this error."""
        body: dict[str, object] = {} if self.fault_type is None else {"Type": self.fault_type}
        body[self.message_key] = self.message
        return body

    def headers(self) -> dict[str, str]:
        """HTTP headers beyond the error type."""
        return {}


class ValidationException(LambdaError):
    """The request breaks the service model: a pattern, a length, a range or an enumeration."""

    status = 400
    fault_type = None


class InvalidParameterValueException(LambdaError):
    """A parameter is well formed, and wrong.

    Args:
        typed: whether AWS sends the body's ``Type``; for limits of concurrency it does not.
    """

    status = 400

    def __init__(self, message: str, *, typed: bool = True) -> None:
        super().__init__(message)
        self._typed = typed

    def body(self) -> dict[str, object]:
        return super().body() if self._typed else {self.message_key: self.message}


class InvalidRequestContentException(LambdaError):
    """The request's body is not JSON."""

    status = 400


class NotImplementedException(LambdaError):
    """AWS has this and Insula has not; nothing was done."""

    status = 501


class AccessError(LambdaError):
    """The caller could not be established, or may not do this."""

    status = 403
    fault_type = None


class MissingAuthenticationTokenException(AccessError):
    """The request is not signed."""


class IncompleteSignatureException(AccessError):
    """The authorization header lacks a part."""

    status = 400


class InvalidSignatureException(AccessError):
    """The signature does not match, or is too old."""


class UnrecognizedClientException(AccessError):
    """The access key is unknown."""


class AccessDeniedException(AccessError):
    """The caller is known and may not do this."""

    message_key = "Message"


class ResourceNotFoundException(LambdaError):
    """The function, version or other resource does not exist."""

    status = 404
    message_key = "Message"


class UnknownOperationException(LambdaError):
    """No operation has this method and path."""

    status = 404
    fault_type = None


class ResourceConflictException(LambdaError):
    """The resource exists already, or is in another state than the operation needs."""

    status = 409


class PreconditionFailedException(LambdaError):
    """The revision id is not the latest."""

    status = 412


class RequestEntityTooLargeException(LambdaError):
    """The request's body is over the operation's limit."""

    status = 413


class CodeStorageExceededException(LambdaError):
    """The account's code storage is full."""

    status = 400


class AliasLimitExceededException(LambdaError):
    """The function has as many aliases as it may."""

    status = 400


class ProvisionedConcurrencyConfigNotFoundException(LambdaError):
    """The version or alias has no provisioned concurrency."""

    status = 404


class TooManyRequestsException(LambdaError):
    """A limit is reached.

    Args:
        message: AWS says ``Rate Exceeded.`` or ``Rate exceeded``.
        reason: which limit, one of the service model's ThrottleReason values.
        retry_after: seconds to wait, sent as ``Retry-After``.
    """

    status = 429

    def __init__(self, message: str, *, reason: str, retry_after: int = 1) -> None:
        super().__init__(message)
        self.reason = reason
        self.retry_after = retry_after

    def body(self) -> dict[str, object]:
        return {"Reason": self.reason, "Type": "User", "message": self.message}

    def headers(self) -> dict[str, str]:
        return {"Retry-After": str(self.retry_after)}


class ServiceException(LambdaError):
    """Insula failed; the log of the server says why."""

    status = 500
    message_key = "Message"
    fault_type = "Service"


class ServiceUnavailableException(LambdaError):
    """The server is stopping."""

    status = 503
    fault_type = "Service"
