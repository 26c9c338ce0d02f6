"""Which of a model's classes each of the data's classes is: what has names is paired by name, never by position."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from bcos_vit.data.imagenet import imagenet_classes
from bcos_vit.data.names import shortened

Said = Mapping[str, str | int]
_WORDNET_ID = re.compile(r"n\d{8}(?!\d)")
_HOW = "say which is which as 'data.classes={FOLDER: CLASS}', or in a JSON or YAML file, as data.classes=FILE"


class PairingError(ValueError):
    """Classes of the data of which it is not known which of the model's classes they are."""


@dataclass(frozen=True)
class Pairing:
    """Which of the model's classes each of the data's is."""

    numbers: tuple[int, ...]
    """The model's class number of each class of the data; -1 for one that the model lacks, and the data need not."""
    notes: tuple[str, ...] = ()
    """What a user should be told of how they were paired."""


def pair_classes(
    data: Sequence[str],
    model: Sequence[str] | None,
    count: int,
    *,
    said: Said | None = None,
    needed: Collection[int] | None = None,
) -> Pairing:
    """Pair the data's classes with the model's.

    A class is, in this order: what is ``said`` of it; the model's class of the same name; of the same WordNet id
    (``n01440764`` is ImageNet's ``tench``); or of a name that differs only in case, accents' encoding, spaces, hyphens
    and underscores. Where two classes would do, none is taken. A model without names is paired by order if it has as
    many classes, with a note.

    >>> pair_classes(["cat", "dog"], ["dog", "cat", "eel"], 3).numbers
    (1, 0)
    >>> pair_classes(["katze", "dog"], ["dog", "cat", "eel"], 3, said={"katze": "cat"}).numbers
    (1, 0)

    Parameters
    ----------
    data, model
        Names of classes, in the order of their numbers; the model may have none.
    count
        How many classes the model has.
    said
        Name in the data -> the model's name or number.
    needed
        The numbers of the data's classes that there are images of; None: of all.

    Raises
    ------
    PairingError
        For a class that is not known, or may be several, with both lists of names and how to say it.
    """
    said = said or {}
    if unknown := [name for name in said if name not in data]:
        raise PairingError(f"data.classes speaks of {unknown[0]!r}, but the data's classes are {shortened(data)}")
    if model is None:
        return _pair_nameless(data, count, said)
    if len(model) != count:
        raise PairingError(f"the model has {count} logits but {len(model)} class names: give a name to each")
    if not said and list(data) == list(model):
        return Pairing(tuple(range(count)))
    found = _look_up(data, model)
    meant = _meant(said, model, count)
    found |= {number: [meant[name]] for number, name in enumerate(data) if name in said}
    _reject_unpaired(data, model, found, said, range(len(data)) if needed is None else needed)
    numbers = tuple(found[number][0] if len(found[number]) == 1 else -1 for number in range(len(data)))
    near = [(a, model[n]) for a, n in zip(data, numbers, strict=True) if n >= 0 and a not in said and a != model[n]]
    if not near:
        return Pairing(numbers)
    such = f"{len(near):,}, such as {near[0][0]!r} with {near[0][1]!r}"
    return Pairing(numbers, (f"classes paired by WordNet id or by a name in another spelling: {such}",))


def _pair_nameless(data: Sequence[str], count: int, said: Said) -> Pairing:
    if said:
        if unsaid := [name for name in data if name not in said]:
            raise PairingError(f"the model has no class names, and data.classes does not speak of {shortened(unsaid)}")
        meant = _meant(said, (), count)
        return Pairing(tuple(meant[name] for name in data))
    if len(data) != count:
        raise PairingError(
            f"the data has {len(data)} classes, but the model {count} logits and no class names: say which is which "
            "as 'data.classes={FOLDER: NUMBER}', or in a JSON or YAML file, as data.classes=FILE"
        )
    return Pairing(
        tuple(range(count)),
        (
            f"the model has no class names: they are taken to be the data's, in order, {shortened(data)}; if not, say "
            "which is which with data.classes",
        ),
    )


def _meant(said: Said, model: Sequence[str], count: int) -> dict[str, int]:
    """The model's class number for each class that data.classes gives the name or number of."""
    found = _look_up([str(value) for value in said.values()], model)
    return {name: _one(name, said[name], found[place], model, count) for place, name in enumerate(said)}


def _one(name: str, value: str | int, places: list[int], model: Sequence[str], count: int) -> int:
    number = int(value) if str(value).isdecimal() and int(value) < count else None
    if isinstance(value, int) and number is not None and places not in ([], [number]):
        raise PairingError(
            f"data.classes gives {name!r} as {value}, which is one class's number and another's name: give the name in "
            f"quotes, {str(value)!r} or {model[number]!r}"
        )
    if not places and number is not None:
        return number
    if len(places) != 1:
        known = f", their names {shortened(model)}" if model else ""
        raise PairingError(
            f"data.classes gives {name!r} as {value!r}, which is {'several' if places else 'none'} of the model's "
            f"classes: their numbers are 0 to {count - 1}{known}"
        )
    return places[0]


def _reject_unpaired(
    data: Sequence[str], model: Sequence[str], found: Mapping[int, list[int]], said: Said, needed: Collection[int]
) -> None:
    both = f"the data's are {shortened(data)}, the model's {shortened(model)}; {_HOW}"
    if unknown := [data[number] for number in needed if not found[number]]:
        raise PairingError(f"the model does not know the data's classes {shortened(unknown)}: {both}")
    if several := [data[number] for number in needed if len(found[number]) > 1]:
        raise PairingError(f"the model has several classes that {several[0]!r} may be: {both}")
    taken = Counter(found[number][0] for number in needed if data[number] not in said)
    for class_number, times in taken.items():
        if times > 1:
            alike = [data[number] for number in needed if found[number] == [class_number]]
            raise PairingError(f"{shortened(alike)} would all be the model's {model[class_number]!r}: {both}")


def _look_up(names: Sequence[str], model: Sequence[str]) -> dict[int, list[int]]:
    """The number of each name -> those of the model's classes that it may be, by the strictest rule that finds any."""
    ids: tuple[list[str | None], list[str | None]] = ([], [])
    if any(map(_WORDNET_ID.match, (*names, *model))):
        ids = _wordnet_ids(names), _wordnet_ids(model)
    alike = [_alike(name) for name in names], [_alike(name) for name in model]
    found: dict[int, list[int]] = {number: [] for number in range(len(names))}
    for wanted, known in ((names, model), ids, alike):
        places = _places(known)
        for number, name in enumerate(wanted):
            found[number] = found[number] or places.get(name, [])
    return found


def _places(names: Sequence[str | None]) -> dict[str | None, list[int]]:
    places: dict[str | None, list[int]] = {}
    for number, name in enumerate(names):
        if name is not None:
            places.setdefault(name, []).append(number)
    return places


def _alike(name: str) -> str:
    return re.sub(r"[\s_-]+", " ", unicodedata.normalize("NFC", name).casefold())


def _wordnet_ids(names: Sequence[str]) -> list[str | None]:
    """The WordNet id of each class that has one in its name, or ImageNet's name for just one."""
    known = imagenet_classes()
    by_name = dict(zip(known.values(), known, strict=True))
    times = Counter(map(_alike, known.values()))  # ImageNet has a cardigan and a dog named Cardigan
    by_spelling = {_alike(name): wnid for wnid, name in known.items() if times[_alike(name)] == 1}
    ids = ((name, _WORDNET_ID.match(name)) for name in names)
    return [by_name.get(n, by_spelling.get(_alike(n))) if found is None else found.group() for n, found in ids]
