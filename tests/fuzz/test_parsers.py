"""No bytes from outside end in anything but a value or the refusal that a parser documents.

`make fuzz` runs the same with 20,000 examples each.
"""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from acl.model import Unknown
from service.audit import AuditLog, Call, Kind, Signer, verify
from service.audit.segments import DamagedError, Reader
from service.errors import StartError
from tests.fuzz.damage import damaged
from tests.fuzz.parsers import PARSERS
from tests.isolation.test_wire import _DOCUMENTED, CANARY
from tests.service.harness import FINANCE, PEOPLE, SALES, Service, allow, serving
from tests.service.test_api_matrix import _REQUESTS
from tests.support.audit_bodies import BODIES


@pytest.mark.parametrize("name", PARSERS)
def test_a_parser_takes_its_good_examples(name: str) -> None:
    """The control of the test below: what is damaged there was whole."""
    parser = PARSERS[name]

    for seed in parser.seeds:
        found = parser.parse(seed)
        assert not isinstance(found, Unknown), found


@pytest.mark.parametrize("name", PARSERS)
@given(data=st.data())
def test_no_bytes_end_a_parser_in_another_way(name: str, data: st.DataObject) -> None:
    """A value, or the one kind of refusal that it has, whose text is short lines without the bytes of a control."""
    parser = PARSERS[name]
    sent = data.draw(damaged(parser.seeds))

    said = ""
    try:
        found = parser.parse(sent)
    except parser.refuses as err:
        said = str(err)
    else:
        assert not isinstance(found, Unknown) or found.reason
    # Settings say all of their mistakes, one a line.
    for line in said.splitlines():
        assert len(line) < 1000, "the refusal does not repeat what was sent"
        assert line.isprintable()


# --- messages, through the wrapper, over the wire ---


@pytest.fixture(scope="module")
def wire(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[asyncio.Runner, Service]]:
    """A service with a document that the callers of this file may read and one that they may not."""
    with asyncio.Runner() as runner:
        context = serving(tmp_path_factory.mktemp("fuzz") / "remit")
        service = runner.run(context.__aenter__())
        service.people(PEOPLE.replace("groups: [sales]}", "groups: [sales, operators, key-admins]}"))
        service.add("sales", "the plan of sales", allow(SALES))
        service.add("finance", f"the {CANARY} plan of finance", allow(FINANCE))
        service.sync()
        yield runner, service
        runner.run(context.__aexit__(None, None, None))


@pytest.mark.slow
@settings(suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_no_message_ends_a_call_in_another_way(wire: tuple[asyncio.Runner, Service], data: st.DataObject) -> None:
    """Damaged messages of every method, as somebody with nearly every role: a documented status, and no canary."""
    runner, service = wire
    method = data.draw(st.sampled_from(sorted(_REQUESTS.keys() - {"CustodyService/CreateBackup"})))
    hidden = service.document_ids()["finance"].encode()
    request = _REQUESTS[method].SerializeToString()
    sent = data.draw(damaged((request, b"\x0a" + bytes([len(hidden)]) + hidden, request + request)))
    # Who could shred would soon have nothing left to ask for.
    who = data.draw(st.sampled_from(["adam", "carla", *(["alice"] if "Shred" not in method else [])]))

    outcome = runner.run(service.call(method, sent, token=service.token(who)))

    assert outcome.code in _DOCUMENTED, (method, sent, outcome)
    if who == "alice":
        assert CANARY.encode() not in outcome.message + repr(outcome).encode()


# --- the files of an audit log ---


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Signer]:
    """A small log, closed."""
    folder = tmp_path_factory.mktemp("log") / "audit"
    signer = Signer("remit-audit/fuzz", Ed25519PrivateKey.from_private_bytes(bytes(range(32))))
    written = AuditLog(folder, signer, BODIES, timeout_s=30)
    for number in range(12):
        written.append_blocking(Call(Kind.QUERY, "x/Search", f"r{number}", "OK", timedelta(0)).record())
    written.close()
    return folder, signer


@pytest.mark.slow
@settings(suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_no_damage_to_a_log_is_taken_for_whole(
    log: tuple[Path, Signer], tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    """Any change of any file of a log: the verifier says so or finds all records as they were, and never fails itself.

    A log that was changed before its end does not open for writing.
    """
    folder, signer = log
    assert verify(folder, signer.verifier, BODIES).ok
    records = list(Reader(folder).records())
    files = sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())
    name = data.draw(st.sampled_from([name for name in files if name != "lock"]))
    after = data.draw(damaged(((folder / name).read_bytes(),)))
    copy = tmp_path_factory.mktemp("copy") / "audit"
    shutil.copytree(folder, copy)
    try:
        (copy / name).write_bytes(after)

        report = verify(copy, signer.verifier, BODIES)

        if report.ok:
            assert list(Reader(copy).records()) == records
        try:
            AuditLog(copy, signer, BODIES, timeout_s=30).close()
        except (StartError, DamagedError):
            assert not report.ok
    finally:
        shutil.rmtree(copy.parent)
