"""``bcos-vit explain``: for every photo and target a picture with the ledger in words, and a file with the numbers."""

from __future__ import annotations

import argparse
import os
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import count, groupby, islice
from pathlib import Path
from unicodedata import normalize

import torch
from torch import Tensor

from bcos_vit.atomic import write_whole
from bcos_vit.claim import claim_folder
from bcos_vit.cli.choice import TRAINED, chosen_device, chosen_model, trying_out
from bcos_vit.cli.targets import WordedTarget, parse_targets
from bcos_vit.explanation import Explanation, LedgerError, collapse, compile_explainer, explain
from bcos_vit.explanation.plot import png, require_matplotlib, singles, target_name
from bcos_vit.explanation.shifts import shifted
from bcos_vit.models import ViT
from bcos_vit.paths import in_a_name, user_path
from bcos_vit.photos import PhotoError, read_photo
from bcos_vit.preprocessing import LONG, Fit

LONGEST = 80  # characters of a path that are shown; bytes of a word that names a file, of which systems allow 255

WAIT = 30.0  # seconds for other calls that write to the same folder

COLD_START = (
    "note: the first photos wait a minute or more while a program is compiled for each kind of target (seconds, if "
    "torch's cache on disk has it). Explanations then take about four fifths of the time. On a CPU this pays from "
    "some thousands of photos on, or some hundreds if the cache has the program"
)

Explain = Callable[[Tensor, WordedTarget], Explanation]


@dataclass(frozen=True)
class Photo:
    """A photo as the model gets it."""

    number: int
    """Its place among the arguments."""
    name: str
    """The path as given, printable."""
    stem: str
    """What its results are called, in this call only its."""
    pixels: Tensor
    """(3, H, W) in [0, 1]."""
    written: dict[str, Path] = field(default_factory=dict)
    """Its pictures so far, by target: two words of ``--targets`` may mean the same."""


def run(given: argparse.Namespace) -> int:
    """Explain ``given.images``; 1 if some failed, each with a sentence on stderr."""
    require_matplotlib()
    if given.batch_size < 1:
        raise ValueError(f"--batch-size must be at least 1, found {given.batch_size}")
    model, about = _model(given)
    model.transform.require_fit(given.fit)
    explainer, about_shifts = _explainer(model, given)
    about |= about_shifts
    targets = parse_targets(given.targets, model.spec.num_classes, model.class_names)
    out = _folder(given.out)
    failed: set[int] = set()
    photos = _read(given.images, model, given.fit, failed)
    while batch := list(islice(photos, given.batch_size)):
        for target in targets:
            _explain(model, explainer, batch, target, about, out, failed)
    if failed:
        print(f"bcos-vit explain: {len(failed)} of {len(given.images)} photos failed", file=sys.stderr)
    return 1 if failed else 0


def _model(given: argparse.Namespace) -> tuple[ViT, dict[str, str]]:
    """The model on its device, tried out on a black image, and what to say about it in every output."""
    model, weights = chosen_model(given)
    device = chosen_device(given)
    with trying_out(device):
        model.to(device)
        collapse(model, _black(model))  # raises, once, what would fail for every photo
    return model, {"model": _printable(given.model), "weights": weights}


def _black(model: ViT) -> Tensor:
    size = model.spec.image_size
    return torch.zeros(1, 3, size, size, device=next(model.parameters()).device)


def _explainer(model: ViT, given: argparse.Namespace) -> tuple[Explain, dict[str, str]]:
    """What explains, and what to say about it in every file."""
    if given.shifts is None:
        if given.seed is not None:
            raise ValueError("--seed chooses the shifts of --shifts N: give both, or neither")
        return (_compiled(model, given) if given.compile else partial(explain, model)), {}
    if given.compile:
        raise ValueError("--compile makes no explanations of shifted photos: drop --compile or --shifts")
    seed = given.seed or 0
    shifted(model, _black(model), given.shifts, seed)  # raises, once, what would fail for every photo
    return partial(explain, model, shifts=given.shifts, seed=seed), {"seed of the shifts": str(seed)}


def _compiled(model: ViT, given: argparse.Namespace) -> Explain:
    """A compiled ``explain``, after what that costs has been said."""
    if given.fit == "whole":
        raise ValueError("--compile with --fit whole would compile once for every shape of photo: drop one of them")
    try:
        explainer = compile_explainer(model, targets="input")
    except RuntimeError as error:
        raise ValueError(f"--compile: {error}") from error
    print(COLD_START, file=sys.stderr)
    return explainer


def _folder(path: str) -> Path:
    out = user_path(path)
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise type(error)(f"cannot make the folder {out}: {error.strerror}; give another --out") from error
    with claim_folder(out, wait=WAIT):  # raises, once, what would fail for every photo
        pass
    return out


def _read(paths: Sequence[str], model: ViT, fit: Fit, failed: set[int]) -> Iterator[Photo]:
    for number, (path, stem) in enumerate(zip(paths, _stems(paths), strict=True)):
        name = _printable(path)
        try:
            photo = read_photo(path)
            pixels = model.transform(photo, fit)
        except ValueError as error:
            sentence = str(error) if isinstance(error, PhotoError) else f"{path}: {error}"
            _fail(_printable(sentence), number, failed)
            continue
        if photo.info["frames"] > 1:
            print(f"note: {name} holds {photo.info['frames']} pictures, the first is explained", file=sys.stderr)
        if fit == "crop" and max(photo.size) > LONG * min(photo.size):
            print(
                f"note: {100 * model.transform.cut(*photo.size):.0f} % of {name}, {photo.width} x {photo.height} "
                "pixels, are cut away around the square in its centre: --fit whole or --fit pad shows all of it",
                file=sys.stderr,
            )
        yield Photo(number, name, stem, pixels)


def _explain(
    model: ViT,
    explainer: Explain,
    batch: list[Photo],
    target: WordedTarget,
    about: dict[str, str],
    out: Path,
    failed: set[int],
) -> None:
    device = next(model.parameters()).device
    for photo, explanation in _explained(explainer, batch, target, device):
        for single in singles(explanation):
            slug = _slug(single, model)
            try:
                path = photo.written.get(slug) or _write(single.check(), model, photo, about, out)
            except (LedgerError, OSError) as error:
                _fail(f"{photo.name}: {error}", photo.number, failed)
            else:
                photo.written[slug] = path
                _say(f"{photo.name}: {_in_words(single, model)}, {about['weights']}: {_printable(str(path))}")


def _explained(
    explainer: Explain, batch: list[Photo], target: WordedTarget, device: torch.device
) -> Iterator[tuple[Photo, Explanation]]:
    """Every photo of ``batch``, in its order, with its explanation; neighbours of one shape are explained together."""
    for _, group in groupby(batch, key=lambda photo: photo.pixels.shape):
        alike = list(group)
        explanation = explainer(torch.stack([photo.pixels for photo in alike]).to(device), target).to("cpu")
        yield from ((photo, explanation[place]) for place, photo in enumerate(alike))


def _write(e: Explanation, model: ViT, photo: Photo, about: dict[str, str], out: Path) -> Path:
    """Write both results under the first name that neither has been taken of, and return the picture's path."""
    title = f"{photo.name[-LONGEST:]}: {about['model'][-LONGEST:]}"
    title += "" if about["weights"] == TRAINED else f", {about['weights']}"
    title += f", mean of {_shifts(e)}" if e.shifts else ""
    picture = png(e.plot(class_names=model.class_names, title=title))
    with claim_folder(out, wait=WAIT):
        path = _free(out, photo.stem, f".{_slug(e, model)}.png")
        numbers = path.with_suffix(".safetensors")
        e.save(numbers, about=about | {"photo": photo.name})
        try:
            write_whole(path, picture)
        except BaseException:
            numbers.unlink()
            raise
    return path


def _free(out: Path, stem: str, rest: str) -> Path:
    names = (f"{stem}{rest}" if number == 1 else f"{stem}-{number}{rest}" for number in count(1))
    return next(
        path
        for path in map(out.joinpath, names)
        if not any(map(os.path.lexists, (path, path.with_suffix(".safetensors"))))
    )


def _in_words(e: Explanation, model: ViT) -> str:
    lines = " ".join(f"{name} {float(value):+.3f}" for name, value in {"image": e.image, **e.constants}.items())
    name = target_name(e, model.class_names)
    said = f"{name}, logit {float(e.logit):+.3f} = {lines}, residual {float(e.residual):.0e}"
    said += f", mean of {_shifts(e)}" if e.shifts else ""
    return said if e.logit_error is None else f"{said}, standard error {float(e.logit_error):.3f}"


def _shifts(e: Explanation) -> str:
    return "one shift" if e.shifts == 1 else f"{e.shifts} shifts"


def _slug(e: Explanation, model: ViT) -> str:
    if e.against is not None:
        return f"{int(e.target)}-vs-{int(e.against)}"
    number, name = str(int(e.target)), target_name(e, model.class_names)
    return number if name == number else f"{number}-{in_a_name(name, most=LONGEST)}"


def _stems(paths: Sequence[str]) -> list[str]:
    """A name for the results of every path, unlike all others: ``cat``, ``cat-2``, ..."""
    stems: dict[str, str] = {}  # by what a file system that does not tell capitals apart makes of them
    for path in paths:
        stem = re.sub(r"[\x00-\x1f\ud800-\udfff]", "_", normalize("NFC", Path(path).stem))
        stem = stem.lstrip(".")  # a dot would hide the results
        stem = stem.encode()[:LONGEST].decode(errors="ignore") or "photo"
        number, unlike = 1, stem
        while unlike.casefold() in stems:
            number += 1
            unlike = f"{stem}-{number}"
        stems[unlike.casefold()] = unlike
    return list(stems.values())


def _printable(text: str) -> str:
    return "".join(c if c.isprintable() else c.encode("unicode_escape", "surrogatepass").decode() for c in text)


def _fail(sentence: str, number: int, failed: set[int]) -> None:
    print(f"bcos-vit explain: {sentence}", file=sys.stderr)
    failed.add(number)


def _say(line: str) -> None:
    try:
        print(line, flush=True)
    except BrokenPipeError:  # whoever read our output has seen enough: the pictures are wanted all the same
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
