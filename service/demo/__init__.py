"""The demonstration: `python -m service.demo`."""

import os

# Before anything imports it: gRPC's core writes lines of its own to standard error, beside what the demo says.
os.environ.setdefault("GRPC_VERBOSITY", "NONE")
