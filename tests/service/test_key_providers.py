"""One contract for whatever holds the key-encryption key, what each of them refuses, and moving from one to another."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from connectors.secret import FileSecret
from service.errors import StartError
from service.keys import Custody, DocumentKeyId, KeyStore, ProviderError, UnsealError, create_key, open_provider
from service.keys.envelope import seal, unseal
from service.keys.provider import KeyProvider
from service.keys.watch import KeyWatch
from service.sections.keys import FileProvider, KeySettings, Pkcs11Provider, Provider, VaultProvider
from tests.support.softhsm import PIN, Token, token
from tests.support.vault_stub import TOKEN, Key, Vault, vault

KINDS = ["file", pytest.param("pkcs11", marks=pytest.mark.live), "vault"]
PLACE = b"where it belongs"


@dataclass
class Held:
    """A configured provider. stop: makes what is behind it unreachable. other: makes another key in its place."""

    settings: KeySettings
    stop: Callable[[], object]
    other: Callable[[], object]


def settings(folder: Path, provider: Provider, previous: Provider | None = None) -> KeySettings:
    return KeySettings(provider, previous, folder / "audit.key", folder / "keystore")


@pytest.fixture
def hsm(tmp_path: Path) -> Iterator[Token]:
    (tmp_path / "hsm").mkdir()
    with token(tmp_path / "hsm") as made:
        yield made


@pytest.fixture
def stub(tmp_path: Path) -> Iterator[Vault]:
    (tmp_path / "vault").mkdir()
    with vault(tmp_path / "vault") as made:
        yield made


@pytest.fixture(params=KINDS)
def held(request: pytest.FixtureRequest, tmp_path: Path) -> Held:
    match request.param:
        case "file":
            path = tmp_path / "kek"

            def again() -> None:
                path.unlink()
                create_key(made.settings)

            made = Held(settings(tmp_path, FileProvider(path)), path.unlink, again)
        case "pkcs11":
            hsm: Token = request.getfixturevalue("hsm")
            # Another label is another key.
            made = Held(settings(tmp_path, hsm.settings), hsm.pull, lambda: None)

            def relabel() -> None:
                made.settings = settings(tmp_path, replace(hsm.settings, label="other"))
                create_key(made.settings)

            made.other = relabel
        case _:
            stub: Vault = request.getfixturevalue("stub")
            made = Held(settings(tmp_path, stub.settings), lambda: setattr(stub, "sealed", True), lambda: None)
            made.other = lambda: stub.keys.update(remit=Key())
    create_key(made.settings)
    return made


@pytest.fixture
def provider(held: Held) -> Iterator[KeyProvider]:
    opened = open_provider(held.settings)
    yield opened
    opened.close()


def test_a_wrapped_key_opens_where_it_belongs_and_says_nothing(held: Held, provider: KeyProvider) -> None:
    """By this provider and by one that was opened anew; twice wrapped looks different; the key is not in it."""
    key = bytes(range(32))
    kek, wrapped = provider.wrap(key, PLACE)

    assert kek == provider.key_id
    assert provider.has(kek)
    assert not provider.has("another")
    assert key not in wrapped
    assert provider.wrap(key, PLACE).wrapped != wrapped
    assert provider.unwrap(kek, wrapped, PLACE) == key
    again = open_provider(held.settings)
    assert again.key_id == kek
    assert again.unwrap(kek, wrapped, PLACE) == key
    again.close()


def test_a_wrapped_key_that_was_changed_or_moved_does_not_open(provider: KeyProvider) -> None:
    """Each byte counts, and so does the place; the unchanged neighbour still opens."""
    kek, wrapped = provider.wrap(b"k" * 32, PLACE)
    for at in (len(wrapped) // 2, len(wrapped) - 3):
        flipped = bytearray(wrapped)
        flipped[at] = ord("A") if flipped[at] != ord("A") else ord("B")
        with pytest.raises(UnsealError):
            provider.unwrap(kek, bytes(flipped), PLACE)
    for wrong in (b"", b"elsewhere"):
        with pytest.raises(UnsealError):
            provider.unwrap(kek, wrapped, wrong)
    with pytest.raises(UnsealError):
        provider.unwrap(kek, wrapped[:10], PLACE)

    assert provider.unwrap(kek, wrapped, PLACE) == b"k" * 32


def test_a_version_that_is_not_there_is_named(provider: KeyProvider) -> None:
    """Of another key or another provider: one sentence with both names."""
    _, wrapped = provider.wrap(b"k" * 32, PLACE)
    with pytest.raises(ProviderError, match=r"made with key `0123456789abcdef`, and the configured key is"):
        provider.unwrap("0123456789abcdef", wrapped, PLACE)


def test_a_rotation_wraps_with_a_new_version_and_opens_the_older(held: Held, provider: KeyProvider) -> None:
    """Until the older one is retired, over a new start too; what is in use is not retired."""
    older, wrapped = provider.wrap(b"k" * 32, PLACE)

    provider.rotate()

    newer, again = provider.wrap(b"n" * 32, PLACE)
    assert newer == provider.key_id != older
    reopened = open_provider(held.settings)
    assert reopened.key_id == newer
    assert reopened.unwrap(older, wrapped, PLACE) == b"k" * 32
    assert reopened.retire({older, newer}) == ()
    assert reopened.unwrap(older, wrapped, PLACE) == b"k" * 32
    assert reopened.retire({newer}) == (older,)
    assert reopened.unwrap(newer, again, PLACE) == b"n" * 32
    reopened.close()


def test_no_key_is_no_start_and_none_is_made(held: Held, tmp_path: Path) -> None:
    """One sentence, and a second look finds as little."""
    absent = held.settings.provider
    match absent:
        case FileProvider():
            absent = FileProvider(tmp_path / "none")
        case Pkcs11Provider():
            absent = replace(absent, label="none")
        case VaultProvider():
            absent = replace(absent, key="none")
    for _ in range(2):
        with pytest.raises(StartError, match="does not exist"):
            open_provider(settings(tmp_path, absent))

    open_provider(held.settings).close()


def test_a_key_is_never_made_in_the_place_of_another(held: Held) -> None:
    """The second `create` is refused, and the first key still opens what it wrapped."""
    first = open_provider(held.settings)
    kek, wrapped = first.wrap(b"k" * 32, PLACE)
    first.close()

    with pytest.raises(StartError, match="exists already"):
        create_key(held.settings)

    again = open_provider(held.settings)
    assert again.unwrap(kek, wrapped, PLACE) == b"k" * 32
    again.close()


def test_what_is_open_stays_open_without_the_provider(held: Held, provider: KeyProvider, tmp_path: Path) -> None:
    """Once started, keys of documents are made, opened and re-wrapped; a rotation fails and changes nothing."""
    store = KeyStore(tmp_path / "keys.sqlite", provider)
    store.add_source("a")
    store.create("a", ["one"])
    sealed = seal(store.cipher(DocumentKeyId("a", "one")), b"secret", PLACE)
    custody, watch = Custody(store), KeyWatch(provider)
    custody.rotate()
    watch.look()
    assert watch.failure is None

    held.stop()

    watch.look()
    assert watch.failure
    if held.settings.provider != FileProvider(tmp_path / "kek"):  # a file that is gone is written again
        with pytest.raises(ProviderError):
            custody.rotate()
        with pytest.raises(ProviderError):
            store.add_source("b")
    store.create("a", ["two"])
    assert custody.rewrap(100) == 0
    assert store.documents("a") == {"one", "two"}
    assert unseal(store.cipher(DocumentKeyId("a", "one")), sealed, PLACE) == b"secret"
    store.close()


def test_another_key_does_not_open_the_key_store(held: Held, tmp_path: Path) -> None:
    """Made anew under the same name or under another one: no start, one sentence."""
    first = open_provider(held.settings)
    store = KeyStore(tmp_path / "keys.sqlite", first)
    store.add_source("a")
    store.close()
    first.close()

    held.other()

    other = open_provider(held.settings)
    with pytest.raises(StartError, match=r"keys\.sqlite` (cannot be opened: it was made|does not open)"):
        KeyStore(tmp_path / "keys.sqlite", other, create=False)
    other.close()


# Moving.


@pytest.mark.parametrize("broken", [False, True], ids=["at once", "broken off"])
def test_a_key_store_moves_from_a_file_to_vault(stub: Vault, tmp_path: Path, broken: bool) -> None:
    """`rotate` wraps all with the new one, from where it was broken off; then the file is not needed any more."""
    file = FileProvider(tmp_path / "kek")
    create_key(settings(tmp_path, file))
    before = (tmp_path / "kek").read_bytes()
    store = KeyStore(tmp_path / "keys.sqlite", open_provider(settings(tmp_path, file)))
    for source in ("a", "b"):
        store.add_source(source)
        store.create(source, ["one"])
    older = store.provider.key_id
    sealed = seal(store.cipher(DocumentKeyId("b", "one")), b"secret", PLACE)
    store.close()
    create_key(settings(tmp_path, stub.settings))
    with pytest.raises(StartError, match=f"made with key `{older}`.*previous"):
        KeyStore(tmp_path / "keys.sqlite", open_provider(settings(tmp_path, stub.settings)), create=False)

    moving = open_provider(settings(tmp_path, stub.settings, file))
    store = KeyStore(tmp_path / "keys.sqlite", moving, create=False)
    if broken:
        store.add_source("c")
        stub.answers = [200, 503]  # the first is no ciphertext
        with pytest.raises(ProviderError):
            Custody(store).rotate()
        assert Custody(store).status().older == 4
        stub.answers.clear()
        store.close()
        store = KeyStore(tmp_path / "keys.sqlite", moving, create=False)
    assert Custody(store).rotate() == (older,)
    assert Custody(store).rewrap(100) == 0
    assert Custody(store).status().older == 0
    assert len(stub.keys["remit"].versions) == 1, "moving is no rotation of the new one"
    store.close()

    assert (tmp_path / "kek").read_bytes() == before, "backups of the key store may need it"
    (tmp_path / "kek").unlink()
    store = KeyStore(tmp_path / "keys.sqlite", open_provider(settings(tmp_path, stub.settings)), create=False)
    assert unseal(store.cipher(DocumentKeyId("b", "one")), sealed, PLACE) == b"secret"
    store.close()


def test_a_provider_that_returns_something_else_loses_nothing(stub: Vault, tmp_path: Path) -> None:
    """What was wrapped is opened before the older wrapping is given up."""
    create_key(settings(tmp_path, stub.settings))
    provider = open_provider(settings(tmp_path, stub.settings))
    store = KeyStore(tmp_path / "keys.sqlite", provider)
    store.add_source("a")
    with store.read() as connection:
        before = connection.exec_driver_sql("SELECT * FROM source_keys").all()
    real = stub._decrypt
    stub._decrypt = lambda name, body: (200, {"data": {"plaintext": "AAAA"}})  # type: ignore[method-assign]

    with pytest.raises(ProviderError, match="does not return what it wrapped"):
        store.wrap_source_key("a", 1, b"k" * 32)
    with pytest.raises(ProviderError):
        Custody(store).rotate()

    stub._decrypt = real  # type: ignore[method-assign]
    with store.read() as connection:
        assert connection.exec_driver_sql("SELECT * FROM source_keys").all() == before
    Custody(store).rotate()
    store.close()


# Vault.


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        ("sealed", "Vault is sealed or under maintenance"),
        ("denied", "its policy does not allow this"),
        ("expired", "the token has expired"),
        ("redirects", "name the address of its active node"),
        ("server error", "failed: InternalServerError"),
        ("rate", "limits the rate of calls"),
        ("derived", "is no key of type `aes256-gcm96` without derivation"),
        ("type", "is no key of type `aes256-gcm96`"),
        ("exportable", "can be taken out of Vault"),
        ("no token", "the token for Vault is not there: the file .* cannot be read"),
        ("stranger", "shows a certificate that .* did not sign"),
        ("gone", "does not answer"),
    ],
)
def test_each_failure_of_vault_is_one_sentence(
    stub: Vault, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: str, said: str
) -> None:
    """Without the token in it; and without the fault the service starts."""
    monkeypatch.setattr("service.keys.vault._PAUSES_S", (0.0, 0.0))
    create_key(settings(tmp_path, stub.settings))
    open_provider(settings(tmp_path, stub.settings)).close()
    using = stub.settings
    match fault:
        case "sealed":
            stub.sealed = True
        case "denied":
            stub.denied = {"transit/keys"}
        case "expired":
            stub.tokens.clear()
        case "redirects":
            stub.redirects = True
        case "server error":
            stub.answers = [500]
        case "rate":
            stub.answers = [429] * 3
        case "derived":
            stub.keys["remit"].derived = True
        case "type":
            stub.keys["remit"].type = "rsa-4096"
        case "exportable":
            stub.keys["remit"].exportable = True
        case "no token":
            using = replace(using, login=FileSecret(tmp_path / "none"))
        case "stranger":
            from tests.support.certificates import Authority

            (tmp_path / "other.pem").write_bytes(Authority().pem)
            using = replace(using, ca=tmp_path / "other.pem")
        case _:
            using = replace(using, address="https://127.0.0.1:1")

    with pytest.raises(StartError, match=said) as caught:
        open_provider(settings(tmp_path, using))

    assert TOKEN not in str(caught.value)


def test_a_limited_rate_is_waited_for(stub: Vault, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two refusals, then it goes on."""
    monkeypatch.setattr("service.keys.vault._PAUSES_S", (0.0, 0.0))
    create_key(settings(tmp_path, stub.settings))
    stub.answers = [429, 429]

    open_provider(settings(tmp_path, stub.settings)).close()


def test_a_version_that_vault_does_not_decrypt_any_more_is_named(stub: Vault, tmp_path: Path) -> None:
    """It is not taken for a changed key; the newer version still opens."""
    create_key(settings(tmp_path, stub.settings))
    provider = open_provider(settings(tmp_path, stub.settings))
    older = provider.wrap(b"k" * 32, PLACE)
    provider.rotate()
    newer = provider.wrap(b"n" * 32, PLACE)
    stub.keys["remit"].min_decryption_version = 2

    with pytest.raises(ProviderError, match="min_decryption_version"):
        provider.unwrap(*older, PLACE)

    assert provider.unwrap(*newer, PLACE) == b"n" * 32


def test_who_rotates_in_vault_is_noticed(stub: Vault, tmp_path: Path) -> None:
    """The version stands in what was wrapped, and a check finds it too."""
    create_key(settings(tmp_path, stub.settings))
    provider = open_provider(settings(tmp_path, stub.settings))
    stub.keys["remit"].versions.append(b"x" * 32)

    kek, wrapped = provider.wrap(b"k" * 32, PLACE)
    assert kek.endswith(":v2")
    assert provider.key_id == kek
    stub.keys["remit"].versions.append(b"y" * 32)
    provider.check()

    assert provider.key_id.endswith(":v3")
    assert provider.unwrap(kek, wrapped, PLACE) == b"k" * 32


def test_an_approle_logs_in_again_when_its_token_has_expired(tmp_path: Path) -> None:
    """Once for each refusal; a refused secret id is one sentence that does not name it."""
    with vault(tmp_path, approle=True) as stub:
        stub.tokens.clear()
        create_key(settings(tmp_path, stub.settings))
        provider = open_provider(settings(tmp_path, stub.settings))
        stub.tokens.clear()
        assert provider.unwrap(*provider.wrap(b"k" * 32, PLACE), PLACE) == b"k" * 32
        assert stub.asked.count("POST auth/approle/login") == 3

        stub.tokens.clear()
        (tmp_path / "secret-id").write_text("wrong-secret-id")
        with pytest.raises(ProviderError, match="refuses") as caught:
            provider.check()
        assert "wrong-secret-id" not in str(caught.value)


def test_a_namespace_is_named_in_every_call(stub: Vault, tmp_path: Path) -> None:
    """And none where none is configured."""
    create_key(settings(tmp_path, stub.settings))
    assert set(stub.namespaces) == {""}
    stub.namespaces.clear()

    open_provider(settings(tmp_path, replace(stub.settings, namespace="team/search"))).close()

    assert set(stub.namespaces) == {"team/search"}


def test_neither_proxy_nor_token_of_the_environment_is_used(
    stub: Vault, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor its address: what is connected to stands in the settings."""
    for name in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(tmp_path / "none"))
    monkeypatch.setenv("VAULT_TOKEN", "hvs.somebody-else")
    monkeypatch.setenv("VAULT_ADDR", "https://127.0.0.1:1")
    create_key(settings(tmp_path, stub.settings))

    open_provider(settings(tmp_path, stub.settings)).close()

    assert stub.asked


# PKCS#11.


@pytest.mark.live
@pytest.mark.parametrize(
    ("fault", "said"),
    [
        ("pin", "refuses the PIN"),
        ("no pin", "the PIN of .* is not there"),
        ("token", "there is no token with this label"),
        ("library", "cannot open shared object file"),
        ("extractable", "cannot leave it"),
    ],
)
def test_each_failure_of_a_token_is_one_sentence(hsm: Token, tmp_path: Path, fault: str, said: str) -> None:
    """Without the PIN in it; and without the fault the service starts."""
    create_key(settings(tmp_path, hsm.settings))
    using = hsm.settings
    (tmp_path / "wrong").write_text("0000-wrong")
    (tmp_path / "wrong").chmod(0o600)
    match fault:
        case "pin":
            using = replace(using, pin=FileSecret(tmp_path / "wrong"))
        case "no pin":
            using = replace(using, pin=FileSecret(tmp_path / "none"))
        case "token":
            using = replace(using, token="another")
        case "library":
            using = replace(using, library=tmp_path / "none.so")
        case _:
            _extractable(hsm)
            using = replace(using, label="loose")

    with pytest.raises(StartError, match=said) as caught:
        open_provider(settings(tmp_path, using))

    assert PIN not in str(caught.value)
    assert "0000-wrong" not in str(caught.value)
    open_provider(settings(tmp_path, hsm.settings)).close()


@pytest.mark.live
# The library ends its searches in the session that is gone, and says so of an object that nobody holds any more.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_session_that_ended_is_opened_again(hsm: Token, tmp_path: Path) -> None:
    """As after a network module was started anew; a wrong PIN is tried once, because the token counts."""
    from service.keys.pkcs11 import Pkcs11Key

    create_key(settings(tmp_path, hsm.settings))
    provider = Pkcs11Key(hsm.settings)
    wrapped = provider.wrap(b"k" * 32, PLACE)
    assert provider._session is not None
    provider._session.close()

    assert provider.unwrap(*wrapped, PLACE) == b"k" * 32

    provider._session.close()
    assert isinstance(hsm.settings.pin, FileSecret)
    hsm.settings.pin.path.write_text("0000-wrong")
    logins: list[int] = []
    real = provider._login

    def counted() -> object:
        logins.append(1)
        return real()

    provider._login = counted  # type: ignore[method-assign,assignment]  # the edge, counted
    with pytest.raises(ProviderError, match="refuses the PIN"):
        provider.check()
    assert len(logins) == 1
    hsm.settings.pin.path.write_text(PIN)
    provider.check()
    provider.close()


def _extractable(hsm: Token) -> None:
    import pkcs11
    from pkcs11 import Attribute, KeyType

    found = pkcs11.lib(str(hsm.settings.library)).get_token(token_label=hsm.settings.token)
    with found.open(rw=True, user_pin=PIN) as session:
        loose = {Attribute.EXTRACTABLE: True, Attribute.SENSITIVE: True}
        session.generate_key(KeyType.AES, 256, id=b"\x01", label="loose", store=True, template=loose)
