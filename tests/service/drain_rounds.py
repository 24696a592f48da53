"""Stop and start a service under load, again and again: `python -m tests.service.drain_rounds --rounds 20`.

Callers ask without a pause and without trying again, so that everything that they are told is seen. A call that fails
with UNAVAILABLE would be tried again by a client with gRPC's standard retry policy; any other failure is one for good.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from remit.v1 import retrieval_pb2

from benchmarks.report import Report
from service import devissuer, settings
from tests.service.test_cli import ENVIRONMENT, lay_out, remit

CALLERS = 8
LOAD_S = 1.0


@dataclass
class Seen:
    """What callers were told. for_good: failures that no retry policy repeats.

    failures: each of them in full, with the moment it was seen at, counted from the order to stop before it.
    told_first: rounds in which health said NOT_SERVING before a call failed. unrecorded: answers without a record.
    """

    answered: int = 0
    again: int = 0
    for_good: Counter[str] = field(default_factory=Counter)
    failures: list[str] = field(default_factory=list)
    round: int = 0
    stopped_at: float = 0.0
    ended_at: float = 0.0
    told_first: int = 0
    unrecorded: int = 0
    ids: list[str] = field(default_factory=list)

    def describe(self, err: grpc.aio.AioRpcError, began: float) -> str:
        """All that is known of a call that failed."""
        now = time.monotonic()
        ended = f"; the process had ended after {self.ended_at - self.stopped_at:.3f} s" if self.ended_at else ""
        return (
            f"round {self.round}: {err.code().name} `{err.details()}` {now - self.stopped_at:+.3f} s from the stop, "
            f"after {now - began:.3f} s{ended}; {err.debug_error_string()}"
        )


async def rounds(folder: Path, count: int) -> Seen:
    """Lay out a deployment, sync it, and stop and start it so often."""
    await asyncio.to_thread(lay_out, folder)
    config = folder / "remit.yaml"
    text = config.read_text().replace("listen:\n", "listen:\n  drain: 1s\n")
    # One person stands for many here.
    config.write_text(text + "limits: {calls_per_second: 100000, burst: 100000}\n")
    seen = Seen()
    async with _service(folder) as first:
        text = config.read_text().replace("callers: 127.0.0.1:0", f"callers: {first['callers']}")
        config.write_text(text.replace("administrators: 127.0.0.1:0", f"administrators: {first['administrators']}"))
        done = await asyncio.to_thread(remit, "source", "sync", "company", "--as", "alice", folder=folder)
        assert done.returncode == 0, done.stderr
    token = devissuer.mint(settings.load(config), "alice")
    ended = asyncio.Event()
    failed = asyncio.Event()
    callers = [asyncio.create_task(_ask(first["callers"], token, seen, failed, ended)) for _ in range(CALLERS)]
    try:
        for seen.round in range(1, count + 1):
            async with _service(folder) as at:
                watching = asyncio.create_task(_told(at["callers"]))
                await asyncio.sleep(LOAD_S)
                failed.clear()
                seen.stopped_at, seen.ended_at = time.monotonic(), 0.0
                asyncio.get_running_loop().call_soon(at["terminate"])
                await watching
                seen.told_first += not failed.is_set()
            seen.ended_at = time.monotonic()
            print(
                f"round {seen.round} of {count}: {seen.answered} answered, {seen.again} to be tried again, "
                f"{len(seen.failures)} failed for good; the stop took {seen.ended_at - seen.stopped_at:.1f} s",
                flush=True,
            )
    finally:
        ended.set()
        await asyncio.gather(*callers)
    async with _service(folder):
        for response_id in seen.ids[:: max(len(seen.ids) // 20, 1)]:
            done = await asyncio.to_thread(remit, "audit", "show", response_id, "--as", "adam", folder=folder)
            seen.unrecorded += done.returncode != 0
    return seen


@asynccontextmanager
async def _service(folder: Path) -> AsyncIterator[dict[str, Any]]:
    """A service that serves; ended when the block is left, if not before."""
    environment = ENVIRONMENT | {"PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    server = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "service.cli", "serve", "--json"),
        cwd=folder,
        env=environment,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
    )
    assert server.stdout is not None
    try:
        said = json.loads(await server.stdout.readline())
        yield {**said, "terminate": server.terminate}
    finally:
        if server.returncode is None:
            server.terminate()
        assert await server.wait() == 0


async def _ask(address: str, token: str, seen: Seen, failed: asyncio.Event, ended: asyncio.Event) -> None:
    data = retrieval_pb2.SearchRequest(query="lighthouse").SerializeToString()
    metadata = (("authorization", f"Bearer {token}"),)
    # A connection that is refused is tried again soon, as a client behind a load balancer would.
    options = [("grpc.enable_retries", 0), ("grpc.max_reconnect_backoff_ms", 200), ("grpc.enable_http_proxy", 0)]
    async with grpc.aio.insecure_channel(address, options) as channel:
        search: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(
            "/remit.v1.RetrievalService/Search"
        )
        while not ended.is_set():
            began = time.monotonic()
            try:
                answer = await search(data, metadata=metadata, timeout=30)
                seen.answered += 1
                seen.ids.append(retrieval_pb2.SearchResponse.FromString(answer).response_id)
            except grpc.aio.AioRpcError as err:
                failed.set()
                if err.code() is grpc.StatusCode.UNAVAILABLE:
                    seen.again += 1
                    await asyncio.sleep(0.05)
                else:
                    seen.for_good[f"{err.code().name}: {err.details()}"] += 1
                    seen.failures.append(seen.describe(err, began))
                    print(seen.failures[-1], flush=True)


async def _told(address: str) -> None:
    """Return once health says NOT_SERVING."""
    async with grpc.aio.insecure_channel(address, [("grpc.enable_http_proxy", 0)]) as channel:
        try:
            async for answer in health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest()):
                if answer.status == health_pb2.HealthCheckResponse.NOT_SERVING:
                    return
        except grpc.aio.AioRpcError:
            raise AssertionError("the service stopped without saying so") from None


def main() -> None:
    """Run the rounds and say what was seen; exit 1 for a failure for good."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--report", action="store_true", help="write benchmarks/results/drain.json")
    arguments = parser.parse_args()
    began = time.time()
    with tempfile.TemporaryDirectory() as folder:
        seen = asyncio.run(rounds(Path(folder), arguments.rounds))
    print(
        f"{arguments.rounds} drains in {time.time() - began:.0f} s: {seen.answered} answered, {seen.again} to be tried"
    )
    print(f"again, {dict(seen.for_good)} failed for good, {seen.unrecorded} answers without a record")
    print(f"health was first in {seen.told_first} rounds")
    if arguments.report:
        report = Report("drain", 0)
        report.add("drain_rounds", arguments.rounds, "rounds", n=arguments.rounds)
        report.add("drain_failed_for_good", sum(seen.for_good.values()), "calls", "0", n=seen.answered + seen.again)
        report.add("drain_answers_without_record", seen.unrecorded, "answers", "0", n=20)
        report.write()
    sys.exit(1 if seen.for_good or seen.unrecorded else 0)


if __name__ == "__main__":
    main()
