"""The strict YAML reader: what it takes for a value, and that nothing ends in anything but its own error."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from connectors.yaml_file import YamlFileError, parse, read


def plain(text: str) -> object:
    return parse(text.encode(), "a.yaml", 1_000_000).plain()


def test_plain_values_are_those_that_people_mean() -> None:
    """Each kind of value arrives as itself, behind a byte order mark too."""
    text = (
        '\ufeffwords: [a, "no", 1:00 pm]\nnumbers: [0, -7, 1.5]\nflags: [true, false]\nnothing: [~, null]\nin: {a: 1}'
    )

    assert plain(text) == {
        "words": ["a", "no", "1:00 pm"],
        "numbers": [0, -7, 1.5],
        "flags": [True, False],
        "nothing": [None, None],
        "in": {"a": 1},
    }


@pytest.mark.parametrize("value", ["no", "ON", "True", "2024-01-01", "0x10", "017", "1_000", "1:30", "-0", "="])
def test_value_that_yaml_takes_for_something_else_is_refused(value: str) -> None:
    """What YAML 1.1 reads in a way that surprises must be written plainly; in quotes it is text."""
    with pytest.raises(YamlFileError, match=rf"a\.yaml:2: a\.b: expected a plain value.*found `{value}`"):
        plain(f"a:\n  b: {value}")

    assert plain(f'a: "{value}"') == {"a": value}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: .nan", "a.yaml:1: a: expected a finite number, found `.nan`"),
        ("no: 1", "a.yaml:1: expected a key, found `no`"),
        ("<<: {a: 1}", "a.yaml:1: expected a key, found `<<`"),
        ("? [a]\n: 1", "a.yaml:1: expected a key, found a list"),
        ("a:\n- 1\na: 2", "a.yaml:3: a: stands here a second time, first in line 1"),
        ("a: !!str 1", "a.yaml:1: the tag `tag:yaml.org,2002:str` is not read here, write the plain value"),
        ("a: ! 1", "a.yaml:1: the tag `!` is not read here, write the plain value"),
        ("a: &x 1", "a.yaml:1: anchors and aliases are not read here, write the value out"),
        ("é: é\nb: \x07", "a.yaml:2: not YAML: control characters are not allowed"),
        ("a: " + "[" * 100_000, "a.yaml:1: nested more than 20 levels deep"),
        ("a: [" + "1," * 10_001 + "]", "a.yaml:1: a: expected at most 10000 entries, found 10001"),
        ("a: 1\n---\nb: 2", "a.yaml:2: not YAML: but found another document"),
    ],
)
def test_refusal_names_line_and_key(text: str, message: str) -> None:
    """Each is refused in one sentence with its place."""
    with pytest.raises(YamlFileError) as caught:
        plain(text)

    assert str(caught.value) == message


def test_file_may_have_as_many_bytes_as_the_reader_says(tmp_path: Path) -> None:
    """One byte more is refused, whatever the bytes are."""
    path = tmp_path / "a.yaml"
    path.write_bytes(b"a: 1\n")

    assert read(path, 5).plain() == {"a": 1}
    with pytest.raises(YamlFileError, match="expected at most 4 bytes of YAML"):
        read(path, 4)


@given(st.text(alphabet="ab:-[]{}&*!#'\"\n ,|>%@`?0~.", max_size=40) | st.text(max_size=40))
def test_any_text_is_read_or_refused(text: str) -> None:
    """Random text ends in plain values or in a YamlFileError."""
    with suppress(YamlFileError):
        value = parse(text.encode("utf-8", "surrogatepass"), "a.yaml", 1_000_000).plain()
        assert value is None or isinstance(value, str | int | float | bool | list | dict)
