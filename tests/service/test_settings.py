"""`remit.yaml`: what is read, and that every refusal names the file, the line, the key and what was expected."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest

from acl.principal import Principal, Realm
from service.errors import StartError
from service.index.planner import Tuning
from service.sections.keys import FileProvider
from service.settings import Address, BackupSettings, RerankingSettings, SettingsError, load
from service.sync.schedules import Schedule

GOOD = """\
version: 1
data: ./data
listen:
  callers: 127.0.0.1:7420
  administrators: 127.0.0.1:7421
  insecure_loopback: true
keys: {provider: file, path: ./keys/remit.kek}
issuers:
  - issuer: https://remit.localhost/dev
    audience: remit
    jwks: ./keys/dev.jwks.json
    claim: sub
    directory: people
    attribute: id
directories:
  - {name: people, kind: static, path: ./people.yaml}
roles:
  operator: [group:operators]
  auditor: ["static:people:group-auditors"]
embedding: {kind: model}
sources:
  - name: company
    kind: filesystem
    root: ./company
    id_domain: corp
    ancestors_above_root: enforce
    max_permissions_age: 12h
"""


@pytest.fixture
def write(tmp_path: Path) -> Callable[[str], Path]:
    """Write a `remit.yaml` and return its path."""

    def _write(text: str) -> Path:
        path = tmp_path / "remit.yaml"
        path.write_text(text, encoding="utf-8")
        return path

    return _write


def test_the_example_is_read_in_full(write: Callable[[str], Path], tmp_path: Path) -> None:
    """Every key of the example arrives, and its paths are relative to the file."""
    settings = load(write(GOOD))

    assert settings.data == tmp_path / "data"
    assert settings.listen.callers == Address("127.0.0.1", 7420)
    assert settings.listen.administrators == Address("127.0.0.1", 7421)
    assert settings.listen.tls is None
    assert settings.keys.provider == FileProvider(tmp_path / "keys/remit.kek")
    assert settings.keys.audit == tmp_path / "keys/audit.key"
    assert settings.backup == BackupSettings(tmp_path / "backups", tmp_path / "backups")
    assert (settings.keys.shred_approvals, settings.keys.shred_within) == (2, timedelta(days=1))
    (issuer,) = settings.issuers
    assert (issuer.issuer, issuer.audience, issuer.claim) == ("https://remit.localhost/dev", "remit", "sub")
    assert (issuer.directory, issuer.attribute) == ("people", "id")
    assert issuer.max_token_lifetime == timedelta(hours=24)
    assert settings.directories[0].options == {"path": "./people.yaml"}
    assert settings.roles == {
        "operator": frozenset({Principal(Realm("static:people"), "group-operators")}),
        "auditor": frozenset({Principal(Realm("static:people"), "group-auditors")}),
    }
    (source,) = settings.sources
    assert (source.name, source.kind, source.max_permissions_age) == ("company", "filesystem", timedelta(hours=12))
    assert source.max_memberships_age == timedelta(hours=12), "that of the permissions unless it is given"
    assert source.options == {"root": "./company", "id_domain": "corp", "ancestors_above_root": "enforce"}
    assert source.place("root").endswith("remit.yaml:24: sources[0].root")


def test_a_schedule_stands_beside_the_options(write: Callable[[str], Path]) -> None:
    """`every` and `watch` are the service's and reach no connector; without them only people start runs."""
    assert load(write(GOOD)).sources[0].schedule is None

    often = load(write(GOOD.replace("max_permissions_age: 12h", "max_permissions_age: 12h\n    every: 15m")))
    quiet = load(write(GOOD.replace("max_permissions_age: 12h", "every: 15m\n    watch: false")))

    rare = load(write(GOOD.replace("max_permissions_age: 12h", "every: 2d\n    permissions_every: 5m")))

    assert often.sources[0].schedule == Schedule(timedelta(minutes=15), watch=True)
    assert rare.sources[0].schedule == Schedule(timedelta(days=2), permissions_every=timedelta(minutes=5))
    assert quiet.sources[0].schedule == Schedule(timedelta(minutes=15), watch=False)
    assert set(often.sources[0].options) == {"root", "id_domain", "ancestors_above_root"}


@pytest.mark.parametrize(
    ("text", "line", "sentence"),
    [
        ("every: 12h", 28, "sources[0].every: expected less than `max_permissions_age`"),
        ("every: 1 hour", 28, "sources[0].every: expected a duration"),
        ("watch: true", 28, "sources[0].watch: is beside a schedule, expected `every` too"),
        ("permissions_every: 5m", 28, "sources[0].permissions_every: is beside a schedule, expected `every` too"),
        ("every: 1h\n    permissions_every: 1h", 29, "sources[0].permissions_every: expected less than `every`"),
        ("every: 31d\n    permissions_every: 1h", 28, "sources[0].every: expected less than `max_content_age`"),
        ("every: 2d\n    permissions_every: 13h", 29, "sources[0].permissions_every: expected less than `max_perm"),
        ("every: 1h\n    max_memberships_age: 30m", 28, "sources[0].every: expected less than `max_memberships_age`"),
        ("every: 1h\n    watch: sometimes", 29, "sources[0].watch: expected `true` or `false`"),
    ],
)
def test_a_wrong_schedule_is_refused(write: Callable[[str], Path], text: str, line: int, sentence: str) -> None:
    """An interval that would withhold documents between two runs is none."""
    with pytest.raises(SettingsError) as caught:
        load(write(GOOD + f"    {text}\n"))

    assert f"remit.yaml:{line}: {sentence}" in str(caught.value)


def test_a_missing_file_names_the_command_that_writes_one(tmp_path: Path) -> None:
    """No traceback and no guess: one sentence with `remit init`."""
    with pytest.raises(SettingsError, match=r"remit\.yaml does not exist: `remit init` writes one"):
        load(tmp_path / "remit.yaml")


def test_settings_that_everybody_can_write_are_refused(write: Callable[[str], Path]) -> None:
    """They say whose tokens count and who administers; a file that a group may write is that group's to answer for."""
    path = write(GOOD)
    path.chmod(0o666)
    with pytest.raises(SettingsError, match=r"remit\.yaml can be written by everybody.*`chmod o-w`"):
        load(path)

    path.chmod(0o664)
    assert load(path).file == path


def test_a_settings_error_stops_the_start() -> None:
    """The command line turns a StartError into exit code 2."""
    assert issubclass(SettingsError, StartError)


# (what is replaced, by what, the line, what the sentence says)
REFUSED = [
    ("version: 1\n", "version: 2\n", 1, "version: expected `1`, found `2`"),
    ("version: 1\n", "version: true\n", 1, "version: expected `1`, found `true`"),
    ("version: 1\n", "", 1, "`version` is missing"),
    ("data: ./data", "data:", 2, "data: expected a path, found nothing"),
    ("data: ./data", "dta: ./data", 2, "dta: unknown key, did you mean `data`?"),
    ("data: ./data", "data: ./data\ndata: ./other", 3, "data: stands here a second time, first in line 2"),
    ("callers: 127.0.0.1:7420", "callers: 127.0.0.1", 4, "listen.callers: expected host:port, found `127.0.0.1`"),
    ("callers: 127.0.0.1:7420", "callers: 127.0.0.1:99999", 4, "listen.callers: expected host:port"),
    ("callers: 127.0.0.1:7420", "callers: '[::zz]:7420'", 4, "listen.callers: expected host:port"),
    ("callers: 127.0.0.1:7420", "callers: 0.0.0.0:7420", 4, "listen.callers: expected a loopback address"),
    ("callers: 127.0.0.1:7420", "callers: localhost:7420", 4, "listen.callers: expected a loopback address"),
    ("administrators: 127.0.0.1:7421", "administrators: 10.0.0.1:1", 5, "listen.administrators: expected a loopback"),
    ("administrators: 127.0.0.1:7421", "administrators: 127.0.0.1:7420", 5, "expected another address"),
    ("insecure_loopback: true", "insecure_loopback: false", 4, "listen: `tls` is missing"),
    ("insecure_loopback: true", "insecure_loopback: 'yes'", 6, "expected `true` or `false`, found `yes`"),
    ("provider: file", "provider: cloud", 7, "keys.provider: expected `file` or `pkcs11` or `vault`, found `cloud`"),
    (
        "provider: file, path: ./keys/remit.kek}",
        "provider: pkcs11, token: t, pin_env: P}",
        7,
        "keys: `library` is missing",
    ),
    (
        "provider: file, path: ./keys/remit.kek}",
        "provider: pkcs11, library: ./l.so, token: t}",
        7,
        "keys: expected either `pin_file` or `pin_env`",
    ),
    (
        "provider: file, path: ./keys/remit.kek}",
        "provider: pkcs11, library: ./l.so, token: t, pin: canary-pin}",
        7,
        "keys.pin: a secret does not stand in the settings: name its file by",
    ),
    (
        "provider: file, path: ./keys/remit.kek}",
        "provider: pkcs11, library: ./l.so, token: t, pin_file: ./p, pin_env: P}",
        7,
        "found 2 of them",
    ),
    (
        "provider: file, path: ./keys/remit.kek}",
        "provider: vault, address: https://v, ca: ./ca.pem, token: canary-token}",
        7,
        "keys.token: a secret does not stand in the settings",
    ),
    (
        "provider: file, path: ./keys/remit.kek}",
        "provider: vault, address: http://v, ca: ./c, token_env: T}",
        7,
        "keys.address: expected an address `https://host:port`",
    ),
    (
        "provider: file, path: ./keys/remit.kek}",
        "provider: vault, address: https://u:p@v, ca: ./c, token_env: T}",
        7,
        "keys.address: expected an address",
    ),
    (
        "provider: file, path: ./keys/remit.kek}",
        "provider: vault, address: https://v, token_env: T}",
        7,
        "keys: `ca` is missing",
    ),
    (
        "provider: file, path: ./keys/remit.kek}",
        "provider: vault, address: https://v, ca: ./ca.pem, key: ../k, token_env: T}",
        7,
        "keys.key: expected a name in Vault",
    ),
    (
        "provider: file, path: ./keys/remit.kek}",
        "provider: vault, address: https://v, ca: ./ca.pem, approle: {role_id: r}}",
        7,
        "keys.approle: expected either `secret_id_file` or",
    ),
    (
        "provider: file, path: ./keys/remit.kek}",
        "provider: vault, address: https://v, ca: ./ca.pem, token_env: T, approle: {role_id: r, secret_id_env: S}}",
        7,
        "found both",
    ),
    (
        "provider: file, path: ./keys/remit.kek}",
        "provider: file, path: ./keys/remit.kek, previous: {provider: file, path: ./keys/remit.kek}}",
        7,
        "keys.previous: is where the key is now",
    ),
    (
        "provider: file, path: ./keys/remit.kek}",
        "provider: file, path: ./keys/remit.kek, shred_approvals: 0}",
        7,
        "keys.shred_approvals: expected a whole number from 1 to 2, found `0`",
    ),
    (
        "provider: file, path: ./keys/remit.kek}",
        "provider: file, path: ./keys/remit.kek, shred_within: 90d}",
        7,
        "keys.shred_within: expected at most `30d`",
    ),
    (
        "provider: file, path: ./keys/remit.kek}",
        "provider: file, path: ./keys/remit.kek, library: ./l}",
        7,
        "keys.library: unknown key",
    ),
    ("path: ./keys/remit.kek}", "path: ./k, audit: ./k}", 7, "keys.audit: expected another file"),
    ("issuer: https://remit.localhost/dev", "issuer: http://x", 9, "issuers[0].issuer: expected an https URL"),
    ("    audience: remit\n", "", 9, "issuers[0]: `audience` is missing"),
    ("  - issuer: https://remit.localhost/dev\n    audience", "  - audience", 9, "issuers[0]: `issuer` is missing"),
    ("audience: remit", "audience: ''", 10, "issuers[0].audience: expected the audience"),
    ("claim: sub", "claim: email", 12, "issuers[0].claim: expected an immutable claim"),
    ("attribute: id", "attribute: name", 14, "issuers[0].attribute: expected one of `id`, `uid`"),
    ("directory: people", "directory: persons", 13, "issuers[0].directory: expected one of the directories `people`"),
    ("kind: static", "kind: nis", 16, "directories[0].kind: expected `static` or `active_directory` or `ldap` or"),
    ("kind: static", "kind: static, keep_for: 5s", 16, "directories[0].keep_for: a static directory is read again"),
    ("kind: static", "kind: ldap, keep_for: 2h", 16, "directories[0].keep_for: expected at most `1h`"),
    ("kind: static", "kind: ldap, keep_for: 5m", 16, "`keep_for` is longer than `max_directory_age`"),
    ("kind: static", "kind: ldap, poll_every: 16s", 16, "`poll_every` is longer than `keep_for`"),
    ("roles:", "links: [{from: people, fact: id, to: people, equals: id}]\nroles:", 17, "links[0].to: leads from"),
    ("roles:", "links: [{from: people, fact: name, to: x, equals: id}]\nroles:", 17, "links[0].to: expected one of"),
    ("operator: [", "operators: [", 18, "roles.operators: unknown key, did you mean `operator`?"),
    ("[group:operators]", "[operators]", 18, "roles.operator[0]: expected `group:<id>`"),
    ("[group:operators]", "[static:people:members]", 18, "which is everybody"),
    ("[group:operators]", "[source:company:admins]", 18, "a source does not say who administers"),
    ("[group:operators]", "group:operators", 18, "roles.operator: expected a list"),
    ("{kind: model}", "{kind: openai}", 20, "embedding.kind: expected `model` or `hash`, found `openai`"),
    ("{kind: model}", "{kind: hash, path: x}", 20, "embedding.path: a hash embedding has no model"),
    ("12h", "12 hours", 27, "sources[0].max_permissions_age: expected a duration"),
    ("max_permissions_age: 12h", "max_memberships_age: 12", 27, "sources[0].max_memberships_age: expected a duration"),
    ("12h", "0h", 27, "expected a duration"),
    ("name: company", "name: ../company", 22, "sources[0].name: expected a name"),
    ("root: ./company", "root: .nan", 24, "sources[0].root: expected a finite number"),
    ("root: ./company", "root: {a: 1, a: 2}", 24, "sources[0].root.a: stands here a second time"),
    ("root: ./company", "root: !!python/name:os.system x", 24, "the tag `tag:yaml.org,2002:python/name:os.system`"),
    ("root: ./company", "root: &a [*a]", 24, "anchors and aliases are not read here"),
    ("root: ./company", "root: [", 24, "not YAML"),
    ("root: ./company", "root: " + "[" * 30 + "]" * 30, 24, "nested more than"),
]


@pytest.mark.parametrize(("old", "new", "line", "sentence"), REFUSED, ids=[r[3][:60] for r in REFUSED])
def test_bad_settings_name_line_key_and_expectation(
    write: Callable[[str], Path], old: str, new: str, line: int, sentence: str
) -> None:
    """Each wrong value is refused in one line that says where it stands."""
    assert old in GOOD

    with pytest.raises(SettingsError) as caught:
        load(write(GOOD.replace(old, new, 1)))

    text = str(caught.value)
    assert sentence in text
    assert "\n" not in text
    if "not YAML" not in text:
        assert f"remit.yaml:{line}: " in text


def test_every_mistake_is_said_at_once_in_the_order_of_the_file(write: Callable[[str], Path]) -> None:
    """Mistakes in different parts, and in different sources, are found by one reading; each keeps its place.

    What only rests on a mistake is none: the owner of a source whose options are wrong is known.
    """
    text = GOOD.replace("claim: sub", "claim: email").replace("{kind: model}", "{kind: magic}")
    text = text.replace("  operator: ", "  source-owner: {company: [group:o]}\n  operator: ")
    text = text.replace("max_permissions_age: 12h", "max_permissions_age: soon")
    text += "  - {name: second, kind: feed, path: ./x, every: never}\n  - {name: second, kind: feed, path: ./y}\n"

    with pytest.raises(SettingsError) as caught:
        load(write(text))

    found = [mistake.partition("remit.yaml:")[2].split(": ")[:2] for mistake in caught.value.mistakes]
    assert found == [
        ["12", "issuers[0].claim"],
        ["21", "embedding.kind"],
        ["28", "sources[0].max_permissions_age"],
        ["29", "sources[1].every"],
        ["30", "sources[2].name"],
    ]


def test_the_digest_is_that_of_the_file(write: Callable[[str], Path]) -> None:
    """Of its bytes, so that a comment changes it: what was in force can be told from what was not."""
    path = write(GOOD)

    assert load(path).sha256 == hashlib.sha256(GOOD.encode()).hexdigest()
    assert load(path) == load(write(GOOD + "# a comment\n"))
    assert load(path).sha256 != hashlib.sha256(GOOD.encode()).hexdigest()


def test_several_directories_make_a_short_group_ambiguous(write: Callable[[str], Path]) -> None:
    """`group:operators` is refused beside two directories; the full token is not."""
    second = "directories:\n  - {name: others, kind: static, path: ./others.yaml}\n"
    text = GOOD.replace("directories:\n", second)

    with pytest.raises(SettingsError, match="could mean a group of several directories"):
        load(write(text))

    settings = load(write(text.replace("group:operators", "static:people:group-operators")))
    assert settings.roles["operator"] == {Principal(Realm("static:people"), "group-operators")}


def test_tls_opens_other_addresses(write: Callable[[str], Path], tmp_path: Path) -> None:
    """With a certificate the listeners may be anywhere, and a plaintext flag beside it is refused."""
    tls = GOOD.replace("insecure_loopback: true", "tls: {certificate: ./c.pem, key: ./k.pem}")
    settings = load(write(tls.replace("127.0.0.1:7420", "0.0.0.0:7420").replace("127.0.0.1:7421", "'[::]:7421'")))

    assert settings.listen.tls is not None
    assert settings.listen.tls.key == tmp_path / "k.pem"
    assert str(settings.listen.administrators) == "[::]:7421"
    with pytest.raises(SettingsError, match="expected only one of them"):
        load(write(tls.replace("  tls:", "  insecure_loopback: true\n  tls:")))


@pytest.mark.parametrize(
    ("data", "sentence"),
    [
        (b"", "remit.yaml:1: expected a mapping, found nothing"),
        (b"[]", "remit.yaml:1: expected a mapping, found a list"),
        (b"version: 1\ndata: \xff", "remit.yaml:2: expected UTF-8, found the byte 0xff"),
        (b"version: 1\x00", "not YAML"),
        (b"#" * 1_100_000, "at most 1048576 bytes"),
    ],
)
def test_a_file_that_is_no_settings_is_refused(tmp_path: Path, data: bytes, sentence: str) -> None:
    """Empty, of another shape, not text, too large: one sentence each."""
    path = tmp_path / "remit.yaml"
    path.write_bytes(data)

    with pytest.raises(SettingsError) as caught:
        load(path)

    assert sentence in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_folder_is_no_settings_file(tmp_path: Path) -> None:
    """A folder given as the file names the file that was probably meant."""
    with pytest.raises(SettingsError, match="is a folder"):
        load(tmp_path)


def test_the_index_is_tuned_by_name_and_measured_defaults(write: Callable[[str], Path]) -> None:
    """What is not named keeps its default; every number has its range, every share is between 0 and 1."""
    tuned = GOOD + "index: {bits: 4, candidates: 50, masked_above: 0.25, shadow: 0.01, approximate: true}\n"

    assert load(write(GOOD)).index == Tuning()
    expected = Tuning(bits=4, candidates=50, masked_above=0.25, shadow=0.01, approximate=True)
    assert load(write(tuned)).index == expected


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ("bits: 5", "a whole number from 1 to 4"),
        ("candidates: 1", "a whole number from 10 to 10000"),
        ("approximate: 1", "expected"),
        ("masked_above: 1.5", "a share from `0` to `1`"),
        ("shadow: -0.1", "a share from `0` to `1`"),
        ("shadow: 1e-3", "a share from `0` to `1`"),
        ("shadow: .nan", "a share from `0` to `1`"),
        ("graph: true", "graph"),
    ],
)
def test_an_index_that_cannot_be_is_refused(write: Callable[[str], Path], entry: str, message: str) -> None:
    """A number out of its range and a name that nobody knows are refused with their line."""
    with pytest.raises(SettingsError, match=r"remit\.yaml:28: index") as refused:
        load(write(GOOD + f"index: {{{entry}}}\n"))

    assert message in str(refused.value)


def test_an_index_on_a_qdrant_server_is_named_whole(write: Callable[[str], Path]) -> None:
    """Its address, key and manner; without it the index is the embedded one."""
    named = "index: {backend: qdrant, url: 'https://qdrant.example.com', api_key: q.key, server_side: true, bits: 2}\n"

    found = load(write(GOOD + named))

    assert load(write(GOOD)).qdrant is None
    assert found.qdrant is not None
    assert (found.qdrant.host, found.qdrant.port, found.qdrant.tls) == ("qdrant.example.com", 6334, True)
    assert found.qdrant.api_key == found.base / "q.key"
    assert (found.qdrant.collection, found.qdrant.server_side, found.index.bits) == ("remit", True, 2)
    local = load(write(GOOD + "index: {backend: qdrant, url: 'http://127.0.0.1:7000'}\n")).qdrant
    assert local is not None
    assert (local.port, local.tls) == (7000, False)


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ("backend: qdrant", "gRPC address"),
        ("backend: other", "expected"),
        ("url: 'https://q.example.com'", "expected `backend: qdrant` beside it"),
        ("backend: qdrant, url: 'http://q.example.com'", "plain text"),
        ("backend: qdrant, url: 'ftp://q.example.com'", "an address such as"),
        ("backend: qdrant, url: 'https://q.example.com:x'", "an address such as"),
        ("backend: qdrant, url: 'https://me@q.example.com'", "an address such as"),
        ("backend: qdrant, url: 'https://q.example.com', collection: 'a b'", "a name"),
        ("backend: qdrant, url: 'https://q.example.com', approximate: true", "no graph"),
    ],
)
def test_a_qdrant_server_that_cannot_be_is_refused(write: Callable[[str], Path], entry: str, message: str) -> None:
    """Plain text beyond this machine, what is no address, and keys of a server without one."""
    with pytest.raises(SettingsError, match=r"remit\.yaml:28: index") as refused:
        load(write(GOOD + f"index: {{{entry}}}\n"))

    assert message in str(refused.value)


def test_reranking_names_a_folder(write: Callable[[str], Path]) -> None:
    """Off unless it is named; a number of passages that makes no sense is refused."""
    found = load(write(GOOD + "reranking: {path: models/cross, top: 50}\n"))

    assert load(write(GOOD)).reranking is None
    assert found.reranking == RerankingSettings(found.base / "models" / "cross", 50)
    for entry in ("{top: 5}", "{path: x, top: 1}", "{path: x, model: y}"):
        with pytest.raises(SettingsError, match=r"remit\.yaml:28: reranking"):
            load(write(GOOD + f"reranking: {entry}\n"))
