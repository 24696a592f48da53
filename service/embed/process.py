"""The process that embeds: the only one that imports torch.

Responsible for checking the model's files before anything reads them, and loading them without network, pickle or
foreign code. How vectors are computed is left to `service.embed.backend`; order, turns and what to do about errors to
`service.embed.embedder`.

Run as `python -m service.embed.process FOLDER THREADS [DIGEST]` by `service.embed.embedder`.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
from pathlib import Path
from typing import Any

from service.process import Answer, Refusal, serve

# What a model is made of. Everything else in its folder, such as a README, is neither read nor part of its identity.
_SUFFIXES = (".json", ".txt", ".safetensors", ".model")
_PICKLED = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle")


class Model:
    """A loaded model with the digest of the files that it was loaded from."""

    def __init__(self, folder: Path, threads: int, pinned: str | None) -> None:
        files = model_files(folder)
        before = _identity(files)
        self.digest = digest(folder, files)
        if pinned is not None and self.digest != pinned:
            raise Refusal(
                "model", f"the model files in {folder} are not the ones that came with this version: reinstall"
            )
        encoder = _load(folder)
        # Whatever was written between hashing and loading shows in a change time, which cannot be set back.
        if _identity(model_files(folder)) != before:
            raise Refusal("model", f"the model files in {folder} changed while they were loaded: try again")
        from service.embed.backend import Backend

        self.backend = Backend(encoder, threads)


def model_files(folder: Path) -> list[Path]:
    """Return the files that make up the model. Raises Refusal for a folder without one."""
    if not folder.is_dir():
        raise Refusal("model", f"there is no folder {folder} to load a model from")
    try:
        modules = json.loads((folder / "modules.json").read_bytes())
        parts = [folder / str(module["path"]) for module in modules]
    except (OSError, ValueError, TypeError, KeyError):
        raise Refusal("model", f"{folder} holds no sentence-transformers model: no readable modules.json") from None
    if (folder / "adapter_config.json").exists():
        raise Refusal("model", f"the model in {folder} is an adapter of another model: merge the two and save that")
    for part in parts:
        if not part.resolve().is_relative_to(folder.resolve()):
            raise Refusal("model", f"the model in {folder} refers to {part}, outside of its folder")
        if pickled([part]) and not any(path.suffix == ".safetensors" for path in part.iterdir()):
            raise Refusal("model", f"the weights in {part} are pickled, which can run code: save them as safetensors")
    files = sorted(path for path in folder.rglob("*") if path.suffix in _SUFFIXES and path.is_file())
    if not any(path.suffix == ".safetensors" for path in files):
        raise Refusal("model", f"{folder} holds no weights: expected model.safetensors")
    return files


def pickled(folders: list[Path]) -> bool:
    """Whether one of these holds files that run code when they are loaded."""
    return any(path.name.endswith(_PICKLED) for folder in folders if folder.is_dir() for path in folder.iterdir())


def digest(folder: Path, files: list[Path]) -> str:
    """Return sha256 in hex over names and contents, each with its length in front."""
    total = hashlib.sha256()
    for name, path in sorted((path.relative_to(folder).as_posix(), path) for path in files):
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            total.update(f"{len(name.encode())} {name} {size}\n".encode())
            while block := file.read(1 << 20):
                total.update(block)
    return total.hexdigest()


def _identity(files: list[Path]) -> list[tuple[str, int, int, int, int]]:
    stats = [(str(path), path.stat()) for path in files]
    return [(name, stat.st_dev, stat.st_ino, stat.st_size, stat.st_ctime_ns) for name, stat in stats]


def _load(folder: Path) -> Any:
    from sentence_transformers import SentenceTransformer
    from transformers.utils import logging

    logging.disable_progress_bar()  # type: ignore[no-untyped-call]  # the library has no annotation here
    try:
        return SentenceTransformer(
            str(folder),
            device="cpu",
            local_files_only=True,
            trust_remote_code=False,
            model_kwargs={"use_safetensors": True},
        )
    except Exception as err:  # the library raises nothing narrower for a broken model
        reason = (str(err).strip().splitlines() or [type(err).__name__])[0][:200]
        raise Refusal("model", f"the model in {folder} cannot be loaded: {reason}") from err


def main() -> None:
    """Load the model, then answer `describe` and `embed`."""
    model: Model

    def prepare() -> None:
        nonlocal model
        model = Model(Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3] if len(sys.argv) > 3 else None)

    def describe(params: dict[str, object], blobs: list[bytes]) -> Answer:
        backend = model.backend
        return {
            "dimension": backend.dimension,
            "digest": model.digest,
            "precision": backend.precision,
            "why": backend.why,
            "cosine": backend.cosine,
        }, ()

    def embed(params: dict[str, object], blobs: list[bytes]) -> Answer:
        """One text in each blob, UTF-8; the answer's blob is float32, little endian, row by row."""
        vectors = model.backend.encode([blob.decode() for blob in blobs])
        return {"digest": model.digest}, [vectors.tobytes()]

    serve({"describe": describe, "embed": embed}, prepare=prepare)


if __name__ == "__main__":
    main()
