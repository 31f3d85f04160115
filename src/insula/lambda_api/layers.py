"""Layers and their versions."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from insula.lambda_api.context import Context
from insula.lambda_api.paging import page
from insula.lambda_api.refusals import refuse_unsupported
from insula.lambda_api.registry import operation
from insula.lambda_api.settings import timestamp
from insula.lambda_api.storage import store
from insula.model.errors import AccessDeniedException, InvalidParameterValueException, ResourceNotFoundException
from insula.model.layer import LayerArn, LayerVersion, parse_layer_arn


@operation("PublishLayerVersion")
async def publish_layer_version(context: Context, request: dict[str, Any]) -> Mapping[str, Any]:
    """Publish the next version of a layer from an inline zip."""
    refuse_unsupported(request)
    services = context.services
    arn = _named(context, request["LayerName"])
    zipped = request["Content"].get("ZipFile")
    if zipped is None:
        raise InvalidParameterValueException("Please provide a source for the layer's content: Content.ZipFile.")
    archive = await store(services, services.layers, zipped)

    def make(number: int) -> LayerVersion:
        return LayerVersion(
            account=arn.account,
            region=arn.region,
            name=arn.name,
            version=number,
            created=timestamp(services.clock()),
            sha256=archive.sha256,
            size=archive.size,
            unpacked_size=archive.unpacked_size,
            description=request.get("Description", ""),
            license=request.get("LicenseInfo"),
            runtimes=_tuple(request.get("CompatibleRuntimes")),
            architectures=_tuple(request.get("CompatibleArchitectures")),
        )

    return _full(context, await services.catalog.layers.publish(arn.account, arn.name, make))


@operation("GetLayerVersion")
async def get_layer_version(context: Context, request: dict[str, Any]) -> Mapping[str, Any]:
    """A layer version, with a link to its archive."""
    arn = _named(context, request["LayerName"])
    return _full(context, _find(context, arn.of(_number(request))))


@operation("GetLayerVersionByArn")
async def get_layer_version_by_arn(context: Context, request: dict[str, Any]) -> Mapping[str, Any]:
    """The same by the ARN of the layer version."""
    return _full(context, _find(context, parse_layer_arn(request["Arn"])))


@operation("ListLayers")
async def list_layers(context: Context, request: dict[str, Any]) -> Mapping[str, Any]:
    """The newest fitting version of each layer that has one."""
    layers = context.services.catalog.layers
    fitting = (_fitting(layers.versions(context.account, name), request) for name in layers.names(context.account))
    newest = (versions[0] for versions in fitting if versions)
    found, marker = page(newest, lambda version: (version.name, 0), request)
    shown = [
        {
            "LayerName": version.name,
            "LayerArn": str(LayerArn(version.region, version.account, version.name)),
            "LatestMatchingVersion": _listed(version),
        }
        for version in found
    ]
    return {"NextMarker": marker, "Layers": shown}


@operation("ListLayerVersions")
async def list_layer_versions(context: Context, request: dict[str, Any]) -> Mapping[str, Any]:
    """The fitting versions of a layer, newest first; empty if there is no such layer, as on AWS."""
    arn = _named(context, request["LayerName"])
    versions = _fitting(context.services.catalog.layers.versions(context.account, arn.name), request)
    found, marker = page(versions, lambda version: (version.name, -version.version), request)
    return {"NextMarker": marker, "LayerVersions": [_listed(version) for version in found]}


@operation("DeleteLayerVersion")
async def delete_layer_version(context: Context, request: dict[str, Any]) -> Mapping[str, Any]:
    """Delete a layer version; functions that have it keep it. None is no error, as on AWS."""
    arn = _named(context, request["LayerName"])
    await context.services.catalog.layers.delete(context.account, arn.name, _number(request))
    return {}


def _named(context: Context, reference: str) -> LayerArn:
    """The layer of a LayerName, which is a name or an ARN."""
    arn = parse_layer_arn(reference)
    if arn is None:
        return LayerArn(context.services.region, context.account, reference)
    _check_own(context, arn)
    return arn


def _find(context: Context, arn: LayerArn | None) -> LayerVersion:
    version = None
    if arn is not None:
        _check_own(context, arn)
        version = context.services.catalog.layers.version(arn.account, arn.name, arn.version or 0)
    if version is None:
        raise ResourceNotFoundException("The resource you requested does not exist.")
    return version


def _check_own(context: Context, arn: LayerArn) -> None:
    if arn.region != context.services.region:
        raise ResourceNotFoundException("The resource you requested does not exist.")
    if arn.account != context.account:
        raise AccessDeniedException(
            f"The layer belongs to account {arn.account}, and the caller to account {context.account}. "
            "Use a layer of the caller's own account."
        )


def _number(request: Mapping[str, Any]) -> int:
    number: int = request["VersionNumber"]
    if number < 1:
        raise InvalidParameterValueException("Layer Version Cannot be less than 1")
    return number


def _fitting(versions: Iterable[LayerVersion], request: Mapping[str, Any]) -> list[LayerVersion]:
    runtime, architecture = request.get("CompatibleRuntime"), request.get("CompatibleArchitecture")
    return [version for version in versions if version.fits(runtime, architecture)]


def _full(context: Context, version: LayerVersion) -> dict[str, Any]:
    content = {
        "Location": context.services.links.url(context.base_url, version.sha256),
        "CodeSha256": version.sha256,
        "CodeSize": version.size,
    }
    arn = LayerArn(version.region, version.account, version.name)
    return {"Content": content, "LayerArn": str(arn), **_listed(version)}


def _listed(version: LayerVersion) -> dict[str, Any]:
    shown = {
        "LayerVersionArn": str(version.arn),
        "Version": version.version,
        "Description": version.description,
        "CreatedDate": version.created,
        "CompatibleArchitectures": version.architectures,
        "CompatibleRuntimes": version.runtimes,
        "LicenseInfo": version.license,
    }
    return {name: value for name, value in shown.items() if value is not None}


def _tuple(given: list[str] | None) -> tuple[str, ...] | None:
    return None if given is None else tuple(given)
