"""Embedding: the model that was pinned, loaded without network, pickle or foreign code; unit vectors or an error."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from service.embed import embedder as embed
from service.embed.embedder import (
    HashEmbedder,
    ModelEmbedder,
    ModelError,
    fit,
    open_embedder,
    passage_tokens,
    tokenizer_path,
)
from service.embed.process import digest, model_files
from service.errors import SearchUnavailableError
from service.process import Child, Refusal
from service.settings import EmbeddingSettings

TEXTS = [
    "The travel policy covers trains, and flights over six hours.",
    "Rechnungen werden bis zum 15. des Monats bezahlt.",
    "x",
    "",
    "Salaries are reviewed in March. " * 12,
    "日本語の文書",
    "The quarterly forecast is due on Friday.",
    "flights",
    "A lone surrogate \udc80 in a file name.",
    "Trains go before flights.",
]


@pytest.fixture(scope="session")
def model() -> Iterator[ModelEmbedder]:
    """One embedding process for this file."""
    embedder = ModelEmbedder(None, threads=2)
    yield embedder
    embedder.close()


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """A model folder of one's own, weights linked."""
    source = embed._bundled()
    folder = tmp_path / "model"
    shutil.copytree(source, folder, ignore=shutil.ignore_patterns("*.safetensors"))
    (folder / "model.safetensors").symlink_to(source / "model.safetensors")
    return folder


@pytest.mark.slow
def test_vectors_are_those_of_sentence_transformers(model: ModelEmbedder) -> None:
    """Process, order, batches and precision: each vector is near what the plain library gives for the text alone."""
    program = (
        "import sys, json, logging\n"
        "from sentence_transformers import SentenceTransformer\n"
        "model = SentenceTransformer(sys.argv[1], device='cpu')\n"
        "print(json.dumps([model.encode(text).tolist() for text in json.load(sys.stdin)]))\n"
    )
    texts = [text.encode(errors="replace").decode() for text in TEXTS]
    run = subprocess.run(
        [sys.executable, "-c", program, str(embed._bundled())],
        input=json.dumps(texts),
        capture_output=True,
        text=True,
        check=True,
    )
    plain = np.array(json.loads(run.stdout), dtype=np.float32)

    vectors = model.embed(TEXTS)

    cosine = np.sum(vectors * plain, axis=1) / np.linalg.norm(plain, axis=1)
    assert vectors.shape == (len(TEXTS), 384)
    assert vectors.dtype == np.float32
    assert cosine.min() >= (0.999 if model.precision == "bfloat16" else 0.99999)


def test_vector_depends_on_its_own_text_alone(model: ModelEmbedder) -> None:
    """Bit for bit the same, alone and in every company: a hidden document beside it at its sync leaves no shadow."""
    alone = np.concatenate([model.embed([text]) for text in TEXTS])

    together = model.embed(TEXTS)
    backwards = model.embed(TEXTS[::-1])[::-1]
    among_others = model.embed([other for text in TEXTS for other in (text, "short", "Long sentences. " * 40)])[::3]

    assert np.array_equal(together, alone)
    assert np.array_equal(backwards, alone)
    assert np.array_equal(among_others, alone)


def test_model_knows_what_is_near(model: ModelEmbedder) -> None:
    """A question is nearer to its answer than to another document."""
    question, answer, other = model.embed(["which flights may I take", TEXTS[0], TEXTS[6]])

    assert question @ answer > question @ other + 0.2


def test_no_texts_give_no_vectors(model: ModelEmbedder) -> None:
    """An empty batch has the shape (0, dimension)."""
    assert model.embed([]).shape == (0, 384)


def test_concurrent_callers_get_their_own_vectors(model: ModelEmbedder) -> None:
    """Queries and batches at the same time never mix."""
    expected = model.embed(TEXTS)
    got: dict[int, embed.Vectors] = {}

    def batch() -> None:
        got[-1] = model.embed(TEXTS * 3)

    def query(i: int) -> None:
        got[i] = model.embed([TEXTS[i]])[0]

    threads = [threading.Thread(target=batch)]
    threads += [threading.Thread(target=query, args=(i,)) for i in range(len(TEXTS))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert np.array_equal(got.pop(-1), np.tile(expected, (3, 1)))
    assert all(np.array_equal(vector, expected[i]) for i, vector in got.items())


@pytest.mark.slow
def test_bfloat16_is_used_only_where_it_agrees_with_float32() -> None:
    """A processor without it, vectors that differ, NaN and a model that cannot: float32 and a reason, never worse."""
    program = (
        "import sys, json, numpy, torch\n"
        "from sentence_transformers import SentenceTransformer\n"
        "from service.embed import backend\n"
        "able, halved, widen = {'avx512_bf16': True}, backend._halved, backend._Widen.forward\n"
        "def times(factor):\n"
        "    return lambda self, f: {**f, 'token_embeddings': f['token_embeddings'].float() * 0 + factor}\n"
        "plain = SentenceTransformer(sys.argv[1], device='cpu').encode(list(backend.SAMPLES))\n"
        "for able, halved, widen in [(able, halved, widen), ({'avx512_f': True}, halved, widen),\n"
        "        (able, halved, times(1.0)), (able, halved, times(float('nan'))), (able, lambda e: 1 / 0, widen)]:\n"
        "    torch.cpu.get_capabilities = lambda: able\n"
        "    backend._halved, backend._Widen.forward = halved, widen\n"
        "    made = backend.Backend(SentenceTransformer(sys.argv[1], device='cpu'), 2)\n"
        "    cosine = float(numpy.sum(made.encode(backend.SAMPLES) * plain, axis=1).min())\n"
        "    print(json.dumps([made.precision, made.why, made.cosine, cosine]))\n"
    )
    run = subprocess.run(
        [sys.executable, "-c", program, str(embed._bundled())], capture_output=True, text=True, check=True
    )
    found = [json.loads(line) for line in run.stdout.splitlines()]

    assert [precision for precision, *_ in found] == ["bfloat16", *["float32"] * 4]
    for (_, why, checked, cosine), word in zip(
        found, ("faster", "no bfloat16", "is only", "only nan", "ZeroDivisionError"), strict=True
    ):
        assert word in why
        assert checked >= 0.999
        assert cosine >= 0.999


@pytest.mark.slow
def test_embedding_goes_on_after_its_process_died(copy: Path) -> None:
    """A killed process is replaced; a model that changed meanwhile is refused, so that no vectors of two are mixed."""
    embedder = ModelEmbedder(copy, threads=1)
    try:
        before = embedder.embed(["text"])
        _end(embedder)

        assert np.allclose(embedder.embed(["text"]), before, atol=1e-6)

        _end(embedder)
        config = json.loads((copy / "config_sentence_transformers.json").read_text())
        (copy / "config_sentence_transformers.json").write_text(json.dumps({**config, "x": 1}))
        with pytest.raises(SearchUnavailableError, match="changed"):
            embedder.embed(["text"])
    finally:
        embedder.close()


def _end(embedder: ModelEmbedder) -> None:
    pid = embedder.pid
    assert pid is not None
    fd = os.pidfd_open(pid)
    os.kill(pid, 9)
    os.waitid(os.P_PIDFD, fd, os.WEXITED | os.WNOWAIT)
    os.close(fd)


def test_bundled_model_has_the_pinned_digest(model: ModelEmbedder) -> None:
    """The digest in the code is that of the files."""
    assert model.digest == embed.BUNDLED_DIGEST


def test_tampered_bundled_model_is_refused(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One changed byte in a file that is loaded refuses the bundled model, in one sentence."""
    config = bytearray((copy / "config.json").read_bytes())
    config[config.index(b"12")] = ord("2")
    (copy / "config.json").write_bytes(config)
    monkeypatch.setattr(embed, "_bundled", lambda: copy)

    with pytest.raises(ModelError, match="not the ones that came with this version: reinstall"):
        ModelEmbedder(None, threads=1)


def test_digest_covers_names_contents_and_nothing_unread(copy: Path) -> None:
    """A README changes nothing; a content, a name, and a move of bytes between two files do."""

    def now() -> str:
        return digest(copy, model_files(copy))

    first = now()
    (copy / "README.md").write_text("another")
    assert now() == first
    (copy / "a.txt").write_text("12")
    (copy / "b.txt").write_text("3")
    second = now()
    assert second != first
    (copy / "a.txt").write_text("1")
    (copy / "b.txt").write_text("23")
    third = now()
    assert third != second
    (copy / "b.txt").rename(copy / "c.txt")
    assert now() not in (first, second, third)


@pytest.mark.parametrize(
    ("break_it", "message"),
    [
        (lambda folder: shutil.rmtree(folder), "no folder"),
        (lambda folder: (folder / "modules.json").unlink(), "no sentence-transformers model"),
        (lambda folder: (folder / "modules.json").write_text("[[]]"), "no sentence-transformers model"),
        (lambda folder: (folder / "model.safetensors").unlink(), "no weights"),
        (lambda folder: (folder / "model.safetensors").rename(folder / "pytorch_model.bin"), "pickled"),
        (lambda folder: (folder / "1_Pooling" / "pytorch_model.bin").touch(), "pickled"),
        (lambda folder: (folder / "adapter_config.json").touch(), "adapter"),
        (lambda folder: _module(folder, path="../elsewhere"), "outside of its folder"),
    ],
)
def test_folder_without_a_trustworthy_model_is_refused(copy: Path, break_it: object, message: str) -> None:
    """Each refusal is one sentence that names the folder; the untouched neighbour passes."""
    assert model_files(copy)
    assert callable(break_it)
    break_it(copy)

    with pytest.raises(Refusal, match=message) as caught:
        model_files(copy)

    assert str(copy) in str(caught.value)
    assert "\n" not in str(caught.value)


def _module(folder: Path, **change: str) -> None:
    modules = json.loads((folder / "modules.json").read_text())
    modules[1].update(change)
    (folder / "modules.json").write_text(json.dumps(modules))


def test_code_inside_a_model_folder_is_not_run(copy: Path, tmp_path: Path) -> None:
    """A model that brings its own Python is refused, and none of it runs."""
    mark = tmp_path / "ran"
    (copy / "custom.py").write_text(f"open({str(mark)!r}, 'w')\nclass Pooling: pass\n")
    _module(copy, type="custom.Pooling")

    with pytest.raises(ModelError, match="cannot be loaded"):
        ModelEmbedder(copy, threads=1)

    assert not mark.exists()


def test_path_without_a_model_is_one_sentence(tmp_path: Path) -> None:
    """A wrong path in the settings is a ModelError that names it."""
    with pytest.raises(ModelError, match=f"there is no folder {tmp_path}/none"):
        open_embedder(EmbeddingSettings("model", tmp_path / "none"))


@pytest.mark.parametrize("value", [0.0, np.nan, np.inf, 0.5])
def test_vectors_that_are_not_of_unit_length_are_refused(value: float) -> None:
    """Zero, NaN and infinity never reach the index; a unit vector does."""
    good = np.array([[1.0, 0.0], [0.6, 0.8]], dtype=np.float32)
    assert fit(good)
    bad = good.copy()
    bad[1] = value

    assert not fit(bad)


def test_nonsense_from_the_process_is_an_error(model: ModelEmbedder, monkeypatch: pytest.MonkeyPatch) -> None:
    """A zero vector, a short answer and another digest are errors of the call."""

    def answering(answer: tuple[dict[str, object], list[bytes]]) -> None:
        monkeypatch.setattr(Child, "call", lambda *args, **kwargs: answer)

    answering(({"digest": model.digest}, [bytes(4 * 384)]))
    with pytest.raises(SearchUnavailableError, match="unit length"):
        model.embed(["text"])
    answering(({"digest": model.digest}, [bytes(4)]))
    with pytest.raises(SearchUnavailableError, match="size"):
        model.embed(["text"])
    answering(({"digest": "other"}, [HashEmbedder(384).embed(["text"]).tobytes()]))
    with pytest.raises(SearchUnavailableError, match="changed"):
        model.embed(["text"])
    answering(({"digest": model.digest}, [HashEmbedder(384).embed(["text"]).tobytes()]))
    assert model.embed(["text"]).shape == (1, 384)


def test_hash_embedding_is_deterministic_and_of_unit_length() -> None:
    """Equal words give equal vectors, shared words near ones, and text without words a vector too."""
    embedder = HashEmbedder(64)
    same, again, near, far, empty, signs = embedder.embed(
        ["Travel Policy 2024", "travel policy, 2024!", "the travel policy", "salary review", "", "?!"]
    )

    assert np.array_equal(same, again)
    assert same @ near > same @ far
    assert fit(np.stack([same, near, far, empty, signs]))
    assert HashEmbedder(64).digest != HashEmbedder(128).digest


def test_hash_setting_opens_no_process_and_no_tokenizer() -> None:
    """`embedding: {kind: hash}` needs no model."""
    settings = EmbeddingSettings("hash", None)

    assert isinstance(open_embedder(settings), HashEmbedder)
    assert tokenizer_path(settings) is None


def test_tokenizer_and_passage_length_come_with_the_model(copy: Path) -> None:
    """Passages are cut by the model's own tokenizer, to what the model sees and never over 256 tokens."""
    settings = EmbeddingSettings("model", copy)

    assert tokenizer_path(settings) == copy / "tokenizer.json"
    assert passage_tokens(settings) == 256
    (copy / "sentence_bert_config.json").write_text('{"max_seq_length": 128}')
    assert passage_tokens(settings) == 128
    (copy / "tokenizer.json").unlink()
    with pytest.raises(ModelError, match=r"tokenizer\.json"):
        tokenizer_path(settings)


def test_only_the_embedding_process_imports_torch() -> None:
    """Importing `service.embed.embedder` and finding the bundled model stays cheap."""
    program = (
        "import sys, service.embed.embedder as e\n"
        "e._bundled()\n"
        "assert not {'torch', 'sentence_transformers', 'transformers'} & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True)
