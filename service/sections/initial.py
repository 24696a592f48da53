"""What `remit init` writes: commented settings, two example people, and every key that a first start needs.

It overwrites nothing and leaves nothing half written: a folder has all of it or what it had before.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Final

from service import devissuer
from service.audit.key import AuditKey
from service.errors import StartError
from service.files import durable_file
from service.keys.file import create_key_file

_READABLE: Final = 0o644
_KEYS: Final = ("remit.kek", "audit.key", "audit.pub", "dev.private.json", "dev.jwks.json")

SETTINGS: Final = """\
# Remit's settings. Paths are relative to this file. `remit doctor` checks them.
version: 1

# The catalog, the index and the audit log. Embeddings are as sensitive as the text they come from and are not
# encrypted by Remit: put this folder on an encrypted volume.
data: ./data

listen:
  callers: 127.0.0.1:7420           # applications that search
  administrators: 127.0.0.1:7421    # operators and auditors
  # Plaintext is allowed on loopback only. For anything else replace this line by `tls`; TLS 1.3 is spoken then, and
  # the files are read again when they change:
  #   tls: {certificate: ./tls/server.pem, key: ./tls/server.key}
  # Service accounts have a listener of their own and prove themselves by a certificate of `client_ca`:
  #   services: 0.0.0.0:7422
  #   tls: {certificate: ./tls/server.pem, key: ./tls/server.key, client_ca: ./tls/clients-ca.pem}
  insecure_loopback: true

# The key-encryption key, and beside it the key of the audit log (audit.key). Without them nothing starts and nothing
# can be read: keep a copy of the folder `keys`, apart from the copies of `data`.
# `store` holds a wrapped key for each document. A document is shredded by deleting its key there, so keep few copies
# of this folder, apart from those of `data`, and let them expire.
keys: {provider: file, path: ./keys/remit.kek, store: ./keystore}
# A shredding takes two persons with the role `key-admin` (`shred_approvals: 1` for one), within a day (`shred_within`).
# The key may be on a token (an HSM) or in Vault instead, see docs/keys.md; what opens it is never written here:
#   keys: {provider: pkcs11, library: /usr/lib/token.so, token: remit, pin_file: ./keys/pin}
#   keys: {provider: vault, address: 'https://vault.example.com:8200', ca: ./tls/vault-ca.pem, token_file: ./keys/token}

# Whose tokens are accepted. This one is the development issuer, whose key pair `remit init` made for trying Remit:
# `remit token alice` mints a token of 15 minutes. In production list your own issuer and delete dev.private.json.
issuers:
  - issuer: https://remit.localhost/dev
    audience: remit
    jwks: ./keys/dev.jwks.json
    claim: sub                      # an immutable claim of the token ...
    directory: people               # ... equals, for exactly one person of this directory, ...
    attribute: id                   # ... this immutable attribute
#  - issuer: https://login.example.com/corp  # exactly as in `iss`; without `jwks` its keys are found by discovery
#    audience: remit
#    claim: oid
#    directory: people
#    attribute: id
#    jwks: https://login.example.com/corp/keys   # or a file
#    ca: ./tls/ca.pem                # trust this authority alone; else the system's
#    proxy: http://proxy:3128        # else none, whatever the environment says
#    max_keys_age: 1h                # keys that were fetched longer ago verify nothing
#    token_type: JWT                 # where its access tokens have no type `at+jwt`, which is the default
#    clients: [rag-app]              # the applications whose tokens are accepted; with `JWT` there must be a list
#    algorithms: [RS256]             # of EdDSA, ES256, RS256, PS256
#    max_token_lifetime: 24h
#    actors: [{sub: assistant, sources: [company]}]   # who may act for a person (`act`), and what it may reach

# Programs that call as themselves: a name in their client certificate, or its fingerprint, is an account.
# With `acts_for: [group:sales]` it may name a person of these groups, and gets what both may read.
# service_accounts:
#  - {name: sync, san: 'spiffe://corp.example/sync', directory: people, attribute: id, value: svc-sync}

# Where people and groups come from.
directories:
  - {name: people, kind: static, path: ./people.yaml}

# Who administers: groups of the directory. A role never opens a document, and nobody is an auditor and something else.
roles:
  operator: [group:operators]       # sources and syncs
  auditor: [group:auditors]         # the audit log
  key-admin: [group:key-admins]     # keys, shredding and backups
#  audit-reader-content: [group:audit-content]   # may open the texts of queries in the audit log
#  access-admin: [group:access]     # is told of all sources, and asks who may read what
#  source-owner: {company: [group:sales]}   # is told of that source, and checks it

# The bundled model. A folder with another sentence-transformers model: {kind: model, path: ./model}
embedding: {kind: model}

# Backups are written below these folders and nowhere else. Keep those of the keys apart, on another volume.
# backup: {folder: ./backups, keys_folder: ./backups}

# What one caller may have; beyond it others are answered all the same. These are the defaults.
# limits: {calls_per_second: 200, burst: 400, calls_at_once: 32, streams_at_once: 8}

# Metrics for Prometheus, on loopback only, and spans for an OpenTelemetry collector. Neither has content or names.
# observe: {metrics: 127.0.0.1:9464}

# What to read. Remove the `[]` and the comment signs, and name a folder.
sources: []
#  - name: company
#    kind: filesystem
#    root: ./company
#    id_domain: corp                 # uid and gid numbers on these files are those of `id_domain: corp` in people.yaml
#    ancestors_above_root: enforce   # folders above the root count too; `trust` for a tree that is exported elsewhere
#    max_permissions_age: 24h        # older permissions withhold the source's documents
#    every: 15m                      # how often it is read, and early after a change that is noticed; without it
#                                    # only people start runs
#    permissions_every: 5m           # rules alone, in between
#    canaries: ["*/salaries-board.md"]   # documents that nobody may be given: one in an answer stops the source

# How long records of the audit log are kept, by class; 400d for each that is not named, never below the minimum.
# audit:
#  retention: {query: 400d, admin: 800d}
#  minimum_retention: 90d
#  alerts: [{webhook: https://alerts.example.com/remit, secret: ./keys/alerts.key}, {syslog: /dev/log}]
"""

PEOPLE: Final = """\
# People and groups: the static directory. It is read again whenever it changes.
# Ids are immutable and never given to somebody else; names may change.
version: 1
id_domain: corp                     # whose numbers uid and gid are
users:
  - {id: u-1001, name: alice, display_name: Alice Example, uid: 20001, gid: 20101,
     groups: [sales, operators, key-admins]}
  - {id: u-1002, name: bob, display_name: Bob Example, uid: 20002, gid: 20102, groups: [fin-emea, auditors]}
  - {id: u-1003, name: carol, display_name: Carol Example, groups: [key-admins]}
groups:
  - {id: sales, gid: 20101}
  - {id: finance, gid: 20102}
  - {id: fin-emea, gid: 20110, member_of: [finance]}
  - {id: operators}
  - {id: auditors}
  - {id: key-admins}
"""


def write(folder: Path) -> tuple[Path, ...]:
    """Write everything into `folder`, which is made when it is missing, and return the files.

    Raises StartError when one of them exists or cannot be written; then the folder is as it was.
    """
    # The settings come last: a folder that has them has the rest.
    names = (*(f"keys/{name}" for name in _KEYS), "people.yaml", "remit.yaml")
    present = next((folder / name for name in names if os.path.lexists(folder / name)), None)
    if present is not None:
        raise StartError(f"{present} exists: `remit init` overwrites nothing, name another folder")
    made = [path for path in (folder / "keys", folder, *folder.parents) if not path.exists()]
    linked: list[Path] = []
    try:
        (folder / "keys").mkdir(mode=0o700, parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder, prefix=".remit-init-") as temporary:
            _prepare(Path(temporary))
            for name in names:
                # A link, unlike a rename, replaces nothing.
                (folder / name).hardlink_to(Path(temporary) / name)
                linked.append(folder / name)
    except BaseException as err:
        for path in linked:
            path.unlink()
        for path in made:
            if path.exists():
                path.rmdir()
        if isinstance(err, FileExistsError):
            raise StartError(f"{err.filename2 or err.filename} exists: `remit init` overwrites nothing") from err
        if isinstance(err, OSError):
            raise StartError(f"`{folder}` cannot be written: {err.strerror}") from err
        raise
    return tuple(linked)


def _prepare(folder: Path) -> None:
    keys = folder / "keys"
    keys.mkdir()
    create_key_file(keys / "remit.kek")
    audit = AuditKey.create(keys / "audit.key")
    durable_file.create(keys / "audit.pub", f"{audit.verifier.text}\n".encode(), _READABLE)
    devissuer.create_keys(keys / "dev.jwks.json")
    durable_file.create(folder / "people.yaml", PEOPLE.encode(), _READABLE)
    durable_file.create(folder / "remit.yaml", SETTINGS.encode(), _READABLE)
