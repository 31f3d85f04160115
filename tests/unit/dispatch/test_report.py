"""The texts that AWS's users know."""

from __future__ import annotations

import json
from typing import Any

import pytest

from insula.dispatch.report import Failure, exited, oversize_document, report_lines, timed_out
from insula.dispatch.variables import runtime_variables
from insula.sandbox.driver import Exit
from tests.simulation.fakes import new_function, new_invocation

INVOCATION = new_invocation(new_function(), "blue", 7)
ID = INVOCATION.request_id


def report(**changes: Any) -> str:
    values = {"duration": 0.0123, "init": None, "peak": 5 << 20, "failure": None, **changes}
    return report_lines(INVOCATION, **values)[1]


def test_end_and_report_of_a_warm_invocation() -> None:
    end, line = report_lines(INVOCATION, duration=0.0123, init=None, peak=5 << 20, failure=None)
    assert end == f"END RequestId: {ID}"
    assert line == (
        f"REPORT RequestId: {ID}\tDuration: 12.30 ms\tBilled Duration: 13 ms\tMemory Size: 128 MB\t"
        "Max Memory Used: 5 MB\t"
    )


def test_the_first_invocation_reports_and_bills_init() -> None:
    line = report(init=0.1)
    assert "Billed Duration: 113 ms\t" in line
    assert line.endswith("\tInit Duration: 100.00 ms\t")


@pytest.mark.parametrize(("peak", "shown"), [(0, 0), (1, 1), (1 << 20, 1), ((1 << 20) + 1, 2), (1 << 40, 128)])
def test_memory_is_rounded_up_and_never_more_than_the_function_has(peak: int, shown: int) -> None:
    assert f"Max Memory Used: {shown} MB\t" in report(peak=peak)


def test_a_timeout_has_a_status_and_an_error_has_a_type() -> None:
    assert report(failure=timed_out(3)).endswith("\tStatus: timeout\t")
    assert report(failure=exited(Exit(1, None))).endswith("\tStatus: error\tError Type: Runtime.ExitError\t")


@pytest.mark.parametrize(
    ("how", "kind", "message"),
    [
        (Exit(0, None), "Runtime.ExitError", "Runtime exited without providing a reason"),
        (Exit(1, None), "Runtime.ExitError", "Runtime exited with error: exit status 1"),
        (Exit(255, None), "Runtime.ExitError", "Runtime exited with error: exit status 255"),
        (Exit(None, 9), "Runtime.ExitError", "Runtime exited with error: signal: killed"),
        (Exit(None, 11), "Runtime.ExitError", "Runtime exited with error: signal: segmentation fault"),
        (Exit(None, 31), "Runtime.ExitError", "Runtime exited with error: signal: bad system call"),
        (Exit(None, 42), "Runtime.ExitError", "Runtime exited with error: signal: signal 42"),
        (Exit(None, 9, out_of_memory=True), "Runtime.OutOfMemory", "Runtime exited with error: signal: killed"),
        (Exit(1, None, out_of_memory=True), "Runtime.OutOfMemory", "Runtime exited with error: signal: killed"),
    ],
)
def test_how_a_runtime_ended_is_said_as_on_aws(how: Exit, kind: str, message: str) -> None:
    assert exited(how) == Failure(kind, message)


def test_the_error_document_names_the_request() -> None:
    assert json.loads(timed_out(3).document(ID)) == {
        "errorType": "Sandbox.Timedout",
        "errorMessage": f"RequestId: {ID} Error: Task timed out after 3.00 seconds",
    }


def test_the_document_in_place_of_an_answer_that_is_too_large() -> None:
    assert json.loads(oversize_document()) == {
        "errorType": "Function.ResponseSizeTooLarge",
        "errorMessage": "Response payload size exceeded maximum allowed payload size (6291556 bytes).",
    }


def test_a_function_may_override_only_variables_that_aws_does_not_reserve() -> None:
    own = {
        "TZ": "Europe/Rome",
        "PATH": "/x",
        "_HANDLER": "evil.handler",
        "AWS_LAMBDA_RUNTIME_API": "1.2.3.4",
        "OWN": "1",
    }
    variables = runtime_variables(new_function(environment=own), "2026/11/23/[$LATEST]abc")
    assert (variables["TZ"], variables["PATH"], variables["OWN"]) == ("Europe/Rome", "/x", "1")
    assert (variables["_HANDLER"], variables["AWS_LAMBDA_RUNTIME_API"]) == ("app.handler", "127.0.0.1:9001")


def test_the_variables_describe_the_function_and_its_stream() -> None:
    variables = runtime_variables(new_function(memory=256, version="3"), "stream")
    expected = {
        "AWS_EXECUTION_ENV": "AWS_Lambda_python3.11",
        "AWS_LAMBDA_FUNCTION_MEMORY_SIZE": "256",
        "AWS_LAMBDA_FUNCTION_NAME": "f",
        "AWS_LAMBDA_FUNCTION_VERSION": "3",
        "AWS_LAMBDA_INITIALIZATION_TYPE": "on-demand",
        "AWS_LAMBDA_LOG_GROUP_NAME": "/aws/lambda/f",
        "AWS_LAMBDA_LOG_STREAM_NAME": "stream",
        "AWS_REGION": "us-east-1",
        "AWS_DEFAULT_REGION": "us-east-1",
        "LAMBDA_TASK_ROOT": "/var/task",
        "TZ": ":UTC",
    }
    assert expected.items() <= variables.items()


def test_no_variable_tells_the_tenant() -> None:
    """Init runs before the tenant is known to the function, as on AWS."""
    assert not [name for name in runtime_variables(new_function(), "s") if "TENANT" in name.upper()]
