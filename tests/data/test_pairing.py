"""Classes are paired by name: which names are one class, what can be said of the others, and what is refused."""

import json
import re

import pytest

from bcos_vit.data import DataModule, Digits
from bcos_vit.data.imagenet import imagenet_classes
from bcos_vit.data.mapping import read_mapping
from bcos_vit.data.pairing import PairingError, pair_classes

IDS, NAMES = list(imagenet_classes()), list(imagenet_classes().values())


def numbers(data, model, **how):
    return pair_classes(data, model, len(model), **how).numbers


def refused(sentence, data, model, count=None, **how):
    with pytest.raises(PairingError, match=re.escape(sentence)) as caught:
        pair_classes(data, model, len(model) if count is None else count, **how)
    assert "\n" not in str(caught.value)


# --- by name ---


@pytest.mark.parametrize(
    ("data", "model", "expected"),
    [
        (["a", "b"], ["a", "b"], (0, 1)),
        (["a", "b"], ["b", "a"], (1, 0)),
        (["eel"], ["cat", "dog", "eel"], (2,)),  # others are missing
        (["Cat", "DOG"], ["dog", "cat"], (1, 0)),
        (["golden_retriever", "sports-car"], ["sports car", "golden retriever"], (1, 0)),
        (["Ka\u0308tzchen"], ["Hund", "Kätzchen"], (1,)),
        (["cat", "Cat"], ["Cat", "cat"], (1, 0)),  # what is equal comes first
        (["-1", "1"], ["1", "-1"], (1, 0)),
        (["1", "10", "2"], ["1", "2", "10"], (0, 2, 1)),  # sorted as text and as numbers
        (["a", "a"], ["a", "a"], (0, 1)),  # one and the same list
    ],
    ids=str,
)
def test_names(data, model, expected):
    assert numbers(data, model) == expected


def test_what_is_not_quite_equal_is_noted():
    assert pair_classes(["b", "a"], ["a", "b"], 2).notes == ()
    (note,) = pair_classes(["b", "A"], ["a", "b"], 2).notes
    assert note == "classes paired by WordNet id or by a name in another spelling: 1, such as 'A' with 'a'"


# --- WordNet ids ---


@pytest.mark.parametrize(
    ("data", "model", "expected"),
    [
        (IDS, NAMES, range(1000)),
        (NAMES, IDS, range(1000)),
        (IDS, NAMES[::-1], range(999, -1, -1)),
        (IDS[::-1], NAMES, range(999, -1, -1)),
        (["n02123045", "n01440764"], NAMES, (281, 0)),
        (["tench", "golden_retriever"], ["n02099601", "n01440764"], (1, 0)),
        (["n02099601-golden_retriever", "n01440764"], ["tench", "golden retriever"], (1, 0)),
        (["n00000001"], ["n00000001-thing", "tench"], (0,)),  # no class of ImageNet, but the same id
        (["n02012849", "n03126707"], NAMES, (134, 517)),  # crane bird and crane
        (["n02963159", "n02113186"], NAMES, (474, 264)),  # cardigan, and the dog of that name
        (["Cardigan", "cardigan"], NAMES, (264, 474)),
    ],
    ids=lambda value: str(value)[:40],
)
def test_wordnet_ids_are_imagenets_names(data, model, expected):
    assert numbers(data, model) == tuple(expected)


def test_names_that_two_classes_bear_are_never_guessed():
    twice = ["crane", "tench", "crane"]
    refused("several classes that 'crane' may be", ["crane", "tench"], twice)
    refused("several classes that 'CARDIGAN' may be", ["CARDIGAN"], NAMES)
    refused("'crane', 'crane' would all be the model's 'crane'", ["crane", "crane"], ["crane", "tench"])
    refused("'cat', 'Cat' would all be the model's 'cat'", ["cat", "Cat"], ["cat", "dog"])
    refused("would all be the model's 'tench'", ["n01440764", "tench"], NAMES)
    refused("does not know the data's classes 'cardigan knit'", ["cardigan knit"], ["n02963159"])
    assert numbers(["crane", "tench"], twice, said={"crane": 2}) == (2, 1)


# --- refused ---


def test_unknown_names_are_refused_with_both_lists_and_the_remedy():
    refused(
        "the model does not know the data's classes 'katze', 'hund': the data's are 'katze', 'hund', the model's "
        "'cat', 'dog'; say which is which as 'data.classes={FOLDER: CLASS}', or in a JSON or YAML file, as "
        "data.classes=FILE",
        ["katze", "hund"],
        ["cat", "dog"],
    )
    refused("the model's 'tench', 'goldfish', ", ["katze"], NAMES)
    refused("and 992 more", ["katze"], NAMES)


def test_unknown_classes_without_images_do_not_matter():
    assert numbers(["cat", "wolf"], ["dog", "cat"], needed=[0]) == (1, -1)
    refused("'wolf'", ["cat", "wolf"], ["dog", "cat"], needed=[1])


def test_a_model_without_names_is_paired_by_order_with_a_note_or_refused():
    pairing = pair_classes(["b", "a"], None, 2)
    assert pairing.numbers == (0, 1)
    assert "the model has no class names: they are taken to be the data's, in order, 'b', 'a'" in pairing.notes[0]
    refused("the data has 3 classes, but the model 2 logits and no class names", ["a", "b", "c"], None, 2)
    assert pair_classes(["b", "a"], None, 5, said={"a": 4, "b": "1"}).numbers == (1, 4)
    refused("data.classes does not speak of 'b'", ["b", "a"], None, 2, said={"a": 0})
    refused("numbers are 0 to 1", ["b", "a"], None, 2, said={"a": 0, "b": "cat"})


def test_a_model_with_another_number_of_names():
    refused("the model has 3 logits but 2 class names", ["a"], ["a", "b"], 3)


# --- data.classes ---


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ({"katze": "cat", "hund": "dog"}, (1, 0)),
        ({"katze": 1, "hund": "0"}, (1, 0)),
        ({"katze": "dog", "hund": "dog"}, (0, 0)),  # several of the data's may be one of the model's
        ({"katze": "Cat", "hund": "n02084071"}, (1, 2)),
    ],
    ids=str,
)
def test_what_is_said_comes_first(said, expected):
    assert numbers(["katze", "hund"], ["dog", "cat", "n02084071-hound"], said=said) == expected


def test_the_rest_is_paired_by_name():
    assert numbers(["dog", "katze", "eel"], ["dog", "cat", "eel"], said={"katze": "cat"}) == (0, 1, 2)
    assert numbers(["cat", "dog"], ["dog", "cat"], said={"cat": "dog", "dog": "cat"}) == (0, 1)


@pytest.mark.parametrize(
    ("said", "sentence"),
    [
        ({"kazte": "cat"}, "data.classes speaks of 'kazte', but the data's classes are 'katze'"),
        ({"katze": "cta"}, "data.classes gives 'katze' as 'cta', which is none of the model's classes"),
        (
            {"katze": 2},
            "data.classes gives 'katze' as 2, which is none of the model's classes: their numbers are 0 to 1",
        ),
        ({"katze": -1}, "data.classes gives 'katze' as -1, which is none"),
    ],
    ids=str,
)
def test_what_is_said_must_make_sense(said, sentence):
    refused(sentence, ["katze"], ["dog", "cat"], said=said)


def test_names_that_are_numbers():
    model = ["1", "2", "3"]
    assert numbers(["eins", "drei"], model, said={"eins": "1", "drei": "3"}) == (0, 2)
    assert numbers(["null"], ["0", "1"], said={"null": 0}) == (0,)  # name and number agree
    assert numbers(["drei"], model, said={"drei": 3}) == (2,)  # no number of a class
    refused("which is one class's number and another's name", ["eins"], model, said={"eins": 1})


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("said.json", json.dumps({"no": "cat", "01": 1, "Kätzchen, klein": "dog"})),
        ("said.yaml", "no: cat\n01: 1\n'Kätzchen, klein': dog\n"),
        ("said.yml", "{no: cat, 01: 1, 'Kätzchen, klein': 'dog'}"),
    ],
)
def test_a_file_is_read_as_it_is_written(tmp_path, name, text):
    (tmp_path / name).write_text(text, encoding="utf-8")
    assert read_mapping(str(tmp_path / name)) == {"no": "cat", "01": 1, "Kätzchen, klein": "dog"}


def test_keys_and_values_keep_their_kind(tmp_path):
    (tmp_path / "said.yaml").write_text("1: '1'\n2: 2\n3: 007\ntrue: yes\n")
    assert read_mapping(str(tmp_path / "said.yaml")) == {"1": "1", "2": 2, "3": "007", "true": "yes"}
    assert read_mapping({2: 2, True: "x", "a": "b"}) == {"2": 2, "true": "x", "a": "b"}
    assert read_mapping(None) == {}


@pytest.mark.parametrize(
    ("name", "text", "sentence"),
    [
        ("said.json", "{", "cannot be read as JSON or YAML"),
        ("said.json", '["cat"]', "must hold a mapping"),
        ("said.yaml", "- cat\n", "must hold a mapping"),
        ("said.yaml", "", "must hold a mapping"),
        ("said.yaml", "a: [b", "cannot be read as JSON or YAML"),
        ("said.yaml", "a: b\na: c\n", "speaks of 'a' more than once"),
        ("said.json", '{"a": "b", "a": "c"}', "speaks of 'a' more than once"),
        ("said.json", '{"a": null}', "must map 'a' to the name or number of a class, found None"),
        ("said.json", '{"a": 1.5}', "must map 'a' to the name or number of a class, found 1.5"),
        ("said.yaml", "a: {b: c}", "must map 'a' to the name or number of a class"),
    ],
)
def test_files_that_say_nothing_usable(tmp_path, name, text, sentence):
    (tmp_path / name).write_text(text)
    with pytest.raises(ValueError, match=re.escape(sentence)):
        DataModule(Digits, batch_size=1, classes=str(tmp_path / name))


def test_a_missing_file_and_other_kinds(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"cannot read data\.classes from .*none\.yaml: No such file"):
        DataModule(Digits, batch_size=1, classes=str(tmp_path / "none.yaml"))
    with pytest.raises(ValueError, match=r"data\.classes must be a mapping or the path of a file .*, found \['cat'\]"):
        DataModule(Digits, batch_size=1, classes=["cat"])
