"""The scalar types of botocore's service model: reading values from a request, checking their constraints.

A request is read as AWS reads it, in two steps: a value of another JSON type is a ``SerializationException``
at once; then all broken constraints are gathered, in AWS's words, into one ``ValidationException``.

Source: the recorded answers of AWS Lambda, and https://smithy.io/2.0/spec/constraint-traits.html
"""

from __future__ import annotations

import binascii
import math
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from insula.model.errors import LambdaError, ValidationException

_NOT_NULL = "Member must not be null"
_SEPARATORS = "\u0020\u00a0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000"  # Unicode's category Z
_INTEGER_BITS = {"integer": 32, "long": 64}


class SerializationException(LambdaError):
    """A value has another type than the service model says, or is not readable at all."""

    status = 400
    fault_type = None


class Problems:
    """The broken constraints of one request."""

    def __init__(self) -> None:
        self._texts: list[str] = []

    def add(self, path: str, shown: str, constraint: str) -> None:
        """Note that the member at ``path`` breaks ``constraint``; ``shown`` is the value as AWS shows it."""
        self._texts.append(f"Value{shown} at '{path}' failed to satisfy constraint: {constraint}")

    def missing(self, path: str) -> None:
        """Note that a required member is absent."""
        self.add(path, " null", _NOT_NULL)

    def raise_any(self) -> None:
        """Raises ValidationException if anything was noted."""
        if self._texts:
            count = len(self._texts)
            errors = "error" if count == 1 else "errors"
            raise ValidationException(f"{count} validation {errors} detected: {'; '.join(self._texts)}")


class Shape:
    """One shape of the model.

    Attributes:
        constraints: AWS's wording of each constraint, with a test that holds for good values.
        sensitive: whether messages leave the value out.
    """

    def __init__(self, model: Mapping[str, Any]) -> None:
        self.constraints: list[tuple[str, Callable[[Any], bool]]] = []
        self.sensitive = bool(model.get("sensitive"))

    def read(self, value: Any) -> Any:
        """Read a JSON value. Raises SerializationException."""
        raise NotImplementedError

    def read_text(self, text: str) -> Any:
        """Read the text of a path, query or header member. Raises SerializationException."""
        return self.read(text)

    def check(self, value: Any, path: str, problems: Problems) -> None:
        """Note every constraint that a value breaks."""
        for wording, holds in self.constraints:
            if not holds(value):
                problems.add(path, self.shown(value), wording)

    def holds(self, value: Any) -> bool:
        """Whether a value breaks no constraint."""
        return all(holds(value) for _, holds in self.constraints)

    def shown(self, value: Any) -> str:
        """A value as AWS's messages show it."""
        return "" if self.sensitive else f" '{_java(value)}'"

    def summary(self) -> str:
        """All constraints in one text, as AWS gives them for members of lists and maps."""
        return f"[{', '.join([*(wording for wording, _ in self.constraints), _NOT_NULL])}]"

    def _bound(self, model: Mapping[str, Any], what: str, measure: Callable[[Any], float]) -> None:
        if "max" in model:
            most = model["max"]
            self.constraints.append(
                (f"Member must have {what} less than or equal to {most}", lambda v: measure(v) <= most)
            )
        if "min" in model:
            least = model["min"]
            self.constraints.append(
                (f"Member must have {what} greater than or equal to {least}", lambda v: measure(v) >= least)
            )


class StringShape(Shape):
    """Text. U+0000 is refused: neither environment variables nor PostgreSQL can hold it."""

    def __init__(self, model: Mapping[str, Any]) -> None:
        super().__init__(model)
        self._bound(model, "length", len)
        if "pattern" in model:
            self._match(model["pattern"], model.get("max"))
        if "enum" in model:
            values = frozenset(model["enum"])
            wording = f"Member must satisfy enum value set: {enum_text(model['enum'])}"
            self.constraints.append((wording, values.__contains__))

    def _match(self, pattern: str, most: int | None) -> None:
        match = _compile(pattern).fullmatch
        # A value over its maximum length is refused for that already: matching it could take quadratic time.
        longest = math.inf if most is None else most
        self.constraints.append(
            (
                f"Member must satisfy regular expression pattern: {pattern}",
                lambda v: len(v) > longest or match(v) is not None,
            )
        )

    def read(self, value: Any) -> str:
        if not isinstance(value, str):
            raise mismatch(value, "a String")
        if not value.isascii():
            _refuse_surrogates(value)
        if "\0" in value:
            raise SerializationException("A string holds the character U+0000. Remove it.")
        return value


class NumberShape(Shape):
    """integer, long and double."""

    def __init__(self, model: Mapping[str, Any]) -> None:
        super().__init__(model)
        self._bits = _INTEGER_BITS.get(model["type"])
        self._bound(model, "value", lambda v: v)

    def read(self, value: Any) -> int | float:
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise mismatch(value, self._name)
        if self._bits is None:
            return self._finite(value)
        if isinstance(value, float) and not value.is_integer():
            raise mismatch(value, self._name)
        if abs(value) >= 1 << (self._bits - 1):
            raise SerializationException(f"A number is out of the range of {self._name}.")
        return int(value)

    def read_text(self, text: str) -> int | float:
        try:
            return self.read(float(text) if self._bits is None else int(text))
        except (ValueError, OverflowError):
            raise SerializationException(f"STRING_VALUE can not be converted to {self._name}") from None

    @property
    def _name(self) -> str:
        return {32: "an Integer", 64: "a Long"}.get(self._bits or 0, "a Double")

    def _finite(self, value: float) -> float:
        try:
            number = float(value)
        except OverflowError:
            number = math.inf
        if not math.isfinite(number):
            raise SerializationException("A number is out of the range of a Double.")
        return number


class BooleanShape(Shape):
    """true and false."""

    def read(self, value: Any) -> bool:
        if not isinstance(value, bool):
            raise mismatch(value, "a Boolean")
        return value

    def read_text(self, text: str) -> bool:
        lowered = text.lower()
        if lowered not in {"true", "false"}:
            raise SerializationException("STRING_VALUE can not be converted to a Boolean")
        return lowered == "true"


class TimestampShape(Shape):
    """Seconds since the epoch in JSON; text elsewhere, which the operation reads."""

    def read(self, value: Any) -> float | str:
        if isinstance(value, bool) or not isinstance(value, int | float | str):
            raise mismatch(value, "a Timestamp")
        return value

    def read_text(self, text: str) -> str:
        return text


class BlobShape(Shape):
    """Bytes: base64 in JSON, as they are in a payload."""

    def __init__(self, model: Mapping[str, Any]) -> None:
        super().__init__(model)
        self._bound(model, "length", len)

    def read(self, value: Any) -> bytes:
        if not isinstance(value, str):
            raise mismatch(value, "a Blob")
        try:
            return binascii.a2b_base64(value, strict_mode=True)
        except ValueError:
            raise SerializationException("A binary member is not valid base64.") from None


def lower_camel(name: str) -> str:
    """A member's name as AWS's validation messages spell it."""
    return name[:1].lower() + name[1:]


def enum_text(values: Iterable[str]) -> str:
    """The values of an enumeration in the order of a Java HashSet, which is how AWS lists them."""
    ordered = list(values)
    buckets = 16
    while len(ordered) > buckets * 3 // 4:
        buckets *= 2
    ordered.sort(key=lambda value: _java_hash(value) & (buckets - 1))
    return f"[{', '.join(ordered)}]"


def _java_hash(text: str) -> int:
    code = 0
    for character in text:
        code = (31 * code + ord(character)) & 0xFFFFFFFF
    return code ^ (code >> 16)


def _java(value: Any) -> str:
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, list):
        return f"[{', '.join(_java(item) for item in value)}]"
    if isinstance(value, dict):
        return f"{{{', '.join(f'{key}={_java(item)}' for key, item in value.items())}}}"
    return str(value)


def _compile(pattern: str) -> re.Pattern[str]:
    """Java's regular expression as Python's; the model uses Unicode classes in one combination only."""
    translated = pattern.replace(r"\p{L}\p{Z}\p{N}_", r"\w" + _SEPARATORS)
    if r"\p" in translated:
        raise ValueError(f"the service model has a character class that is not translated: {pattern}")
    return re.compile(translated, 0 if translated != pattern else re.ASCII)


def _refuse_surrogates(text: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError:
        raise SerializationException("A string holds half of a surrogate pair.") from None


def mismatch(value: Any, wanted: str) -> SerializationException:
    """AWS's error for a JSON value of a type other than the wanted one."""
    if isinstance(value, dict):
        return SerializationException("Start of structure or map found where not expected.")
    if isinstance(value, list):
        return SerializationException("Start of list found where not expected")
    if isinstance(value, bool):
        return SerializationException(f"{'TRUE' if value else 'FALSE'}_VALUE can not be converted to {wanted}")
    kind = "STRING_VALUE" if isinstance(value, str) else "NUMBER_VALUE"
    return SerializationException(f"{kind} can not be converted to {wanted}")
