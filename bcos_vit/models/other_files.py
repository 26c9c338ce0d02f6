"""What a file is that holds no weights, known by its first bytes, so that a refusal can say so."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

READ = (
    "weights are read from files of save_model (.safetensors), checkpoints of a training run (.ckpt) and state dicts "
    "of torch.save (.pth)"
)
_KINDS = {
    b"\x80": "a pickle, as torch wrote them before 1.6: load it where you trust it, and save it again",
    b"\x89HDF": "an HDF5 file, as Keras writes its weights: its models are not read",
    b"\x89PNG": "a picture (PNG)",
    b"\xff\xd8\xff": "a picture (JPEG)",
    b"GIF8": "a picture (GIF)",
    b"BM": "a picture (BMP)",
    b"II*\0": "a picture (TIFF)",
    b"MM\0*": "a picture (TIFF)",
    b"RIFF": "a picture (WebP) or a sound",
    b"%PDF": "a PDF document",
    b"GGUF": "a GGUF file: its models are not read",
    b"\x93NUMPY": "a NumPy array: its arrays are not read",
    b"\x1f\x8b": "a gzip archive: unpack it first",
    b"\xfd7zXZ": "an xz archive: unpack it first",
    b"BZh": "a bzip2 archive: unpack it first",
    b"7z\xbc\xaf": "a 7z archive: unpack it first",
    b"Rar!": "a RAR archive: unpack it first",
    b"version https://git-lfs": "a pointer of git LFS to a file that was not fetched: run `git lfs pull`",
}
_ONNX = "an ONNX file: it runs in onnxruntime, and no model can be read back from it; give the weights it was made from"
_TEXTS = {
    "<": "an HTML or XML page, as servers send with an error in place of a file: fetch it again",
    "{": "JSON, such as a card or a config: the weights lie in a file beside it",
    "[": "JSON, such as a card or a config: the weights lie in a file beside it",
}
_ZIPS = {
    "archive_format": "a program of torch.export (.pt2)",
    "constants.pkl": "a TorchScript program of torch.jit.save",
    "model.weights.h5": "a Keras model",
}


def what_it_is(path: Path) -> str:
    """What the file at ``path`` seems to be, as the end of a sentence that begins with "it is", and what is read."""
    with path.open("rb") as file:
        start = file.read(512)
    return f"it is {_kind(start, path.suffix)}; {READ}"


def what_zip_it_is(entries: Iterable[str]) -> str | None:
    """As :func:`what_it_is`, for a zip archive with these entries; None unless it is known to be another kind."""
    names = {entry.rpartition("/")[2] for entry in entries}
    kind = next((kind for name, kind in _ZIPS.items() if name in names), None)
    if names and all(name.endswith(".npy") for name in names):
        kind = "a file of NumPy arrays (.npz)"
    return None if kind is None else f"it is {kind}, made by other means than torch.save; {READ}"


def _kind(start: bytes, suffix: str) -> str:
    if not start:
        return "empty"
    if known := next((kind for magic, kind in _KINDS.items() if start.startswith(magic)), None):
        return known
    if suffix == ".onnx" or (start[:1] == b"\x08" and start[2:3] == b"\x12"):  # the version, then the producer's name
        return _ONNX
    if start[257:262] == b"ustar":
        return "a tar archive: unpack it first"
    if start[4:8] == b"TFL3":
        return "a TensorFlow Lite file: its models are not read"
    text = start.decode("utf-8", errors="ignore").lstrip("\ufeff \t\r\n")
    if "\0" not in text and len(text) > len(start) // 2:
        return _TEXTS.get(text[:1], "text")
    return "damaged, or of a kind that is not known"
