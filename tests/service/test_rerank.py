"""Ordering once more by a cross-encoder: of what may be read, by its scores, which never leave.

No weights of a cross-encoder come with the tests: they make a tiny one with random weights. That it is loaded, asked
and obeyed is tested here, and not that one ranks well.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
from remit.client import SearchMode

from service.errors import SearchUnavailableError, StartError
from service.search.rerank import ModelReranker
from tests.service.harness import FINANCE, SALES, Service, allow, serving
from tests.service.test_audit_complete import bodies

PASSAGES = ["the plan of sales", "merger", "a budget for the merger in berlin", "plan plan", "", "日本"]
MAKE = """
import sys, json
from pathlib import Path
import torch
from transformers import BertConfig, BertForSequenceClassification, BertTokenizerFast
torch.manual_seed(7)
folder, labels = Path(sys.argv[1]), int(sys.argv[2])
folder.mkdir()
words = "[PAD] [UNK] [CLS] [SEP] [MASK] the plan of sales merger a budget for in berlin".split()
(folder / "vocab.txt").write_text("\\n".join(words))
BertTokenizerFast(str(folder / "vocab.txt"), model_max_length=64).save_pretrained(folder)
config = BertConfig(vocab_size=len(words), hidden_size=16, num_hidden_layers=1, num_attention_heads=2,
                    intermediate_size=16, max_position_embeddings=64, num_labels=labels, initializer_range=1.0)
BertForSequenceClassification(config).save_pretrained(folder)
if labels == 1:
    from sentence_transformers import CrossEncoder
    model = CrossEncoder(str(folder), device="cpu")
    pairs = [("the merger plan", passage) for passage in json.load(sys.stdin)]
    scores = model.predict(pairs, activation_fn=torch.nn.Identity())
    print(json.dumps([float(one) for one in scores]))
"""


def make(folder: Path, labels: int = 1) -> list[float]:
    """Save a tiny model with random weights; return its scores of `PASSAGES`."""
    done = subprocess.run(
        [sys.executable, "-c", MAKE, str(folder), str(labels)],
        input=json.dumps(PASSAGES),
        capture_output=True,
        text=True,
        check=True,
    )
    found: list[float] = json.loads(done.stdout.splitlines()[-1]) if labels == 1 else []
    return found


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[float]]:
    """The folder of a model, and its scores."""
    folder = tmp_path_factory.mktemp("model") / "tiny"
    return folder, make(folder)


@pytest.fixture
def reranker(tiny: tuple[Path, list[float]]) -> Iterator[ModelReranker]:
    """A reranker with that model."""
    opened = ModelReranker(tiny[0], 5)
    yield opened
    opened.close()


def test_passages_are_ordered_by_what_the_model_says(reranker: ModelReranker, tiny: tuple[Path, list[float]]) -> None:
    """As the library itself scores them; nothing to order needs no model; a process that died starts again."""
    expected = np.argsort(-np.array(tiny[1]), kind="stable").tolist()
    assert len(set(tiny[1])) > 3
    assert reranker.order("the merger plan", PASSAGES) == expected
    assert reranker.order("the merger plan", ["same", "same", "same"]) == [0, 1, 2]

    pid = reranker._child.pid
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    with pytest.raises(SearchUnavailableError):
        reranker.order("the merger plan", PASSAGES)

    assert reranker.order("the merger plan", PASSAGES) == expected
    assert reranker.order("the merger plan", []) == []


def test_a_model_that_cannot_be_trusted_or_used_is_refused(tiny: tuple[Path, list[float]], tmp_path: Path) -> None:
    """No folder, weights that run code, no weights, several scores for a pair: a sentence that names the setting."""
    pickled, empty = tmp_path / "pickled", tmp_path / "empty"
    shutil.copytree(tiny[0], pickled)
    (pickled / "pytorch_model.bin").write_bytes(b"")
    empty.mkdir()
    make(tmp_path / "three", labels=3)
    for name, sentence in (
        ("missing", "there is no folder"),
        ("pickled", "pickled"),
        ("empty", "holds no weights"),
        ("three", "gives 3 scores"),
    ):
        with pytest.raises(StartError, match=f"`reranking.path`: .*{sentence}"):
            ModelReranker(tmp_path / name, 5)


class Longest:
    """The longest passage first. seen: what it was given. down: it does not answer."""

    top = 6

    def __init__(self) -> None:
        self.seen: list[list[str]] = []
        self.down = False

    def order(self, question: str, passages: Sequence[str]) -> list[int]:
        """See `Reranker`."""
        self.seen.append(list(passages))
        if self.down:
            raise SearchUnavailableError("gone")
        return sorted(range(len(passages)), key=lambda place: -len(passages[place]))

    def close(self) -> None:
        """Nothing is held."""


@pytest.fixture
async def service(tmp_path: Path) -> AsyncIterator[Service]:
    """A service with passages of two people."""
    async with serving(tmp_path / "remit") as running:
        for number in range(8):
            running.add(f"m{number}", "plan " + "sales " * number, allow(SALES))
            running.add(f"h{number}", "plan " + "finance " * (20 + number), allow(FINANCE))
        running.sync()
        yield running


@pytest.mark.parametrize("mode", list(SearchMode))
async def test_it_reads_what_may_be_read_and_changes_the_order_alone(service: Service, mode: SearchMode) -> None:
    """Hidden passages never come to it, hits keep their cosines, and the record names what was returned."""
    async with service.client("alice") as client:
        plain = await client.search("plan", limit=6, mode=mode)
        service.retrieval_core._reranker = longest = Longest()
        result = await client.search("plan", limit=2, mode=mode)

    assert [len(seen) for seen in longest.seen] == [6]
    assert not any("finance" in text for text in longest.seen[0])
    assert longest.seen[0] == [hit.chunk.text for hit in plain.hits]
    assert [hit.chunk.text for hit in result.hits] == sorted(longest.seen[0], key=len, reverse=True)[:2]
    cosines = {hit.chunk.chunk_id: hit.score for hit in plain.hits}
    assert [hit.score for hit in result.hits] == [cosines[hit.chunk.chunk_id] for hit in result.hits]
    assert [hit.rank for hit in result.hits] == [1, 2]
    assert not result.not_reranked
    body = next(one for one in bodies(service) if one["response_id"] == result.response_id)
    assert [one["chunk_id"] for one in body["returned"]] == [hit.chunk.chunk_id for hit in result.hits]
    assert body["sought"]["reranked"] == 6


async def test_while_it_is_down_the_order_is_the_usual_one_and_the_answer_says_so(service: Service) -> None:
    """An answer in a poorer order is better than none, if it does not pretend."""
    async with service.client("alice") as client:
        plain = await client.search("plan", limit=3)
        service.retrieval_core._reranker = longest = Longest()
        longest.down = True
        result = await client.search("plan", limit=3)

    assert result.not_reranked
    assert result.hits == plain.hits


async def test_what_is_hidden_changes_neither_what_it_reads_nor_the_order(tmp_path: Path) -> None:
    """The same passages in the same order, with and without hidden ones."""
    seen = []
    for hidden in (0, 40):
        async with serving(tmp_path / str(hidden)) as service:
            for number in range(8):
                service.add(f"m{number}", "plan " + "sales " * number, allow(SALES))
            for number in range(hidden):
                service.add(f"h{number}", "plan plan", allow(FINANCE))
            service.sync()
            service.retrieval_core._reranker = longest = Longest()
            async with service.client("alice") as client:
                hits = (await client.search("plan", limit=3)).hits
            seen.append((longest.seen, [hit.chunk.text for hit in hits]))

    assert seen[0] == seen[1]
