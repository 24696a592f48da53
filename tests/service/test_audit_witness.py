"""A witness sees what the log's files alone cannot show; checkpoints reach places outside and are never in the way."""

from __future__ import annotations

import shutil
import socket
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest

from service.audit import AuditKey, AuditLog, AuditReader
from service.audit.anchor import Anchors, FileAnchor, SyslogAnchor
from service.audit.checkpoint import Checkpoint, NoteError
from service.audit.cosign import Cosigner, CosignVerifier
from service.audit.witness import ForkError, Prove, Witness
from service.errors import StartError
from tests.service.test_audit_reading import KEY, answer
from tests.support.audit_bodies import BODIES

AT = datetime(2026, 11, 25, 10, tzinfo=UTC)
LOG = KEY.verifier


@pytest.fixture
def key(tmp_path: Path) -> Cosigner:
    """A witness's key."""
    return Cosigner.create(tmp_path / "witness.key", "witness.example/remit")


class Service:
    """A log that is opened, asked and closed again, as a witness meets it."""

    def __init__(self, folder: Path, key: AuditKey = KEY) -> None:
        self._folder, self._key = folder, key
        self.asked: list[int] = []

    def write(self, *numbers: int) -> bytes:
        """Append some answers; the checkpoint over them."""
        log = AuditLog(self._folder, self._key.signer, BODIES)
        for number in numbers:
            log.append_blocking(answer(number))
        log.close()
        return (self._folder / "checkpoint").read_bytes()

    def prove(self, first: int) -> tuple[bytes, list[bytes]]:
        """The proof that the service gives."""
        self.asked.append(first)
        log = AuditLog(self._folder, self._key.signer, BODIES)
        reader = AuditReader(log, self._folder, self._key)
        try:
            signed, path = reader.consistency(first)
        except ValueError:
            signed, path = reader.checkpoint(), []
        finally:
            reader.close()
            log.close()
        return signed.note.encode(), path


def looking(state: Path, key: Cosigner, note: bytes, prove: Prove) -> Checkpoint:
    """One look by a witness that was started for it."""
    witness = Witness(state, LOG, key, lambda: AT)
    try:
        return witness.look(note, prove)
    finally:
        witness.close()


def test_a_log_that_grows_is_cosigned(tmp_path: Path, key: Cosigner) -> None:
    """First sight, the same again, then larger with a proof: each is remembered with both signatures, over restarts."""
    service, state = Service(tmp_path / "log"), tmp_path / "state"

    first = looking(state, key, service.write(1), service.prove)
    again = looking(state, key, (tmp_path / "log" / "checkpoint").read_bytes(), service.prove)
    later = looking(state, key, service.write(2, 3), service.prove)

    assert first == again
    assert later.size > first.size
    assert service.asked == [first.size]
    note = (state / "checkpoint").read_bytes()
    assert Checkpoint.open(note, LOG) == later
    assert CosignVerifier.parse(key.verifier.text).seen_at(note) == AT


def older_copy(folder: Path, kept: Path) -> bytes:
    """Put a copy from before in the log's place."""
    shutil.rmtree(folder)
    shutil.copytree(kept, folder)
    return (folder / "checkpoint").read_bytes()


def rewritten(folder: Path, kept: Path) -> bytes:
    """Write another history with the log's own key."""
    shutil.rmtree(folder)
    return Service(folder).write(*range(100, 120))


@pytest.mark.parametrize("change", [older_copy, rewritten])
def test_what_the_files_alone_do_not_show_is_seen(
    tmp_path: Path, key: Cosigner, change: Callable[[Path, Path], bytes]
) -> None:
    """An older copy, and another history under the log's own key: nothing is cosigned, the evidence is kept, and no
    later look forgets it."""
    folder, state = tmp_path / "log", tmp_path / "state"
    service = Service(folder)
    service.write(1)
    shutil.copytree(folder, tmp_path / "kept")
    seen = looking(state, key, service.write(2), service.prove)
    before = (state / "checkpoint").read_bytes()

    note = change(folder, tmp_path / "kept")
    with pytest.raises(ForkError, match="was changed"):
        looking(state, key, note, service.prove)

    assert (state / "checkpoint").read_bytes() == before
    assert Checkpoint.open(before, LOG) == seen
    assert len(list(state.glob("conflict-*"))) == 1
    with pytest.raises(StartError, match="contradicts what was seen before"):
        looking(state, key, before, service.prove)


def test_two_roots_of_one_size_are_a_conflict(tmp_path: Path, key: Cosigner) -> None:
    """The plainest fork: the same number of records and another root."""
    state = tmp_path / "state"
    one, other = (Checkpoint(LOG.name, 7, bytes([n]) * 32).sign(KEY.signer).encode() for n in (1, 2))
    looking(state, key, one, lambda first: (b"", ()))

    with pytest.raises(ForkError, match="two roots were signed for 7 records"):
        looking(state, key, other, lambda first: (b"", ()))


def test_a_checkpoint_of_another_log_is_none_of_ours(tmp_path: Path, key: Cosigner) -> None:
    """Neither unsigned nor of another key; the right one is taken after it."""
    other = AuditKey.create(tmp_path / "other.key")
    service, state = Service(tmp_path / "log"), tmp_path / "state"
    foreign = Checkpoint(other.verifier.name, 1, bytes(32)).sign(other.signer).encode()

    for note in (foreign, b"", b"nonsense\n\n", service.write(1).replace(b"\n3\n", b"\n4\n")):
        with pytest.raises(ForkError):
            looking(state, key, note, service.prove)
    assert looking(state, key, (tmp_path / "log" / "checkpoint").read_bytes(), service.prove).size == 3


def test_a_state_that_was_changed_or_is_in_use_is_refused(tmp_path: Path, key: Cosigner) -> None:
    """Another witness's, another log's, a forged one; and two at once."""
    service, state = Service(tmp_path / "log"), tmp_path / "state"
    looking(state, key, service.write(1), service.prove)
    stranger = Cosigner.create(tmp_path / "stranger.key", "witness.example/remit")
    with pytest.raises(StartError, match="is not what this witness saw"):
        Witness(state, LOG, stranger)
    first = Witness(state, LOG, key)
    with pytest.raises(StartError, match="is used by process"):
        Witness(state, LOG, key)
    first.close()
    (state / "checkpoint").write_bytes((tmp_path / "log" / "checkpoint").read_bytes())
    with pytest.raises(StartError, match="is not what this witness saw"):
        Witness(state, LOG, key)


def test_a_cosignature_says_by_whom_and_when(tmp_path: Path, key: Cosigner) -> None:
    """Changed in its text, its time or its key, it does not verify; the key survives its file."""
    note = Checkpoint(LOG.name, 7, bytes(32)).sign(KEY.signer).encode()
    cosigned = Cosigner.load(tmp_path / "witness.key").cosign(note, AT)

    assert key.verifier.seen_at(cosigned) == AT
    assert Checkpoint.open(cosigned, LOG).size == 7
    stranger = Cosigner.create(tmp_path / "stranger.key", "witness.example/remit").verifier
    for verifier, changed in (
        (stranger, cosigned),
        (key.verifier, note),
        (key.verifier, cosigned.replace(b"\n7\n", b"\n8\n")),
        (key.verifier, cosigned[:-12] + b"AAAAAAAAAA=\n"),
    ):
        with pytest.raises(NoteError):
            verifier.seen_at(changed)
    for text in ("", "a+b+c", LOG.text):
        with pytest.raises(NoteError):
            CosignVerifier.parse(text)
    with pytest.raises(FileExistsError):
        Cosigner.create(tmp_path / "witness.key", "x")
    (tmp_path / "witness.key").chmod(0o644)
    with pytest.raises(StartError, match="open to others"):
        Cosigner.load(tmp_path / "witness.key")


# --- places outside ---


def until(holds: Callable[[], bool]) -> None:
    """Wait for another thread."""
    end = time.monotonic() + 20
    while not holds() and time.monotonic() < end:
        time.sleep(0.005)
    assert holds()


def test_checkpoints_reach_a_file_and_syslog(tmp_path: Path) -> None:
    """Each once, the last one when the log ends; what is there is a good note."""
    receiver = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    receiver.bind(str(tmp_path / "dev-log"))
    receiver.settimeout(20)
    file = tmp_path / "elsewhere"
    log = AuditLog(tmp_path / "log", KEY.signer, BODIES)
    anchors = Anchors(log, [FileAnchor(file), SyslogAnchor(tmp_path / "dev-log")], every_s=0.01)
    until(file.exists)
    log.append_blocking(answer(1))
    signed = log.covering(2)
    anchors.close()
    log.close()

    line = receiver.recv(65536).decode()
    receiver.close()
    notes = file.read_bytes().rstrip(b"\n").split(b"\n\n")
    assert [Checkpoint.open(b"\n\n".join(notes[at : at + 2]) + b"\n", LOG).size for at in range(0, len(notes), 2)] == [
        1,
        2,
    ]
    assert signed.note.encode() in file.read_bytes()
    assert line.startswith("<85>1 ")
    text = line.partition(" checkpoint - ")[2].replace("\\n", "\n").encode()
    assert Checkpoint.open(text, LOG).size == 1


def test_a_place_that_takes_nothing_is_never_in_the_way(tmp_path: Path) -> None:
    """The log goes on, other places get theirs, and the place is used again when it is back."""
    gone, file = tmp_path / "gone" / "file", tmp_path / "elsewhere"
    log = AuditLog(tmp_path / "log", KEY.signer, BODIES)
    anchors = Anchors(log, [FileAnchor(gone), SyslogAnchor(tmp_path / "nothing"), FileAnchor(file)], every_s=0.01)
    until(file.exists)
    assert log.append_blocking(answer(1)).index == 1
    gone.parent.mkdir()
    log.covering(2)
    until(gone.exists)
    anchors.close()
    log.close()
