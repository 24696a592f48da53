"""The published schema and the reader of feeds say the same of every line."""

from __future__ import annotations

import json
from pathlib import Path

import yaml
from hypothesis import example, given
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from acl.model import Unknown
from connectors.base import Membership, ScopeChange, Upsert
from connectors.feed_lines import DocumentLine, GroupLine, HeaderLine, LineError, ScopeLine, parse
from connectors.registry import build
from tests.connectors.feeds import ANYBODY, HEADER, document, group, only, scope

DOCS = Path(__file__).parents[2] / "docs/connectors"
SCHEMA = json.loads((DOCS / "feed.schema.json").read_text())
VALIDATOR = Draft202012Validator(SCHEMA)

# What a schema cannot say is left out: which months have 31 days, and which spelling of a token is the canonical one.
_RULES: st.SearchStrategy[object] = st.sampled_from(
    [
        *(ANYBODY, [], "scope", "all", None, {}, [{}], ["x"], only("a", "b"), [*ANYBODY, {"effect": "deny"}]),
        [{"effect": "allow", "principals": []}],
        [{"effect": "allow", "principals": ["members"]}],
        [{"effect": "allow", "principals": [5]}],
        [{"effect": "Allow", "principals": ["static:people:members"]}],
        [{"effect": "deny", "principals": ["ad:S-1-1-0"], "expires_at": "2026-01-01T00:00:00.5+02:00"}],
        [{"effect": "deny", "principals": ["ad:S-1-1-0"], "expires_at": "2026-01-01"}],
        [{"effect": "deny", "principals": ["ad:S-1-1-0"], "expires_at": None}],
        [{"effect": "deny", "principals": ["ad:S-1-1-0"], "role": "x"}],
    ]
)
_TEXTS: st.SearchStrategy[object] = st.sampled_from(
    ["a", "", " ", "a/b.txt", "../a", "a/..", "a//b", "/a", ".", "a.b/..c", "text/plain", 5, None, []]
)
_TIMES = st.sampled_from(["2026-01-31T08:00:00Z", "2026-01-31T08:00:00", "2026-01-31 08:00:00Z", "20260131T080000Z", 1])
_VALUES = {
    "rules": _RULES,
    "modified_at": _TIMES,
    "exported_at": _TIMES,
    "version": st.sampled_from([1, 2, "1", 1.5, None, True]),
    "scopes": st.sampled_from([0, 5, -1, "1", None, True]),
    "kind": st.sampled_from(["scope", "document", "end", "group", "team", None]),
    "groups": st.sampled_from([0, 5, -1, "1", None, True]),
    "group": st.sampled_from(
        ["source:wiki:a", "source:wiki:b%20c", "static:people:a", "source:a", "source::a", 5, None]
    ),
    "members": st.sampled_from([[], ["static:people:u-1"], ["ad:S-1-1-0", "source:wiki:a"], ["a"], [5], {}, "x", None]),
}


@st.composite
def lines(draw: st.DrawFn) -> dict[str, object]:
    """A good line with up to three members changed, added or left out."""
    line = dict(
        draw(
            st.sampled_from(
                [HEADER, scope("s", parent="r"), document("d", scope="s"), document("d", file="f"), _GROUP, _END],
            )
        )
    )
    keys = st.sampled_from(
        [*SCHEMA["$defs"]["document"]["properties"], *_END, *_GROUP, "version", "exported_at", "parent", "strange"]
    )
    for key in draw(st.lists(keys, max_size=3)):
        if draw(st.booleans()):
            line.pop(key, None)
        else:
            line[key] = draw(_VALUES.get(key, _TEXTS))
    return line


_GROUP = group("team", "static:people:u-1")
_END: dict[str, object] = {"kind": "end", "scopes": 0, "documents": 1, "groups": 0}


@given(line=lines())
@example(line=document("d", "scope", scope="s"))
@example(line=document("d", "scope"))
def test_schema_and_reader_agree(line: dict[str, object]) -> None:
    """A line is valid by the schema exactly when it is read, with its rules understood."""
    assert VALIDATOR.is_valid(line) == _is_understood(json.dumps(line).encode()), line


def _is_understood(data: bytes) -> bool:
    try:
        line = parse(data)
    except LineError:
        return False
    match line:
        case ScopeLine():
            return not isinstance(line.clause, Unknown)
        case DocumentLine():
            return not isinstance(line.own, Unknown)
        case GroupLine():
            return not isinstance(line.members, Unknown)
        case HeaderLine():
            return line.exported_at is not None
        case _:
            return True


def test_the_documented_feed_is_one(tmp_path: Path) -> None:
    """The example of the documentation is whole, valid by the schema, and sent with nothing left out."""
    page = (DOCS / "feed.md").read_text()
    example = page.partition("```json\n")[2].partition("```")[0]
    options = yaml.safe_load(page.partition("```yaml\n")[2].partition("```")[0])["sources"][0]
    (tmp_path / "wiki/attachments").mkdir(parents=True)
    (tmp_path / "wiki/attachments/5.pdf").write_bytes(b"%PDF")
    (tmp_path / "wiki/feed.jsonl").write_text(example)
    del options["name"]

    changes = list(build(options.pop("kind"), options | {"max_age": "9999d"}, tmp_path).changes(None))

    assert all(VALIDATOR.is_valid(json.loads(line)) for line in example.splitlines())
    scopes = [change for change in changes if isinstance(change, ScopeChange)]
    assert [change.location for change in scopes] == ["feed.jsonl", "Sales", "Sales/Prices"]
    assert [change.name for change in changes if isinstance(change, Upsert)] == ["Discounts", "Price list"]
    assert [change.name for change in changes if isinstance(change, Membership)] == ["Price makers"]


def test_the_schema_is_one() -> None:
    """The published file is a valid JSON Schema."""
    Draft202012Validator.check_schema(SCHEMA)
