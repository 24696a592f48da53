"""What a soak says of memory and latency: the numbers that have a target, and those that explain them.

Measured is the part without kills and faults, after a warm-up: caches fill after a start, and that is no growth.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from benchmarks.report import Report
from tests.soak.watch import Processes, Sizes

_MIB: Final = 1 << 20


@dataclass
class Measured:
    """Samples of the measured part, each with its moment, and the latencies of searches that were answered in it.

    world: how large the world was at its beginning and its end: documents, and principals that somebody holds.
    """

    memory: list[tuple[float, Processes]] = field(default_factory=list)
    sizes: list[tuple[float, Sizes]] = field(default_factory=list)
    latencies: list[tuple[float, float]] = field(default_factory=list)
    world: list[tuple[int, float]] = field(default_factory=list)

    @property
    def growth(self) -> float:
        """Of the memory that all processes have for themselves, from the first tenth of the samples to the last one."""
        return self._grown([sum(one.own for one in found.values()) for _, found in self.memory])

    @property
    def resident_growth(self) -> float:
        """Of all that is mapped, files with it."""
        return self._grown([sum(one.resident for one in found.values()) for _, found in self.memory])

    @property
    def p95_ratio(self) -> float:
        """The 95th percentile of the last fifth of the searches over that of the first."""
        part = max(1, len(self.latencies) // 5)
        return p95(self.latencies[-part:]) / p95(self.latencies[:part])

    def add_to(self, report: Report) -> None:
        """The numbers with a target, then what explains them."""
        report.add("soak_memory_growth", self.growth, "share", "<= 0.05", n=len(self.memory))
        report.add("soak_p95_ratio", self.p95_ratio, "ratio", "<= 1.2", n=len(self.latencies))
        report.add("soak_resident_growth", self.resident_growth, "share", n=len(self.memory))
        for when, (_, found) in (("start", self.memory[0]), ("end", self.memory[-1])):
            for name, one in sorted(found.items()):
                report.add(f"{name}_resident_{when}", one.resident / _MIB, "MiB")
                report.add(f"{name}_own_{when}", one.own / _MIB, "MiB")
        for minute, part in enumerate(self._minutes(), start=1):
            report.add(f"p95_minute_{minute:02}", p95(part) * 1000, "ms", n=len(part))
        for when, (_, sizes) in (("start", self.sizes[0]), ("end", self.sizes[-1])):
            for name, size in sizes.items():
                report.add(f"{name}_{when}", size, name.partition("_")[0])
        for when, (documents, held) in zip(("start", "end"), self.world, strict=True):
            report.add(f"world_documents_{when}", documents, "documents")
            report.add(f"world_held_{when}", held, "principals")

    def _grown(self, values: Sequence[int]) -> float:
        part = max(1, len(values) // 10)
        return statistics.median(values[-part:]) / statistics.median(values[:part]) - 1

    def _minutes(self) -> list[list[tuple[float, float]]]:
        found: list[list[tuple[float, float]]] = []
        for ended, took in self.latencies:
            minute = int((ended - self.latencies[0][0]) // 60)
            found += [[] for _ in range(minute + 1 - len(found))]
            found[minute].append((ended, took))
        # A minute that had just begun says nothing.
        return [part for part in found if len(part) >= len(found[0]) // 4]


def p95(latencies: Sequence[tuple[float, float]]) -> float:
    """Of moments of answers with how long each took."""
    ordered = sorted(took for _, took in latencies)
    return ordered[int(len(ordered) * 0.95)]
