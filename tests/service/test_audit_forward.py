"""Copies for SIEMs: events of OCSF, nothing lost while a place is away, and never in the way of the log."""

from __future__ import annotations

import contextlib
import datetime as dt
import ipaddress
import json
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from connectors import yaml_file
from service import audit_copies
from service.audit import AuditLog, AuditReader, Call, Kind, record
from service.audit.call import refused_record, run_record
from service.audit.forward import FileSink, Forwarder, Sink, SyslogSink
from service.audit.ocsf import event
from service.sections import audit as audit_settings
from service.sections.audit import AuditSettings, FileExport, SyslogAlert, SyslogExport, WebhookAlert
from service.sections.listeners import Address
from tests.service.harness import EPOCH
from tests.service.test_audit_reading import KEY, answer
from tests.support.audit_bodies import BODIES
from tests.support.mounts import small_folder

ORIGIN = KEY.verifier.name


def until(holds: Callable[[], bool]) -> None:
    """Wait for another thread."""
    end = time.monotonic() + 30
    while not holds() and time.monotonic() < end:
        time.sleep(0.01)
    assert holds()


@pytest.fixture
def log(tmp_path: Path) -> Iterator[AuditLog]:
    """A log with its start and three answers."""
    opened = AuditLog(tmp_path / "log", KEY.signer, BODIES)
    for number in range(3):
        opened.append_blocking(answer(number, "u-1", "d-1"))
    yield opened
    opened.close()


@pytest.fixture
def reader(log: AuditLog, tmp_path: Path) -> Iterator[AuditReader]:
    """A reader of it."""
    opened = AuditReader(log, tmp_path / "log", KEY)
    yield opened
    opened.close()


def forward(reader: AuditReader, sink: Sink, tmp_path: Path) -> Forwarder:
    """A forwarder that looks all the time."""
    return Forwarder(reader, sink, tmp_path / "position", origin=ORIGIN, version="0.1", every_s=0.01)


def events(path: Path) -> list[dict[str, Any]]:
    """What a file holds, without a line that is being written."""
    return [json.loads(text) for text in path.read_text().split("\n")[:-1]] if path.exists() else []


def sequences(path: Path) -> list[int]:
    """The numbers of the records in a file."""
    return [one["metadata"]["sequence"] for one in events(path)]


def test_every_record_is_an_event_once(log: AuditLog, reader: AuditReader, tmp_path: Path) -> None:
    """What was there before, and what comes; a restart goes on where the last one ended."""
    file = tmp_path / "events"
    first = forward(reader, FileSink(file), tmp_path)
    until(lambda: len(events(file)) == 4)
    log.append_blocking(answer(4))
    until(lambda: len(events(file)) == 5)
    first.close()
    log.append_blocking(answer(5))

    second = forward(reader, FileSink(file), tmp_path)
    until(lambda: len(events(file)) == 6)
    second.close()

    assert sequences(file) == [0, 1, 2, 3, 4, 5]


@pytest.mark.parametrize("position", ["remit-audit/other 3", "nonsense", "", f"{ORIGIN} -1", f"{ORIGIN} x"])
def test_a_position_of_something_else_is_the_beginning(reader: AuditReader, tmp_path: Path, position: str) -> None:
    """Rather twice than never."""
    (tmp_path / "position").write_text(position)
    file = tmp_path / "events"

    forwarder = forward(reader, FileSink(file), tmp_path)
    until(lambda: sequences(file) == [0, 1, 2, 3])
    forwarder.close()


def test_a_place_that_is_away_holds_nothing_up_and_gets_everything_later(
    log: AuditLog, reader: AuditReader, tmp_path: Path
) -> None:
    """Records become durable all the while."""
    file = tmp_path / "away" / "events"
    forwarder = forward(reader, FileSink(file), tmp_path)
    assert log.append_blocking(answer(4)).index == 4
    assert log.append_blocking(answer(5)).index == 5

    file.parent.mkdir()
    until(lambda: sequences(file) == [0, 1, 2, 3, 4, 5])
    forwarder.close()


def test_a_full_disk_leaves_no_half_event(reader: AuditReader, tmp_path: Path) -> None:
    """What did not fit is not there in part, and comes when there is room."""
    with small_folder(tmp_path / "disk", "16k") as disk:
        filler = disk / "filler"
        filler.write_bytes(b"x" * 12288)
        file = disk / "events"
        forwarder = forward(reader, FileSink(file), tmp_path)
        time.sleep(0.1)
        assert not file.exists() or file.stat().st_size == 0
        filler.unlink()
        until(lambda: sequences(file) == [0, 1, 2, 3])
        forwarder.close()


# --- syslog over TLS ---


def certificate(folder: Path, name: str) -> tuple[Path, Path]:
    """A certificate that signs itself, for `localhost`."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    now = dt.datetime.now(dt.UTC)
    names = x509.SubjectAlternativeName([x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
    made = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(hours=1))
        .not_valid_after(now + dt.timedelta(hours=1))
        .add_extension(names, critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    chain, private = folder / f"{name}.pem", folder / f"{name}.key"
    chain.write_bytes(made.public_bytes(serialization.Encoding.PEM))
    private.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return chain, private


class Syslog:
    """A syslog server over TLS that keeps what it gets, one connection at a time."""

    def __init__(self, chain: Path, private: Path, port: int = 0) -> None:
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._context.load_cert_chain(chain, private)
        self._listener = socket.create_server(("127.0.0.1", port))
        self._open: list[socket.socket] = []
        self.port = self._listener.getsockname()[1]
        self.data = b""
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        while True:
            try:
                plain, _ = self._listener.accept()
                with self._context.wrap_socket(plain, server_side=True) as stream:
                    self._open.append(stream)
                    while data := stream.recv(65536):
                        self.data += data
            except OSError:
                if self._listener.fileno() < 0:
                    return

    def close(self) -> None:
        """Hang up."""
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for one in self._open:
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
        self._thread.join(10)

    def messages(self) -> list[str]:
        """What came, frame by frame."""
        found, rest = [], self.data
        while rest:
            length, _, tail = rest.partition(b" ")
            if not length.isdigit() or len(tail) < int(length):
                break
            found.append(tail[: int(length)].decode())
            rest = tail[int(length) :]
        return found

    def sequences(self) -> list[int]:
        """The numbers of the records that came."""
        return [json.loads(one.partition("\ufeff")[2])["metadata"]["sequence"] for one in self.messages()]


def test_syslog_gets_frames_and_what_it_missed(log: AuditLog, reader: AuditReader, tmp_path: Path) -> None:
    """RFC 5424 in frames of RFC 5425; a server that went away and came back gets the rest."""
    chain, private = certificate(tmp_path, "server")
    server = Syslog(chain, private)
    forwarder = forward(reader, SyslogSink("localhost", server.port, ca=chain), tmp_path)
    until(lambda: server.sequences() == [0, 1, 2, 3])
    first = server.messages()[1]
    server.close()
    log.append_blocking(answer(4))
    again = Syslog(chain, private, server.port)
    until(lambda: 4 in again.sequences())
    forwarder.close()
    again.close()

    assert first.startswith("<133>1 ")
    assert first.split(" ")[3] == "remit"
    assert first.split(" ")[5:7] == ["query", "-"]


def test_a_syslog_server_of_another_certificate_gets_nothing(reader: AuditReader, tmp_path: Path) -> None:
    """Who cannot be verified is told nothing."""
    chain, private = certificate(tmp_path, "server")
    other, _ = certificate(tmp_path, "other")
    server = Syslog(chain, private)
    sink = SyslogSink("localhost", server.port, ca=other)

    with pytest.raises(OSError, match="certificate verify failed"):
        sink.send([({"body": {}, "time": "2026-01-01T00:00:00.000000Z", "class": "query"}, "secret")])
    sink.close()
    server.close()
    assert server.data == b""


# --- events ---


def parsed(made: object, index: int = 3) -> dict[str, Any]:
    """A record as it is read back."""
    return {
        "body": json.loads(made.body),  # type: ignore[attr-defined]
        "class": made.kind.value,  # type: ignore[attr-defined]
        "index": index,
        "time": "2026-01-01T00:00:00.000000Z",
        "v": 1,
    }


def test_events_have_the_classes_of_ocsf() -> None:
    """Searches, readings, strangers, administration, runs, starts and floods, each with its type and its outcome."""

    def call(kind: Kind, rpc: str, **more: Any) -> dict[str, Any]:
        code = "OK" if "reason" not in more else "X"
        return parsed(Call(kind, rpc, "r-1", code, dt.timedelta(0), peer="ipv4:10.0.0.7:5000", **more).record())

    cases = [
        (parsed(answer(1, "u-1", "d-1")), 600504, 1, 1),
        (call(Kind.QUERY, "remit.v1.RetrievalService/GetDocument"), 600501, 1, 1),
        (call(Kind.QUERY, "remit.v1.RetrievalService/GetDocument", reason="NOT_FOUND"), 600501, 2, 2),
        (call(Kind.QUERY, "remit.v1.RetrievalService/Search", reason="UNAUTHENTICATED"), 300201, 2, 3),
        (call(Kind.ON_BEHALF, "remit.v1.RetrievalService/Search"), 600504, 1, 1),
        (call(Kind.ON_BEHALF, "remit.v1.AccessService/GetCaller"), 600399, 1, 1),
        (call(Kind.ADMIN, "remit.v1.SourceService/StartSync", reason="ROLE_REQUIRED"), 600399, 2, 3),
        (call(Kind.AUDIT, "remit.v1.AuditService/ListAuditRecords"), 600399, 1, 1),
        (parsed(run_record("started", "run", "company")), 600203, 1, 1),
        (parsed(run_record("failed", "run", "company", failure="lost")), 600299, 2, 2),
        (parsed(record(Kind.CONTROL, {"event": "stopped"})), 600204, 1, 1),
        (parsed(refused_record("ipv4:10.0.0.7", "UNAUTHENTICATED", EPOCH, EPOCH, {"m": 20})), 300201, 2, 3),
    ]
    for one, type_uid, status, severity in cases:
        made = event(one, ORIGIN, "0.1")
        assert (made["type_uid"], made["status_id"], made["severity_id"]) == (type_uid, status, severity), one
        assert made["unmapped"] == one
        assert made["time"] == 1767225600000
    search = event(cases[0][0], ORIGIN, "0.1")
    assert search["metadata"]["uid"] == f"{ORIGIN}/3"  # type: ignore[index]
    assert search["resources"] == [{"uid": "d-1", "type": "document", "version": "1", "namespace": "company"}]
    assert event(cases[1][0], ORIGIN, "0.1")["src_endpoint"] == {"ip": "10.0.0.7", "port": 5000}
    assert event(cases[-1][0], ORIGIN, "0.1")["count"] == 20


# --- what the settings start ---


def test_the_settings_start_every_copy(log: AuditLog, reader: AuditReader, tmp_path: Path) -> None:
    """Checkpoints and events go where they are told to; each export remembers its own place over a restart."""
    asked = AuditSettings(
        checkpoints=(tmp_path / "checkpoints",),
        exports=(FileExport(tmp_path / "one"), FileExport(tmp_path / "two")),
    )
    for _ in range(2):
        close = audit_copies.start(log, reader, tmp_path, asked, "0.1")
        until(lambda: len(events(tmp_path / "one")) == len(events(tmp_path / "two")) == log.size)
        until((tmp_path / "checkpoints").exists)
        close()
        log.append_blocking(answer(9))

    assert sequences(tmp_path / "one") == sequences(tmp_path / "two") == [0, 1, 2, 3, 4]
    assert len(list(tmp_path.glob("exported-*"))) == 2


def settings_of(tmp_path: Path, text: str) -> AuditSettings:
    """Read a section of the settings."""
    path = tmp_path / "remit.yaml"
    path.write_text(text)
    return audit_settings.read(yaml_file.read(path), tmp_path)


def test_the_section_of_the_settings_is_read(tmp_path: Path) -> None:
    """Everything at once, with paths relative to the file; nothing is the default."""
    found = settings_of(
        tmp_path,
        "query_text: none\ncheckpoints: [a]\nsyslog: /dev/log\n"
        "exports:\n  - {file: b}\n  - {syslog: 'siem.example:6514', ca: c}\n"
        "retention: {query: 500d, heartbeat: 100d}\nminimum_retention: 100d\n"
        "alerts:\n  - {webhook: 'https://a.example/x', secret: d}\n  - {syslog: /dev/log}\n",
    )

    assert found.keep_queries is False
    assert found.checkpoints == (tmp_path / "a",)
    assert found.syslog == Path("/dev/log")
    assert found.exports == (
        FileExport(tmp_path / "b"),
        SyslogExport(Address("siem.example", 6514), tmp_path / "c", None, None),
    )
    assert [found.kept[name].days for name in ("query", "heartbeat", "admin")] == [500, 100, 400]
    assert set(found.kept) == {kind.value for kind in Kind} - {"standing"}
    assert found.alerts == (WebhookAlert("https://a.example/x", tmp_path / "d", None), SyslogAlert(Path("/dev/log")))
    assert settings_of(tmp_path, "{}") == AuditSettings()
    assert {duration.days for duration in AuditSettings().kept.values()} == {400}


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("query_text: plain", "query_text"),
        ("exports: [{}]", "syslog"),
        ("exports: [{file: a, ca: b}]", "either `file` alone"),
        ("exports: [{syslog: somewhere}]", "host:port"),
        ("exports: [{syslog: 'a:1', key: b}]", "together"),
        ("exports: [{file: a}, {file: a}]", "twice"),
        ("retention: 1d", "retention"),
        ("retention: {standing: 400d}", "standing"),
        ("retention: {query: 36h}", "whole days"),
        ("retention: {query: 89d}", "`query` would be kept for 89 days, expected at least the 90"),
        ("{minimum_retention: 500d, retention: {query: 499d}}", "would be kept for 499 days"),
        ("minimum_retention: 500d", "would be kept for 400 days, expected at least the 500"),
        ("alerts: [{webhook: 'http://alerts.example/', secret: a}]", "plaintext"),
        ("alerts: [{webhook: 'https://alerts.example/'}]", "secret"),
        ("alerts: [{webhook: nowhere, secret: a}]", "an address"),
        ("alerts: [{syslog: /dev/log, secret: a}]", "either `syslog` alone"),
    ],
)
def test_a_mistake_in_the_section_names_its_line(tmp_path: Path, text: str, says: str) -> None:
    """One sentence with file, line and what was expected."""
    with pytest.raises(yaml_file.YamlFileError, match=r"remit\.yaml:1") as caught:
        settings_of(tmp_path, text)
    assert says in str(caught.value)
