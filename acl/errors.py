"""The errors of the access model. Callers of `acl` meet these and no others."""

from __future__ import annotations


class AclError(Exception):
    """Root of every error that `acl` raises on purpose."""


class InvalidValueError(AclError, ValueError):
    """A value that must not exist was about to be built, such as a rule without principals."""


class DecodeError(AclError, ValueError):
    """Stored bytes are not a clause of a version that this code writes. What they belonged to is unknown."""


class CallerExpiredError(AclError):
    """The caller's resolution is past its expiry; resolve the caller again instead of deciding."""


class AccessDeniedError(AclError):
    """Raised by `require` in place of a deny that nobody looked at."""
