"""The key-encryption key on a token behind PKCS#11, such as a hardware security module. It never leaves the token.

Each version is an AES-256 key with the configured label; its CKA_ID is a number, and the greatest wraps. Older versions
stay on the token, which alone can destroy them. A wrapped key is a nonce and what CKM_AES_GCM made of it.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable, Collection, Mapping
from typing import Any, Final, TypeVar

from connectors.secret import SecretError
from service.errors import StartError
from service.keys.envelope import KEY_BYTES, UnsealError
from service.keys.provider import ProviderError, Wrapped, other_key
from service.sections.keys import Pkcs11Provider

try:
    import pkcs11
    from pkcs11 import Attribute, GCMParams, KeyType, Mechanism, MechanismFlag, ObjectClass
    from pkcs11 import exceptions as refused
except ImportError as err:  # an optional extra
    raise StartError(
        "`keys.provider: pkcs11` needs the package `python-pkcs11`: install `remit-server[pkcs11]`"
    ) from err

_T = TypeVar("_T")

_PREFIX: Final = "pkcs11-"
_NONCE_BYTES: Final = 12
_TAG_BITS: Final = 128
_RANDOM_BITS: Final = 32
_PROBE: Final = b"remit probe"


class Pkcs11Key:
    """See `KeyProvider`. A session that breaks is opened again."""

    def __init__(self, settings: Pkcs11Provider, *, create: bool = False) -> None:
        """Log in and look for the key. Raises ProviderError.

        create: make the first version; then there must be none.
        """
        self._settings = settings
        self._lock = threading.Lock()
        self._session: pkcs11.Session | None = None
        self._ids: tuple[str, ...] = ()
        if create:
            self._create_first()
        self.check()

    @property
    def key_id(self) -> str:
        """See `KeyProvider`."""
        return self._ids[0]

    @property
    def described(self) -> str:
        """See `KeyProvider`."""
        return f"token {self._settings.token}, key {self._settings.label}"

    def has(self, kek: str) -> bool:
        """See `KeyProvider`."""
        return kek in self._ids

    def wrap(self, key: bytes, place: bytes) -> Wrapped:
        """See `KeyProvider`."""

        def work(versions: Mapping[str, Any]) -> Wrapped:
            kek = next(iter(versions))
            return Wrapped(kek, _encrypt(versions[kek], key, place))

        return self._with_keys(work)

    def unwrap(self, kek: str, wrapped: bytes, place: bytes) -> bytes:
        """See `KeyProvider`."""

        def work(versions: Mapping[str, Any]) -> bytes:
            if kek not in versions:
                raise other_key(kek, self)
            nonce, sealed = wrapped[:_NONCE_BYTES], wrapped[_NONCE_BYTES:]
            try:
                return bytes(
                    versions[kek].decrypt(
                        sealed, mechanism=Mechanism.AES_GCM, mechanism_param=GCMParams(nonce, place, _TAG_BITS)
                    )
                )
            except refused.PKCS11Error as err:
                # Tokens word a wrong tag in many ways, some like a failure of their own: ask whether this one works.
                _encrypt(versions[kek], _PROBE, place)
                raise UnsealError("a wrapped key was changed, moved, or wrapped by another key") from err

        return self._with_keys(work)

    def rotate(self) -> None:
        """See `KeyProvider`."""

        def work(versions: Mapping[str, Any]) -> None:
            assert self._session is not None
            _generate(self._session, self._settings.label, _number(next(iter(versions))))

        self._with_keys(work)
        self.check()

    def retire(self, in_use: Collection[str]) -> tuple[str, ...]:
        """See `KeyProvider`. They stay on the token until its administrator destroys them: backups may need them."""
        return tuple(kek for kek in self._ids[1:] if kek not in in_use)

    def check(self) -> None:
        """See `KeyProvider`."""

        def work(versions: Mapping[str, Any]) -> tuple[str, ...]:
            _encrypt(next(iter(versions.values())), _PROBE, b"")
            return tuple(versions)

        self._ids = self._with_keys(work)

    def close(self) -> None:
        """See `KeyProvider`. Logs out."""
        with self._lock:
            self._drop()

    # Within.

    def _with_keys(self, work: Callable[[Mapping[str, Any]], _T]) -> _T:
        """Do something with every version, by id, the newest first. Raises ProviderError when there is none.

        A session that was open before may have ended with its device: then once more with a new one. A login is never
        tried twice, because a token counts wrong ones.
        """
        with self._lock:
            while True:
                opened = self._session is not None
                try:
                    if self._session is None:
                        self._session = self._login()
                    versions = _versions(self._session, self._settings.label)
                    if not versions:
                        raise ProviderError(f"{self.described} does not exist: `remit keys create` makes it")
                    return work(versions)
                except refused.PKCS11Error as err:
                    self._drop()
                    if not opened:
                        raise ProviderError(f"{self.described} cannot be used: {_why(err)}") from err

    def _create_first(self) -> None:
        with self._lock:
            try:
                self._session = self._login()
                if _versions(self._session, self._settings.label):
                    raise ProviderError(f"{self.described} exists already: a key is never made in its place")
                _generate(self._session, self._settings.label, 0)
            except refused.PKCS11Error as err:
                self._drop()
                raise ProviderError(f"{self.described} cannot be made: {_why(err)}") from err

    def _login(self) -> pkcs11.Session:
        try:
            pin = self._settings.pin.read()
        except SecretError as err:
            raise ProviderError(f"the PIN of {self.described} is not there: {err}") from err
        token = pkcs11.lib(str(self._settings.library)).get_token(token_label=self._settings.token)
        try:
            return token.open(rw=True, user_pin=pin)
        except refused.UserAlreadyLoggedIn:
            return token.open(rw=True)  # by this process, as logins are

    def _drop(self) -> None:
        if self._session is not None:
            with contextlib.suppress(refused.PKCS11Error):  # It is gone with the token.
                self._session.close()
            self._session = None


def _versions(session: pkcs11.Session, label: str) -> dict[str, Any]:
    """The keys of this label by id, the newest first. Raises ProviderError for one that could leave the token."""
    wanted = {Attribute.CLASS: ObjectClass.SECRET_KEY, Attribute.KEY_TYPE: KeyType.AES, Attribute.LABEL: label}
    found = {f"{_PREFIX}{one[Attribute.ID].hex()}": one for one in session.get_objects(wanted)}
    for kek, one in found.items():
        if one[Attribute.EXTRACTABLE] or not one[Attribute.SENSITIVE] or one[Attribute.VALUE_LEN] != KEY_BYTES:
            raise ProviderError(f"key `{kek}` on the token is no AES-256 key that cannot leave it: make another")
    return dict(sorted(found.items(), key=lambda one: _number(one[0]), reverse=True))


def _number(kek: str) -> int:
    return int(kek.removeprefix(_PREFIX) or "0", 16)


def _generate(session: pkcs11.Session, label: str, newest: int) -> None:
    # Random digits at the end tell keys of two installations apart.
    number = ((newest >> _RANDOM_BITS) + 1 << _RANDOM_BITS) + int.from_bytes(os.urandom(_RANDOM_BITS // 8))
    session.generate_key(
        KeyType.AES,
        KEY_BYTES * 8,
        id=number.to_bytes(max(8, (number.bit_length() + 7) // 8)),
        label=label,
        store=True,
        capabilities=MechanismFlag.ENCRYPT | MechanismFlag.DECRYPT,
        template={Attribute.SENSITIVE: True, Attribute.EXTRACTABLE: False},
    )


def _encrypt(key: Any, plaintext: bytes, place: bytes) -> bytes:
    nonce = os.urandom(_NONCE_BYTES)
    sealed = key.encrypt(plaintext, mechanism=Mechanism.AES_GCM, mechanism_param=GCMParams(nonce, place, _TAG_BITS))
    return nonce + bytes(sealed)


def _why(err: Exception) -> str:
    match err:
        case refused.PinIncorrect() | refused.PinLenRange() | refused.PinInvalid():
            return "the token refuses the PIN; after a few more it locks itself"
        case refused.PinLocked():
            return "the token has locked the PIN: its security officer sets a new one"
        case refused.NoSuchToken():
            return "there is no token with this label"
        case refused.MechanismInvalid() | refused.MechanismParamInvalid():
            return "the token has no AES-GCM with associated data"
        case _:
            # What the library wrote, without what was handed to it.
            return str(err) or type(err).__name__
