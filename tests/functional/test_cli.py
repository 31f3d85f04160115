"""The command line: AWS's own, as a user walks with it, and Insula's."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.functional.deployment import deploy, eventually
from tests.server import INSULA, ROLE, RUNTIME, Server, zip_of

HELLO = "def handler(event, context):\n    return {WORD!r} + ' ' + context.tenant_id\n"

WALK = """
set -eu
eval "$(insula env --data-dir "$DATA_DIR")"
aws lambda create-function --function-name walk --runtime "$RUNTIME" --role "$ROLE" --handler app.handler \\
    --zip-file fileb://first.zip --tenancy-config TenantIsolationMode=PER_TENANT --query State --output text
aws lambda wait function-active-v2 --function-name walk
for tenant in blue green; do
    aws lambda invoke --function-name walk --tenant-id $tenant out.json --query StatusCode --output text
    cat out.json; echo
done
aws lambda publish-version --function-name walk --query Version --output text
aws lambda update-function-code --function-name walk --zip-file fileb://second.zip --query Version --output text
aws lambda wait function-updated-v2 --function-name walk
aws lambda invoke --function-name walk --tenant-id blue out.json --output text --query StatusCode; cat out.json; echo
aws lambda invoke --function-name walk:1 --tenant-id blue out.json --output text --query StatusCode; cat out.json; echo
if aws lambda invoke --function-name walk out.json 2> refusal.txt; then exit 9; fi
aws lambda delete-function --function-name walk > /dev/null
aws lambda list-functions --query Functions --output json
"""
SAID = """Pending
200
"hello blue"
200
"hello green"
1
$LATEST
200
"goodbye blue"
200
"hello blue"
"""


def insula(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, **variables}
    return subprocess.run(
        [str(INSULA), *arguments], capture_output=True, text=True, timeout=60, env=environment, check=False
    )


def assert_one_clear_line(found: subprocess.CompletedProcess[str], *words: str, status: int = 1) -> None:
    assert found.returncode == status
    assert "Traceback" not in found.stderr
    assert len(found.stderr.strip().splitlines()) == 1 or status == 2  # argparse prints its usage as well
    for word in words:
        assert word in found.stderr


def test_the_walk_with_the_aws_cli(server: Server, tmp_path: Path) -> None:
    for name, word in (("first", "hello"), ("second", "goodbye")):
        (tmp_path / f"{name}.zip").write_bytes(zip_of(HELLO.replace("{WORD!r}", repr(word))))
    clean = {name: value for name, value in os.environ.items() if not name.startswith("AWS_")}
    environment = {
        **clean,
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "HOME": str(tmp_path),
        "AWS_PAGER": "",
        "DATA_DIR": str(server.data_dir),
        "RUNTIME": RUNTIME,
        "ROLE": ROLE,
    }
    found = subprocess.run(
        ["bash", "-c", WALK], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=110, check=False
    )
    assert found.returncode == 0, found.stderr
    said, _, listed = found.stdout.partition("[")
    assert said == SAID
    assert "walk" not in listed
    assert "(InvalidParameterValueException)" in (tmp_path / "refusal.txt").read_text()
    assert "Add a valid tenant ID in your request" in (tmp_path / "refusal.txt").read_text()


def test_env_prints_what_a_shell_and_a_client_need(server: Server) -> None:
    assert set(server.variables) == {
        "AWS_ENDPOINT_URL_LAMBDA",
        "AWS_ACCESS_KEY_ID",
        "AWS_SECRET_ACCESS_KEY",
        "AWS_DEFAULT_REGION",
        "AWS_REGION",
    }
    assert server.variables["AWS_REGION"] == "us-east-1"


def test_env_survives_a_folder_with_an_odd_name(new_server: Callable[..., Server], tmp_path: Path) -> None:
    server = new_server("--isolation", "none", data_dir=tmp_path / "it's $(odd) ;")
    assert server.client().list_functions()["Functions"] == []


def test_the_data_folder_may_come_from_the_environment(server: Server) -> None:
    found = insula("env", INSULA_DATA_DIR=str(server.data_dir))
    assert found.stdout == server.cli("env").stdout


def test_the_secret_lies_where_only_its_owner_reads(server: Server) -> None:
    assert server.data_dir.stat().st_mode & 0o077 == 0


def test_env_without_a_server_says_what_to_do(tmp_path: Path) -> None:
    found = insula("env", "--data-dir", str(tmp_path / "none"))
    assert_one_clear_line(found, "No server has run on", "insula serve --data-dir")
    assert found.stdout == ""


def test_doctor_agrees_with_the_server_that_runs(server: Server) -> None:
    found = insula("doctor")
    assert found.returncode == 0
    assert "This host can run tenant-isolated functions" in found.stdout
    assert f"runtime {RUNTIME}" in found.stdout
    assert "MISSING" not in found.stdout


@pytest.mark.root
def test_doctor_says_what_an_ordinary_user_lacks() -> None:
    found = subprocess.run(
        ["setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups", "--", str(INSULA), "doctor"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    if "Permission denied" in found.stderr:
        pytest.skip("this installation of Insula can be read by root alone")
    assert_one_clear_line(found, "missing", "insula serve")
    assert "MISSING root" in found.stdout


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (["--port", "70000"], "70000"),
        (["--port", "-1"], "-1"),
        (["--port", "x"], "x"),
        (["--account-id", "1"], "12 digits"),
        (["--account-id", "１２３４５６７８９０１２"], "12 digits"),  # noqa: RUF001
        (["--region", "not a region"], "not a region"),
        (["--region", "mars-east-1; rm"], "mars-east-1; rm"),
        (["--region", "us-east-1\n"], "us-east-1"),
        (["--isolation", "firecracker"], "firecracker"),
        (["--concurrency", "0"], "0"),
        (["--idle-timeout", "0"], "0"),
        (["--frobnicate"], "--frobnicate"),
    ],
)
def test_a_wrong_option_is_named(arguments: list[str], word: str, tmp_path: Path) -> None:
    found = insula("serve", "--data-dir", str(tmp_path / "data"), *arguments)
    assert_one_clear_line(found, word, status=2)
    assert not (tmp_path / "data").exists()


def test_no_command_and_a_wrong_command_are_explained() -> None:
    assert_one_clear_line(insula(), "COMMAND", status=2)
    assert_one_clear_line(insula("frobnicate"), "frobnicate", status=2)


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (["--host", "no.such.host.invalid"], "no.such.host.invalid"),
        (["--host", "192.0.2.1"], "192.0.2.1"),
        (["--host", "x" * 300], "xxx"),
    ],
)
def test_what_cannot_be_served_is_one_clear_line(arguments: list[str], word: str, tmp_path: Path) -> None:
    found = insula("serve", "--port", "0", "--data-dir", str(tmp_path / "data"), *arguments)
    assert_one_clear_line(found, word)


def test_a_port_in_use_is_one_clear_line(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        found = insula("serve", "--port", port, "--data-dir", str(tmp_path / "data"))
    assert_one_clear_line(found, port, "Address already in use")


def test_a_data_folder_in_use_is_one_clear_line(server: Server) -> None:
    found = server.cli("serve", "--port", "0", check=False)
    assert_one_clear_line(found, "in use by another Insula server", str(server.pid))
    assert server.client().list_functions()["Functions"] is not None
    assert server.cli("env").stdout.count(server.endpoint) == 1


def test_a_data_folder_that_is_a_file_is_one_clear_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert_one_clear_line(insula("serve", "--port", "0", "--data-dir", str(tmp_path / "file")), str(tmp_path / "file"))


def test_a_data_folder_that_others_may_write_is_refused(tmp_path: Path) -> None:
    (tmp_path / "open").mkdir()
    (tmp_path / "open").chmod(0o777)
    assert_one_clear_line(insula("serve", "--port", "0", "--data-dir", str(tmp_path / "open")), "chmod 700")


def test_a_broken_catalog_is_one_clear_line(tmp_path: Path, new_server: Callable[..., Server]) -> None:
    server = new_server("--isolation", "none")
    server.stop()
    databases = list(server.data_dir.glob("*.db")) + list(server.data_dir.glob("*.sqlite*"))
    assert databases
    for database in databases:
        database.write_bytes(b"no database" * 100)
    found = server.cli("serve", "--port", "0", "--isolation", "none", check=False)
    assert_one_clear_line(found, "insula: ")


def test_other_settings_reach_the_clients(new_server: Callable[..., Server]) -> None:
    server = new_server("--isolation", "none", "--region", "eu-central-1", "--account-id", "123456789012")
    made = deploy(server, "import os\ndef handler(event, context):\n    return os.environ['AWS_REGION']\n")
    arn = made.client.get_function_configuration(FunctionName="hello")["FunctionArn"]
    assert arn == "arn:aws:lambda:eu-central-1:123456789012:function:hello"
    assert json.load(made.call()["Payload"]) == "eu-central-1"
    eventually(lambda: "REPORT" in server.cli("logs", "hello").stdout)


def test_ipv6_works(new_server: Callable[..., Server]) -> None:
    server = new_server("--isolation", "none", "--host", "::1")
    assert server.endpoint.startswith("http://[::1]:")
    assert server.client().list_functions()["Functions"] == []


def test_version_is_printed() -> None:
    found = insula("--version")
    assert (found.returncode, found.stdout.split()[0]) == (0, "insula")
