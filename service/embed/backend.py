"""How the embedding process computes: in bfloat16 where the processor can, checked against float32, without surprises.

Each text is computed by one thread, and threads share the texts of a call: two that share one text wait for each other
at every layer. Responsible for two promises about every vector (docs/adr/0008):

1. Its cosine with what plain float32 gives is at least `MIN_COSINE`, or float32 is used. Checked at every start.
2. It depends on its own text alone, bit for bit, not on the texts that happened to be embedded with it: texts share a
   batch only with those of their own padded length, which is a function of their own length.

Imports torch, so only `service.embed.process` imports it.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from sentence_transformers import SentenceTransformer

MIN_COSINE: Final = 0.999

_PAD_TO: Final = 8
"""Tokens: lengths are padded to a multiple of it, so that questions of about a length can share a batch."""

_MOST: Final = 8
"""Texts in a batch. On a CPU larger ones of long passages gain nothing."""

SAMPLES: Final = (
    "",
    "flights",
    "Which discount was approved for the Helios account?",
    "Rechnungen über 5.000 € werden bis zum 15. des Monats geprüft und freigegeben.",
    "日本語の文書と русский текст 🙂",
    "def decide(acl, caller, at): return first(rule for rule in acl if rule.matches(caller)) or DENY  # 0x7fff",
    "The committee met on 12 March and approved the minutes of the previous meeting without a change. " * 3,
    "Net debt to EBITDA was 2.31 (covenant: 3.50); the margin fell from 41.2 % to 38.7 % in the third quarter. " * 12,
)
"""What the check embeds: nothing, one word, questions, other scripts, code, and passages up to the longest."""


class Backend:
    """A sentence-transformers model, run as fast as this processor can without changing what its vectors say.

    threads: how many compute at once. precision: `bfloat16` or `float32`. why: the reason, in words for people.
    cosine: the smallest one with float32.
    """

    def __init__(self, encoder: SentenceTransformer, threads: int) -> None:
        _pad_by_own_length(encoder)
        torch.set_num_threads(1)
        self._pool = ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,))
        self._threads = threads
        self._use(encoder)
        self.precision, self.cosine = "float32", 1.0
        plain = self.encode(SAMPLES)
        self.dimension = plain.shape[1]
        if not _has_bfloat16():
            self.why = "this processor has no bfloat16 arithmetic"
            return
        try:
            self._use(_halved(encoder))
            self.cosine = float(np.min(np.sum(self.encode(SAMPLES) * plain, axis=1)))
        except Exception as err:  # noqa: BLE001  whatever a model cannot do in bfloat16, it can do in float32
            self._use(encoder)
            self.cosine = 1.0
            self.why = f"the model does not run in bfloat16 ({type(err).__name__})"
            return
        if not self.cosine >= MIN_COSINE:  # so that a NaN is refused
            self._use(encoder)
            self.why = f"the cosine of bfloat16 and float32 is only {self.cosine:.4f}"
            self.cosine = 1.0
            return
        self.precision, self.why = "bfloat16", "it is faster here, and its vectors agree with those of float32"

    def encode(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Return float32 of shape (len(texts), dimension), of unit length unless the model gave nothing."""
        lengths = self._lengths(texts)
        shares = _shares(lengths, self._threads)
        found: list[NDArray[np.float32] | None] = [None] * len(texts)

        def work(encoder: SentenceTransformer, share: list[int]) -> None:
            groups: dict[int, list[int]] = {}
            for number in share:
                groups.setdefault(lengths[number], []).append(number)
            for group in groups.values():
                vectors = encoder.encode(
                    [texts[number] for number in group],
                    batch_size=_MOST,
                    normalize_embeddings=True,
                    convert_to_numpy=True,
                    show_progress_bar=False,
                )
                for number, vector in zip(group, vectors, strict=True):
                    found[number] = vector

        for _ in self._pool.map(work, self._encoders, shares):
            pass
        return np.ascontiguousarray(np.stack([vector for vector in found if vector is not None]), dtype="<f4")

    def _use(self, encoder: SentenceTransformer) -> None:
        """Compute with this model from now on: one encoder a thread, with the same weights.

        A tokenizer serves one thread at a time, so that each has its own.
        """
        weights = {id(weight): weight for weight in (*encoder.parameters(), *encoder.buffers())}
        self._encoders = [encoder, *(copy.deepcopy(encoder, dict(weights)) for _ in range(self._threads - 1))]

    def _lengths(self, texts: Sequence[str]) -> list[int]:
        """Return the padded length of each text; texts of an unknown one get a number, and so a batch, of their own."""
        encoder = self._encoders[0]
        pad_to = _pad_to(encoder)
        if pad_to is None:
            return [-number for number in range(len(texts))]
        tokens = encoder.tokenizer(list(texts), truncation=True, max_length=encoder.max_seq_length)
        return [-(-len(ids) // pad_to) * pad_to for ids in tokens["input_ids"]]


def _shares(lengths: Sequence[int], count: int) -> list[list[int]]:
    """Deal texts out, the longest first, each to whoever has least to do. Returns the numbers of each share."""
    shares: list[list[int]] = [[] for _ in range(count)]
    loads = [0] * count
    for number in sorted(range(len(lengths)), key=lambda number: -lengths[number]):
        least = loads.index(min(loads))
        shares[least].append(number)
        loads[least] += max(1, lengths[number])
    return shares


def _pad_by_own_length(encoder: SentenceTransformer) -> None:
    pad_to = _pad_to(encoder)
    if pad_to is not None:
        first: Any = encoder[0]
        first.processing_kwargs = {**first.processing_kwargs, "text": {"pad_to_multiple_of": pad_to}}


def _pad_to(encoder: SentenceTransformer) -> int | None:
    """Return what lengths are padded to, None when this library's transformer does not stand first in the model."""
    if not hasattr(encoder[0], "processing_kwargs") or encoder.max_seq_length is None:
        return None
    # Padding must not go past the last position that the model knows.
    return _PAD_TO if encoder.max_seq_length % _PAD_TO == 0 else 1


def _has_bfloat16() -> bool:
    """Whether bfloat16 is multiplied by the processor itself: emulated, it is slower than float32."""
    found = torch.cpu.get_capabilities()
    return any(found.get(name) for name in ("avx512_bf16", "amx_bf16", "bf16"))


class _Widen(torch.nn.Module):  # type: ignore[misc]  # torch is not followed
    """Back to float32 behind the transformer: pooling and normalising in bfloat16 would cost a digit for nothing."""

    def forward(self, features: dict[str, Any]) -> dict[str, Any]:
        return {
            name: value.float() if isinstance(value, torch.Tensor) and value.dtype == torch.bfloat16 else value
            for name, value in features.items()
        }


def _halved(encoder: SentenceTransformer) -> SentenceTransformer:
    """Return a copy of `encoder` with the transformer, its first module, in bfloat16."""
    first, *others = copy.deepcopy(list(encoder.children()))
    return SentenceTransformer(modules=[first.to(torch.bfloat16), _Widen(), *others], device="cpu")
