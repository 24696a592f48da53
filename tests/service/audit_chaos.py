"""Breaks the audit log of a service under load, and checks what it left. `make chaos-audit`, and `test_audit_chaos.py`.

A round is a server and a client in processes of their own, forked from this one so that everything is imported once.
At a point drawn by lot the log breaks:

    kill      the server is killed (SIGKILL)
    full      its folder, a memory file system of a size drawn by lot, has no room left (needs root)
    readonly  writes end with EROFS
    error     what was written does not become durable: EIO
    torn      a write stores a part of its bytes and fails
    hang      the disk does not answer any more

The last four come from a library that is loaded before libc (`faulty_disk.c`, needs a C compiler).

Each round ends with these claims: every answer that the client received has its record; the tree verifies, without a
gap; unless it was killed, the server answered UNAVAILABLE from then on and its health said NOT_SERVING; and the log
can be opened again and written.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import ctypes
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from remit.v1 import retrieval_pb2

from benchmarks.report import Report
from service import audit_keys, settings
from service.audit import AuditKey, AuditLog, Kind, record, verify
from service.audit.segments import Reader
from service.keys import KeyStore, open_provider
from service.stores.catalog import KEYS
from service.stores.folder import open_folder
from tests.service.harness import SALES, allow, serving

FAULTS: Final = ("kill", "full", "readonly", "error", "torn", "hang")
_CALLERS: Final = 8
_PATIENCE_S: Final = 60.0
_HANG_S: Final = 0.3


class ChaosError(AssertionError):
    """A claim did not hold."""


def preload() -> None:
    """Start this program again with the disk that breaks before libc, unless that was done."""
    if "faulty_disk" in os.environ.get("LD_PRELOAD", ""):
        return
    library = Path(tempfile.mkdtemp(prefix="remit-faulty-")) / "faulty_disk.so"
    source = Path(__file__).with_name("faulty_disk.c")
    subprocess.run(["cc", "-O1", "-shared", "-fPIC", "-o", str(library), str(source)], check=True)
    environment = os.environ | {"LD_PRELOAD": str(library)}
    done = subprocess.run(
        [sys.executable, "-m", "tests.service.audit_chaos", *sys.argv[1:]], env=environment, check=False
    )
    shutil.rmtree(library.parent)
    sys.exit(done.returncode)


async def _serve(folder: Path, fault: str, after: int, tell: int) -> None:
    ended = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, ended.set)
    timeout_s = _HANG_S if fault == "hang" else 5.0
    async with serving(folder, audit_timeout_s=timeout_s) as service:
        service.add("sales", "the plan of sales", allow(SALES))
        service.sync()
        watch = asyncio.create_task(service.health.watch(lambda: service.audit.failure, every_s=0.05))
        if fault not in ("kill", "full"):
            audit = os.fsencode((folder / "data" / "audit").resolve())
            ctypes.CDLL(None).faulty_disk_break(fault.encode(), after, audit)
        os.write(tell, json.dumps({"callers": str(service.callers), "token": service.token("alice")}).encode())
        os.close(tell)
        await ended.wait()
        watch.cancel()


async def _ask(callers: str, token: str, tell: int) -> None:
    """Search until the service refuses, then see that it goes on refusing; tell every answer at once."""
    async with grpc.aio.insecure_channel(callers, [("grpc.enable_http_proxy", 0)]) as channel:
        search: Any = channel.unary_unary("/remit.v1.RetrievalService/Search")
        data = retrieval_pb2.SearchRequest(query="plan", limit=3).SerializeToString()
        metadata = (("authorization", f"Bearer {token}"),)

        async def once() -> str:
            try:
                answer = await search(data, metadata=metadata, timeout=_PATIENCE_S)
            except grpc.aio.AioRpcError as err:
                return str(err.code().name)
            found = retrieval_pb2.SearchResponse.FromString(answer)
            os.write(tell, f"{found.response_id}\n".encode())
            return "OK"

        async def until_refused() -> str:
            while (code := await once()) == "OK":
                pass
            return code

        codes = await asyncio.gather(*(until_refused() for _ in range(_CALLERS)))
        after = [await once() for _ in range(3)]
        os.write(tell, f"END {json.dumps({'codes': [*codes, *after], 'health': await _health(channel)})}\n".encode())


async def _health(channel: grpc.aio.Channel) -> str:
    """What health says at last: it is asked for some seconds, since it looks from time to time."""
    stub = health_pb2_grpc.HealthStub(channel)
    said = "none"
    for _ in range(100):
        try:
            answer = await stub.Check(health_pb2.HealthCheckRequest(), timeout=5)
        except grpc.aio.AioRpcError:
            return "gone"
        said = health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status)
        if said == "NOT_SERVING":
            break
        await asyncio.sleep(0.05)
    return said


def _fork(work: Callable[[], object]) -> int:
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        signal.alarm(int(_PATIENCE_S * 2))
        work()
        code = 0
    except BaseException:  # noqa: BLE001  top of a process
        traceback.print_exc()
    finally:
        os._exit(code)


def round_of(fault: str, seed: int, folder: Path) -> dict[str, object]:
    """One round in an empty folder; what it saw. Raises ChaosError when a claim did not hold."""
    drawn = random.Random(f"{fault} {seed}")
    home = folder / "remit"
    audit = home / "data" / "audit"
    after = drawn.randint(2, 120)
    if fault == "full":
        open_folder(home / "data").close()  # which may hold nothing before
        audit.mkdir()
        size = 4096 * drawn.randint(12, 60)
        subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size},mode=0700", "remit", str(audit)], check=True)
    try:
        seen = _run(fault, home, after, drawn)
        if fault == "full":
            subprocess.run(["mount", "-o", "remount,size=64m", str(audit)], check=True)
        return {"fault": fault, "seed": seed, **seen, **_check(fault, home, seen)}
    finally:
        if fault == "full":
            subprocess.run(["umount", "--lazy", str(audit)], check=True)


def _run(fault: str, home: Path, after: int, drawn: random.Random) -> dict[str, Any]:
    ready, told = os.pipe()
    server = _fork(lambda: asyncio.run(_serve(home, fault, after, told)))
    os.close(told)
    try:
        where = json.loads(_all(ready))
        ids, told = os.pipe()
        client = _fork(lambda: asyncio.run(_ask(where["callers"], where["token"], told)))
        os.close(told)
        received: list[str] = []
        end: dict[str, Any] = {}
        with os.fdopen(ids) as lines:
            for line in lines:
                if line.startswith("END "):
                    end = json.loads(line.removeprefix("END "))
                else:
                    received.append(line.strip())
                if fault == "kill" and len(received) == after:
                    time.sleep(drawn.uniform(0, 0.005))
                    os.kill(server, signal.SIGKILL)
        os.waitpid(client, 0)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.kill(server, signal.SIGKILL if fault == "hang" else signal.SIGTERM)
        os.waitpid(server, 0)
    return {"received": received, **end}


def _all(pipe: int) -> bytes:
    with os.fdopen(pipe, "rb") as file:
        return file.read()


def _check(fault: str, home: Path, seen: dict[str, Any]) -> dict[str, object]:
    audit, config = home / "data" / "audit", settings.load(home / "remit.yaml")
    key = AuditKey.load(config.keys.audit)
    received = seen.pop("received")
    store = config.keys.store
    bodies = audit_keys.opener(store, open_provider(config.keys), key)
    records = [bodies.open(index, stored) for index, stored in enumerate(Reader(audit).records())]
    recorded = {json.loads(data)["body"].get("response_id") for data in records if isinstance(data, bytes)}
    _claim(len(set(received)) == len(received), "an answer came twice")
    _claim(set(received) <= recorded, f"{len(set(received) - recorded)} answers have no record")
    _claim(set(seen.get("codes", ())) == {"UNAVAILABLE"}, f"the calls ended with {Counter(seen.get('codes', ()))}")
    expected = "gone" if fault == "kill" else "NOT_SERVING"
    _claim(seen.get("health") == expected, f"health said {seen.get('health')}")
    before = verify(audit, key.verifier, bodies)
    _claim(before.ok, f"the log does not verify: {before.problem}")
    keys = KeyStore(store / KEYS, open_provider(config.keys), create=False)
    again = AuditLog(audit, key.signer, audit_keys.bodies(keys, key))
    again.append_blocking(record(Kind.CONTROL, {"event": "chaos"}))
    again.close()
    after = verify(audit, key.verifier, again.bodies)
    keys.close()
    _claim(after.ok and after.covered == after.records >= before.records, f"opened again: {after.problem}")
    return {"answers": len(received), "records": after.records, "codes": dict(Counter(seen["codes"]))}


def _claim(holds: bool, what: str) -> None:
    if not holds:
        raise ChaosError(what)


def main() -> int:
    """Run rounds, each fault in turn; 1 when a claim did not hold."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=200)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--fault", choices=FAULTS, action="append")
    parser.add_argument("--report", action="store_true", help="write benchmarks/results/chaos_audit.json")
    asked = parser.parse_args()
    preload()
    faults = asked.fault or [f for f in FAULTS if f != "full" or os.geteuid() == 0]
    passed, answers, failed = Counter[str](), 0, 0
    for number in range(asked.rounds):
        fault = faults[number % len(faults)]
        with tempfile.TemporaryDirectory(prefix="remit-chaos-") as folder:
            try:
                seen = round_of(fault, asked.seed * 1_000_000 + number, Path(folder))
                passed[fault] += 1
                answers += int(str(seen["answers"]))
            except (ChaosError, OSError, ValueError) as err:
                failed += 1
                print(f"round {number} ({fault}): {err}", file=sys.stderr)
    print(f"{sum(passed.values())} of {asked.rounds} rounds held, {answers} answers all with records: {dict(passed)}")
    if asked.report:
        report = Report("chaos_audit", asked.seed)
        for fault in faults:
            report.add(f"rounds_held_{fault}", passed[fault], "rounds", n=passed[fault])
        report.add("rounds_failed", failed, "rounds", "0", n=asked.rounds)
        report.add("answers_without_record", 0 if not failed else float("nan"), "answers", "0", n=answers)
        report.write()
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
