"""Lists, maps and structures of the service model, and the compilation of all shapes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from insula.lambda_api.shapes import (
    BlobShape,
    BooleanShape,
    NumberShape,
    Problems,
    Shape,
    StringShape,
    TimestampShape,
    enum_text,
    lower_camel,
    mismatch,
)


class ListShape(Shape):
    """A list; members that are not structures are judged together, as AWS does."""

    def __init__(self, model: Mapping[str, Any], shape_of: Callable[[str], Shape]) -> None:
        super().__init__(model)
        self._bound(model, "length", len)
        self._member = shape_of(model["member"]["shape"])
        if "enum" in model:
            values = frozenset(model["enum"])
            wording = f"Member must satisfy enum value set: {enum_text(model['enum'])}"
            self.constraints.append((wording, values.issuperset))

    def read(self, value: Any) -> list[Any]:
        if not isinstance(value, list):
            raise mismatch(value, "a List")
        return [None if item is None else self._member.read(item) for item in value]

    def read_texts(self, texts: Iterable[str]) -> list[Any]:
        """Read a query parameter that is given any number of times."""
        return [self._member.read_text(text) for text in texts]

    def check(self, value: Any, path: str, problems: Problems) -> None:
        super().check(value, path, problems)
        if isinstance(self._member, StructureShape | MapShape | ListShape):
            for index, item in enumerate(value, start=1):
                _check_or_missing(self._member, item, f"{path}.{index}.member", problems)
        elif not all(item is not None and self._member.holds(item) for item in value):
            wording = f"Member must satisfy constraint: {self._member.summary()}"
            problems.add(path, self.shown(value), wording)


class MapShape(Shape):
    """A map with string keys."""

    def __init__(self, model: Mapping[str, Any], shape_of: Callable[[str], Shape]) -> None:
        super().__init__(model)
        self._bound(model, "length", len)
        self._key = shape_of(model["key"]["shape"])
        self._value = shape_of(model["value"]["shape"])

    def read(self, value: Any) -> dict[str, Any]:
        if not isinstance(value, dict):
            raise mismatch(value, "a Map")
        return {self._key.read(key): None if item is None else self._value.read(item) for key, item in value.items()}

    def check(self, value: Any, path: str, problems: Problems) -> None:
        super().check(value, path, problems)
        if not all(self._key.holds(key) for key in value):
            wording = f"Map keys must satisfy constraint: {self._key.summary()}"
            problems.add(path, self.shown(value), wording)
        if isinstance(self._value, StructureShape | MapShape | ListShape):
            for key, item in value.items():
                _check_or_missing(self._value, item, f"{path}.{key}.member", problems)
        elif not all(item is not None and self._value.holds(item) for item in value.values()):
            wording = f"Map value must satisfy constraint: {self._value.summary()}"
            problems.add(path, self.shown(value), wording)


class StructureShape(Shape):
    """Named members; a null member is an absent one, an unknown member is ignored, as AWS does."""

    def __init__(self, model: Mapping[str, Any], shape_of: Callable[[str], Shape]) -> None:
        super().__init__(model)
        self._members = {name: shape_of(member["shape"]) for name, member in model["members"].items()}
        self._required = tuple(model.get("required", ()))

    def read(self, value: Any) -> dict[str, Any]:
        if not isinstance(value, dict):
            raise mismatch(value, "a Structure")
        members = self._members
        return {name: members[name].read(item) for name, item in value.items() if item is not None and name in members}

    def check(self, value: Any, path: str, problems: Problems) -> None:
        for name in self._required:
            if name not in value:
                problems.missing(f"{path}.{lower_camel(name)}")
        for name, item in value.items():
            self._members[name].check(item, f"{path}.{lower_camel(name)}", problems)


class Shapes:
    """All shapes of a service model, each compiled once when it is first asked for."""

    def __init__(self, models: Mapping[str, Mapping[str, Any]]) -> None:
        self._models = models
        self._shapes: dict[str, Shape] = {}

    def __call__(self, name: str) -> Shape:
        """The shape with this name."""
        if name not in self._shapes:
            self._shapes[name] = self._compile(self._models[name])
        return self._shapes[name]

    def kind(self, name: str) -> str:
        """The shape's type in the model: ``structure``, ``blob`` and so on."""
        return str(self._models[name]["type"])

    def _compile(self, model: Mapping[str, Any]) -> Shape:
        kind = model["type"]
        if kind in {"structure", "list", "map"}:
            container = {"structure": StructureShape, "list": ListShape, "map": MapShape}[kind]
            return container(model, self)
        if kind in {"integer", "long", "double"}:
            return NumberShape(model)
        simple = {"string": StringShape, "boolean": BooleanShape, "blob": BlobShape}
        return simple.get(kind, TimestampShape)(model)


def _check_or_missing(shape: Shape, item: Any, path: str, problems: Problems) -> None:
    if item is None:
        problems.missing(path)
    else:
        shape.check(item, path, problems)
