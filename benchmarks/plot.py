"""Latency and recall over the permitted share, one column a number of chunks."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Final

_LOOKS: Final = {
    "remit": ("Remit", "C3", "o-"),
    "approximate": ("Remit, approximate", "C1", "d--"),
    "edge": ("Qdrant Edge, default filter", "C0", "s--"),
    "lancedb": ("LanceDB", "C2", "^--"),
    "pgvector_join": ("pgvector, RLS by join", "C4", "v--"),
    "wardowl": ("wardowl over pgvector", "C6", "*--"),
    "pgvector_array": ("pgvector, RLS by array", "C5", "x--"),
}
_NAME: Final = re.compile(rf"(p50_ms|recall_at_10)_({'|'.join(_LOOKS)})_(\d+)_random-(.+)")


def plot(metrics: Mapping[str, tuple[float, str, str, int]], path: Path) -> None:
    """Write an SVG of what was measured with permissions spread at random."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    lines: dict[tuple[str, str, str], list[tuple[float, float]]] = {}
    for name, (value, *_) in metrics.items():
        found = _NAME.fullmatch(name)
        if found is not None:
            metric, system, chunks, share = found.groups()
            lines.setdefault((metric, chunks, system), []).append((float(share) * 100, value))
    sizes = sorted({int(chunks) for _, chunks, _ in lines})
    if not sizes:
        return
    figure, axes = pyplot.subplots(2, len(sizes), figsize=(6 * len(sizes), 8), squeeze=False, sharex=True)
    for (metric, chunks, system), points in sorted(lines.items()):
        axis = axes[0 if metric == "p50_ms" else 1][sizes.index(int(chunks))]
        label, colour, style = _LOOKS[system]
        points.sort()
        axis.plot([x for x, _ in points], [y for _, y in points], style, color=colour, label=label, markersize=4)
    for column, size in enumerate(sizes):
        top, bottom = axes[0][column], axes[1][column]
        top.set(title=f"{size:,} chunks", xscale="log", yscale="log", ylabel="median, ms")
        bottom.set(xlabel="permitted, %", ylabel="recall@10", ylim=(-0.02, 1.02))
        top.grid(visible=True, alpha=0.3)
        bottom.grid(visible=True, alpha=0.3)
    axes[0][0].legend(fontsize=8)
    figure.tight_layout()
    figure.savefig(path, metadata={"Date": None})
    pyplot.close(figure)
