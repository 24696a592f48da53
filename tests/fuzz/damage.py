"""Bytes that are nearly right: a good example with pieces changed, moved, repeated, cut and put in."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Final

from hypothesis import strategies as st

# What parsers stumble over: ends of ranges of lengths and counts, in both orders, and bytes that end or nest something.
_NUMBERS: Final = (0, 1, 2, 0x7F, 0x80, 0xFF, 0x7FFF, 0x8000, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF)
_PIECES: Final = (
    *(struct.pack(order + "I", number) for number in _NUMBERS for order in "<>"),
    *(struct.pack(order + "H", number & 0xFFFF) for number in _NUMBERS for order in "<>"),
    *(b"\0", b"\xff", b"\n", b"\r\n", b'"', b"\\", b"\xc0\x80", b"\xed\xa0\x80", b"\xf5", b"\xe2\x80\xae", b"{", b"["),
    *(b"[" * 2000, b'{"a":' * 2000, b"- " * 2000, b"1e999", b"-0", b"null", b"true", b"NaN", b"&a *a", b"!!python/x"),
    *(b"9" * 400, b"A" * 5000, b"=", b".", b"..", b"\xef\xbb\xbf", b"\x1b[2J"),
)


@st.composite
def damaged(draw: st.DrawFn, seeds: Sequence[bytes]) -> bytes:
    """A good example after one to six changes, or bytes that never were one."""
    if draw(st.integers(0, 9)) == 0:
        return draw(st.binary(max_size=200))
    data = bytearray(draw(st.sampled_from(seeds)))
    for _ in range(draw(st.integers(1, 6))):
        start = draw(st.integers(0, len(data)))
        stop = min(len(data), start + draw(st.integers(0, 16)))
        match draw(st.integers(0, 6)):
            case 0:
                data[start:stop] = draw(st.binary(max_size=8))
            case 1:
                data[start:stop] = draw(st.sampled_from(_PIECES))
            case 2:
                del data[start:stop]
            case 3:
                data[start:start] = data[start:stop] * draw(st.integers(1, 40))
            case 4:
                del data[start:]
            case 5 if start < len(data):
                data[start] ^= 1 << draw(st.integers(0, 7))
            case _:
                other = draw(st.sampled_from(seeds))
                data[start:stop] = other[draw(st.integers(0, len(other))) :][:40]
    return bytes(data)
