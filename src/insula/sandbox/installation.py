"""Makes the folder of a runtime, ``/var/runtime`` of its environments: AWS's client for it, and how to start it.

Python gets awslambdaric, and boto3 as AWS's managed runtimes bring along, from PyPI. Node.js gets aws-lambda-ric from
npm, without the native addon that it posts and polls with: to build that needs a C++ compiler, CMake and Autotools.
``node/rapid-client.js`` stands in for it.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

from insula.sandbox.driver import RuntimeMissingError
from insula.sandbox.interpreters import NODE_CLIENTS, Interpreter
from insula.sandbox.runtimes import BOOTSTRAP, DESCRIPTION, Runtime

# What a function gets without bundling it, as on AWS.
PACKAGES = ("awslambdaric", "boto3")
_LOAD = """
import sys
sys.path.insert(0, sys.argv[1])
import awslambdaric.__main__, awslambdaric.bootstrap
modules = list(sys.modules)
import boto3.session, json
print(json.dumps(modules))
"""
_PYTHON_START = """import os
import sys

version = "python%d.%d" % sys.version_info[:2]
sys.path[:0] = ["/var/task", "/opt/python/lib/%s/site-packages" % version, "/opt/python"]
from awslambdaric.__main__ import main

main([sys.argv[0], os.environ["_HANDLER"]])
"""
# The first release of the client leaves it to its caller to start it.
_NODE_START = """const client = await import("./index.mjs");
await client.run?.(process.env.LAMBDA_TASK_ROOT, process.env._HANDLER);
"""
# What the wrapper is, and what is said of a wrong one, as AWS's own bootstraps do it:
# https://docs.aws.amazon.com/lambda/latest/dg/runtimes-modify.html#runtime-wrapper
_BOOTSTRAP = """#!/bin/sh
set -- {command}
if [ -z "${{AWS_LAMBDA_EXEC_WRAPPER-}}" ]; then
    exec "$@"
fi
if [ ! -f "$AWS_LAMBDA_EXEC_WRAPPER" ]; then
    echo "$AWS_LAMBDA_EXEC_WRAPPER: does not exist" >&2
    exit 127
fi
if [ ! -x "$AWS_LAMBDA_EXEC_WRAPPER" ]; then
    echo "$AWS_LAMBDA_EXEC_WRAPPER: is not an executable" >&2
    exit 126
fi
exec "$AWS_LAMBDA_EXEC_WRAPPER" "$@"
"""
# V8 keeps to a share of the function's memory: it would else size itself by the host's.
_NODE_OPTIONS = (
    "--expose-gc --max-http-header-size=81920 "
    "--max-semi-space-size=$((AWS_LAMBDA_FUNCTION_MEMORY_SIZE / 20)) "
    "--max-old-space-size=$((AWS_LAMBDA_FUNCTION_MEMORY_SIZE * 9 / 10))"
)


def install(interpreter: Interpreter, folder: Path) -> Runtime:
    """Make the folder of the interpreter's runtime, below ``folder``.

    Raises:
        RuntimeMissingError: a package could not be had; the message is the last line of pip's or npm's.
    """
    target = folder / interpreter.runtime
    partial = folder / f".{interpreter.runtime}.partial"
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    fill = _fill_python if interpreter.runtime.startswith("python") else _fill_node
    try:
        modules = fill(interpreter, partial)
    except RuntimeMissingError:
        shutil.rmtree(partial)
        raise
    description = {"interpreter": str(interpreter.path), "prefix": str(interpreter.prefix), "modules": modules}
    (partial / DESCRIPTION).write_text(json.dumps(description) + "\n")
    shutil.rmtree(target, ignore_errors=True)
    partial.rename(target)
    return Runtime(interpreter.runtime, interpreter.path, interpreter.prefix, target, tuple(modules))


def inner_path(interpreter: Interpreter) -> str:
    """Where the interpreter lies in an environment: installations are mounted at /var/lang, the system's stay."""
    if str(interpreter.prefix) == "/usr":
        return str(interpreter.path)
    return "/var/lang/" + os.path.relpath(interpreter.path, interpreter.prefix)


def _fill_python(interpreter: Interpreter, folder: Path) -> list[str]:
    """Returns the modules that the runtime client loads by itself."""
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    command += ["--target", str(folder), "--only-binary=:all:"]
    command += ["--python-version", interpreter.runtime.removeprefix("python"), *PACKAGES]
    _run(command, f"{interpreter.runtime} could not be installed")
    (folder / "bootstrap.py").write_text(_PYTHON_START)
    _write_bootstrap(folder, f"{inner_path(interpreter)} /var/runtime/bootstrap.py")
    # They may not work with the interpreter, whatever their metadata says.
    command = [str(interpreter.path), "-I", "-c", _LOAD, str(folder)]
    modules: list[str] = json.loads(_run(command, f"{interpreter.runtime} cannot load its runtime client"))
    # The folder is read-only where it is used. One file that cannot be compiled is no error.
    command = [str(interpreter.path), "-I", "-m", "compileall", "-qq", str(folder)]
    subprocess.run(command, capture_output=True, check=False)
    return modules


def _fill_node(interpreter: Interpreter, folder: Path) -> list[str]:
    release = NODE_CLIENTS["".join(re.findall(r"\d+", interpreter.runtime))]
    command = [*_npm(interpreter), "pack", "--silent", "--pack-destination", str(folder), f"aws-lambda-ric@{release}"]
    _run(command, f"{interpreter.runtime} could not be installed")
    (archive,) = folder.glob("*.tgz")
    with tarfile.open(archive) as package:
        names = package.getnames()
        client = next(name for name in ("package/dist/index.mjs", "package/index.mjs") if name in names)
        for member, name in ((client, "index.mjs"), ("package/LICENSE", "LICENSE"), ("package/NOTICE", "NOTICE")):
            content = package.extractfile(member)
            assert content is not None, member
            (folder / name).write_bytes(content.read())
    archive.unlink()
    # Node.js looks for it under this name when there is no addon rapid-client.node.
    shutil.copyfile(Path(__file__).with_name("node") / "rapid-client.js", folder / "rapid-client.node.js")
    (folder / "start.mjs").write_text(_NODE_START)
    _write_bootstrap(folder, f"{inner_path(interpreter)} {_NODE_OPTIONS} /var/runtime/start.mjs")
    return []


def _write_bootstrap(folder: Path, command: str) -> None:
    (folder / BOOTSTRAP).write_text(_BOOTSTRAP.format(command=command))
    (folder / BOOTSTRAP).chmod(0o755)


def _npm(interpreter: Interpreter) -> list[str]:
    """The npm that came with the interpreter, else the one on PATH."""
    own = interpreter.prefix / "lib/node_modules/npm/bin/npm-cli.js"
    if own.is_file():
        return [str(interpreter.path), str(own)]
    if shutil.which("npm") is None:
        raise RuntimeMissingError(f"{interpreter.runtime} could not be installed: npm is missing (apt-get install npm)")
    return ["npm"]


def _run(command: list[str], problem: str) -> str:
    result = subprocess.run(command, capture_output=True, text=True, check=False, timeout=600)
    if result.returncode:
        reason = result.stderr.strip().splitlines()[-1:] or ["no reason given"]
        raise RuntimeMissingError(f"{problem}: {reason[0]}")
    return result.stdout
