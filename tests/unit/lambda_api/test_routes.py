"""Paths of the service model lead to their operations."""

from __future__ import annotations

import pytest

from insula.lambda_api.service import Service
from insula.lambda_api.shapes import SerializationException
from insula.model.errors import UnknownOperationException


@pytest.mark.parametrize(
    ("method", "target", "operation", "values"),
    [
        ("GET", b"/2015-03-31/functions", "ListFunctions", ()),
        ("GET", b"/2015-03-31/functions/", "ListFunctions", ()),
        ("POST", b"/2015-03-31/functions/f/invocations", "Invoke", ("f",)),
        (
            "GET",
            b"/2015-03-31/functions/arn%3Aaws%3Alambda%3Af%3A%24LATEST",
            "GetFunction",
            ("arn:aws:lambda:f:$LATEST",),
        ),
        ("GET", b"/2017-03-31/tags/a%2Fb", "ListTags", ("a/b",)),
        ("GET", b"/2018-10-31/layers", "ListLayers", ()),
        ("GET", b"/2018-10-31/layers?find=LayerVersion&Arn=x", "GetLayerVersionByArn", ()),
        ("GET", b"/2019-09-30/functions/f/provisioned-concurrency", "GetProvisionedConcurrencyConfig", ("f",)),
        (
            "GET",
            b"/2019-09-30/functions/f/provisioned-concurrency?List=ALL",
            "ListProvisionedConcurrencyConfigs",
            ("f",),
        ),
        ("GET", b"/2019-09-25/functions/f/event-invoke-config/list", "ListFunctionEventInvokeConfigs", ("f",)),
    ],
)
def test_a_path_means_its_operation(
    service: Service, method: str, target: bytes, operation: str, values: tuple[str, ...]
) -> None:
    path, _, query = target.partition(b"?")
    route, found = service.routes.match(method, path, query)
    assert (route.operation, found) == (operation, values)


def test_every_operation_has_a_route_of_its_own(service: Service) -> None:
    assert sorted(route.operation for route in service.routes.all) == sorted(service.operations)


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", b"/"),
        ("GET", b""),
        ("GET", b"/2015-03-31/nothing"),
        ("DELETE", b"/2015-03-31/functions"),
        ("GET", b"/2015-03-31/functions/a/b/c/d/e/f"),
        ("GET", b"//2015-03-31/functions"),
        ("GET", b"/\xff"),
    ],
)
def test_any_other_path_is_an_unknown_operation(service: Service, method: str, path: bytes) -> None:
    with pytest.raises(UnknownOperationException):
        service.routes.match(method, path, b"")


def test_a_name_that_is_not_utf8_is_refused(service: Service) -> None:
    with pytest.raises(SerializationException, match="percent-encoded UTF-8"):
        service.routes.match("GET", b"/2015-03-31/functions/%ff%fe", b"")
