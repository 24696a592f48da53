"""How well the demo's questions find its documents: by meaning, words, or both; and by which weights of words.

Run: `python -m benchmarks.bench_quality`. Passages are extracted, cut and embedded as a sync does it. Each question of
tests/demo/questions.yaml is asked over everything, and once as each of its readers over what the folders let them read.
A document counts where its first passage stands. nDCG@10 gives the best answer 2 and the others 1; recall@10 is the
share of the answers among the first ten documents. Weights of words: counted over the permitted passages (what ships),
a background table counted over this machine's /usr/share/doc, which knows nothing of the company, and none.
"""

from __future__ import annotations

import gzip
import math
import random
import statistics
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import yaml
from numpy.typing import NDArray
from pyroaring import BitMap

from benchmarks.report import Report
from connectors.media_types import media_type
from service.demo import layout, people
from service.embed.embedder import MAX_PASSAGE_TOKENS, _bundled, open_embedder
from service.index.postings import K1, USUAL_LENGTH, B, Postings, impacts
from service.search.fuse import fuse
from service.settings import EmbeddingSettings
from service.text.chunk import Chunker
from service.text.extract import Extractor
from service.text.terms import TermHash, passage_terms, query_terms
from tests.demo.test_layout import READERS

SEED: Final = 20261125
DEPTH: Final = 50
HERE = Path(__file__).parent.parent
Search = Callable[[str, NDArray[np.float32], list[int]], list[int]]


@dataclass(frozen=True)
class Corpus:
    """The company's passages by row. documents: the path of each row's document. counts: its terms."""

    documents: list[str]
    vectors: NDArray[np.float32]
    counts: list[Counter[str]]


def company() -> tuple[Corpus, list[dict[str, Any]], NDArray[np.float32]]:
    """Read everything, embed it and the questions."""
    extractor = Extractor(_bundled() / "tokenizer.json", MAX_PASSAGE_TOKENS)
    documents, texts, words = [], [], []
    for path, data in layout.documents():
        kind = media_type(path.name)
        assert kind is not None
        for passage in extractor.extract(data, kind, "").chunks:
            documents.append(str(path))
            texts.append(passage.text)
            words.append("\n".join([*passage.headings, passage.text]))
    extractor.close()
    questions = yaml.safe_load((HERE / "tests" / "demo" / "questions.yaml").read_text())["questions"]
    embedder = open_embedder(EmbeddingSettings("model", None))
    vectors, asked = embedder.embed(texts), embedder.embed([one["question"] for one in questions])
    embedder.close()
    return Corpus(documents, vectors, [passage_terms(one) for one in words]), questions, asked


def background() -> tuple[Mapping[str, int], int]:
    """Count in how many passages of this machine's documentation each term stands."""
    chunker = Chunker(None, 0)
    paths = sorted(p for p in Path("/usr/share/doc").rglob("*") if p.is_file() and 2_000 < p.stat().st_size < 200_000)
    random.Random(SEED).shuffle(paths)
    frequency: Counter[str] = Counter()
    passages = 0
    for path in paths[:600]:
        try:
            data = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
            text = data.decode()
        except (OSError, ValueError):
            continue
        for passage in chunker.passages(text[:30_000], markdown=False):
            frequency.update(set(passage_terms(passage.text)))
            passages += 1
    return frequency, passages


def weighted(corpus: Corpus, worth: Callable[[str], float]) -> Search:
    """Plain BM25 with the weights that are given."""

    def search(text: str, vector: NDArray[np.float32], rows: list[int]) -> list[int]:
        scores = {}
        for row in rows:
            counts = corpus.counts[row]
            norm = K1 * (1 - B + B * counts.total() / USUAL_LENGTH)
            found = [term for term in query_terms(text) if term in counts]
            if found:
                scores[row] = sum(worth(t) * counts[t] * (K1 + 1) / (counts[t] + norm) for t in sorted(found))
        return sorted(scores, key=lambda row: (-scores[row], row))[:DEPTH]

    return search


def searches(corpus: Corpus) -> dict[str, Search]:
    """Every way to search."""
    hashed, held = TermHash(b"q" * 32), Postings()
    pairs = [impacts(dict(zip(hashed.numbers(counts), counts.values(), strict=True))) for counts in corpus.counts]
    held.add(
        np.arange(len(pairs), dtype=np.uint32),
        np.array([len(terms) for terms, _ in pairs], np.int64),
        np.concatenate([terms for terms, _ in pairs]),
        np.concatenate([weights for _, weights in pairs]),
    )
    table, passages = background()

    def dense(text: str, vector: NDArray[np.float32], rows: list[int]) -> list[int]:
        scores = corpus.vectors[rows] @ vector
        return [rows[at] for at in np.lexsort((np.array(rows), -scores))[:DEPTH]]

    def keyword(text: str, vector: NDArray[np.float32], rows: list[int]) -> list[int]:
        return held.search(hashed.numbers(sorted(query_terms(text))), BitMap(rows), DEPTH)

    def hybrid(words: Search) -> Search:
        return lambda text, vector, rows: fuse([dense(text, vector, rows), words(text, vector, rows)])

    known = weighted(corpus, lambda t: math.log1p((passages - table.get(t, 0) + 0.5) / (table.get(t, 0) + 0.5)))
    flat = weighted(corpus, lambda term: 1.0)
    return {
        "dense": dense,
        "keyword": keyword,
        "hybrid": hybrid(keyword),
        "keyword_background": known,
        "hybrid_background": hybrid(known),
        "keyword_unweighted": flat,
        "hybrid_unweighted": hybrid(flat),
    }


def quality(corpus: Corpus, ranking: Sequence[int], answers: Sequence[str]) -> tuple[float, float]:
    """Return nDCG@10 and recall@10 by document."""
    found = list(dict.fromkeys(corpus.documents[row] for row in ranking))[:10]
    gains = {path: 2.0 if number == 0 else 1.0 for number, path in enumerate(answers)}
    gained = sum(gains.get(path, 0.0) / math.log2(rank + 2) for rank, path in enumerate(found))
    best = sum(gain / math.log2(rank + 2) for rank, gain in enumerate(list(gains.values())[:10]))
    return gained / best, len(set(found) & set(answers)) / len(answers)


def main() -> None:
    """Measure and write `results/quality.json`."""
    corpus, questions, vectors = company()
    everything = list(range(len(corpus.documents)))
    report = Report("quality", SEED)
    report.add("quality_passages", len(everything), "passages")
    for name, search in searches(corpus).items():
        over_all, as_reader = [], []
        for one, vector in zip(questions, vectors, strict=True):
            answers = one["answers"]
            over_all.append(quality(corpus, search(one["question"], vector, everything), answers))
            readers = [p.name for p in people.PEOPLE] if one["readers"] == ["everyone"] else one["readers"]
            for reader in readers:
                rows = [r for r in everything if reader in READERS[str(Path(corpus.documents[r]).parent)]]
                mine = [path for path in answers if reader in READERS[str(Path(path).parent)]]
                if mine:
                    as_reader.append(quality(corpus, search(one["question"], vector, rows), mine))
        for view, pairs in (("all", over_all), ("reader", as_reader)):
            for metric, values in zip(("ndcg_at_10", "recall_at_10"), zip(*pairs, strict=True), strict=True):
                report.add(f"quality_{name}_{view}_{metric}", statistics.mean(values), "mean", n=len(pairs))
    print(report.write())


if __name__ == "__main__":
    main()
