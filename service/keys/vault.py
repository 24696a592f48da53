"""The key-encryption key in the engine `transit` of HashiCorp Vault, or of OpenBao, which speaks the same.

A wrapped key is the text that Vault returns, which names the version; where it belongs is its associated data. Vault
keeps older versions, and its administrator alone ends them.
SOURCE: Vault's documentation of the HTTP API, "Transit secrets engine", "AppRole auth method" and "KV secrets engine".
"""

from __future__ import annotations

import base64
import binascii
import re
import threading
import time
from collections.abc import Callable, Collection
from typing import Any, Final

from connectors.secret import SecretError
from service.errors import StartError
from service.keys.envelope import UnsealError
from service.keys.provider import ProviderError, Wrapped, other_key
from service.sections.keys import AppRole, VaultProvider

try:
    import hvac
    import requests
    from hvac import exceptions as refused
except ImportError as err:  # an optional extra
    raise StartError("`keys.provider: vault` needs the package `hvac`: install `remit-server[vault]`") from err

_TIMEOUT_S: Final = 10
_PAUSES_S: Final = (0.5, 1.0, 2.0)
_SEALED: Final = re.compile(r"vault:v([1-9][0-9]{0,8}):[A-Za-z0-9+/=]+")
_TYPE: Final = "aes256-gcm96"


class VaultKey:
    """See `KeyProvider`. A token that has expired is asked for again where there is an AppRole."""

    def __init__(self, settings: VaultProvider, *, create: bool = False, sleep: Callable[[float], None] = time.sleep):
        """Look for the key. Raises ProviderError.

        create: make it; then there must be none.
        """
        self._settings = settings
        self._sleep = sleep
        self._lock = threading.Lock()
        session = requests.Session()
        # Neither proxies nor authorities of the environment: what is connected to stands in the settings.
        session.trust_env = False
        session.verify = str(settings.ca)
        self._client = hvac.Client(
            url=settings.address,
            token="",
            session=session,
            timeout=_TIMEOUT_S,
            allow_redirects=False,
            namespace=settings.namespace,
        )
        self._latest = self._oldest = 0
        if create:
            self._create()
        self.check()

    @property
    def key_id(self) -> str:
        """See `KeyProvider`. Who rotates in Vault is noticed by the next `check` or `wrap`."""
        return self._id(self._latest)

    @property
    def described(self) -> str:
        """See `KeyProvider`."""
        return f"Vault at {self._settings.address}, {self._settings.mount}/keys/{self._settings.key}"

    def has(self, kek: str) -> bool:
        """See `KeyProvider`."""
        prefix = self._id("")
        return kek.startswith(prefix) and kek.removeprefix(prefix).isdecimal()

    def wrap(self, key: bytes, place: bytes) -> Wrapped:
        """See `KeyProvider`."""
        answer = self._ask(
            self._client.secrets.transit.encrypt_data,
            plaintext=base64.b64encode(key).decode(),
            associated_data=base64.b64encode(place).decode(),
        )
        found = _SEALED.fullmatch(str(answer.get("ciphertext")))
        if found is None:
            raise ProviderError(f"{self.described} answers what is no ciphertext of it")
        self._latest = max(self._latest, int(found[1]))
        return Wrapped(self._id(found[1]), found[0].encode("ascii"))

    def unwrap(self, kek: str, wrapped: bytes, place: bytes) -> bytes:
        """See `KeyProvider`."""
        if not self.has(kek):
            raise other_key(kek, self)
        text = wrapped.decode("ascii", "replace")
        found = _SEALED.fullmatch(text)
        if found is None or self._id(found[1]) != kek:
            raise UnsealError("a wrapped key was changed: it is no ciphertext of this version")
        try:
            answer = self._ask(
                self._client.secrets.transit.decrypt_data,
                ciphertext=text,
                associated_data=base64.b64encode(place).decode(),
            )
        except _BadRequestError as err:
            if "too old" in err.said or "disallowed by policy" in err.said:
                raise ProviderError(
                    f"{self.described} does not decrypt with `{kek}` any more: lower its `min_decryption_version`"
                ) from err
            if "not found" in err.said:
                raise
            raise UnsealError("a wrapped key was changed, moved, or wrapped by another key") from err
        try:
            return base64.b64decode(str(answer.get("plaintext")), validate=True)
        except binascii.Error as err:
            raise ProviderError(f"{self.described} answers what is no plaintext") from err

    def rotate(self) -> None:
        """See `KeyProvider`."""
        before = self._latest
        self._ask(self._client.secrets.transit.rotate_key)
        self.check()
        if self._latest <= before:
            raise ProviderError(f"{self.described} made no new version")

    def retire(self, in_use: Collection[str]) -> tuple[str, ...]:
        """See `KeyProvider`. They stay in Vault until its administrator ends them: backups may need them."""
        versions = (self._id(number) for number in range(max(1, self._oldest), self._latest))
        return tuple(kek for kek in versions if kek not in in_use)

    def check(self) -> None:
        """See `KeyProvider`."""
        answer = self._ask(self._client.secrets.transit.read_key)
        kind, latest = answer.get("type"), answer.get("latest_version")
        if kind != _TYPE or answer.get("derived") or not isinstance(latest, int) or latest < 1:
            raise ProviderError(f"{self.described} is no key of type `{_TYPE}` without derivation: make another")
        if answer.get("exportable") or answer.get("allow_plaintext_backup"):
            raise ProviderError(f"{self.described} can be taken out of Vault (`exportable`): make another")
        self._latest, self._oldest = latest, int(answer.get("min_decryption_version") or 1)

    def read_kv(self, mount: str, path: str, field: str) -> str:
        """Read one field of the newest version of a secret in a KV engine, version 2. Raises ProviderError."""
        what = f"{mount}/{path} in Vault at {self._settings.address}"
        answer = self._ask(
            self._client.secrets.kv.v2.read_secret_version,
            what=what,
            path=path,
            mount_point=mount,
            raise_on_deleted_version=True,
        )
        value = (answer.get("data") or {}).get(field)
        if not isinstance(value, str) or not value:
            raise ProviderError(f"{what} has no text in its field `{field}`")
        return value

    def close(self) -> None:
        """See `KeyProvider`."""
        self._client.adapter.close()

    # Within.

    def _id(self, version: int | str) -> str:
        return f"vault:{self._settings.mount}/{self._settings.key}:v{version}"

    def _create(self) -> None:
        try:
            self.check()
        except _AbsentError:
            self._ask(
                self._client.secrets.transit.create_key, key_type=_TYPE, exportable=False, allow_plaintext_backup=False
            )
            return
        raise ProviderError(f"{self.described} exists already: a key is never made in its place")

    def _ask(self, method: Callable[..., Any], what: str = "", **values: Any) -> dict[str, Any]:
        """Call Vault, wait where it limits the rate, log in where it must be; return `data`. Raises ProviderError."""
        if not what:
            what = self.described
            values |= {"name": self._settings.key, "mount_point": self._settings.mount}
        with self._lock:
            for pause in (*_PAUSES_S, None):
                try:
                    return self._once(method, values)
                except refused.RateLimitExceeded as err:
                    if pause is None:
                        raise ProviderError(f"{what} limits the rate of calls: try again later") from err
                    self._sleep(pause)
                except refused.VaultError as err:
                    raise self._error(err, what) from err
                except requests.exceptions.SSLError as err:
                    raise ProviderError(f"{what} shows a certificate that `{self._settings.ca}` did not sign") from err
                except (requests.exceptions.RequestException, OSError, ValueError) as err:
                    raise ProviderError(f"{what} does not answer: {type(err).__name__}") from err
        raise AssertionError  # the loop returns or raises

    def _once(self, method: Callable[..., Any], values: dict[str, Any]) -> dict[str, Any]:
        login = self._settings.login
        if not isinstance(login, AppRole):
            # Read each time, so that whoever renews the token only writes the file.
            self._client.token = _read(login, "the token")
        elif not self._client.token:
            self._login(login)
        try:
            answer = method(**values)
        except refused.Forbidden:
            if not isinstance(login, AppRole):
                raise
            self._login(login)
            answer = method(**values)
        if isinstance(answer, dict):
            data = answer.get("data")
            return data if isinstance(data, dict) else {}
        if answer.status_code != 204:
            raise ProviderError(
                f"{self.described} answers with status {answer.status_code}: name the address of its active node"
            )
        return {}

    def _login(self, role: AppRole) -> None:
        self._client.token = ""
        self._client.auth.approle.login(
            role_id=role.role_id, secret_id=_read(role.secret_id, "the secret id"), mount_point=role.mount
        )

    def _error(self, err: refused.VaultError, what: str) -> ProviderError:
        match err:
            case refused.Forbidden() | refused.Unauthorized():
                return ProviderError(f"{what} refuses: the token has expired, or its policy does not allow this")
            case refused.InvalidPath():
                return _AbsentError(f"{what} does not exist: make it as docs/keys.md says")
            case refused.VaultDown():
                return ProviderError(f"{what} does not serve: Vault is sealed or under maintenance")
            case refused.VaultNotInitialized():
                return ProviderError(f"{what} does not serve: Vault is not initialized")
            case refused.InvalidRequest():
                return _BadRequestError(f"{what} refuses the request", " ".join(err.errors or ()))
            case _:
                return ProviderError(f"{what} failed: {type(err).__name__}")


class _AbsentError(ProviderError):
    """Vault has nothing there."""


class _BadRequestError(ProviderError):
    """Vault does not take what it was given. said: its words."""

    def __init__(self, message: str, said: str) -> None:
        super().__init__(message)
        self.said = said


def _read(secret: Any, what: str) -> str:
    try:
        return str(secret.read())
    except SecretError as err:
        raise ProviderError(f"{what} for Vault is not there: {err}") from err
