"""Generated requests: what fits the model is accepted or refused, what does not is a 4xx; nothing is a 500."""

from __future__ import annotations

import base64
import json
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import botocore.session
import pytest
from botocore.model import ListShape, MapShape, Shape, StringShape, StructureShape
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from insula.lambda_api.service import Service
from tests.unit.lambda_api.api_harness import ACCOUNT, ROLE, Harness, zipped
from tests.unit.lambda_api.api_harness import settings as good

MODEL = botocore.session.get_session().get_service_model("lambda")
CODE = base64.b64encode(zipped()).decode()
# Values that satisfy the patterns that a generator seldom meets, and the shapes that lead deepest.
KNOWN: dict[str, list[Any]] = {
    "FunctionName": ["hello", "other", "hello:1", "arn:aws:lambda:us-east-1:111111111111:function:hello"],
    "NamespacedFunctionName": ["hello", "other", "hello:1", "hello:$LATEST"],
    "RoleArn": [ROLE],
    "Runtime": ["python3.11", "python3.12", "python3.13", "java8"],
    "Handler": ["index.handler"],
    "Blob": [CODE],
    "FunctionCode": [{"ZipFile": CODE}, {}],
    "TaggableResource": ["arn:aws:lambda:us-east-1:111111111111:function:hello"],
    "EnvironmentVariableName": ["KEY", "AWS_REGION"],
    "TagKey": ["team"],
    "Qualifier": ["1", "$LATEST", "alias"],
    "NumericLatestPublishedOrAliasQualifier": ["1", "$LATEST", "alias"],
    "InvocationType": ["RequestResponse", "DryRun", "Event"],
    "SubnetId": ["subnet-1"],
    "SecurityGroupId": ["sg-1"],
    "TenantId": ["blue"],
}
JUNK = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=10),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
HOT = [
    "CreateFunction",
    "UpdateFunctionCode",
    "UpdateFunctionConfiguration",
    "PublishVersion",
    "ListFunctions",
    "ListVersionsByFunction",
    "GetFunction",
    "DeleteFunction",
    "Invoke",
    "TagResource",
    "UntagResource",
    "ListTags",
    "GetAccountSettings",
]


@pytest.fixture(scope="module")
def server(service: Service) -> Iterator[Harness]:
    with tempfile.TemporaryDirectory() as folder:
        harness = Harness(service, Path(folder), signed=False)
        yield harness
        harness.close()


def fitting(shape: Shape) -> st.SearchStrategy[Any]:
    """Values of a shape; most fit its constraints, too."""
    if shape.name in KNOWN:
        return st.sampled_from(KNOWN[shape.name])
    if isinstance(shape, StructureShape):
        members = {name: fitting(member) for name, member in shape.members.items()}
        required = {name: members.pop(name) for name in shape.required_members}
        return st.fixed_dictionaries(required, optional=members)
    if isinstance(shape, ListShape):
        return st.lists(fitting(shape.member), max_size=2)
    if isinstance(shape, MapShape):
        return st.dictionaries(fitting(shape.key), fitting(shape.value), max_size=2)
    if isinstance(shape, StringShape):
        return st.sampled_from(shape.enum) if shape.enum else st.text("abc-1", min_size=1, max_size=8)
    return _scalar(shape)


def _scalar(shape: Shape) -> st.SearchStrategy[Any]:
    least, most = shape.metadata.get("min", 0), shape.metadata.get("max", 1000)
    scalars: dict[str, st.SearchStrategy[Any]] = {
        "boolean": st.booleans(),
        "blob": st.just(CODE),
        "timestamp": st.integers(0, 10**9),
        "double": st.floats(least, most),
    }
    return scalars.get(shape.type_name, st.integers(least, most))


@st.composite
def requests(draw: st.DrawFn, *, broken: bool) -> tuple[str, dict[str, Any]]:
    """An operation and its members; if broken, one member is replaced by junk."""
    name = draw(st.sampled_from(HOT) if not broken else st.sampled_from([*HOT, *MODEL.operation_names]))
    shape = MODEL.operation_model(name).input_shape
    members: dict[str, Any] = draw(fitting(shape)) if shape else {}
    if shape and not broken:
        # Few optional members: most have some value that Insula does not honour, and one is enough to be refused.
        optional = sorted(set(members) - set(shape.required_members))
        kept = draw(st.lists(st.sampled_from(optional), max_size=2)) if optional else []
        members = {name: value for name, value in members.items() if name not in optional or name in kept}
    if name == "CreateFunction" and not broken:
        members = good(Code={"ZipFile": CODE}) | members
    if broken and shape and shape.members:
        members[draw(st.sampled_from(sorted(shape.members)))] = draw(JUNK)
    return name, members


def send(server: Harness, name: str, members: dict[str, Any]) -> int:
    operation = MODEL.operation_model(name)
    shapes = operation.input_shape.members if operation.input_shape else {}
    path, _, query = operation.http["requestUri"].partition("?")
    headers: list[tuple[bytes, bytes]] = []
    document: dict[str, Any] = {}
    pairs = [query] if query else []
    for member, value in members.items():
        where = shapes[member].serialization
        wire = where.get("name", member)
        if where.get("location") == "uri":
            path = path.replace(f"{{{wire}}}", quote(_text(value), safe=""))
        elif where.get("location") == "querystring":
            values = value if isinstance(value, list) else [value]
            pairs += [f"{wire}={quote(_text(item), safe='')}" for item in values]
        elif where.get("location") == "header":
            headers.append((wire.lower().encode(), _text(value).encode("utf-8", "replace")))
        else:
            document[member] = value
    body = json.dumps(document).encode()
    target = f"{path}?{'&'.join(pairs)}" if pairs else path
    return server.request(operation.http["method"], target.encode("utf-8", "replace"), body, headers).status


def _text(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value)
    return text.encode("utf-8", "replace").decode()


@settings(max_examples=300, deadline=None, suppress_health_check=list(HealthCheck))
@given(request=requests(broken=False))
def test_a_request_that_fits_the_model_is_answered(server: Harness, request: tuple[str, dict[str, Any]]) -> None:
    if server.catalog.function(ACCOUNT, "hello") is None:
        server.client().create_function(**good(Publish=True))
    status = send(server, *request)
    assert status < 500 or status == 501


@settings(max_examples=500, deadline=None, suppress_health_check=list(HealthCheck))
@given(request=requests(broken=True))
def test_a_broken_request_is_never_a_500(server: Harness, request: tuple[str, dict[str, Any]]) -> None:
    status = send(server, *request)
    assert status < 500 or status == 501


@settings(max_examples=300, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    method=st.sampled_from(["GET", "POST", "PUT", "DELETE", "HEAD", "X"]),
    target=st.one_of(
        st.binary(max_size=60),
        st.sampled_from([b"/2015-03-31/functions", b"/2015-03-31/functions/hello/invocations", b"/2017-03-31/tags/"]),
    ),
    tail=st.binary(max_size=20),
    body=st.binary(max_size=60),
    headers=st.lists(
        st.tuples(
            st.sampled_from([b"x-amz-tenant-id", b"content-length", b"host", b"x-amz-client-context", b"x"]),
            st.binary(max_size=20),
        ),
        max_size=4,
    ),
)
def test_bytes_from_the_wire_are_never_a_500(
    server: Harness, method: str, target: bytes, tail: bytes, body: bytes, headers: list[tuple[bytes, bytes]]
) -> None:
    status = server.request(method, target + tail, body, headers).status
    assert status < 500 or status == 501
