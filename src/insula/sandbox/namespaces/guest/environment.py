"""The child of the spawner that becomes one execution environment.

It is built in two steps. *Prepare* does what every environment needs and what is slow: cgroups, namespaces, the
read-only root, the Runtime API's socket. *Start* gives it a function: code, /tmp, limits, environment variables;
then it gives up every privilege for good. The main process checks the result through /proc and answers "go"; only
then is code of the function imported. Nothing of a function or a tenant is ever in the spawner itself.
"""

from __future__ import annotations

import gc
import json
import os
import random
import resource
import signal
import socket
import sys
from typing import Any, Dict, FrozenSet, List, NamedTuple, NoReturn, Sequence, Set

from .cgroup import Cgroups
from .launch import execute, start_extensions
from .syscalls import (
    CLONE_NEWCGROUP,
    CLONE_NEWIPC,
    CLONE_NEWNET,
    CLONE_NEWNS,
    CLONE_NEWUTS,
    MS_BIND,
    MS_NODEV,
    MS_NOEXEC,
    MS_NOSUID,
    MS_RDONLY,
    MS_REMOUNT,
    become_user,
    close_from,
    drop_bounding_set,
    drop_capabilities,
    load_filter,
    mount,
    overlay,
    pivot,
    raise_loopback,
    unshare,
)

ROOT = "/run/root"  # where the environment's root is put together, in the spawner's root
CODE = "/run/code"
INIT = "/run/init"  # a small program that reaps; see init.py beside this package
LAYERS = "/run/layers"
MASK = ROOT + "/dev/masked"  # an empty folder of the environment's own, to cover others with
RUNTIME_API = ("127.0.0.1", 9001)
INNER_UID = 993  # sbx_user1051, as on AWS

_DEVICES = (("null", 3), ("zero", 5), ("full", 7), ("random", 8), ("urandom", 9))  # null(4), random(4)

# Parts of /proc that tell of the host or act on it. A shared kernel shows the rest: see SECURITY.md.
_MASKED_FILES = (
    "buddyinfo",
    "config.gz",
    "diskstats",
    "interrupts",
    "iomem",
    "ioports",
    "kallsyms",
    "kcore",
    "key-users",
    "keys",
    "kmsg",
    "kpagecgroup",
    "kpagecount",
    "kpageflags",
    "latency_stats",
    "locks",
    "modules",
    "pagetypeinfo",
    "partitions",
    "sched_debug",
    "schedstat",
    "slabinfo",
    "softirqs",
    "swaps",
    "sysrq-trigger",
    "timer_list",
    "vmallocinfo",
    "vmstat",
    "zoneinfo",
)
_MASKED_FOLDERS = ("acpi", "bus", "driver", "fs", "irq", "pressure", "scsi", "tty")


class Layout(NamedTuple):
    """What an environment's root is made of: host folders mounted into it, and folders in them to cover."""

    trees: Sequence[str]
    hidden: Sequence[str]


class Libraries(NamedTuple):
    """Modules that are loaded ahead of functions, and their top-level names.

    Both are made by the spawner: a walk over sys.modules would touch, and so copy, the page of every name.
    """

    modules: Sequence[str]
    packages: FrozenSet[str]


class Init(NamedTuple):
    """An environment's first process: its user, and the pipe on which it tells the spawner how the runtime ended."""

    uid: int
    status: int


class Environment:
    """A child of the spawner, from the fork to the moment it runs the function.

    Args:
        name: id of the environment, also its cgroup's name.
        channel: datagram socket to the main process.
        layout: what the root is made of.
        cgroups: hierarchies to enter.
        seccomp: the filter, a BPF program.
        libraries: what is loaded beyond the runtime itself.
        init: who stays behind as the first process.
    """

    def __init__(
        self,
        name: str,
        channel: socket.socket,
        layout: Layout,
        cgroups: Cgroups,
        seccomp: bytes,
        libraries: Libraries,
        init: Init,
    ) -> None:
        self._name = name
        self._channel = channel
        self._layout = layout
        self._cgroups = cgroups
        self._seccomp = seccomp
        self._libraries = libraries
        self._init = init

    def become(self) -> str:
        """Turn this process into an environment, once the main process said "go".

        Returns the handler, if the runtime is the one that is loaded here. Any other is executed, and never returns.
        """
        try:
            listener = self._prepare()
            peak = self._cgroups.open_peak(self._name)
            socket.send_fds(self._channel, [b'{"prepared":true}'], [listener.fileno(), peak])
            listener.close()
            os.close(peak)
            message, descriptors, _, _ = socket.recv_fds(self._channel, 1 << 20, 1)
            if not message:
                os._exit(0)  # never needed: the server stops
            spec = json.loads(message)
            self._start(spec, descriptors[0])
            self._channel.send(b'{"confined":true}')
            if self._channel.recv(16) != b"go":
                os._exit(1)
        except Exception as error:  # noqa: BLE001 - whatever went wrong, the main process must hear of it
            self._channel.send(json.dumps({"error": f"{type(error).__name__}: {error}"}).encode())
            os._exit(1)
        if spec["extensions"]:
            start_extensions(self._channel, spec["extensions"], spec["extension_variables"])
        if spec["entrypoints"]:
            execute(self._channel, spec["entrypoints"], spec["environment"])
        close_from(3)
        return str(spec["handler"])

    def _prepare(self) -> socket.socket:
        with open("/proc/self/oom_score_adj", "w") as file:
            file.write("1000")  # when the host is short of memory, rather an environment than the server
        self._cgroups.enter(self._name)
        self._leave_init()
        unshare(CLONE_NEWNS | CLONE_NEWNET | CLONE_NEWIPC | CLONE_NEWUTS | CLONE_NEWCGROUP)
        raise_loopback()
        listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(RUNTIME_API)
        listener.listen(16)
        socket.sethostname("localhost")
        self._mount_root()
        return listener

    def _mount_root(self) -> None:
        overlay(["/"], ROOT)
        for tree in self._layout.trees:
            overlay([tree], ROOT + tree)
        # Device nodes of its own: flock(2) on a shared /dev/null would be a channel to other tenants.
        mount("dev", ROOT + "/dev", "tmpfs", MS_NOSUID | MS_NOEXEC, "size=64k,nr_inodes=32,mode=755")
        for name, minor in _DEVICES:
            path = f"{ROOT}/dev/{name}"
            os.mknod(path, 0o020666, os.makedev(1, minor))
            os.chmod(path, 0o666)
        for name, target in (("fd", ""), ("stdin", "/0"), ("stdout", "/1"), ("stderr", "/2")):
            os.symlink("/proc/self/fd" + target, f"{ROOT}/dev/{name}")
        os.mkdir(MASK, 0o755)
        remount = MS_REMOUNT | MS_BIND | MS_RDONLY | MS_NOSUID | MS_NOEXEC
        mount("dev", ROOT + "/dev", None, remount)
        mount("proc", ROOT + "/proc", "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC)
        for folder in self._layout.hidden:
            mount(MASK, ROOT + folder, None, MS_BIND)
        _mask_proc()

    def _start(self, spec: Dict[str, Any], log: int) -> None:
        megabyte = 1 << 20
        self._cgroups.limit(
            self._name,
            memory=spec["memory"] * megabyte,
            scratch=spec["ephemeral_storage"] * megabyte,
            processes=spec["processes"],
        )
        overlay([f"{CODE}/{spec['code']}"], ROOT + "/var/task")
        if spec["layers"]:
            overlay([f"{LAYERS}/{layer}" for layer in spec["layers"]], ROOT + "/opt")
        # Inodes are kernel memory as well: one for every 4 kB, like a small disk.
        inodes = spec["ephemeral_storage"] * 256
        options = f"size={spec['ephemeral_storage']}m,nr_inodes={inodes},mode=1777"
        mount("tmp", ROOT + "/tmp", "tmpfs", MS_NOSUID | MS_NODEV, options)
        pivot(ROOT)
        with open("/dev/null", "rb") as null:
            os.dup2(null.fileno(), 0)
        os.dup2(log, 1)
        os.dup2(log, 2)
        _limit_resources(spec["descriptors"])
        os.umask(0o022)
        os.chdir("/var/task")
        if not spec["entrypoints"]:
            _become_function(spec["environment"])
            self._forget_shadowed_modules()
        become_user(spec["uid"], INNER_UID)
        drop_capabilities()
        load_filter(self._seccomp)

    def _leave_init(self) -> None:
        """Go on as the child of an init process.

        The kernel drops signals without a handler that reach the first process of a pid namespace from within, such
        as its own SIGKILL or SIGABRT, and orphans that nobody reaps stay zombies. So this process stays behind as
        init, and the function will run in its child. It is left early, while it has few pages of its own.
        """
        confined, writer = os.pipe()
        pid = os.fork()
        if pid:
            _run_init(pid, self._init, self._seccomp, writer)
        os.close(writer)
        if os.read(confined, 1) != b"1":
            raise OSError("init could not be confined")
        os.close(confined)

    def _forget_shadowed_modules(self) -> None:
        """Unload preloaded libraries that the function brings itself: its own copy must win, as on AWS."""
        own = _top_level_names(["/var/task", "/opt/python", *_layer_packages()])
        if not own.isdisjoint(self._libraries.packages):
            for name in self._libraries.modules:
                sys.modules.pop(name, None)


def _run_init(runtime: int, init: Init, seccomp: bytes, confined: int) -> NoReturn:
    """Reap every process of the environment, until the runtime ends; its end is the environment's.

    It has no privilege, and another user than the function, who can do nothing to it.
    """
    os.dup2(init.status, 3)
    os.dup2(confined, 4)
    close_from(5)
    for descriptor in (0, 1, 2):
        os.close(descriptor)
    os.setgroups([])
    os.setresgid(init.uid, init.uid, init.uid)
    drop_bounding_set()
    os.setresuid(init.uid, init.uid, init.uid)
    drop_capabilities()
    load_filter(seccomp)
    os.write(4, b"1")
    os.close(4)
    try:
        os.execve(INIT, ["init"], {})
    except FileNotFoundError:  # this machine's architecture has no such program
        _reap_until(runtime)


def _reap_until(runtime: int) -> NoReturn:
    while True:
        pid, how = os.wait()
        if pid == runtime:
            os.write(3, how.to_bytes(4, sys.byteorder))
            os._exit(0)


def _mask_proc() -> None:
    for name in _MASKED_FILES:
        if os.path.exists(f"{ROOT}/proc/{name}"):
            mount(ROOT + "/dev/null", f"{ROOT}/proc/{name}", None, MS_BIND)
    for name in _MASKED_FOLDERS:
        if os.path.isdir(f"{ROOT}/proc/{name}"):
            mount(MASK, f"{ROOT}/proc/{name}", None, MS_BIND)


def _limit_resources(descriptors: int) -> None:
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_NOFILE, (descriptors, descriptors))
    resource.setrlimit(resource.RLIMIT_MEMLOCK, (65536, 65536))
    resource.setrlimit(resource.RLIMIT_MSGQUEUE, (0, 0))


def _layer_packages() -> List[str]:
    return ["/opt/python/lib/python%d.%d/site-packages" % sys.version_info[:2]]


def _top_level_names(folders: Sequence[str]) -> FrozenSet[str]:
    names: Set[str] = set()
    for folder in folders:
        try:
            names.update(entry.partition(".")[0] for entry in os.listdir(folder))
        except OSError:
            continue  # no such folder, or a file: neither shadows anything
    return frozenset(names)


def _become_function(environment: Dict[str, str]) -> None:
    os.environ.clear()
    os.environ.update(environment)
    stdlib = [path for path in sys.path if path and path not in ("/var/task", "/var/runtime")]
    extra = [path for path in environment.get("PYTHONPATH", "").split(":") if path]
    sys.path[:] = _unique(["/var/task", *_layer_packages(), "/opt/python", *extra, "/var/runtime", *stdlib])
    _reseed()


def _unique(paths: Sequence[str]) -> List[str]:
    return list(dict.fromkeys(paths))


def _reseed() -> None:
    """Give this process randomness of its own.

    Random state is part of the memory that forks copy. OpenSSL notices a fork by the pid, and every environment's
    pid is 2: without this, two tenants draw the same "random" bytes.
    """
    random.seed()
    ssl = sys.modules.get("ssl")
    if ssl is not None:
        ssl.RAND_add(os.urandom(48), 48.0)
    tempfile = sys.modules.get("tempfile")
    if tempfile is not None:
        tempfile._name_sequence = None  # type: ignore[attr-defined]
    uuid = sys.modules.get("uuid")
    if uuid is not None:
        uuid._last_timestamp = None  # type: ignore[attr-defined]


def reset_process() -> None:
    """Undo what the spawner set for itself: signal handlers and the frozen collector."""
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    gc.enable()
