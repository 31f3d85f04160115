"""Lambda's quotas that are the same for everyone.

Source: https://docs.aws.amazon.com/lambda/latest/dg/gettingstarted-limits.html
"""

from __future__ import annotations

REQUEST_PAYLOAD_BYTES = 6 * 1024 * 1024  # synchronous invocation, request
RESPONSE_PAYLOAD_BYTES = 6 * 1024 * 1024 + 100  # and response: AWS allows 100 bytes more
CREATE_REQUEST_BYTES = 70_167_211  # CreateFunction and UpdateFunctionCode with an inline zip
ZIPPED_BYTES = 50 * 1024 * 1024
UNZIPPED_BYTES = 250 * 1024 * 1024
CONTROL_REQUEST_BYTES = 1024 * 1024
ENVIRONMENT_BYTES = 4096
LOG_TAIL_BYTES = 4096
ACCOUNT_CONCURRENCY = 1000
UNRESERVED_CONCURRENCY = 100  # stays for functions that reserve none
CODE_STORAGE_BYTES = 75 * 1024**3
MAX_TAGS = 50
MAX_LAYERS = 5  # of one function
MAX_ALIASES = 1000  # of one function; AWS publishes no number
INIT_TIMEOUT_SECONDS = 10.0
PROCESSES = 1024  # processes and threads of one environment
FILE_DESCRIPTORS = 1024
MEMORY_PER_VCPU_MB = 1769

# New execution environments of one function, and requests a second for each of concurrency.
SCALING_ENVIRONMENTS = 1000
SCALING_SECONDS = 10.0
REQUESTS_PER_CONCURRENCY = 10
MAX_EXTENSIONS = 10  # external ones; https://docs.aws.amazon.com/lambda/latest/dg/runtimes-extensions-api.html
PROVISIONED_INIT_SECONDS = 900.0  # of provisioned environments, whose init nobody waits for

# "Lambda imposes a limit of 2,500 tenant-isolated execution environments (active or idle) for every 1,000
# concurrent executions configured for your Lambda function."
TENANT_ENVIRONMENTS_PER_THOUSAND = 2500

# Regions in which AWS does not offer tenant isolation mode.
REGIONS_WITHOUT_TENANCY = frozenset({"ap-southeast-6"})
