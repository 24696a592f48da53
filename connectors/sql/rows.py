"""Values of rows to clauses, ids and times. Pure: knows declarations and Python values, no database.

1. NULL means nobody: an allow of NULL lets nobody in, and a deny of NULL makes the row's rules unknown.
2. A value of a kind that is no id makes them unknown too, as it could be a deny, or somebody else.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from hashlib import blake2b
from uuid import UUID

from acl.errors import InvalidValueError
from acl.model import Clause, Effect, Rule, Unknown, clause_of
from acl.principal import Principal, Realm
from connectors.sql.declared import Fixed, Groups, InColumn, InTable, RuleSource

Row = Mapping[str, object]
"""A row's declared columns."""


class ValueOfRowError(Exception):
    """A value cannot be what it is declared to be: a phrase for a report."""


def clause(rules: Sequence[RuleSource], row: Row, joined: Mapping[int, Sequence[object]]) -> Clause | Unknown:
    """Build a row's clause. joined: for each rule of another table, by its number, the ids found there."""
    found: list[Rule] = []
    try:
        for number, rule in enumerate(rules):
            principals = _principals(rule, row, joined.get(number, ()))
            if principals:
                found.append(Rule(rule.effect, principals))
    except ValueOfRowError as err:
        return Unknown(str(err))
    return clause_of(found)


def group(declared: Groups, key: object) -> Principal:
    """Return the group that a row is. Raises ValueOfRowError."""
    (found,) = _named(declared.realm, declared.prefix, [key])
    return found


def members(
    rules: Sequence[InColumn | InTable], row: Row, joined: Mapping[int, Sequence[object]]
) -> frozenset[Principal] | Unknown:
    """Build who is directly in a group. A NULL or a value that is no id makes all unknown: it could be anybody."""
    found: set[Principal] = set()
    try:
        for number, rule in enumerate(rules):
            if isinstance(rule, InColumn) and row[rule.column] is None:
                return Unknown(f"`{rule.column}` is NULL, so that it is not known who is in")
            found |= _principals(rule, row, joined.get(number, ()))
    except ValueOfRowError as err:
        return Unknown(str(err))
    return frozenset(found)


def native_id(key: object) -> str:
    """Return a row's id for a value of its key column; equal values of different types are different rows."""
    match key:
        case bool():
            pass
        case int():
            return f"int:{key}"
        case str() if key and _is_unicode(key):
            return f"text:{key}"
        case UUID():
            return f"uuid:{key}"
        case _:
            pass
    raise ValueOfRowError(f"a key is {_kind(key)}, which names no row")


def key_of(native_id: str) -> object:
    """Return the value of the key column that `native_id` was made of."""
    kind, _, text = native_id.partition(":")
    match kind:
        case "int":
            return int(text)
        case "uuid":
            return UUID(text)
        case _:
            return text


def version(value: object, place: bytes) -> str:
    """Return a digest of a value of the version column; NULL is none.

    place: of which database, table and column the text is: equal values of two of them say nothing of each other.
    """
    if value is None:
        raise ValueOfRowError("its version is NULL")
    data = value if isinstance(value, bytes) else f"{type(value).__name__} {value}".encode(errors="surrogatepass")
    return blake2b(data, digest_size=16, key=place).hexdigest()


def place(*names: str) -> bytes:
    """Return a digest of where texts stand and what they are."""
    return blake2b(repr(names).encode(errors="surrogatepass"), digest_size=16).digest()


def moment(value: object) -> datetime:
    """Return a time: with its zone, in UTC when it has none, from seconds since 1970, or from ISO 8601 text."""
    try:
        match value:
            case str():
                found = datetime.fromisoformat(value)
            case int() | float():
                found = datetime.fromtimestamp(value, UTC)
            case datetime():
                found = value
            case _:
                raise ValueOfRowError(f"its time is {_kind(value)}")
        return found.astimezone(UTC) if found.tzinfo is not None else found.replace(tzinfo=UTC)
    except (ValueError, OverflowError, OSError) as err:
        raise ValueOfRowError("its time is none") from err


def content(value: object) -> bytes:
    """Return the bytes of a text or binary column."""
    match value:
        case str() if _is_unicode(value):
            return value.encode()
        case bytes() | memoryview():
            return bytes(value)
        case _:
            pass
    raise ValueOfRowError(f"its text is {_kind(value)}")


def label(value: object) -> str | None:
    """Return a text for people, None when there is none; what does not print becomes a space."""
    if value is None:
        return None
    text = "".join(one if one.isprintable() else " " for one in str(value)).strip()
    return text[:4096] or None


def _principals(rule: RuleSource, row: Row, joined: Iterable[object]) -> frozenset[Principal]:
    match rule:
        case Fixed():
            counts = rule.when is None or _flag(rule.effect, row[rule.when], rule.when)
            return rule.principals if counts else frozenset()
        case InColumn():
            value = row[rule.column]
            if value is None:
                return _nobody(rule.effect, rule.column)
            return _named(rule.realm, rule.prefix, _list(value, rule.column) if rule.is_list else [value])
        case _:
            return _named(rule.realm, rule.prefix, joined)


def _flag(effect: Effect, value: object, column: str) -> bool:
    if value is None:
        return bool(_nobody(effect, column))
    if isinstance(value, bool | int) and value in (0, 1):
        return bool(value)
    raise ValueOfRowError(f"`{column}` is neither true nor false")


def _nobody(effect: Effect, column: str) -> frozenset[Principal]:
    if effect is Effect.DENY:
        raise ValueOfRowError(f"`{column}` is NULL, so that it is not known who is denied")
    return frozenset()


def _list(value: object, column: str) -> Sequence[object]:
    """A list: an array of the database, or JSON."""
    found = value
    if isinstance(value, str):
        try:
            found = json.loads(value)
        except (ValueError, RecursionError) as err:
            raise ValueOfRowError(f"`{column}` is no list in JSON") from err
    if not isinstance(found, list):
        raise ValueOfRowError(f"`{column}` is no list")
    return found


def _named(realm: Realm, prefix: str, ids: Iterable[object]) -> frozenset[Principal]:
    try:
        return frozenset(Principal(realm, f"{prefix}{_id(one)}") for one in ids)
    except InvalidValueError as err:
        raise ValueOfRowError(f"an id names nobody: {err}") from err


def _id(value: object) -> str:
    match value:
        case bool():
            pass
        case int() | UUID():
            return str(value)
        case str():
            # A blank around an id is padding or a mistake, and `bob ` may be somebody else.
            if value and value == value.strip():
                return value
            raise ValueOfRowError("an id is empty or has blanks around it")
        case _:
            pass
    raise ValueOfRowError(f"an id is {_kind(value)}")


def _kind(value: object) -> str:
    return "NULL" if value is None else f"a value of type {type(value).__name__}"


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
