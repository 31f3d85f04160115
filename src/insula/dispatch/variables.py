"""Environment variables of a function.

Source: https://docs.aws.amazon.com/lambda/latest/dg/configuration-envvars.html (defined runtime environment variables)
"""

from __future__ import annotations

import re

from insula.model.function import FunctionVersion

ON_DEMAND = "on-demand"
PROVISIONED_CONCURRENCY = "provisioned-concurrency"
_LIBRARIES = "/var/lang/lib:/lib64:/usr/lib64:/var/runtime:/var/runtime/lib:/var/task:/var/task/lib:/opt/lib"


def runtime_variables(function: FunctionVersion, stream: str, initialization: str = ON_DEMAND) -> dict[str, str]:
    """All variables of a new environment; the function's own may override those that AWS does not reserve.

    Args:
        function: whose environment it is.
        stream: name of its log stream.
        initialization: ``ON_DEMAND`` or ``PROVISIONED_CONCURRENCY``.
    """
    overridable = {
        "LANG": "en_US.UTF-8",
        "LD_LIBRARY_PATH": _LIBRARIES,
        "PATH": "/var/lang/bin:/usr/local/bin:/usr/bin/:/bin:/opt/bin",
        "TZ": ":UTC",
        "AWS_XRAY_CONTEXT_MISSING": "LOG_ERROR",
        **_module_paths(function.runtime),
    }
    reserved = {
        "_HANDLER": function.handler,
        "AWS_DEFAULT_REGION": function.region,
        "AWS_LAMBDA_FUNCTION_MEMORY_SIZE": str(function.memory),
        "AWS_LAMBDA_FUNCTION_NAME": function.name,
        "AWS_LAMBDA_FUNCTION_VERSION": function.version,
        "AWS_LAMBDA_INITIALIZATION_TYPE": initialization,
        "AWS_LAMBDA_LOG_FORMAT": function.log_format,
        "AWS_LAMBDA_LOG_GROUP_NAME": function.log_group or f"/aws/lambda/{function.name}",
        "AWS_LAMBDA_LOG_STREAM_NAME": stream,
        "AWS_LAMBDA_RUNTIME_API": "127.0.0.1:9001",
        "AWS_REGION": function.region,
        "LAMBDA_RUNTIME_DIR": "/var/runtime",
        "LAMBDA_TASK_ROOT": "/var/task",
    }
    if not function.runtime.startswith("provided"):  # a function that brings its own program is told of no runtime
        reserved["AWS_EXECUTION_ENV"] = f"AWS_Lambda_{function.runtime}"
    return {**overridable, **(function.environment or {}), **reserved}


def _module_paths(runtime: str) -> dict[str, str]:
    """Where the language looks for modules.

    Sources: the page above; https://docs.aws.amazon.com/lambda/latest/dg/nodejs-layers.html
    """
    if runtime.startswith("python"):
        return {"PYTHONPATH": "/var/runtime"}
    if match := re.fullmatch(r"nodejs(\d+)\.x", runtime):
        layers = f"/opt/nodejs/node{match[1]}/node_modules:/opt/nodejs/node_modules"
        return {"NODE_PATH": f"{layers}:/var/runtime/node_modules:/var/runtime:/var/task"}
    return {}
