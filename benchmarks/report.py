"""Write a benchmark's numbers as one JSON file that says where, on what and how often they were measured."""

from __future__ import annotations

import json
import os
import platform
import subprocess
from dataclasses import dataclass, field
from pathlib import Path

RESULTS = Path(__file__).parent / "results"


@dataclass
class Report:
    """Numbers of one run. `name` becomes the file's name; `seed` is that of everything random in it."""

    name: str
    seed: int
    _results: dict[str, dict[str, object]] = field(default_factory=dict)

    def add(self, metric: str, value: float, unit: str, target: str = "", n: int = 1) -> None:
        """Keep one number. target: what was aimed at, such as `<= 0.3`; empty when nothing was. n: sample size."""
        self._results[metric] = {"metric": metric, "value": round(value, 6), "unit": unit, "target": target, "n": n}
        aim = f"  (target {target})" if target else ""
        print(f"{metric:48s} {value:12.4f} {unit}{aim}")

    @property
    def results(self) -> tuple[dict[str, object], ...]:
        """The numbers so far."""
        return tuple(self._results.values())

    def go_on(self) -> None:
        """Keep the numbers that the file has from other parts, if they are of this machine and commit."""
        path = RESULTS / f"{self.name}.json"
        if path.exists():
            body = json.loads(path.read_text())
            if (body["machine"], body["commit"], body["seed"]) == (machine(), commit(), self.seed):
                self._results = {one["metric"]: one for one in body["results"]} | self._results

    def write(self) -> Path:
        """Write the file under `benchmarks/results/` and return its path."""
        path = RESULTS / f"{self.name}.json"
        path.parent.mkdir(exist_ok=True)
        body = {
            "name": self.name,
            "machine": machine(),
            "commit": commit(),
            "seed": self.seed,
            "results": list(self._results.values()),
        }
        path.write_text(json.dumps(body, indent=1) + "\n")
        return path


def machine() -> str:
    """Processor, cores, memory and system, as one line."""
    model = next(
        (
            line.split(":", 1)[1].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if "model name" in line
        ),
        platform.machine(),
    )
    memory_gib = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    software = f"Linux {platform.release()}, Python {platform.python_version()}"
    return f"{model}, {os.cpu_count()} cores, {memory_gib:.0f} GiB, {software}"


def commit() -> str:
    """The commit that was measured, with `+changes` when the tree differed from it."""
    here = Path(__file__).parent
    head = subprocess.run(
        ["git", "rev-parse", "--short=12", "HEAD"], cwd=here, capture_output=True, text=True, check=False
    )
    dirty = subprocess.run(
        ["git", "status", "--porcelain", "--untracked-files=no", ":(top,exclude)benchmarks/results"],
        cwd=here,
        capture_output=True,
        text=True,
        check=False,
    )
    return (head.stdout.strip() or "unknown") + ("+changes" if dirty.stdout.strip() else "")
