"""The stage: pid 1 of a spawner's namespaces. It builds their read-only root, starts the spawner there and reaps.

Started by the host side inside new mount, pid, net, ipc and uts namespaces. Reads one JSON object from its command
line: ``name`` of the runtime, ``runtime`` (folder with AWS's client, or null), ``language`` (installation of the
runtime's interpreter, or null), ``prefix`` and ``python`` of the Python that runs the spawner, ``code`` and ``layers``
(folders of unpacked code).
"""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn

from insula.sandbox.namespaces.guest import __file__ as _guest_file
from insula.sandbox.namespaces.guest.syscalls import (
    CLONE_NEWNS,
    MS_BIND,
    MS_NODEV,
    MS_NOEXEC,
    MS_NOSUID,
    MS_PRIVATE,
    MS_RDONLY,
    MS_REC,
    MS_REMOUNT,
    mount,
    pivot,
    unshare,
)
from insula.sandbox.namespaces.init import init_program

_CONTROL = 3
_SPAWNER = "import sys; sys.path[:0] = ['/run/insula']; import guest.spawner as s; del sys.path[0]; s.main()"
# Of the host's files a function sees these, read-only, and nothing else.
_HOST_TREES = (
    "/usr/bin",
    "/usr/lib",
    "/usr/lib32",
    "/usr/lib64",
    "/usr/libexec",
    "/usr/share/ca-certificates",
    "/usr/share/zoneinfo",
    "/etc/ssl/certs",
    "/etc/alternatives",
)
_HOST_FILES = ("/etc/ld.so.cache", "/etc/ld.so.conf", "/etc/mime.types")
_FOLDERS = ("dev", "etc", "opt", "proc", "run", "tmp", "usr", "var/lang", "var/runtime", "var/task")
_PRIVATE_FOLDERS = ("code", "empty", "insula", "layers", "python", "root")
_Config = Mapping[str, Any]
_ETC = {
    "passwd": "root:x:0:0:root:/root:/sbin/nologin\n"
    "sbx_user1051:x:993:993::/home/sbx_user1051:/sbin/nologin\n"
    "nobody:x:65534:65534:nobody:/:/sbin/nologin\n",
    "group": "root:x:0:\nsbx_user1051:x:993:\nnogroup:x:65534:\n",
    "hosts": "127.0.0.1 localhost sandbox sandbox.localdomain\n::1 localhost\n",
    "nsswitch.conf": "passwd: files\ngroup: files\nhosts: files dns\n",
    "resolv.conf": "",
    "host.conf": "multi on\n",
    "hostname": "localhost\n",
}


def build_root(root: Path, config: _Config) -> dict[str, list[str]]:
    """Put the spawner's root together at ``root``.

    Returns its ``trees``, mounts of host folders, and the folders in them that are ``hidden``.
    """
    mount("root", str(root), "tmpfs", MS_NOSUID | MS_NODEV, "mode=755,size=16m")
    for folder in _FOLDERS:
        (root / folder).mkdir(parents=True)
    for folder in _PRIVATE_FOLDERS:
        (root / "run" / folder).mkdir()
    (root / "tmp").chmod(0o1777)
    # On a file system of its own: an overlay refuses lower folders of which one lies within another.
    mount("empty", f"{root}/run/empty", "tmpfs", MS_RDONLY | MS_NOSUID | MS_NODEV, "size=4k,mode=755")
    for name, text in _ETC.items():
        (root / "etc" / name).write_text(text)
    for name in _HOST_FILES:
        if Path(name).is_file():
            shutil.copyfile(name, root / name[1:])
    trees = _bind_host(root, config)
    hidden = _hide_packages(root)
    if _python_home(config) == "/run/python":  # no environment sees it: overlays do not reach into mounts
        _bind(Path(config["prefix"]), root / "run/python")
    _bind(Path(config["code"]), root / "run/code")
    _bind(Path(config["layers"]), root / "run/layers")
    _bind(Path(_guest_file).parent, root / "run/insula/guest")
    program = init_program()
    if program is not None:
        (root / "run/init").write_bytes(program)
        (root / "run/init").chmod(0o755)
    mount("proc", f"{root}/proc", "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC)
    mount("dev", f"{root}/dev", "tmpfs", MS_NOSUID, "size=64k,mode=755")
    for name, minor in (("null", 3), ("urandom", 9)):
        os.mknod(root / "dev" / name, 0o020666, os.makedev(1, minor))
    return {"trees": trees, "hidden": hidden}


def _bind_host(root: Path, config: _Config) -> list[str]:
    trees = []
    # Debian's Node.js loads parts of itself from there.
    node = ["/usr/share/nodejs"] if config["name"].startswith("nodejs") and config["language"] == "/usr" else []
    for tree in [*_HOST_TREES, *node]:
        if Path(tree).is_dir():
            _bind(Path(tree), root / tree[1:])
            trees.append(tree)
    for name in ("bin", "sbin", "lib", "lib32", "lib64"):
        host = Path("/", name)
        if host.is_symlink():
            (root / name).symlink_to(host.readlink())
        elif host.is_dir():  # a host without merged /usr
            _bind(host, root / name)
            trees.append(f"/{name}")
    if config["runtime"] is not None:
        _bind(Path(config["runtime"]), root / "var/runtime")
        trees.append("/var/runtime")
    if config["language"] is not None and config["language"] != "/usr":
        _bind(Path(config["language"]), root / "var/lang")
        trees.append("/var/lang")
    return trees


def _hide_packages(root: Path) -> list[str]:
    """Cover the host's own Python packages: they are none of a function's business, and would shadow nothing well."""
    patterns = ("var/lang/lib/python3*/site-packages", "usr/lib/python3*/dist-packages")
    hidden = [path for pattern in patterns for path in root.glob(pattern) if path.is_dir()]
    for path in hidden:
        _bind(root / "run/empty", path)
    return [f"/{path.relative_to(root)}" for path in hidden]


def _bind(source: Path, target: Path) -> None:
    target.mkdir(parents=True, exist_ok=True)
    mount(str(source), str(target), None, MS_BIND)
    mount(str(source), str(target), None, MS_REMOUNT | MS_BIND | MS_RDONLY | MS_NOSUID | MS_NODEV)


def _python_home(config: _Config) -> str:
    """Where the spawner's Python lies inside the root; that of a Python runtime is the environments' as well."""
    if config["prefix"] == "/usr":
        return "/usr"
    return "/var/lang" if config["prefix"] == config["language"] else "/run/python"


def inner_python(config: _Config) -> str:
    """Path of the spawner's Python inside the root."""
    return f"{_python_home(config)}/{os.path.relpath(config['python'], config['prefix'])}"


def spawner_environment(config: _Config) -> dict[str, str]:
    """Environment variables of the spawner: nothing of the server's."""
    return {
        "PATH": "/var/lang/bin:/usr/bin:/bin",
        "LANG": "C.UTF-8",
        "LD_LIBRARY_PATH": f"{_python_home(config)}/lib",
        "AWS_LAMBDA_RUNTIME_API": "127.0.0.1:9001",  # awslambdaric's client reads it when it is imported
    }


def main() -> None:
    """Build the root, start the spawner and wait for its end."""
    config = json.loads(sys.argv[1])
    unshare(CLONE_NEWNS)  # unshare(1) gave one already; this keeps the stage correct when run without it
    mount("none", "/", None, MS_REC | MS_PRIVATE)
    root = Path(config["mountpoint"])
    layout = build_root(root, config)
    pivot(str(root))
    mount("none", "/", None, MS_REMOUNT | MS_BIND | MS_RDONLY | MS_NOSUID | MS_NODEV)
    spawner = os.fork()
    if not spawner:
        _exec(inner_python(config), spawner_environment(config), int(config["control"]))
    os.close(int(config["control"]))
    os.write(1, (json.dumps(layout) + "\n").encode())
    while True:  # reap what is left over by environments, until the spawner itself ends
        pid, _ = os.wait()
        if pid == spawner:
            os._exit(0)


def _exec(python: str, environment: Mapping[str, str], control: int) -> NoReturn:
    os.dup2(control, _CONTROL)
    os.closerange(_CONTROL + 1, control + 1)
    os.execve(python, [python, "-I", "-c", _SPAWNER], environment)  # noqa: S606 - no shell is wanted


if __name__ == "__main__":
    main()
