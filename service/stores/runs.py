"""How a run stands in its row. Who may write it is left to the writer, what it means to the sync."""

from __future__ import annotations

import json
from dataclasses import asdict
from datetime import timedelta
from typing import Any, Final

from sqlalchemy import Row

from service.keys.envelope import UnsealError
from service.stores.records import Counts, Problem, Recovery, RunState, Sealed, StoredRun, SyncPass
from service.stores.sealing import Sealing

MAX_PROBLEMS: Final = 20
"""How many problems of a run are kept: the last ones."""

INTERRUPTED: Final = "interrupted: the service stopped during the run; start it again, it goes on"


def seal_report(run: StoredRun, sealing: Sealing) -> Sealed:
    """Seal what a run counted and met: places of documents are in it."""
    report = {
        "counts": asdict(run.counts),
        "problems": [asdict(problem) for problem in run.problems[-MAX_PROBLEMS:]],
        "failure": run.failure,
        "recovery": run.recovery.value,
        "retry_after_s": None if run.retry_after is None else run.retry_after.total_seconds(),
        "pass": run.sync_pass.value,
        "resumed": run.resumed,
    }
    return sealing.seal_of_source(run.source, "run", run.run_id, json.dumps(report, ensure_ascii=False))


def run_from_row(row: Row[Any], sealing: Sealing) -> StoredRun:
    """Read a run with the name of its source, `source_name`. One whose report does not open says so, and no more."""
    try:
        report = json.loads(sealing.open_of_source(row.source_name, "run", row.run_id, row.report))
    except UnsealError:
        report = {"counts": {}, "problems": [], "failure": "its report is damaged: what it counted is not known"}
    return StoredRun(
        run_id=row.run_id,
        source=row.source_name,
        state=RunState(row.state),
        started_at=row.started_at,
        ended_at=row.ended_at,
        counts=Counts(**report["counts"]),
        problems=tuple(Problem(**problem) for problem in report["problems"]),
        failure=report["failure"],
        recovery=Recovery(report.get("recovery", Recovery.RETRY.value)),
        retry_after=None if report.get("retry_after_s") is None else timedelta(seconds=report["retry_after_s"]),
        sync_pass=SyncPass(report.get("pass", SyncPass.CONTENT.value)),
        resumed=report.get("resumed", False),
    )
