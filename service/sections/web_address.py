"""Addresses of the web in the settings: what can be connected to, or a sentence about what was expected."""

from __future__ import annotations

from urllib.parse import SplitResult, urlsplit

from connectors.yaml_file import Field


def read(item: Field, what: str) -> SplitResult:
    """Read an `http` or `https` address with a host, without a user. Raises YamlFileError. what: was expected."""
    text = item.text(what)
    try:
        found = urlsplit(text)
        named = found.hostname is not None and found.port != 0  # both are read here, and may be none
    except ValueError:
        item.expected(what)
    plain = text.isascii() and text.isprintable() and " " not in text
    if found.scheme not in ("http", "https") or not named or found.username is not None or not plain:
        item.expected(what)
    return found
