"""Targets in words: what ``--targets`` may say, and the sentences for what it may not."""

import shlex

import pytest

from bcos_vit import Contrast, TopK
from bcos_vit.cli.targets import parse_targets
from bcos_vit.models.zoo import IMAGENET
from commands import NAMES

DIGITS = tuple("0123456789")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("wolf", [1]),
        ("1", [1]),
        ("01", [1]),
        ("Tabby Cat", [0]),
        (" wolf , 4,wolf", [1, 4, 1]),
        ("$x^$", [2]),
        ("top1", [TopK(1)]),
        ("TOP5", [TopK(5)]),
        ("1-vs-0", [Contrast(1, 0)]),
        ("wolf -vs- tabby cat", [Contrast(1, 0)]),
        ("Wolf-VS-3", [Contrast(1, 3)]),
        ("top2,0,$X^$-vs-wolf", [TopK(2), 0, Contrast(2, 1)]),
    ],
)
def test_numbers_names_top_and_contrasts_are_understood(text, expected):
    assert parse_targets(text, 5, NAMES) == expected


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", "a target is empty: separate class numbers or names"),
        ("wolf,,0", "a target is empty"),
        ("wolf, ", "a target is empty"),
        ("wolv", r"no class is named 'wolv', did you mean 'wolf'\?"),
        ("tabbi cat", r"no class is named 'tabbi cat', did you mean 'tabby cat'\?"),
        ("zebra", r"no class is named 'zebra'; valid are: \$x\^\$, \"Crane\", \"crane\", tabby cat, wolf"),
        ("5", "class 5 is out of range: the classes are 0 to 4"),
        ("-1", "no class is named '-1'"),
        ("1.0", "no class is named '1.0'"),
        ("1-2", "no class is named '1-2'"),
        ("top0", "top0 is impossible: the model has 5 classes"),
        ("top6", "top6 is impossible: the model has 5 classes"),
        ("top", "no class is named 'top'"),
        ("1-vs-1", "1-vs-1 compares class 1 with itself"),
        ("wolf-vs-1", "wolf-vs-1 compares class 1 with itself"),
        ("1-vs-", "no class is named ''"),
        ("1-vs-2-vs-3", "no class is named '2-vs-3'"),
        ("0-vs-9", "class 9 is out of range"),
        ("CRANE", "'CRANE' stands for several classes: say '#3' or '#4'"),
        ("crane", "'crane' stands for several classes: say '#3' or '#4'"),
        ("wolf-vs-crane", "'wolf-vs-crane' stands for several targets: say '#1-vs-#3' or '#1-vs-#4'"),
    ],
)
def test_what_makes_no_sense_is_a_sentence(text, sentence):
    with pytest.raises(ValueError, match=sentence):
        parse_targets(text, 5, NAMES)


def test_without_names_there_are_numbers_only():
    assert parse_targets("0,4,1-vs-2", 5, None) == [0, 4, Contrast(1, 2)]
    with pytest.raises(ValueError, match="no class is named 'wolf'; the model has no class names, give numbers"):
        parse_targets("wolf", 5, None)
    with pytest.raises(ValueError, match="class 5 is out of range: the classes are 0 to 4"):
        parse_targets("5", 5, None)


def test_digits_are_called_by_their_numbers():
    assert parse_targets("0,9,4-vs-7", 10, DIGITS) == [0, 9, Contrast(4, 7)]
    with pytest.raises(ValueError, match="class 10 is out of range"):
        parse_targets("10", 10, DIGITS)


def test_a_number_that_names_another_class_is_not_guessed():
    counted_from_one = tuple(str(number) for number in range(1, 11))
    with pytest.raises(ValueError, match="'3' stands for several classes: say '#2' or '#3'"):
        parse_targets("3", 10, counted_from_one)
    assert parse_targets("0,10", 10, counted_from_one) == [0, 9]  # neither is both a name and a number


@pytest.mark.parametrize(("name", "number"), [("crane", 517), ("crane bird", 134), ("maillot", 638), ("tabby", 281)])
def test_names_of_imagenet_are_taken_as_a_whole(name, number):
    assert parse_targets(name, 1000, IMAGENET) == [number]


def test_the_name_that_two_classes_of_imagenet_share_is_not_guessed():
    with pytest.raises(ValueError, match="'cardigan' stands for several classes: say '#264' or '#474'"):
        parse_targets("cardigan", 1000, IMAGENET)
    assert parse_targets("264-vs-474", 1000, IMAGENET) == [Contrast(264, 474)]


def test_a_word_unlike_all_of_a_thousand_names_does_not_list_them():
    with pytest.raises(ValueError, match=r"no class is named 'qqqqqq': give its number, from 0$"):
        parse_targets("qqqqqq", 1000, IMAGENET)
    with pytest.raises(ValueError, match=r"no class is named 'tabbby', did you mean 'tabby'\?"):
        parse_targets("tabbby", 1000, IMAGENET)


def test_every_name_of_imagenet_but_one_can_be_said():
    for number, name in enumerate(IMAGENET):
        if name.casefold() != "cardigan":
            assert parse_targets(name, 1000, IMAGENET) == [number]


def test_a_hash_tells_a_number_from_a_name_that_is_a_number() -> None:
    names = [str(number) for number in range(1, 6)]  # folders counted from one
    assert parse_targets("#3,#0-vs-5", 5, names) == [3, Contrast(0, 4)]
    with pytest.raises(ValueError, match="class #5 is out of range"):
        parse_targets("#5", 5, names)


ODD = (
    "rocket, big",
    "cat",
    "dog",
    "cat-vs-dog",
    "top3",
    "#3",
    " owl ",
    '5" disk',
    '"quiz"',
    "lady's, red",
    "1-vs-2",
    "Katzchen",
)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('"rocket, big",cat', [0, 1]),
        ('cat , "Rocket, Big" ,2', [1, 0, 2]),
        ('"cat"-vs-"rocket, big"', [Contrast(1, 0)]),
        ("cat-vs-dog-vs-cat", [Contrast(3, 1)]),  # there is one way to read it
        ('"cat-vs-dog"', [3]),
        ("dog -VS- cat", [Contrast(2, 1)]),
        ('"top3",top03', [4, TopK(3)]),
        ('"#3"', [5]),
        ('" owl "', [6]),
        ('5" disk', [7]),
        ('"""quiz"""', [8]),
        ('"lady\'s, red"', [9]),
        ("#1-vs-#2", [Contrast(1, 2)]),
    ],
)
def test_every_name_can_be_typed(text, expected):
    assert parse_targets(text, len(ODD), ODD) == expected


@pytest.mark.parametrize(
    ("text", "sentence", "typed"),
    [
        ("rocket, big", """; a name with a comma is typed as '"rocket, big"'""", {'"rocket, big"': 0}),
        ("rocket,big-vs-cat", """; a name with a comma is typed as '"rocket, big"'""", {'"rocket, big"': 0}),
        ("rocket", """, did you mean '"rocket, big"'?""", {'"rocket, big"': 0}),
        ("cat-vs-dog", """several targets: say '"cat-vs-dog"' or '#1-vs-#2'""", {'"cat-vs-dog"': 3}),
        ("top3", "several targets: say '#4' or 'top03'", {"#4": 4, "top03": TopK(3)}),
        ("#3", """several classes: say '"cat-vs-dog"' or '#5'""", {'"cat-vs-dog"': 3, "#5": 5}),
        ("1-vs-2", "several targets: say '#10' or '#1-vs-#2'", {"#10": 10, "#1-vs-#2": Contrast(1, 2)}),
        ("owl", """, did you mean '" owl "'?""", {'" owl "': 6}),
        ("quiz", ''', did you mean '"""quiz"""'?''', {'"""quiz"""': 8}),
        ("lady red", "did you mean {}?".format(shlex.quote('"lady\'s, red"')), {'"lady\'s, red"': 9}),
    ],
)
def test_sentences_say_what_to_type(text, sentence, typed):
    with pytest.raises(ValueError) as refused:  # noqa: PT011  # the sentence follows
        parse_targets(text, len(ODD), ODD)
    assert str(refused.value).endswith(sentence)
    for word, target in typed.items():
        assert shlex.quote(word) in sentence
        assert parse_targets(word, len(ODD), ODD) == [target]


def test_an_accent_may_be_part_of_its_letter_or_follow_it():
    assert parse_targets("k\u00e4tzchen", 1, ("Ka\u0308tzchen",)) == [0]


def test_the_name_of_a_class_that_only_its_capitals_tell_apart_is_typed_in_quotes():
    assert parse_targets('"crane","Crane"', 5, NAMES) == [3, 4]
