"""The layers that a function asks for."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from insula.artifacts.layers import unpacked_layers
from insula.lambda_api.context import Context
from insula.model import limits
from insula.model.errors import AccessDeniedException, InvalidParameterValueException, ResourceNotFoundException
from insula.model.function import FunctionVersion
from insula.model.layer import Layer, LayerArn, parse_layer_arn
from insula.sandbox.extensions import external_extensions


def find_layers(context: Context, references: Sequence[str]) -> tuple[Layer, ...]:
    """The layer versions that a function names, in its order.

    Raises:
        InvalidParameterValueException: too many, two versions of one layer, of another region, or not there.
        AccessDeniedException: of another account.
    """
    if len(references) > limits.MAX_LAYERS:
        raise InvalidParameterValueException(f"Cannot reference more than {limits.MAX_LAYERS} layers.")
    arns = [_parse(context, reference) for reference in references]
    _check_distinct(arns)
    return tuple(_find(context, arn) for arn in arns)


def check_layers(context: Context, function: FunctionVersion) -> None:
    """Raises InvalidParameterValueException if code and layers unpack to too much, or hold too many extensions."""
    if not function.layers:
        return
    code = context.services.code.keep(function.code_sha256).unpacked_size
    size = code + sum(layer.unpacked_size for layer in function.layers)
    if size > limits.UNZIPPED_BYTES:
        raise InvalidParameterValueException(
            f"Function code combined with layers exceeds the maximum allowed size of {limits.UNZIPPED_BYTES} bytes. "
            f"The actual size is {size} bytes."
        )
    extensions = external_extensions(unpacked_layers(context.services.layers, function))
    if len(extensions) > limits.MAX_EXTENSIONS:
        raise InvalidParameterValueException(
            f"The function's layers hold {len(extensions)} external extensions, executable files in extensions/. "
            f"At most {limits.MAX_EXTENSIONS} can be used. Take layers out."
        )


def _parse(context: Context, reference: str) -> LayerArn:
    arn = parse_layer_arn(reference)
    if arn is None:
        raise _missing(reference)
    if arn.region != context.services.region:
        raise InvalidParameterValueException(
            "Layers are not in the same region as the function. "
            f"Layers are expected to be in region {context.services.region}."
        )
    if arn.account != context.account:
        raise AccessDeniedException(
            f"The layer belongs to account {arn.account}, and the caller to account {context.account}. "
            "Publish it in the caller's own account."
        )
    return arn


def _check_distinct(arns: Iterable[LayerArn]) -> None:
    seen: dict[str, LayerArn] = {}
    for arn in arns:
        other = seen.setdefault(arn.name, arn)
        if other is not arn:
            raise InvalidParameterValueException(
                "Two different versions of the same layer are not allowed to be referenced in the same function. "
                f"{other} and {arn} are versions of the same layer."
            )


def _find(context: Context, arn: LayerArn) -> Layer:
    services = context.services
    version = services.catalog.layers.version(arn.account, arn.name, arn.version or 0)
    if version is None:
        raise _missing(str(arn))
    try:
        services.layers.keep(version.sha256)  # the layer version may be deleted before the function is stored
    except ResourceNotFoundException:
        raise _missing(str(arn)) from None
    return version.used()


def _missing(reference: str) -> InvalidParameterValueException:
    return InvalidParameterValueException(f"Layer version {reference} does not exist.")
