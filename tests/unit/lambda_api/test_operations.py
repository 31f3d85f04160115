"""Every operation of the model is built, or says that it is not."""

from __future__ import annotations

import json
from urllib.parse import quote

import botocore.session
import pytest
from botocore.exceptions import ClientError

from insula.lambda_api.operations import OPERATIONS
from insula.lambda_api.service import Service
from tests.unit.lambda_api.api_harness import Harness

MODEL = botocore.session.get_session().get_service_model("lambda")
BUILT = {
    "CreateAlias",
    "CreateFunction",
    "DeleteAlias",
    "DeleteFunction",
    "DeleteFunctionConcurrency",
    "DeleteLayerVersion",
    "DeleteProvisionedConcurrencyConfig",
    "GetAccountSettings",
    "GetAlias",
    "GetFunction",
    "GetFunctionConcurrency",
    "GetFunctionConfiguration",
    "GetLayerVersion",
    "GetLayerVersionByArn",
    "GetProvisionedConcurrencyConfig",
    "Invoke",
    "InvokeWithResponseStream",
    "ListAliases",
    "ListFunctions",
    "ListLayerVersions",
    "ListLayers",
    "ListProvisionedConcurrencyConfigs",
    "ListTags",
    "ListVersionsByFunction",
    "PublishLayerVersion",
    "PublishVersion",
    "PutFunctionConcurrency",
    "PutProvisionedConcurrencyConfig",
    "TagResource",
    "UntagResource",
    "UpdateAlias",
    "UpdateFunctionCode",
    "UpdateFunctionConfiguration",
}
REFUSED = {name for name in MODEL.operation_names if "FunctionUrl" in name}


def test_the_built_operations_are_registered_and_no_others(service: Service) -> None:
    assert set(OPERATIONS) == BUILT | REFUSED
    assert set(OPERATIONS) <= set(service.operations)


@pytest.mark.parametrize("name", sorted(set(MODEL.operation_names) - BUILT - REFUSED))
def test_any_other_operation_answers_501_by_name(unsigned: Harness, name: str) -> None:
    http = MODEL.operation_model(name).http
    path, _, query = http["requestUri"].partition("?")
    target = "/".join("x" if segment.startswith("{") else quote(segment) for segment in path.split("/"))
    answer = unsigned.request(http["method"], f"{target}?{query}" if query else target)
    assert (answer.status, answer.headers["x-amzn-errortype"]) == (501, "NotImplementedException")
    assert f"does not implement {name} yet" in json.loads(answer.body)["message"]


def test_boto3_does_not_retry_what_is_not_built(harness: Harness) -> None:
    with pytest.raises(ClientError) as caught:
        harness.client(config=None).list_event_source_mappings(FunctionName="hello")
    assert caught.value.response["Error"]["Code"] == "NotImplementedException"
    assert caught.value.response["ResponseMetadata"]["RetryAttempts"] == 0
