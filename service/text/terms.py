"""Text to the terms that keyword search matches: words, folded and stemmed, then hashed under a key.

Pure. A passage has one form of each word, in the language that its commonest words speak; a question, too short to
tell, is asked in every language. What leaves here are numbers: without the key nobody can test a guess of a word.

1. NFKC, then case folding: ﬁ and fi, STRASSE and straße are one.
2. Runs of letters, digits and marks are words; Han, Kana, Thai and other scripts without spaces give pairs of
   characters instead.
3. Words that say nothing (`STOP_WORDS`) are left out, the rest is stemmed by Snowball.
"""

from __future__ import annotations

import re
import threading
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from functools import lru_cache
from hashlib import blake2b
from typing import Final

import Stemmer

VERSION: Final = 1
"""Of what this module makes of a text. An index made by another is made anew from the texts."""

_STOP_WORDS: Final[Mapping[str, str]] = {
    "english": (
        "a about after all also am an and any are as at be been before being below both but by can could did do does "
        "doing down during each few for from further had has have having he her here hers him his how i if in into is "
        "it its just me more most my no nor not now of off on once only or other our out over own same she should so "
        "some such than that the their them then there these they this those through to too under until up us very was "
        "we were what when where which while who whom whose why will with would you your"
    ),
    "german": (
        "aber alle allem allen aller alles als also am an auch auf aus bei beim bin bis bist da damit dann das dass "
        "dein deine dem den denn der des dessen dich die dies diese diesem diesen dieser dieses dir doch dort du durch "
        "ein eine einem einen einer eines er es etwas euch euer für gegen habe haben hat hatte hatten hier hin hinter "
        "ich ihm ihn ihnen ihr ihre ihrem ihren ihrer im in indem ins ist jede jedem jeden jeder jedes kann kein keine "
        "keinem keinen keiner können könnte machen man mein meine mich mir mit muss nach nicht nichts noch nun nur ob "
        "oder ohne sehr sein seine seinem seinen seiner selbst sich sie sind so solche soll sollte sondern sonst über "
        "um und uns unser unsere unter viel vom von vor war waren warum was weil welche welchem welchen welcher "
        "welches wenn wer werde werden wie wieder will wir wird wirst wo wollen wurde wurden zu zum zur zwar "
        "zwischen"
    ),
}
STOP_WORDS: Final = {language: frozenset(words.split()) for language, words in _STOP_WORDS.items()}
"""By language: those that Snowball knows and that a passage may speak."""

_LANGUAGES: Final = tuple(STOP_WORDS)
_ALL_STOP_WORDS: Final = frozenset().union(*STOP_WORDS.values())
_UNSPACED: Final = "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
_MARKS: Final = "".join(chr(n) for n in range(0x300, 0x2000) if unicodedata.category(chr(n)) in ("Mn", "Mc"))
"""Vowel signs and accents that did not compose: within a word, though no letters to Python."""
_WORDS: Final = re.compile(rf"[{_UNSPACED}]+|[^\W_{_UNSPACED}](?:[^\W_{_UNSPACED}]|[{_MARKS}])*")
_UNSPACED_WORD: Final = re.compile(rf"[{_UNSPACED}]")
_MAX_CHARACTERS: Final = 64
"""Of a word. Longer runs are keys, checksums and noise: they match by their beginning."""

_own = threading.local()


def passage_terms(text: str) -> Counter[str]:
    """Return how often each term stands in a passage."""
    words = list(_words(text))
    votes = {language: sum(word in STOP_WORDS[language] for word in words) for language in _LANGUAGES}
    language = max(_LANGUAGES, key=lambda name: votes[name])  # English when nothing speaks for another
    return Counter(_stem(word, language) for word in words if word not in _ALL_STOP_WORDS)


def query_terms(text: str) -> frozenset[str]:
    """Return the terms that a question asks for, each word in every language."""
    words = {word for word in _words(text) if word not in _ALL_STOP_WORDS}
    return frozenset(_stem(word, language) for word in words for language in _LANGUAGES)


class TermHash:
    """Terms to numbers of 32 bits, under a key. Thread-safe."""

    def __init__(self, key: bytes) -> None:
        self._key = key
        self._number = lru_cache(maxsize=1 << 16)(self._hash)

    @property
    def fingerprint(self) -> str:
        """Which key it is, without telling it, and which `VERSION`: numbers of two fingerprints are never compared."""
        return f"{VERSION}-{blake2b(b'fingerprint', key=self._key, digest_size=8).hexdigest()}"

    def numbers(self, terms: Iterable[str]) -> list[int]:
        """Return the number of each term. Two terms share one about once in four billion; then both match."""
        return [self._number(term) for term in terms]

    def _hash(self, term: str) -> int:
        digest = blake2b(term.encode(errors="replace"), key=self._key, digest_size=4, person=b"remit term").digest()
        return int.from_bytes(digest, "big")


def _words(text: str) -> Iterator[str]:
    folded = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())
    for match in _WORDS.finditer(folded):
        word = match[0]
        if _UNSPACED_WORD.match(word) is None:
            yield word[:_MAX_CHARACTERS]
        elif len(word) == 1:
            yield word
        else:
            yield from (word[i : i + 2] for i in range(len(word) - 1))


def _stem(word: str, language: str) -> str:
    stemmers: dict[str, Stemmer.Stemmer] | None = getattr(_own, "stemmers", None)
    if stemmers is None:
        # One for each thread: the library's stemmers are not for sharing.
        stemmers = _own.stemmers = {name: Stemmer.Stemmer(name) for name in _LANGUAGES}
    return str(stemmers[language].stemWord(word))
