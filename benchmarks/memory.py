"""The memory of a process as Linux counts it.

Not `ru_maxrss`: a process begins with the peak of the one that started it, which survives `exec` (setup_new_exec in
fs/exec.c), so that what grows below that peak is not seen.
"""

from __future__ import annotations

from pathlib import Path


def peak_mb(pid: int | str = "self") -> float:
    """The peak resident memory of a process since its start or its last `forget_peak`, in MB (VmHWM of proc(5))."""
    return _status_mb(pid, "VmHWM")


def now_mb(pid: int | str = "self") -> float:
    """The resident memory of a process, in MB (VmRSS of proc(5))."""
    return _status_mb(pid, "VmRSS")


def _status_mb(pid: int | str, name: str) -> float:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) / 1024
    raise OSError(f"process {pid} has no {name}")


def forget_peak() -> float:
    """Let the peak begin again at what is held now, and return that in MB (clear_refs of proc(5))."""
    Path("/proc/self/clear_refs").write_text("5")
    return peak_mb()
