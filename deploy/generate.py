"""Generate `client/remit/v1` from `proto/`, or check that what is committed is what would be generated."""

from __future__ import annotations

import argparse
import filecmp
import os
import sys
import tempfile
from pathlib import Path

import grpc_tools
from grpc_tools import protoc

ROOT = Path(__file__).resolve().parent.parent
PROTO = ROOT / "proto"
TARGET = ROOT / "client"


def generate(target: Path) -> list[Path]:
    """Write the generated modules and stubs under `target`; return their paths relative to it."""
    # protoc finds its plugins by PATH; ours stand beside the interpreter, whose environment need not be active.
    os.environ["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
    wellknown = Path(grpc_tools.__file__).parent / "_proto"
    protos = sorted(str(p.relative_to(PROTO)) for p in PROTO.glob("remit/v1/*.proto"))
    code = protoc.main(
        [
            "protoc",
            f"-I{PROTO}",
            f"-I{wellknown}",
            f"--python_out={target}",
            f"--grpc_python_out={target}",
            f"--mypy_out=quiet:{target}",
            f"--mypy_grpc_out=quiet:{target}",
            *protos,
        ]
    )
    if code != 0:
        sys.exit(code)
    return sorted(p.relative_to(target) for p in (target / "remit/v1").glob("*_pb2*"))


def main() -> int:
    """Generate, or with `--check` compare; exit 1 when they differ."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true")
    if not parser.parse_args().check:
        generate(TARGET)
        return 0
    with tempfile.TemporaryDirectory() as folder:
        fresh = generate(Path(folder))
        committed = sorted(p.relative_to(TARGET) for p in (TARGET / "remit/v1").glob("*_pb2*"))
        differing = [
            str(name)
            for name in sorted({*fresh, *committed})
            if name not in fresh
            or name not in committed
            or not filecmp.cmp(Path(folder) / name, TARGET / name, shallow=False)
        ]
    if differing:
        print("generated code differs from proto/, run `make proto`: " + ", ".join(differing), file=sys.stderr)
        return 1
    print("generated code matches proto/")
    return 0


if __name__ == "__main__":
    sys.exit(main())
