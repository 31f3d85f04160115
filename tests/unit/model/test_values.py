"""Function versions, tenants, invocations and errors as values."""

from __future__ import annotations

import json
import re
import uuid

import pytest

from insula.model.errors import InvalidParameterValueException, LambdaError, TooManyRequestsException
from insula.model.function import FunctionVersion
from insula.model.invocation import new_request_id, new_trace_id
from insula.model.layer import Layer
from insula.model.tenant import check_tenant
from tests.simulation.fakes import new_function


def test_a_function_survives_its_document() -> None:
    function = new_function(
        environment={"A": "1"},
        layers=(Layer("arn:1", "aGFzaA==", 10, 20), Layer("arn:2", "aGFzaA==", 10, 20)),
        version="3",
    )
    assert FunctionVersion.from_document(json.loads(json.dumps(function.to_document()))) == function


def test_a_document_of_a_newer_release_is_refused() -> None:
    with pytest.raises(ValueError, match=r"\['snap_start'\].*newer release"):
        FunctionVersion.from_document({**new_function().to_document(), "snap_start": "On"})


def test_only_a_published_version_has_its_number_in_the_arn() -> None:
    assert str(new_function().arn).endswith(":function:f")
    assert str(new_function(version="3").arn).endswith(":function:f:3")


@pytest.mark.parametrize("tenant", [None, ""])
def test_a_tenant_isolated_function_needs_a_tenant(tenant: str | None) -> None:
    with pytest.raises(InvalidParameterValueException, match="Add a valid tenant ID in your request and try again"):
        check_tenant(new_function(), tenant)


@pytest.mark.parametrize("tenant", ["blue", ""])
def test_any_other_function_takes_none(tenant: str) -> None:
    with pytest.raises(InvalidParameterValueException, match="Remove the tenant ID from your request and try again"):
        check_tenant(new_function(tenancy=None), tenant)


def test_a_tenant_that_fits_is_accepted() -> None:
    check_tenant(new_function(), "blue")
    check_tenant(new_function(tenancy=None), None)


def test_request_ids_are_random_uuids() -> None:
    ids = {new_request_id() for _ in range(2000)}
    assert len(ids) == 2000
    for text in ids:
        found = uuid.UUID(text)
        assert (str(found), found.version, found.variant) == (text, 4, uuid.RFC_4122)


def test_trace_ids_have_the_form_of_x_ray() -> None:
    assert re.fullmatch(r"Root=1-[0-9a-f]{8}-[0-9a-f]{24};Parent=[0-9a-f]{16};Sampled=0", new_trace_id())


def test_every_error_is_registered_with_its_name_and_a_status() -> None:
    for code, kind in LambdaError.registry.items():
        assert kind.code == kind.__name__ == code
        assert 400 <= kind.status <= 599
        assert kind.message_key in ("message", "Message")


def test_throttling_says_why_and_when_to_come_back() -> None:
    error = TooManyRequestsException("Rate exceeded", reason="ConcurrentInvocationLimitExceeded")
    assert error.body() == {
        "Reason": "ConcurrentInvocationLimitExceeded",
        "Type": "User",
        "message": "Rate exceeded",
    }
    assert error.headers() == {"Retry-After": "1"}
