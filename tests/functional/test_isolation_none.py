"""`--isolation none`: functions without a wall, and none that need one."""

from __future__ import annotations

import os
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
from botocore.exceptions import ClientError

from tests.conftest import Function
from tests.functional.deployment import COUNTER, deploy, eventually, update
from tests.server import INSULA, Server, descendants

NOBODY = 65534


@pytest.fixture
def open_server(new_server: Callable[..., Server]) -> Server:
    return new_server("--isolation", "none")


def test_plain_functions_run(open_server: Server) -> None:
    counter = deploy(open_server, COUNTER)
    first, second = counter.invoke(), counter.invoke()
    assert (second["environment"], second["count"]) == (first["environment"], 2)


def test_updates_failures_and_timeouts_are_as_behind_a_wall(open_server: Server) -> None:
    made = deploy(open_server, "def handler(event, context):\n    return 1\n", Timeout=1)
    assert made.invoke() == 1
    update(made, "def handler(event, context):\n    1 / 0\n")
    assert made.fail()["errorType"] == "ZeroDivisionError"
    update(made, "import os\ndef handler(event, context):\n    os._exit(3)\n")
    assert made.fail()["errorMessage"].endswith("Runtime exited with error: exit status 3")
    update(made, "import time\ndef handler(event, context):\n    time.sleep(60)\n")
    assert made.fail()["errorMessage"].endswith("Task timed out after 1.00 seconds")
    update(made, COUNTER)
    assert made.invoke()["count"] == 1


def test_a_tenant_isolated_function_cannot_be_created(open_server: Server) -> None:
    with pytest.raises(ClientError, match="runs without isolation") as caught:
        deploy(open_server, COUNTER, tenancy=True)
    assert caught.value.response["Error"]["Code"] == "InvalidParameterValueException"
    assert open_server.client().list_functions()["Functions"] == []


@pytest.mark.root
def test_a_tenant_isolated_function_is_not_invoked(new_server: Callable[..., Server]) -> None:
    walled = new_server()
    assert deploy(walled, COUNTER, tenancy=True).invoke(tenant="blue")["count"] == 1
    walled.stop()
    server = new_server("--isolation", "none")
    found = Function(server.client(), "hello")
    for options in ({"InvocationType": "DryRun"}, {"InvocationType": "RequestResponse"}):
        with pytest.raises(ClientError, match="runs without isolation") as caught:
            found.call(tenant="blue", **options)
        assert caught.value.response["Error"]["Code"] == "InvalidParameterValueException"


def test_nothing_is_left_after_the_stop(open_server: Server) -> None:
    made = deploy(open_server, "import subprocess\nsubprocess.Popen(['sleep', '600'])\n" + COUNTER)
    made.invoke()
    processes = descendants(open_server.pid)
    assert len(processes) >= 2
    assert open_server.stop() == 0
    eventually(lambda: not any(Path(f"/proc/{pid}").exists() for pid in processes))


@pytest.mark.root
def test_an_ordinary_user_can_run_it() -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        os.chown(folder, NOBODY, NOBODY)
        command = ["setpriv", "--reuid", str(NOBODY), "--regid", str(NOBODY), "--clear-groups", "--", str(INSULA)]
        if subprocess.run([*command, "--version"], capture_output=True, check=False).returncode:
            pytest.skip("this installation of Insula can be read by root alone")
        server = Server(folder / "data", "--isolation", "none", prefix=command[:-1])
        server.start()
        try:
            who = deploy(server, "import os\ndef handler(event, context):\n    return os.getuid()\n")
            assert who.invoke() == NOBODY
        except ClientError as error:
            # Runtimes under root's home folder are not there for others, who are told so.
            assert "insula runtimes install" in str(error)  # noqa: PT017
        finally:
            assert server.stop() == 0
