"""Layers as values."""

from __future__ import annotations

import json
from typing import Any

import pytest

from insula.model.layer import LayerArn, LayerVersion, parse_layer_arn

ARN = "arn:aws:lambda:us-east-1:111111111111:layer:tools"


def version(**changes: Any) -> LayerVersion:
    given: dict[str, Any] = {"account": "111111111111", "region": "us-east-1", "name": "tools", "version": 3}
    given |= {"created": "2026-11-23T16:05:00.000+0000", "sha256": "c2hh", "size": 10, "unpacked_size": 20}
    return LayerVersion(**given, **changes)


@pytest.mark.parametrize("text", [ARN, f"{ARN}:1", f"{ARN}:0"])
def test_an_arn_is_read_and_written_alike(text: str) -> None:
    assert str(parse_layer_arn(text)) == text


@pytest.mark.parametrize(
    "text", ["tools", "arn:aws:lambda:::awslayer:AmazonLinux", f"{ARN}:", f"{ARN}:x", f"{ARN}:{'9' * 19}", f"{ARN}\n"]
)
def test_what_is_no_arn_of_a_layer_is_none(text: str) -> None:
    assert parse_layer_arn(text) is None


def test_the_partition_may_be_left_out_as_the_service_model_says() -> None:
    assert str(parse_layer_arn(ARN.replace("arn:aws:", "arn::"))) == ARN


def test_a_layer_has_the_arn_of_each_of_its_versions() -> None:
    assert str(LayerArn("us-east-1", "111111111111", "tools").of(3)) == str(version().arn) == f"{ARN}:3"


@pytest.mark.parametrize("changes", [{}, {"runtimes": (), "architectures": ("arm64",), "license": "MIT"}])
def test_a_layer_version_survives_its_document(changes: dict[str, Any]) -> None:
    assert LayerVersion.from_document(json.loads(json.dumps(version(**changes).to_document()))) == version(**changes)


def test_a_layer_version_fits_what_its_owner_names_and_nothing_else() -> None:
    named = version(runtimes=("python3.11",), architectures=("x86_64",))
    assert named.fits(None, None)
    assert named.fits("python3.11", "x86_64")
    assert not named.fits("python3.12", None)
    assert not named.fits(None, "arm64")
    assert not version().fits("python3.11", None)
