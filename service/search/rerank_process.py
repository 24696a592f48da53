"""The process that reads a question and a passage together and says how well they fit: a local cross-encoder.

One of its own, and not that of embedding: it takes a hundred times as long, and questions of others wait for their
vectors there. Responsible for which files are loaded, without network, pickle or foreign code; whose passages they are
was decided before anything comes here.

Run as `python -m service.search.rerank_process FOLDER THREADS` by `service.search.rerank`.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any, Final

import numpy as np

from service.embed.process import pickled
from service.process import Answer, Refusal, serve

_BATCH: Final = 8


def _load(folder: Path, threads: int) -> Any:
    if not folder.is_dir():
        raise Refusal("model", f"there is no folder {folder} to load a cross-encoder from")
    if pickled([folder]):
        raise Refusal("model", f"the weights in {folder} are pickled, which can run code: save them as safetensors")
    if not any(path.suffix == ".safetensors" for path in folder.iterdir()):
        raise Refusal("model", f"{folder} holds no weights: expected model.safetensors")
    import torch
    from sentence_transformers import CrossEncoder
    from transformers.utils import logging

    logging.disable_progress_bar()  # type: ignore[no-untyped-call]  # the library has no annotation here
    torch.set_num_threads(threads)
    try:
        encoder: Any = CrossEncoder(
            str(folder),
            device="cpu",
            local_files_only=True,
            trust_remote_code=False,
            model_kwargs={"use_safetensors": True},
        )
        labels = encoder.num_labels
    except Exception as err:  # the library raises nothing narrower for a broken model
        reason = (str(err).strip().splitlines() or [type(err).__name__])[0][:200]
        raise Refusal("model", f"the cross-encoder in {folder} cannot be loaded: {reason}") from err
    if labels != 1:
        raise Refusal("model", f"the model in {folder} gives {labels} scores for a pair, expected one")
    return encoder


def main() -> None:
    """Load the model, then answer `score`."""
    encoder: Any = None

    def prepare() -> None:
        nonlocal encoder
        encoder = _load(Path(sys.argv[1]), int(sys.argv[2]))

    def score(params: dict[str, object], blobs: list[bytes]) -> Answer:
        """Score passages. The first blob is the question, each other one a passage; the answer is float32."""
        import torch

        question, *passages = (blob.decode() for blob in blobs)
        pairs = [(question, passage) for passage in passages]
        scores = encoder.predict(
            pairs, batch_size=_BATCH, show_progress_bar=False, activation_fn=torch.nn.Identity(), convert_to_numpy=True
        )
        return {}, [np.asarray(scores, "<f4").tobytes()]

    serve({"score": score}, prepare=prepare)


if __name__ == "__main__":
    main()
