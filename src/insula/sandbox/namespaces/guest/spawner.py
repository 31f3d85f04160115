"""The spawner: holds the runtime ready, and forks one environment per request of the main process.

It is single-threaded and imports no code of any function. It runs under the runtime's own Python, or under Insula's
if the runtime is a program to execute, in its own namespaces, as pid 2 of a pid namespace whose init ends with it:
when the spawner ends, however it ends, the kernel ends every environment.

Descriptor 3 is a datagram socket to the main process. Messages are JSON:

    configure  trees, hidden, hierarchies, seccomp,      descriptors: one per hierarchy
               init_uid, preload, runtime_modules        preload null: its runtime is a program to execute
    prepare    id                                        descriptors: the environment's socket
    share      id, cpus
    audit      id, memory                                end it if its processes use more bytes than that
    kill       id

and back: ``{"ready": true}`` once, then ``{"exited": id, "status": n, "signal": n, "out_of_memory": bool,
"peak_memory": n}``.
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import select
import signal
import socket
import sys
import time
from typing import Any, Dict, List, NoReturn, Optional, Set, Tuple

from . import environment as guest
from .cgroup import Cgroups, Hierarchy
from .syscalls import CLONE_NEWPID, close_from, setns, unmount, unshare

CONTROL = 3
_MAX_MESSAGE = 1 << 20


class Spawner:
    """State of the spawner between two messages."""

    def __init__(self, control: socket.socket, config: Dict[str, Any], descriptors: List[int]) -> None:
        self._control = control
        self._layout = guest.Layout(config["trees"], config["hidden"])
        self._seccomp = bytes.fromhex(config["seccomp"])
        self._init_uid = config["init_uid"]
        self._cgroups = Cgroups(
            [Hierarchy(folder, h["version"], h["controllers"]) for folder, h in zip(descriptors, config["hierarchies"])]
        )
        self._libraries = guest.Libraries((), frozenset())
        self._children: Dict[int, str] = {}
        self._pids: Dict[str, int] = {}
        self._statuses: Dict[int, int] = {}  # by pid, the pipe on which init tells how the runtime ended
        self._starved: Set[str] = set()  # ended for their use of memory
        self._places: List[int] = []  # numbers that a child's own descriptors get
        self._first_foreign = 0
        self._own_pid_namespace = os.open("/proc/self/ns/pid", os.O_RDONLY | os.O_CLOEXEC)

    def preload(self, modules: List[str], runtime_modules: List[str]) -> None:
        """Import the runtime, and libraries that functions often use.

        ``runtime_modules`` is what the runtime has loaded when it turns to a function; whatever else is loaded here,
        by this program too, must give way to a module of the function's own.
        """
        sys.path.insert(0, "/var/runtime")
        import awslambdaric.__main__
        import awslambdaric.bootstrap  # noqa: F401

        for name in modules:
            try:
                importlib.import_module(name)
            except Exception as error:  # noqa: BLE001 - what cannot be loaded ahead is no reason to have no runtime
                print(f"spawner: {name} is not preloaded: {error}", file=sys.stderr)
        _initialise_openssl()
        kept = frozenset(runtime_modules)
        ours = f"{__package__}."
        loaded = [name for name in sys.modules if name not in kept and not f"{name}.".startswith(ours)]
        self._libraries = guest.Libraries(loaded, frozenset(name.partition(".")[0] for name in loaded))

    def run(self) -> guest.Environment:
        """Serve until the main process goes away; returns only in a child, which is to become an environment."""
        wake_reader, wake_writer = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.set_wakeup_fd(wake_writer, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        poll = select.poll()
        poll.register(self._control, select.POLLIN)
        poll.register(wake_reader, select.POLLIN)
        self._places = [os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC) for _ in range(2)]
        self._first_foreign = max(map(int, os.listdir("/proc/self/fd"))) + 1
        while True:
            ready = dict(poll.poll())
            if wake_reader in ready:
                os.read(wake_reader, 4096)
                self._reap()
            if self._control.fileno() in ready:
                child = self._serve()
                if child is not None:
                    return child

    def _serve(self) -> Optional[guest.Environment]:
        message, descriptors = receive(self._control)
        if not message:
            stop()
        request = json.loads(message)
        name = request["id"]
        if request["op"] == "prepare":
            return self._fork(name, descriptors[0])
        pid = self._pids.get(name)
        if pid is None:
            return None  # it ended meanwhile, and the main process will read so
        if request["op"] == "kill":
            self._kill(name, pid)
        elif request["op"] == "audit":
            if self._cgroups.process_memory(name) > request["memory"]:
                self._starved.add(name)
                self._kill(name, pid)
        elif request["op"] == "share":
            self._cgroups.share(name, request["cpus"])
        return None

    def _kill(self, name: str, pid: int) -> None:
        self._cgroups.unlimit(name)  # dying takes processor time as well
        self._cgroups.thaw(name)
        os.kill(pid, signal.SIGKILL)

    def _fork(self, name: str, channel: int) -> Optional[guest.Environment]:
        # unshare(CLONE_NEWPID) applies to the next child, and only once: go back to the own namespace first.
        setns(self._own_pid_namespace, CLONE_NEWPID)
        unshare(CLONE_NEWPID)
        status, writer = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        pid = os.fork()
        if pid:
            os.close(channel)
            os.close(writer)
            self._statuses[pid] = status
            self._children[pid] = name
            self._pids[name] = pid
            return None
        # Descriptors of all other environments go first: with a thousand of them its own would be beyond its limit.
        channel = os.dup2(channel, self._places[0], inheritable=False)
        writer = os.dup2(writer, self._places[1], inheritable=False)
        close_from(self._first_foreign)
        guest.reset_process()
        self._statuses.clear()
        self._children.clear()  # ids of other environments are none of this one's business
        self._pids.clear()
        return guest.Environment(
            name,
            socket.socket(fileno=channel),
            self._layout,
            self._cgroups,
            self._seccomp,
            self._libraries,
            guest.Init(self._init_uid, writer),
        )

    def _reap(self) -> None:
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            # A pid namespace's init is reaped last: nothing of the environment runs any more.
            name = self._children.pop(pid)
            del self._pids[name]
            status = _read_status(self._statuses.pop(pid), status)
            report = {
                "exited": name,
                "status": os.WEXITSTATUS(status) if os.WIFEXITED(status) else None,
                "signal": os.WTERMSIG(status) if os.WIFSIGNALED(status) else None,
                "out_of_memory": name in self._starved or self._cgroups.out_of_memory(name),
                "peak_memory": self._cgroups.peak(name),
            }
            self._starved.discard(name)
            self._cgroups.remove(name)
            self._control.send(json.dumps(report).encode())


def _read_status(pipe: int, default: int) -> int:
    """Exit status of a runtime, as its init told it; one that was killed itself told nothing."""
    try:
        told = os.read(pipe, 4)
        return int.from_bytes(told, sys.byteorder) if len(told) == 4 else default
    except BlockingIOError:
        return default
    finally:
        os.close(pipe)


def _initialise_openssl() -> None:
    """Let OpenSSL set itself up here: 2 MB that every child would else make for itself."""
    ssl = sys.modules.get("ssl")
    if ssl is not None:
        ssl.RAND_bytes(1)


def receive(control: socket.socket) -> Tuple[bytes, List[int]]:
    """One message and its descriptors; empty at the end."""
    try:
        message, descriptors, _, _ = socket.recv_fds(control, _MAX_MESSAGE, 8)
    except ConnectionResetError:  # the main process ended with messages of ours unread
        return b"", []
    return message, descriptors


def stop() -> NoReturn:
    """End, and with it this pid namespace and every environment in it."""
    os._exit(0)


def become_runtime(handler: str) -> None:
    """Run the function as AWS's own bootstrap does. Ends as the function's process ends."""
    from awslambdaric import bootstrap
    from awslambdaric.__main__ import main

    time.tzset()  # TZ may name any file: it is read with the function's rights
    if "AWS_LAMBDA_LOG_LEVEL" in os.environ:
        importlib.reload(bootstrap)  # it was imported ahead, and reads its settings when it is
    for name in ("environment", "launch", "spawner", "cgroup", "syscalls"):
        del sys.modules[f"{__package__}.{name}"]
    del sys.modules[__package__]
    sys.modules["__main__"] = type(sys)("__main__")
    sys.argv = ["/var/runtime/bootstrap.py", handler]
    main(sys.argv)


def main() -> None:
    """Run the spawner; in a child, run the function.

    Nothing of the spawner is on the stack any more when the function runs: its code could walk up the frames.
    """
    become_runtime(_serve())


def _serve() -> str:
    """Serve until a child of ours is an environment; returns its handler."""
    control = socket.socket(fileno=CONTROL)
    message, descriptors = receive(control)
    config = json.loads(message)
    spawner = Spawner(control, config, descriptors)
    unmount("/run/insula/guest")  # all of it is loaded; children have no use for it
    if config["preload"] is not None:
        spawner.preload(config["preload"], config["runtime_modules"])
    gc.collect()
    gc.freeze()  # the collector would touch, and so copy, every page that children share
    gc.disable()
    control.send(b'{"ready":true}')
    child = spawner.run()
    del spawner, config, message
    return child.become()
