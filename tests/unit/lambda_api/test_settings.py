"""What AWS refuses in the operation, what Insula does not honour, and what tenant isolation mode excludes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import ClientError

from insula.lambda_api.service import Service
from insula.model.arn import LATEST
from tests.unit.lambda_api.api_harness import ACCOUNT, REGION, Harness, settings, zipped

ENVIRONMENT = (
    "Lambda was unable to configure your environment variables because the environment variables you have provided "
)
PER_TENANT = {"TenantIsolationMode": "PER_TENANT"}


def refused(call: Any, **request: Any) -> tuple[str, str]:
    with pytest.raises(ClientError) as caught:
        call(**request)
    error = caught.value.response["Error"]
    return str(error["Code"]), str(error["Message"])


def message_of(client: Any, **changes: Any) -> str:
    code, message = refused(client.create_function, **settings(**changes))
    assert code == "InvalidParameterValueException"
    return message


@pytest.mark.parametrize(
    "runtime", ["dotnetcore3.1", "go1.x", "java8", "nodejs14.x", "provided", "python3.7", "ruby2.7"]
)
def test_a_deprecated_runtime_is_refused_as_on_aws(client: Any, runtime: str) -> None:
    assert message_of(client, Runtime=runtime) == (
        f"The runtime parameter of {runtime} is no longer supported for creating or updating AWS Lambda functions. "
        "We recommend you use a supported runtime while creating or updating functions."
    )


@pytest.mark.parametrize("runtime", ["non-existent-runtime", "PYTHON3.9", ""])
def test_an_unknown_runtime_is_refused_as_on_aws(client: Any, runtime: str) -> None:
    message = message_of(client, Runtime=runtime)
    assert message.startswith(
        f"Value {runtime} at 'runtime' failed to satisfy constraint: Member must satisfy enum value set: ["
    )
    assert message.endswith("] or be a valid ARN")


def test_a_runtime_that_the_host_lacks_is_refused_with_advice(client: Any) -> None:
    assert message_of(client, Runtime="python3.13") == ("This host has no python3.13. Install it, or use python3.11.")


@pytest.mark.parametrize("member", ["Runtime", "Handler"])
def test_runtime_and_handler_are_mandatory(client: Any, member: str) -> None:
    request = settings()
    del request[member]
    assert refused(client.create_function, **request) == (
        "InvalidParameterValueException",
        "Runtime and Handler are mandatory parameters for functions created with deployment packages.",
    )


def test_code_is_mandatory_and_must_be_a_zip(client: Any) -> None:
    assert message_of(client, Code={}) == "Please provide a source for function code."
    assert message_of(client, Code={"ZipFile": b"no zip"}).startswith("Could not unzip uploaded file.")


def test_the_environment_may_measure_4096_bytes(client: Any) -> None:
    client.create_function(**settings(Environment={"Variables": {"LARGE_VAR": "x" * 4080}}))
    variables = {"SMALL_VAR": "ok", "LARGE_VAR": "x" * 4064}
    assert message_of(client, FunctionName="other", Environment={"Variables": variables}) == (
        f'{ENVIRONMENT}exceeded the 4KB limit. String measured: {{"SMALL_VAR":"ok","LARGE_VAR":"{"x" * 4064}"}}'
    )


def test_reserved_variables_are_refused(client: Any) -> None:
    variables = {"AWS_REGION": "x", "_HANDLER": "y", "OK": "z", "TZ": "UTC"}
    message = refused(client.create_function, **settings(Environment={"Variables": {"AWS_REGION": "x", "OK": "z"}}))[1]
    assert message == (
        f"{ENVIRONMENT}contains reserved keys that are currently not supported for modification. "
        "Reserved keys used in this request: AWS_REGION"
    )
    # AWS's pattern for names already excludes a leading underscore.
    assert refused(client.create_function, **settings(Environment={"Variables": variables}))[0] == "ValidationException"


def test_more_than_fifty_tags_are_refused(client: Any) -> None:
    tags = {f"key{number}": "" for number in range(51)}
    assert message_of(client, Tags=tags) == "Number of tags exceeds resource tag limit."


def test_tags_are_insulas_own_settings_and_others_of_them_are_refused(harness: Harness, client: Any) -> None:
    assert "Insula has no setting insula:x" in message_of(client, Tags={"insula:x": "1"})
    client.create_function(**settings(Tags={"insula:evict-idle": "true"}))
    arn = f"arn:aws:lambda:{REGION}:{ACCOUNT}:function:hello"
    code, message = refused(client.tag_resource, Resource=arn, Tags={"insula:proactive": "many"})
    assert (code, "0 to 100" in message) == ("InvalidParameterValueException", True)
    assert harness.catalog.tags(ACCOUNT, "hello") == {"insula:evict-idle": "true"}


BUCKET = {"S3Bucket": "bucket", "S3Key": "key"}
NFS = {
    "Arn": f"arn:aws:elasticfilesystem:{REGION}:{ACCOUNT}:access-point/fsap-0123456789abcdef0",
    "LocalMountPath": "/mnt/a",
}
PROVIDER = {
    "LambdaManagedInstancesCapacityProviderConfig": {
        "CapacityProviderArn": f"arn:aws:lambda:{REGION}:{ACCOUNT}:capacity-provider:p"
    }
}
RUNTIME_CONFIG = {"RuntimeArn": f"arn:aws:lambda:{REGION}:{ACCOUNT}:runtime/some-runtime", "RuntimeAlias": "a"}
UNHONOURED: list[tuple[str, dict[str, Any]]] = [
    ("Code.S3Bucket", {"Code": BUCKET}),
    ("Code.ImageUri", {"Code": {"ImageUri": "image"}}),
    ("Code.SourceKMSKeyArn", {"Code": {"ZipFile": zipped(), "SourceKMSKeyArn": "arn:aws:kms:x"}}),
    ("PackageType", {"PackageType": "Image"}),
    ("ImageConfig", {"ImageConfig": {"Command": ["a"]}}),
    ("VpcConfig.SubnetIds", {"VpcConfig": {"SubnetIds": ["subnet-1"], "SecurityGroupIds": ["sg-1"]}}),
    ("VpcConfig.SecurityGroupIds", {"VpcConfig": {"SecurityGroupIds": ["sg-1"]}}),
    ("DeadLetterConfig.TargetArn", {"DeadLetterConfig": {"TargetArn": "arn:aws:sqs:x"}}),
    ("KMSKeyArn", {"KMSKeyArn": "arn:aws:kms:x"}),
    ("TracingConfig.Mode", {"TracingConfig": {"Mode": "Active"}}),
    ("FileSystemConfigs", {"FileSystemConfigs": [NFS]}),
    ("SnapStart.ApplyOn", {"SnapStart": {"ApplyOn": "PublishedVersions"}}),
    ("LoggingConfig.LogFormat", {"LoggingConfig": {"LogFormat": "JSON"}}),
    ("LoggingConfig.ApplicationLogLevel", {"LoggingConfig": {"ApplicationLogLevel": "INFO"}}),
    ("LoggingConfig.SystemLogLevel", {"LoggingConfig": {"SystemLogLevel": "INFO"}}),
    ("LoggingConfig.LogGroup", {"LoggingConfig": {"LogGroup": "/mine"}}),
    ("PublishTo", {"PublishTo": "LATEST_PUBLISHED"}),
    ("CapacityProviderConfig", {"CapacityProviderConfig": PROVIDER}),
    ("DurableConfig", {"DurableConfig": {"RetentionPeriodInDays": 1}}),
    ("RuntimeConfig", {"RuntimeConfig": RUNTIME_CONFIG}),
    ("AcceleratorConfig", {"AcceleratorConfig": {"AcceleratorMemorySize": 1}}),
    ("Architectures", {"Architectures": ["arm64"]}),
]


@pytest.mark.parametrize(("member", "changes"), UNHONOURED, ids=[member for member, _ in UNHONOURED])
def test_what_is_not_honoured_is_refused_by_name(
    harness: Harness, client: Any, member: str, changes: dict[str, Any]
) -> None:
    assert message_of(client, **changes).startswith(f"Insula does not support this value of {member}: ")
    assert not harness.catalog.functions(ACCOUNT)


def test_what_is_not_honoured_is_refused_at_updates_too(harness: Harness, client: Any) -> None:
    client.create_function(**settings())
    client.get_waiter("function_active_v2").wait(FunctionName="hello", WaiterConfig={"Delay": 0})
    before = harness.catalog.function(ACCOUNT, "hello", LATEST)
    configurations: list[tuple[str, dict[str, Any]]] = [
        ("TracingConfig.Mode", {"TracingConfig": {"Mode": "Active"}}),
        ("DeadLetterConfig.TargetArn", {"DeadLetterConfig": {"TargetArn": "arn:aws:sqs:x"}}),
    ]
    for member, request in configurations:
        _, message = refused(client.update_function_configuration, FunctionName="hello", **request)
        assert message.startswith(f"Insula does not support this value of {member}: ")
    codes: list[tuple[str, dict[str, Any]]] = [("S3Bucket", BUCKET), ("Architectures", {"Architectures": ["arm64"]})]
    for member, request in codes:
        _, message = refused(client.update_function_code, FunctionName="hello", **request)
        assert message.startswith(f"Insula does not support this value of {member}: ")
    _, message = refused(client.publish_version, FunctionName="hello", PublishTo="LATEST_PUBLISHED")
    assert message.startswith("Insula does not support this value of PublishTo: ")
    assert harness.catalog.function(ACCOUNT, "hello", LATEST) == before


def test_tenancy_is_copied_to_versions_and_kept_by_updates(client: Any) -> None:
    client.create_function(**settings(TenancyConfig=PER_TENANT, Publish=True))
    client.get_waiter("function_active_v2").wait(FunctionName="hello", WaiterConfig={"Delay": 0})
    updated = client.update_function_configuration(FunctionName="hello", Timeout=9)
    version = client.get_function_configuration(FunctionName="hello", Qualifier="1")
    assert updated["TenancyConfig"] == version["TenancyConfig"] == PER_TENANT


def test_tenancy_has_one_mode_only(client: Any) -> None:
    code, message = refused(client.create_function, **settings(TenancyConfig={"TenantIsolationMode": "SHARED"}))
    assert code == "ValidationException"
    assert message.endswith("Member must satisfy enum value set: [PER_TENANT]")


def test_tenancy_excludes_snapstart_at_creation_and_at_updates(client: Any) -> None:
    snapstart = {"SnapStart": {"ApplyOn": "PublishedVersions"}}
    text = "SnapStart is not supported for functions with tenant isolation mode."
    assert message_of(client, TenancyConfig=PER_TENANT, **snapstart) == text
    client.create_function(**settings(TenancyConfig=PER_TENANT))
    client.get_waiter("function_active_v2").wait(FunctionName="hello", WaiterConfig={"Delay": 0})
    assert refused(client.update_function_configuration, FunctionName="hello", **snapstart)[1] == text


def test_tenancy_is_not_offered_in_new_zealand(service: Service, tmp_path: Path) -> None:
    harness = Harness(service, tmp_path, region="ap-southeast-6")
    client = harness.client()
    assert "not available in region ap-southeast-6" in message_of(client, TenancyConfig=PER_TENANT)
    client.create_function(**settings())
    harness.close()


def test_tenancy_excludes_function_urls(client: Any) -> None:
    client.create_function(**settings(TenancyConfig=PER_TENANT))
    client.create_function(**settings(FunctionName="plain"))
    assert refused(client.create_function_url_config, FunctionName="hello", AuthType="NONE") == (
        "InvalidParameterValueException",
        "A function URL is not supported for functions with tenant isolation mode.",
    )
    code, _ = refused(client.create_function_url_config, FunctionName="plain", AuthType="NONE")
    assert code == "NotImplementedException"
