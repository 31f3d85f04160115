"""The command line: one clear line for whoever made a mistake, and never a traceback."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from insula import __version__
from insula.cli import main as cli
from insula.sandbox.interpreters import Interpreter
from insula.sandbox.probe import Finding
from insula.store.catalog import Catalog
from insula.telemetry.logs import LogEvent

SERVER = '{"endpoint": "http://127.0.0.1:9900", "region": "eu-west-1", "account": "111111111111", "pid": 1}'


def fail(*arguments: str) -> object:
    """The exit status, or the message, of a command that must fail."""
    with pytest.raises(SystemExit) as ended:
        cli.main(arguments)
    assert ended.value.code not in (0, None)
    return ended.value.code


def event(message: str, tenant: str | None = None) -> LogEvent:
    return LogEvent(1_795_449_900_123, "stream", tenant, message, False)


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ((), "COMMAND"),
        (("fly",), "invalid choice: 'fly'"),
        (("serve", "--port", "65536"), "65536 is not between 0 and 65535"),
        (("serve", "--port", "-1"), "-1 is not between 0 and 65535"),
        (("serve", "--port", "http"), "invalid number value: 'http'"),
        (("serve", "--account-id", "1234"), "'1234' is not an account id: 12 digits are expected"),
        (("serve", "--account-id", "\u0661" * 12), "12 digits are expected"),
        (("serve", "--host", ""), "an address is expected, such as 127.0.0.1"),
        (("serve", "--concurrency", "0"), "0 is not between 1 and 100000"),
        (("serve", "--idle-timeout", "0"), "0 is not between 1 and 86400"),
        (("serve", "--isolation", "hope"), "invalid choice: 'hope'"),
        (("logs",), "FUNCTION"),
        (("runtimes", "remove"), "invalid choice: 'remove'"),
    ],
)
def test_a_wrong_argument_is_named_and_what_was_expected(
    arguments: tuple[str, ...], complaint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert fail(*arguments) == 2
    assert complaint in capsys.readouterr().err.splitlines()[-1]


@pytest.mark.parametrize("command", [("env",), ("logs", "f")])
def test_without_a_server_the_command_says_how_to_start_one(command: tuple[str, ...], tmp_path: Path) -> None:
    message = fail(*command, "--data-dir", str(tmp_path))
    assert message == f"insula: No server has run on {tmp_path}. Start one: insula serve --data-dir {tmp_path}"


def test_env_without_a_catalog_says_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "server.json").write_text(SERVER)
    assert "Start 'insula serve' with it first" in str(fail("env", "--data-dir", str(tmp_path)))


def test_a_function_that_is_no_name_is_refused(tmp_path: Path) -> None:
    (tmp_path / "server.json").write_text(SERVER)
    assert "is not a name" in str(fail("logs", "../../etc", "--data-dir", str(tmp_path)))


def test_no_auth_is_refused_where_others_can_reach_it(tmp_path: Path) -> None:
    message = fail("serve", "--no-auth", "--host", "0.0.0.0", "--data-dir", str(tmp_path / "data"))
    assert str(message).startswith("insula: --no-auth is refused on 0.0.0.0")
    assert not (tmp_path / "data").exists()


def test_a_port_that_is_taken_is_named(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        message = fail("serve", "--port", str(port), "--data-dir", str(tmp_path / "data"))
    assert f"Cannot listen on 127.0.0.1 port {port}: Address already in use" in str(message)


@pytest.mark.parametrize("host", ["no-such-host.invalid", "127.0.0.1 ", "1.2.3.4.5"])
def test_a_host_that_is_none_is_no_traceback(host: str, tmp_path: Path) -> None:
    message = str(fail("serve", "--host", host, "--port", "0", "--data-dir", str(tmp_path / "data")))
    assert message.startswith("insula: ")
    assert "\n" not in message


def test_a_data_folder_that_is_a_file_is_no_traceback(tmp_path: Path) -> None:
    (tmp_path / "data").write_text("")
    message = str(fail("serve", "--port", "0", "--data-dir", str(tmp_path / "data")))
    assert message.startswith(f"insula: Data folder {tmp_path / 'data'} cannot be used")


def test_errors_leave_the_process_with_status_1_and_one_line(tmp_path: Path) -> None:
    script = "from insula.cli.main import main; main()"
    command = [sys.executable, "-c", script, "env", "--data-dir", str(tmp_path)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (result.returncode, result.stdout, len(result.stderr.splitlines())) == (1, "", 1)


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main(["--version"])
    assert ended.value.code == 0
    assert capsys.readouterr().out == f"insula {__version__}\n"


def test_env_prints_what_a_shell_can_evaluate(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = tmp_path / "it's data"
    with contextlib.closing(Catalog.open(data)) as catalog:
        _, secret = catalog.create_access_key("111111111111")
    (data / "server.json").write_text(SERVER)
    cli.main(["env", "--data-dir", str(data)])
    script = capsys.readouterr().out + "\nenv"
    shown = subprocess.run(
        ["sh", "-c", script], capture_output=True, text=True, check=True, env={**os.environ, "AWS_PROFILE": "other"}
    ).stdout.splitlines()
    assert "AWS_ENDPOINT_URL_LAMBDA=http://127.0.0.1:9900" in shown
    assert f"AWS_SECRET_ACCESS_KEY={secret}" in shown
    assert "AWS_REGION=eu-west-1" in shown
    assert not [line for line in shown if line.startswith("AWS_PROFILE=")]


def test_the_data_folder_can_come_from_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("INSULA_DATA_DIR", str(tmp_path))
    assert str(tmp_path) in str(fail("env"))


# insula logs


def test_a_line_has_its_time_its_tenant_and_its_text() -> None:
    assert cli._line(event("hello")) == "2026-11-23T16:05:00.123Z hello"
    assert cli._line(event("hello", "blue")) == "2026-11-23T16:05:00.123Z [blue] hello"


@pytest.mark.parametrize(
    ("printed", "shown"),
    [
        ("\x1b[2J\x1b]0;owned\x07", r"\x1b[2J\x1b]0;owned\x07"),
        ("\r2026-01-01 forged", r"\x0d2026-01-01 forged"),
        ("\x00\x7f\x9b", r"\x00\x7f\x9b"),
        ("\u202etxt.exe", r"\x202etxt.exe"),
        ("caf\u00e9\t\u00a0ok", "caf\u00e9\t\u00a0ok"),
    ],
)
def test_control_characters_are_shown_and_not_sent(printed: str, shown: str) -> None:
    assert cli._line(event(printed)).partition(" ")[2] == shown


def test_a_traceback_keeps_its_lines_and_none_looks_like_an_event() -> None:
    assert cli._line(event("one\n2026-11-23T16:05:00.123Z [blue] two")).splitlines() == [
        "2026-11-23T16:05:00.123Z one",
        "    2026-11-23T16:05:00.123Z [blue] two",
    ]


# insula doctor, insula runtimes


def test_doctor_fails_when_something_is_missing_and_says_how_to_get_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    findings = [Finding("root", True, "uid 0", "be root"), Finding("seccomp", False, "none", "install it")]
    monkeypatch.setattr(cli, "examine", lambda: iter(findings))
    assert "insula: 1 missing" in str(fail("doctor"))
    assert capsys.readouterr().out.splitlines() == [
        "ok      root: uid 0",
        "MISSING seccomp: none",
        "        → install it",
    ]


def test_doctor_succeeds_when_all_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cli, "examine", lambda: iter([Finding("root", True, "uid 0"), Finding("KVM", None, "none")]))
    cli.main(["doctor"])


def test_a_runtime_that_is_not_here_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    here = Interpreter("python3.11", Path("/usr/bin/python3.11"), Path("/usr"))
    installed: list[str] = []
    monkeypatch.setattr(cli, "find_interpreters", lambda: {"python3.11": here})
    monkeypatch.setattr(cli, "install", lambda interpreter, _: installed.append(interpreter.runtime))
    assert "This host has no python3.12" in str(fail("runtimes", "install", "python3.11", "python3.12"))
    assert installed == []


@pytest.mark.parametrize("text", ["", "{", "[]", "null", "{}", "\x00"])
def test_a_damaged_note_of_the_server_is_one_clear_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str
) -> None:
    (tmp_path / "server.json").write_text(text)
    message = str(fail("env", "--data-dir", str(tmp_path)))
    assert "cannot be read" in message
    assert "insula serve --data-dir" in message
    assert capsys.readouterr().out == ""
