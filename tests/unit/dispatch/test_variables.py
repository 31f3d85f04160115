"""What a new environment is told, by kind of runtime."""

from __future__ import annotations

import pytest

from insula.dispatch.variables import PROVISIONED_CONCURRENCY, runtime_variables
from tests.simulation.fakes import new_function


def test_each_language_is_told_where_its_modules_are_and_nothing_of_the_others() -> None:
    paths = {"PYTHONPATH", "NODE_PATH", "AWS_EXECUTION_ENV"}
    told = {
        runtime: {
            name: value
            for name, value in runtime_variables(new_function(runtime=runtime), "s").items()
            if name in paths
        }
        for runtime in ("python3.12", "nodejs22.x", "provided.al2023")
    }
    assert told == {
        "python3.12": {"PYTHONPATH": "/var/runtime", "AWS_EXECUTION_ENV": "AWS_Lambda_python3.12"},
        "nodejs22.x": {
            "NODE_PATH": "/opt/nodejs/node22/node_modules:/opt/nodejs/node_modules:"
            "/var/runtime/node_modules:/var/runtime:/var/task",
            "AWS_EXECUTION_ENV": "AWS_Lambda_nodejs22.x",
        },
        "provided.al2023": {},
    }


@pytest.mark.parametrize("name", ["PATH", "LANG", "TZ", "LD_LIBRARY_PATH", "NODE_PATH", "AWS_LAMBDA_EXEC_WRAPPER"])
def test_a_function_may_set_what_aws_does_not_reserve(name: str) -> None:
    function = new_function(runtime="nodejs22.x", environment={name: "mine"})
    assert runtime_variables(function, "s")[name] == "mine"


@pytest.mark.parametrize("name", ["_HANDLER", "AWS_LAMBDA_RUNTIME_API", "AWS_REGION", "LAMBDA_TASK_ROOT"])
def test_what_aws_reserves_stays(name: str) -> None:
    assert runtime_variables(new_function(environment={name: "mine"}), "s")[name] != "mine"


def test_the_kind_of_initialization_is_told() -> None:
    name = "AWS_LAMBDA_INITIALIZATION_TYPE"
    assert runtime_variables(new_function(), "s")[name] == "on-demand"
    assert runtime_variables(new_function(), "s", PROVISIONED_CONCURRENCY)[name] == "provisioned-concurrency"
