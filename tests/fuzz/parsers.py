"""Every parser of bytes from outside that is a function of them: good examples, what it returns, what it may raise.

Whatever else it raises, or that it does not end, is a defect: the caller would answer INTERNAL, or stop.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from types import SimpleNamespace
from typing import Final, cast

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from remit.v1 import audit_pb2

from acl.dialects.ntfs import file_clauses, named_in, share_clauses
from acl.dialects.posix import directory_clause, file_clause
from acl.errors import DecodeError
from acl.model import NOBODY
from acl.normalize import decode, encode
from acl.principal import Realm
from connectors import feed_lines, yaml_file
from connectors.directories.static_file import read_people
from connectors.smb import rpc, srvsvc
from service import settings
from service.api.pages import PageTokens
from service.api.wrapper import Call
from service.audit import checkpoint
from service.audit.call import run_record
from service.audit.checkpoint import NoteError, Signer
from service.audit.errors import RecordError
from service.audit.record import Envelope, envelope
from service.audit.record import parse as parse_record
from service.authn import TokenRefusedError, token
from service.authn.subject import Subject
from service.errors import InvalidRequestError
from service.files import strict_json
from service.sections import initial
from service.settings import SettingsError
from tests.acl.descriptors import descriptor
from tests.acl.posix_acls import acl
from tests.connectors import feeds
from tests.connectors.test_smb import answer
from tests.service.authn_support import token as signed
from tests.service.harness import PEOPLE


@dataclass(frozen=True)
class Parser:
    """seeds: good examples, each of which `parse` takes. refuses: the only errors that it may raise."""

    seeds: tuple[bytes, ...]
    parse: Callable[[bytes], object]
    refuses: tuple[type[Exception], ...] = ()


_NAME: Final = named_in(Realm("ad"))
_DESCRIPTORS: Final = (
    descriptor([(0, 0, 0x1F01FF, "S-1-1-0")]),
    descriptor([(1, 0x10, 0x1F01FF, "S-1-5-21-1-2-3-1104"), (0, 0, 0x120089, "S-1-5-21-1-2-3-513")], "S-1-5-18"),
)
_FILE_ACL: Final = acl(6, 4, 4, users=[(7, 4)], mask=4)
_FOLDER_ACL: Final = acl(7, 0, 0, users=[(20001, 5), (20002, 0)], groups=[(20101, 5)], mask=5)
_SIGNER: Final = Signer("remit-audit/fuzz", Ed25519PrivateKey.from_private_bytes(bytes(32)))
_NOTE: Final = checkpoint.Checkpoint(_SIGNER.name, 7, bytes(32)).sign(_SIGNER).encode()
_FEED: Final = tuple(
    json.dumps(line).encode()
    for line in (
        feeds.HEADER,
        feeds.scope("s", parent="r"),
        feeds.document("d", feeds.only("alice", "bob"), scope="s"),
        feeds.document("f", file="folder/a.txt"),
        feeds.group("writers", "static:people:user-u-1"),
        {"kind": "end", "scopes": 1, "documents": 2, "groups": 1},
    )
)
_BOUND: Final = (
    struct.pack("<BBBB4sHHI", 5, 0, 12, 3, b"\x10\0\0\0", 64, 0, 1) + struct.pack("<HHI", 4280, 4280, 1)
    + struct.pack("<H", 13) + b"\\PIPE\\srvsvc\0" + b"\0" + struct.pack("<BxxxHH", 1, 0, 0) + bytes(20)
)  # fmt: skip


def _settings() -> bytes:
    with TemporaryDirectory() as folder:
        initial.write(Path(folder) / "r")
        return (Path(folder) / "r" / "remit.yaml").read_bytes()


def _load(data: bytes) -> object:
    with TemporaryDirectory() as folder:
        path = Path(folder) / "remit.yaml"
        path.write_bytes(data)
        return settings.load(path)


_SUBJECT: Final = Subject(
    "https://issuer", "u-1004", "people", "uid", "u-1004", datetime(2026, 1, 1, tzinfo=UTC), token_id="t-1"
)
_CALL: Final = cast(
    "Call",
    SimpleNamespace(
        rpc="remit.v1.AuditService/ListAuditRecords",
        caller=SimpleNamespace(subject=_SUBJECT),
    ),
)
_PAGES: Final = PageTokens(bytes(32))


def _page(data: bytes) -> int | None:
    request = audit_pb2.ListAuditRecordsRequest(person="u-1001")
    request.page_token = data.decode("utf-8", "replace")
    return _PAGES.read(request, _CALL)


def _record() -> bytes:
    made = run_record("started", "r", "company", counts={"seen": 3})
    place = Envelope(3, bytes(32), bytes(16), "session", datetime(2026, 1, 1, tzinfo=UTC), 12)
    return envelope(made, place)


def _response(data: bytes) -> list[bytes]:
    """Fragments of an answer of the server service: cut where the sizes in them say, at most a few."""
    found: list[bytes] = []
    while data and len(found) < 8:
        size = struct.unpack_from("<H", data.ljust(10, b"\0"), 8)[0] or len(data)
        found.append(data[:size])
        data = data[size:]
    return found


PARSERS: Final = {
    "POSIX ACL of a file": Parser((_FILE_ACL,), lambda data: file_clause(0o644, 1, 2, data, "corp")),
    "POSIX ACL of a directory": Parser((_FOLDER_ACL,), lambda data: directory_clause(0o750, 1, 2, data, "corp")),
    "security descriptor of a file": Parser(_DESCRIPTORS, lambda data: file_clauses(data, _NAME)),
    "security descriptor of a share": Parser(_DESCRIPTORS, lambda data: share_clauses(data, _NAME)),
    "stored clause": Parser((encode(NOBODY),), decode, (DecodeError,)),
    "SRVSVC answer": Parser(
        (b"".join(answer(_DESCRIPTORS[1])), b"".join(answer(None))),
        lambda data: srvsvc.share_descriptor(_response(data)),
        (rpc.RpcError,),
    ),
    "SRVSVC bind": Parser(
        (_BOUND[:8] + struct.pack("<H", len(_BOUND)) + _BOUND[10:],),
        lambda data: rpc.require_bound(srvsvc.SERVER_SERVICE, data),
        (rpc.RpcError,),
    ),
    "feed line": Parser(_FEED, feed_lines.parse, (feed_lines.LineError,)),
    "settings": Parser((_settings(),), _load, (SettingsError,)),
    "people of a static directory": Parser(
        (PEOPLE.encode(),), lambda data: read_people(data, "people.yaml"), (yaml_file.YamlFileError,)
    ),
    "any YAML": Parser(
        (b"a: {b: [1, 2.5, true, x]}\n",), lambda data: yaml_file.parse(data, "f", 100_000).plain(),
        (yaml_file.YamlFileError,),
    ),
    "token": Parser(
        (f"Bearer {signed()}".encode(),), lambda data: token.parse(data.decode("utf-8", "replace")),
        (TokenRefusedError,),
    ),
    "page token": Parser(
        (_PAGES.write(7, audit_pb2.ListAuditRecordsRequest(person="u-1001"), _CALL).encode(),), _page,
        (InvalidRequestError,),
    ),
    "audit record": Parser((_record(),), parse_record, (RecordError,)),
    "signed note": Parser((_NOTE,), lambda data: checkpoint.open_note(data, _SIGNER.verifier), (NoteError,)),
    "public key": Parser(
        (_SIGNER.verifier.text.encode(),), lambda data: checkpoint.Verifier.parse(data.decode("utf-8", "replace")),
        (NoteError,),
    ),
    "private key": Parser(
        (_SIGNER.text.encode(),), lambda data: Signer.parse(data.decode("utf-8", "replace")), (NoteError,)
    ),
    "strict JSON": Parser((b'{"a":[1,"x",null]}',), strict_json.parse, (ValueError,)),
}  # fmt: skip
