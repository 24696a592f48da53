"""From a credential to a subject. What the subject belongs to is `service.identity.resolver`."""

from service.authn.authenticator import Authenticator, Credentials
from service.authn.subject import Subject, TokenRefusedError

__all__ = ["Authenticator", "Credentials", "Subject", "TokenRefusedError"]
