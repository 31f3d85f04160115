"""A small virtual machine: Debian's cloud kernel under QEMU's software CPU, with this Python and this Insula inside.

Needs root (to make file systems) and the Debian packages in PACKAGES; slow, so that its timings mean nothing.
"""

from __future__ import annotations

import glob
import shutil
import subprocess
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

PACKAGES = ("busybox-static", "cpio", "e2fsprogs", "linux-image-cloud-amd64", "qemu-system-x86")
REPOSITORY = Path(__file__).resolve().parents[2]
_MODULES = (
    "virtio/virtio_ring.ko",
    "virtio/virtio.ko",
    "virtio/virtio_pci_modern_dev.ko",
    "virtio/virtio_pci_legacy_dev.ko",
    "virtio/virtio_pci.ko",
    "block/virtio_blk.ko",
)
_TOOLS = ("/usr/bin/unshare", "/usr/bin/setpriv", "/usr/sbin/ldconfig")
_DONE = "MACHINE DONE"

_INITRAMFS = """#!/bin/busybox sh
/bin/busybox mkdir -p /proc /dev /root
/bin/busybox mount -t devtmpfs dev /dev
for module in MODULES; do /bin/busybox insmod /$module; done
while [ ! -b /dev/vda ]; do /bin/busybox sleep 0.1; done
/bin/busybox mount -t ext4 /dev/vda /root
exec /bin/busybox switch_root /root /init
"""

_INIT = """#!/bin/busybox sh
export PATH=/bin:/usr/bin:/sbin:/usr/sbin HOME=/root
busybox mount -t proc proc /proc
busybox mount -t sysfs sysfs /sys
busybox mount -t devtmpfs dev /dev
busybox mount -t cgroup2 none /sys/fs/cgroup
insmod /overlay.ko
ip link set lo up
cd REPOSITORY
COMMAND
echo "DONE $?"
poweroff -f
"""


def installed() -> bool:
    """Whether the packages are here."""
    tools = ("busybox", "cpio", "mkfs.ext4", "qemu-system-x86_64")
    return all(shutil.which(tool) for tool in tools) and bool(glob.glob("/boot/vmlinuz-*-cloud-amd64"))


def run(folder: Path, command: Sequence[str], *, seconds: int) -> tuple[int, str]:
    """Run a command in a fresh machine.

    Returns:
        Its exit status and the console's text.
    """
    image, kernel, initramfs = folder / "root.ext4", _kernel(), folder / "initramfs"
    _make_root(folder / "root", command)
    subprocess.run(["mkfs.ext4", "-q", "-d", folder / "root", image, "1800M"], check=True, capture_output=True)
    _make_initramfs(folder / "early", initramfs)
    qemu = ["qemu-system-x86_64", "-M", "q35", "-accel", "tcg,thread=multi", "-cpu", "max", "-smp", "2", "-m", "2048"]
    qemu += ["-nographic", "-no-reboot", "-nic", "none", "-kernel", str(kernel), "-initrd", str(initramfs)]
    qemu += ["-drive", f"file={image},format=raw,if=virtio", "-append", "console=ttyS0 panic=-1 quiet"]
    console = folder / "console.txt"
    with console.open("wb") as output:
        process = subprocess.Popen(qemu, stdin=subprocess.DEVNULL, stdout=output, stderr=output)
        try:
            process.wait(seconds)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
    text = console.read_text(errors="replace").replace("\r", "")
    status = [line for line in text.splitlines() if line.startswith(_DONE)]
    return (int(status[-1].removeprefix(_DONE)) if status else -1), text


def _kernel() -> Path:
    return Path(max(glob.glob("/boot/vmlinuz-*-cloud-amd64")))


def _modules() -> Path:
    return Path("/lib/modules", _kernel().name.removeprefix("vmlinuz-"), "kernel")


def _make_initramfs(folder: Path, target: Path) -> None:
    (folder / "bin").mkdir(parents=True)
    shutil.copy(_busybox(), folder / "bin/busybox")
    for module in _MODULES:
        shutil.copy(_modules() / "drivers" / module, folder)
    names = " ".join(Path(module).name for module in _MODULES)
    _write_script(folder / "init", _INITRAMFS.replace("MODULES", names))
    files = subprocess.run(["find", "."], cwd=folder, capture_output=True, check=True).stdout
    with target.open("wb") as output:
        subprocess.run(["cpio", "-o", "-H", "newc", "--quiet"], cwd=folder, input=files, stdout=output, check=True)


def _make_root(root: Path, command: Sequence[str]) -> None:
    for name in ("dev", "proc", "sys", "tmp", "root", "etc", "usr/bin", "usr/sbin", "usr/lib", "usr/lib64", "var"):
        (root / name).mkdir(parents=True)
    for name in ("bin", "sbin", "lib", "lib64"):
        (root / name).symlink_to(f"usr/{name}")
    shutil.copy(_busybox(), root / "usr/bin/busybox")
    for applet in ("sh", "ip", "insmod", "poweroff", "echo", "ls", "cat", "true", "mkdir", "sleep"):
        (root / "usr/bin" / applet).symlink_to("busybox")
    shutil.copy(_modules() / "fs/overlayfs/overlay.ko", root)
    prefix, environment = Path(sys.base_prefix), Path(sys.prefix)
    _copy(root, prefix / "bin", prefix / "lib", environment, REPOSITORY / "src", REPOSITORY / "tests", *_TOOLS)
    for configuration in ("pyproject.toml", "/etc/ld.so.cache", "/etc/passwd", "/etc/group"):
        _copy(root, REPOSITORY / configuration)
    _copy(root, *_libraries([root, Path("/usr/bin/unshare"), Path("/usr/bin/setpriv")]))
    script = _INIT.replace("REPOSITORY", str(REPOSITORY)).replace("COMMAND", " ".join(command)).replace("DONE", _DONE)
    _write_script(root / "init", script)


def _copy(root: Path, *sources: Path | str) -> None:
    for source in map(Path, sources):
        target = root / str(source).lstrip("/")
        if source.is_dir():
            ignore = shutil.ignore_patterns(
                "test", "__pycache__", "*.a", "idlelib", "ensurepip", "config-3*", "nodejs*"
            )
            shutil.copytree(source, target, symlinks=True, ignore=ignore, dirs_exist_ok=True)
        elif not target.exists():
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(source, target)


def _libraries(places: Iterable[Path]) -> set[str]:
    """Shared libraries that programs and modules in these places need, and libseccomp, which is found at run time."""
    programs = [str(p) for place in places for p in ([place] if place.is_file() else _objects(place))]
    text = subprocess.run(["ldd", *programs], capture_output=True, text=True, check=False).stdout
    found = {word for line in text.splitlines() for word in line.split() if word.startswith("/") and ".so" in word}
    found |= set(glob.glob("/lib/*-linux-gnu/libseccomp.so.2"))
    names = {name.rstrip(":") for name in found}
    return {name for name in names if Path(name).is_file() and not _below(name, places)}


def _objects(place: Path) -> list[Path]:
    return [
        path for path in place.rglob("*") if path.is_file() and (".so" in path.name or path.name.startswith("python3"))
    ]


def _below(name: str, places: Iterable[Path]) -> bool:
    return any(Path(name).is_relative_to(place) for place in places if place.is_dir())


def _busybox() -> str:
    return shutil.which("busybox") or "/bin/busybox"


def _write_script(path: Path, text: str) -> None:
    path.write_text(text)
    path.chmod(0o755)
