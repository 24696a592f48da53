"""`listen` and `service_accounts` of `remit.yaml`: what is read, and that every refusal names its line."""

from __future__ import annotations

from pathlib import Path

import pytest

from acl.principal import Principal, Realm
from connectors.yaml_file import Field, YamlFileError, parse
from service.sections import listeners, service_accounts
from service.sections.listeners import Address, Listen, Tls
from service.sections.service_accounts import ServiceAccount
from service.settings import SettingsError, load
from tests.service.test_settings import GOOD

BASE = Path("/etc/remit")
LISTEN = """\
callers: 0.0.0.0:7420
administrators: 10.0.0.1:7421
services: 0.0.0.0:7422
tls: {certificate: ./c.pem, key: ./k.pem, client_ca: ./ca.pem}
"""
ACCOUNTS = """\
- name: rag
  san: spiffe://corp.example/rag
  directory: people
  attribute: id
  value: svc-rag
"""
FINGERPRINT = "ab" * 32


def listen(text: str) -> Listen:
    """Read `listen`."""
    return listeners.read(parse(text.encode(), "remit.yaml", 10_000), BASE)


def accounts(text: str) -> tuple[ServiceAccount, ...]:
    """Read `service_accounts`."""
    return service_accounts.read(parse(text.encode(), "remit.yaml", 10_000), {"people": ("id", "uid")}, _group)


def _group(item: Field) -> Principal:
    return Principal(Realm("static:people"), f"group-{item.text()}")


def test_three_listeners_share_a_certificate() -> None:
    """That of services has authorities of its own."""
    found = listen(LISTEN)

    assert found.services == Address("0.0.0.0", 7422)
    assert found.tls == Tls(BASE / "c.pem", BASE / "k.pem", BASE / "ca.pem")
    assert found.tls is not None
    assert found.tls.place == "remit.yaml:4: tls"


@pytest.mark.parametrize(
    ("old", "new", "line", "sentence"),
    [
        (", client_ca: ./ca.pem", "", 4, "tls: `client_ca` is missing"),
        ("services: 0.0.0.0:7422\n", "", 3, "tls.client_ca: is for `listen.services`, which is missing"),
        ("services: 0.0.0.0:7422", "services: 0.0.0.0:7420", 3, "another address than that of the callers"),
        ("services: 0.0.0.0:7422", "services: 10.0.0.1:7421", 3, "another address than that of the administrators"),
        ("services: 0.0.0.0:7422", "services: here", 3, "services: expected host:port"),
        ("tls: {certificate: ./c.pem, key: ./k.pem, client_ca: ./ca.pem}", "insecure_loopback: true", 3,
         "services: asks for client certificates, expected `tls`"),
        ("key: ./k.pem, ", "", 4, "tls: `key` is missing"),
    ],
)  # fmt: skip
def test_listeners_that_prove_nothing_are_refused(old: str, new: str, line: int, sentence: str) -> None:
    """Client certificates without an authority, authorities without a listener, plaintext, one address twice."""
    assert old in LISTEN

    with pytest.raises(YamlFileError) as caught:
        listen(LISTEN.replace(old, new))

    assert str(caught.value).startswith(f"remit.yaml:{line}: ")
    assert sentence in str(caught.value)


def test_a_service_account_has_a_name_or_a_fingerprint() -> None:
    """Both kinds are read."""
    second = ACCOUNTS.replace("name: rag", "name: two")
    second = second.replace("san: spiffe://corp.example/rag", f"fingerprint: '{FINGERPRINT}'")

    found = accounts(ACCOUNTS + second)

    assert found[0] == ServiceAccount("rag", "spiffe://corp.example/rag", "", "people", "id", "svc-rag")
    assert found[0].acts_for == frozenset()
    named = accounts(ACCOUNTS + "  acts_for: [sales]\n")[0]
    assert named.acts_for == {Principal(Realm("static:people"), "group-sales")}
    assert (found[1].san, found[1].fingerprint) == ("", FINGERPRINT)
    assert accounts(ACCOUNTS.replace("spiffe://corp.example/rag", "rag.corp.example"))[0].san == "rag.corp.example"


@pytest.mark.parametrize(
    ("old", "new", "line", "sentence"),
    [
        ("  san: spiffe://corp.example/rag\n", "", 1, "expected either `san` or `fingerprint`"),
        ("  san:", f"  fingerprint: '{FINGERPRINT}'\n  san:", 1, "expected either `san` or `fingerprint`"),
        ("spiffe://corp.example/rag", "rag", 2, "san: expected a URI"),
        ("spiffe://corp.example/rag", "'*.corp.example'", 2, "san: expected a URI"),
        ("spiffe://corp.example/rag", "Rag.corp.example", 2, "san: expected a URI"),
        ("san: spiffe://corp.example/rag", "fingerprint: 'AB'", 2, "fingerprint: expected the SHA-256"),
        ("directory: people", "directory: others", 3, "directory: expected one of the directories `people`"),
        ("attribute: id", "attribute: name", 4, "attribute: expected one of `id`, `uid`"),
        ("value: svc-rag", "value: ''", 5, "value: expected text"),
        ("name: rag", "name: Rag", 1, "name: expected a name"),
        ("value: svc-rag", "value: svc-rag\n  acts_for: []", 6, "acts_for: expected at least one group"),
        ("value: svc-rag", "value: svc-rag\n  acts_for: sales", 6, "acts_for: expected a list"),
    ],
)
def test_a_service_account_without_one_certificate_or_one_account_is_refused(
    old: str, new: str, line: int, sentence: str
) -> None:
    """Each wrong value is named where it stands; names of people are no attributes."""
    assert old in ACCOUNTS

    with pytest.raises(YamlFileError) as caught:
        accounts(ACCOUNTS.replace(old, new))

    assert str(caught.value).startswith(f"remit.yaml:{line}: ")
    assert sentence in str(caught.value)


@pytest.mark.parametrize("second", [ACCOUNTS, ACCOUNTS.replace("name: rag", "name: two")])
def test_a_service_account_stands_once(second: str) -> None:
    """Neither a name nor a certificate twice."""
    with pytest.raises(YamlFileError, match=r"remit\.yaml:[67]: "):
        accounts(ACCOUNTS + second)


def test_service_accounts_need_a_listener(tmp_path: Path) -> None:
    """Without one they could never call."""
    path = tmp_path / "remit.yaml"
    entry = "".join(f"  {line}\n" for line in ACCOUNTS.splitlines())
    path.write_text(f"{GOOD}service_accounts:\n{entry}")

    with pytest.raises(SettingsError, match=r"service_accounts: have no listener to call, expected `listen\.services`"):
        load(path)

    tls = "services: 127.0.0.1:7422\n  tls: {certificate: ./c.pem, key: ./k.pem, client_ca: ./ca.pem}"
    path.write_text(f"{GOOD.replace('insecure_loopback: true', tls)}service_accounts:\n{entry}")
    assert [one.name for one in load(path).service_accounts] == ["rag"]
