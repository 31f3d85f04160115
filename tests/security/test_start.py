"""The moment between a function's code being mounted and its privileges being gone."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

from tests.conftest import Function
from tests.security.conftest import Tenant

_REPORT = """
import sys
with open("/proc/self/status") as file:
    status = {line.split(":")[0]: line.split(":")[1].strip() for line in file}
sys.__dict__.setdefault("seen", []).append([__name__, status["CapEff"], status["Seccomp"], status["Uid"].split()[0]])
"""
_HANDLER = """
import sys
def handler(event, context):
    return sys.__dict__.get("seen", [])
"""


def test_no_module_of_a_function_is_imported_before_its_privileges_are_gone(
    function: Callable[..., Function],
) -> None:
    """A function brings a module of every name that the standard library has, and more; whichever is imported tells."""
    names = sorted({*sys.stdlib_module_names, "sitecustomize", "usercustomize", "_bootlocale", "guest", "insula"})
    # awslambdaric's error path and the handler need a few of the real ones.
    code = {f"{name}.py": _REPORT for name in names if name not in ("__future__", "antigravity", "this")}
    seen = function({**code, "app.py": "import colorsys, guest" + _HANDLER}, tenancy=True).invoke(tenant="green")
    assert {entry[0] for entry in seen} >= {"colorsys", "guest"}  # the function's own win, as on AWS
    assert {tuple(entry[1:]) for entry in seen} == {("0" * 16, "2", "993")}


def test_variables_of_a_function_do_not_steer_its_start(function: Callable[..., Function]) -> None:
    variables = {
        "PYTHONSTARTUP": "/var/task/evil.py",
        "PYTHONHOME": "/var/task",
        "PYTHONPATH": "/var/task/evil:/run/code:/run/insula",
        "LD_PRELOAD": "/var/task/missing.so",
        "LD_LIBRARY_PATH": "/var/task",
        "TZ": ":/proc/self/environ",
        "LANG": "../../var/task",
        "GCONV_PATH": "/var/task",
        "PATH": "/var/task",
    }
    started = function(
        {"evil.py": _REPORT, "app.py": "import evil" + _HANDLER},
        tenancy=True,
        Environment={"Variables": variables},
    )
    (entry,) = started.invoke(tenant="green")
    assert entry == ["evil", "0" * 16, "2", "993"]


def test_the_kernel_would_rather_end_an_environment_than_the_server(green: Tenant) -> None:
    """proc(5), oom_score_adj: when the whole host is short of memory, functions go first, and cannot ask not to."""
    got = green.run("kernel.oom_score")
    assert got["before"] == "1000"
    assert got["lower"] == "EACCES"
    if _has_sys_resource():  # else, as in some containers, the kernel keeps the floor that it had
        assert got["zero"] == "EACCES"
        assert got["after"] == "1000"


def _has_sys_resource() -> bool:
    status = Path("/proc/self/status").read_text()
    return bool(int(status.partition("CapEff:")[2].split()[0], 16) & 1 << 24)
