"""The whole service model, compiled once when the server starts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from botocore.loaders import Loader

from insula.lambda_api.codec import Decoder, Encoder
from insula.lambda_api.containers import Shapes
from insula.lambda_api.routes import Routes
from insula.model import limits

_BODY_LIMITS = {
    "Invoke": limits.REQUEST_PAYLOAD_BYTES,
    "InvokeWithResponseStream": limits.REQUEST_PAYLOAD_BYTES,
    "CreateFunction": limits.CREATE_REQUEST_BYTES,
    "UpdateFunctionCode": limits.CREATE_REQUEST_BYTES,
    "PublishLayerVersion": limits.CREATE_REQUEST_BYTES,
}


@dataclass(frozen=True, slots=True)
class ModelledOperation:
    """One operation of the model.

    Attributes:
        body_limit: most bytes that a request's body may have.
        action: the operation's name in AWS's messages about sizes.
    """

    name: str
    decoder: Decoder
    encoder: Encoder
    body_limit: int

    @property
    def action(self) -> str:
        return "InvokeFunction" if self.name == "Invoke" else self.name


class Service:
    """Routes, decoders and encoders of all operations, made from botocore's service model of AWS Lambda."""

    def __init__(self, model: Mapping[str, Any]) -> None:
        names = _as_aws_checks(model["shapes"])
        shapes = Shapes(names)
        self.routes = Routes(model["operations"])
        by_name = {route.operation: route for route in self.routes.all}
        self.operations = {
            name: ModelledOperation(
                name=name,
                decoder=Decoder(by_name[name], _shape(names, operation.get("input")) or {}, shapes),
                encoder=Encoder(operation["http"]["responseCode"], _shape(names, operation.get("output"))),
                body_limit=_BODY_LIMITS.get(name, limits.CONTROL_REQUEST_BYTES),
            )
            for name, operation in model["operations"].items()
        }


def load_service() -> Service:
    """Compile the service model that the installed botocore ships."""
    return Service(Loader().load_service_model("lambda", "service-2"))


def _shape(shapes: Mapping[str, Any], reference: Mapping[str, Any] | None) -> Mapping[str, Any] | None:
    return None if reference is None else shapes[reference["shape"]]


def _as_aws_checks(shapes: Mapping[str, Any]) -> Mapping[str, Any]:
    """The shapes with runtimes where AWS judges them.

    Those of functions it judges in the operation, with a text of its own (see settings.py); those of layers by the
    model, and a list of them as a whole.
    """
    runtime = shapes["Runtime"]
    listed = {**shapes["CompatibleRuntimes"], "enum": runtime["enum"]}
    adapted = {**shapes, "Runtime": {"type": "string"}, "AnyRuntime": runtime, "CompatibleRuntimes": listed}
    for name in ("ListLayersRequest", "ListLayerVersionsRequest"):
        members = shapes[name]["members"]
        filtered = {**members, "CompatibleRuntime": {**members["CompatibleRuntime"], "shape": "AnyRuntime"}}
        adapted[name] = {**shapes[name], "members": filtered}
    return adapted
