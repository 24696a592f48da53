"""What one caller may ask for: buckets, calls at once, streams; and that the neighbour is answered meanwhile."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
from google.rpc.error_details_pb2 import ErrorInfo, RetryInfo
from google.rpc.status_pb2 import Status
from remit.v1 import audit_pb2, retrieval_pb2

from service.deadline import DeadlinePassedError, remaining, within
from service.executor import Executor
from service.limits import CallLimits, Meter, RateLimitedError, address_of
from service.process import Child
from service.settings import SettingsError, load
from tests.isolation.raw import Connection
from tests.service.harness import SALES, UNHURRIED, Outcome, Service, allow, serving
from tests.service.test_settings import GOOD

SEARCH = retrieval_pb2.SearchRequest(query="plan")


class Ticking:
    """A clock that is moved by hand."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Ticking:
    """Time stands still."""
    return Ticking()


def taken(meter: Meter, name: str, times: int) -> int:
    """How many of so many calls pass, each of them over at once."""
    passed = 0
    for _ in range(times):
        try:
            with meter.admit(name, stream=False):
                passed += 1
        except RateLimitedError:
            pass
    return passed


def test_a_bucket_holds_a_burst_and_fills_at_its_rate(clock: Ticking) -> None:
    """Beyond the burst calls are refused with the time until the next; another caller has a bucket of its own."""
    meter = Meter(CallLimits(calls_per_second=10, burst=5), clock)

    assert taken(meter, "alice", 20) == 5
    assert taken(meter, "bob", 1) == 1
    with pytest.raises(RateLimitedError) as refused, meter.admit("alice", stream=False):
        pass
    assert (refused.value.limit, round(refused.value.retry_s, 3)) == ("calls_per_second", 0.1)
    clock.now += 0.3
    assert taken(meter, "alice", 20) == 3
    clock.now += 1000.0
    assert taken(meter, "alice", 20) == 5


def test_a_clock_that_goes_back_fills_nothing(clock: Ticking) -> None:
    """And empties nothing."""
    meter = Meter(CallLimits(calls_per_second=10, burst=5), clock)
    assert taken(meter, "alice", 4) == 4

    clock.now -= 100.0

    assert taken(meter, "alice", 5) == 1


def test_calls_and_streams_at_once_are_counted_until_they_end(clock: Ticking) -> None:
    """Each kind for itself, of each caller; the place of a call that failed is free, too."""
    meter = Meter(CallLimits(calls_at_once=1, streams_at_once=1), clock)

    with meter.admit("alice", stream=False), meter.admit("alice", stream=True), meter.admit("bob", stream=False):
        for stream in (False, True):
            with pytest.raises(RateLimitedError), meter.admit("alice", stream=stream):
                pass
    with pytest.raises(ZeroDivisionError), meter.admit("alice", stream=False):
        raise ZeroDivisionError
    assert meter.under_way == 0
    assert taken(meter, "alice", 2) == 2


def test_nobody_is_forgotten_while_calls_are_under_way(clock: Ticking, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many others come, the table stays small and a place that is taken stays taken."""
    monkeypatch.setattr("service.limits._MOST_KEPT", 100)
    meter = Meter(CallLimits(calls_at_once=1), clock)

    with meter.admit("alice", stream=False):
        for number in range(1000):
            assert taken(meter, f"u-{number}", 1) == 1
        with pytest.raises(RateLimitedError), meter.admit("alice", stream=False):
            pass
    assert len(meter._proven.found) == 100


@pytest.mark.parametrize(
    ("peer", "address"),
    [
        ("ipv4:10.0.0.7:5000", "10.0.0.7"),
        ("ipv6:[2001:db8:1:2:3:4:5:6]:5000", "2001:db8:1:2::/64"),
        ("ipv6:%5B2001:db8:1:2::9%5D:80", "2001:db8:1:2::/64"),
        ("ipv6:[fe80::1%25eth0]:80", "fe80::/64"),
        ("unix:", "unix:"),
        ("", ""),
    ],
)
def test_one_machine_is_one_address(peer: str, address: str) -> None:
    """The port does not count, nor the lower half of an IPv6 address: whoever has one has all of them."""
    assert address_of(peer) == address


# --- at the wire ---


def limit_of(outcome: Outcome) -> tuple[str, str, float]:
    """Reason, limit and the time to wait, of a refusal."""
    assert outcome.code == "RESOURCE_EXHAUSTED", outcome
    details = dict(outcome.trailing)["grpc-status-details-bin"]
    assert isinstance(details, bytes)
    info, retry = ErrorInfo(), RetryInfo()
    one, other = Status.FromString(details).details
    assert one.Unpack(info)
    assert other.Unpack(retry)
    return info.reason, info.metadata["limit"], retry.retry_delay.ToTimedelta().total_seconds()


async def under_way(service: Service, number: int) -> None:
    """Wait until so many calls are under way."""
    async with asyncio.timeout(20):
        while service.wrapper._meter.under_way != number:  # noqa: ASYNC110  the meter tells nobody
            await asyncio.sleep(0.01)


async def test_a_caller_beyond_its_rate_is_refused_and_its_neighbour_is_not(tmp_path: Path) -> None:
    """With reason, limit and a time to wait; whoever waits is answered again, and nothing is said of others."""
    async with serving(tmp_path / "remit", limits=CallLimits(calls_per_second=2, burst=3)) as service:
        alice, bob = service.token("alice"), service.token("bob")

        outcomes = [await service.call("RetrievalService/Search", SEARCH, token=alice) for _ in range(12)]

        refused = [one for one in outcomes if one.code != "OK"]
        assert len(refused) >= 5
        reason, limit, wait_s = limit_of(refused[-1])
        assert (reason, limit) == ("RATE_LIMITED", "calls_per_second")
        assert 0.1 <= wait_s <= 0.5
        assert len({(one.details, one.message) for one in refused}) == 1
        assert (await service.call("RetrievalService/Search", SEARCH, token=bob)).code == "OK"
        await asyncio.sleep(wait_s + 0.2)
        assert (await service.call("RetrievalService/Search", SEARCH, token=alice)).code == "OK"


async def test_refusals_by_rate_are_counted_in_the_log_and_do_not_fill_it(tmp_path: Path) -> None:
    """Some have a record each, the others one together, with the limit and who it was."""
    async with serving(tmp_path / "remit", limits=CallLimits(calls_per_second=1, burst=1)) as service:
        token = service.token("alice")
        for _ in range(60):
            await service.call("AccessService/GetCaller", token=token)
        await service.calls.flush()
        listed = await service.call(
            "AuditService/ListAuditRecords",
            audit_pb2.ListAuditRecordsRequest(classes=[audit_pb2.AUDIT_CLASS_ACCESS]),
            token=service.token("adam"),
        )
        records = audit_pb2.ListAuditRecordsResponse.FromString(listed.message).records
        assert len(records) < 20
        together = next(one.data for one in records if b'"event":"calls_refused"' in one.data)
        assert b"remit.v1.AccessService/GetCaller calls_per_second u-1001" in together


async def test_who_proves_nobody_is_slowed_by_address_and_others_there_are_not(tmp_path: Path) -> None:
    """Bad tokens from one address end in RATE_LIMITED; a good one from there is answered."""
    async with serving(tmp_path / "remit", limits=CallLimits(unproven_per_second=2)) as service:
        outcomes = [await service.call("RetrievalService/Search", SEARCH, token="x.y.z") for _ in range(30)]

        assert [one.code for one in outcomes[:6]] == ["UNAUTHENTICATED"] * 6
        assert limit_of(outcomes[-1])[:2] == ("RATE_LIMITED", "unproven_per_second")
        assert (await service.call("RetrievalService/Search", SEARCH, token=service.token("alice"))).code == "OK"


async def test_streams_of_one_caller_end_at_their_number(tmp_path: Path) -> None:
    """The third export of one auditor is refused while two are open; unary calls of the auditor are answered."""
    async with serving(tmp_path / "remit", limits=CallLimits(streams_at_once=2)) as service:
        token = service.token("adam")
        follow = audit_pb2.ExportAuditRecordsRequest(follow=True)
        open_ones = [
            asyncio.create_task(service.call("AuditService/ExportAuditRecords", follow, token=token)) for _ in range(2)
        ]
        await under_way(service, 2)

        third = await service.call("AuditService/ExportAuditRecords", follow, token=token)

        assert limit_of(third)[:2] == ("RATE_LIMITED", "streams_at_once")
        assert (await service.call("AuditService/GetCheckpoint", token=token)).code == "OK"
        for one in open_ones:
            one.cancel()
        await asyncio.gather(*open_ones, return_exceptions=True)
        await under_way(service, 0)


async def test_calls_that_are_begun_and_never_sent_keep_nobody_out(tmp_path: Path) -> None:
    """Of somebody without a credential, more of them than may be under way: others are answered."""
    async with serving(tmp_path / "remit") as service, AsyncExitStack() as stack:
        service.add("sales", "the plan of sales", allow(SALES))
        service.sync()
        for _ in range(6):
            connection = await stack.enter_async_context(Connection.open(service.callers))
            for _ in range(120):
                await connection.begin("/remit.v1.RetrievalService/Search", [("authorization", "x")], end=False)

        assert UNHURRIED.at_once < 6 * 120
        outcome = await service.call("RetrievalService/Search", SEARCH, token=service.token("alice"))
        assert outcome.code == "OK"


async def test_a_call_whose_request_never_comes_ends_and_gives_its_place_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of somebody with a credential: it counts against their limit, and ends long before its deadline."""
    monkeypatch.setattr("service.api.incoming.SLOWEST_SENDER_S", 0.2)
    async with serving(tmp_path / "remit", limits=CallLimits(calls_at_once=2)) as service:
        headers = [("authorization", f"Bearer {service.token('alice')}")]
        async with Connection.open(service.callers) as connection:
            for _ in range(2):
                await connection.begin("/remit.v1.RetrievalService/Search", headers, end=False)
            await under_way(service, 2)
            await under_way(service, 0)
            outcome = await service.call("RetrievalService/Search", SEARCH, token=service.token("alice"))
        assert outcome.code == "OK"


async def test_a_flood_of_pings_ends_its_connection_and_no_other(tmp_path: Path) -> None:
    """A client that pings without a pause is hung up on; one that pings once is not, and others are answered."""
    async with serving(tmp_path / "remit") as service, AsyncExitStack() as stack:
        flooding = await stack.enter_async_context(Connection.open(service.callers))
        async with asyncio.timeout(30):
            ended = False
            while not ended:
                await flooding.ping()
                ended = await flooding.ended()
        calm = await stack.enter_async_context(Connection.open(service.callers))
        await calm.ping()
        reply = await calm.call("/remit.v1.AccessService/GetCaller", [("authorization", "x")], b"\0\0\0\0\0")
        assert reply.closed == "trailers"
        assert (await service.call("AccessService/GetCaller", token=service.token("alice"))).code == "OK"


# --- deadlines ---


async def test_the_deadline_of_a_call_is_known_to_the_threads_that_work_for_it() -> None:
    """And to nothing else; past it the next thing does not begin."""
    executor = Executor(threads=1)
    try:
        assert remaining() is None
        with within(10.0):
            left = await executor.run(remaining)
            assert left is not None
            assert 5.0 < left <= 10.0
        with within(-1.0), pytest.raises(DeadlinePassedError):
            await executor.run(remaining)
        assert await executor.run(remaining) is None
    finally:
        executor.close()


@pytest.fixture
def busy() -> Iterator[Child]:
    """A child that answers."""
    child = Child("tests.service.process_child", name="example", call_timeout_s=60.0)
    try:
        yield child
    finally:
        child.close()


def test_whoever_waits_for_a_child_waits_no_longer_than_its_call(busy: Child) -> None:
    """The child is left alone: another's short deadline ends no process."""
    busy.start()
    pid = busy.pid
    busy._lock.acquire()
    began = time.monotonic()
    with within(0.2), pytest.raises(DeadlinePassedError):
        busy.call("echo", {})
    assert time.monotonic() - began < 30
    busy._lock.release()

    assert busy.pid == pid is not None


# --- settings ---


def test_limits_are_read_and_checked_with_their_lines(tmp_path: Path) -> None:
    """Every key has a range; what is not given has its default."""
    path = tmp_path / "remit.yaml"
    path.write_text(GOOD + "limits: {calls_per_second: 5, burst: 9, streams_at_once: 2}\n")
    assert load(path).limits.calls == CallLimits(calls_per_second=5, burst=9, streams_at_once=2)

    for wrong in ("{calls_per_second: 0}", "{burst: -1}", "{calls_at_once: 1000}", "{callers: 3}"):
        path.write_text(GOOD + f"limits: {wrong}\n")
        with pytest.raises(SettingsError, match=r"remit\.yaml:\d+: limits"):
            load(path)


async def test_the_meter_is_told_of_every_service(tmp_path: Path) -> None:
    """A call leaves no place taken, however it ends."""
    async with serving(tmp_path / "remit") as service:
        await _ends(service)
        assert service.wrapper._meter.under_way == 0


async def _ends(service: Service) -> None:
    token = service.token("alice")
    await service.call("RetrievalService/Search", SEARCH, token=token)
    await service.call("RetrievalService/Search", b"\xff", token=token)
    await service.call("SourceService/ListSources", token=token)
    await service.call("RetrievalService/Search", SEARCH, token=token, timeout_s=0.001)
    await under_way(service, 0)
