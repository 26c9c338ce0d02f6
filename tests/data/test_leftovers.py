"""Hidden files, leftovers of systems and folders met before are never learnt from, at any level, and are counted."""

import os
import shutil
from pathlib import Path

import pytest

from bcos_vit.data import Folder, ImageNet
from imagenet_tree import bare_tree, pixel
from photo_tree import tree

ANIMALS = {"train/cat": 2, "train/dog": 1, "train/dog/puppies": 2, "val/cat": 1, "val/dog": 1, "test/dog": 1}
LEFTOVER_FILES = (
    *("._0.png", ".DS_Store", ".hidden.png", "Thumbs.db", "desktop.ini", "0.png~", "~$0.png", "#0.png#"),
    *("0.png:Zone.Identifier", "Icon\r"),
)
LEFTOVER_FOLDERS = (
    *(
        ".ipynb_checkpoints",
        "__MACOSX",
        "@eaDir",
        "$RECYCLE.BIN",
        "lost+found",
        "#recycle",
        "System Volume Information",
    ),
    *(".Trash-1000", ".AppleDouble", "FOUND.000", "cat~", "__pycache__", "LOST.DIR", ".@__thumb"),
)


@pytest.fixture
def root(tmp_path):
    return tree(tmp_path, ANIMALS)


def found_in(root, split="train", **arguments):
    """Class -> the photos of a part, by their path below the part."""
    part = Folder(split, root=str(root), **arguments)
    found = {name: [] for name in part.class_names}
    for path, label in part.samples:
        found[part.class_names[label]].append(os.path.relpath(path, part.part))
    return found


CATS = ["cat/0.png", "cat/1.png"]
DOGS = ["dog/0.png", "dog/puppies/0.png", "dog/puppies/1.png"]
CLEAN = {"cat": CATS, "dog": DOGS}


def photo(folder, name="0.png"):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(pixel())


# --- hidden names and leftovers ---


@pytest.mark.parametrize("name", LEFTOVER_FILES, ids=ascii)
@pytest.mark.parametrize("place", ["", "cat", "dog/puppies"])
def test_leftover_files_are_no_photos(root, capfd, place, name):
    photo(root / "train" / place, name)
    assert found_in(root) == CLEAN
    assert "hidden names and leftovers of systems (1, " in capfd.readouterr().err


@pytest.mark.parametrize("name", LEFTOVER_FOLDERS)
@pytest.mark.parametrize("place", ["", "cat", "dog/puppies"])
def test_leftover_folders_are_neither_classes_nor_parts_of_one(root, capfd, place, name):
    photo(root / "train" / place / name)
    photo(root / "train" / place / name / "deeper")
    assert found_in(root) == CLEAN
    assert "hidden names and leftovers of systems (1, " in capfd.readouterr().err


@pytest.mark.parametrize("name", ["__macosx", "THUMBS.DB", "@EADIR", "$Recycle.Bin"])
def test_case_does_not_matter_where_systems_ignore_it(root, name):
    photo(root / "train" / name)
    assert found_in(root) == CLEAN


@pytest.mark.parametrize("name", ["recycled", "~tilde", "#1", "desktop", "thumbs", "icon", "found", "a.b", "temporary"])
def test_classes_of_similar_names_are_classes(root, name):
    photo(root / "train" / name)
    assert found_in(root) == {**CLEAN, name: [f"{name}/0.png"]}


def test_one_line_counts_all_that_was_left_out_once(root, capfd):
    for name in ("._a.png", "._b.png", "notes.txt", "IMG_1.HEIC", "dog.gif.part"):
        photo(root / "train" / "cat", name)
    photo(root / "train", "stray.png")
    (root / "train" / "cat" / "loop").symlink_to("..")
    for _ in range(2):
        assert found_in(root) == CLEAN
    assert capfd.readouterr().err == (
        f"note: left out of {root / 'train'}: files beside the class folders (1, such as stray.png); "
        "hidden names and leftovers of systems (2, such as cat/._a.png); files that are no photos by their names (3, "
        "such as cat/IMG_1.HEIC); folders that count elsewhere (1, such as cat/loop)\n"
    )


def test_nothing_is_said_of_a_clean_part(root, capfd):
    assert found_in(root) == CLEAN
    assert capfd.readouterr().err == ""


def test_a_root_below_a_hidden_folder_is_no_leftover(tmp_path):
    (tmp_path / ".cache").mkdir()
    root = tree(tmp_path / ".cache", ANIMALS)
    assert found_in(root) == CLEAN


@pytest.mark.parametrize("split", ["train", "val"])
def test_imagenet_follows_the_same_rule(tmp_path, split, capfd):
    root = bare_tree(tmp_path / "imagenet", split)
    photo(root / split / "n01440764", "._n01440764_0.JPEG")
    photo(root / split / "n01440764" / ".ipynb_checkpoints")
    (root / split / "n02123045" / "all").symlink_to("..")
    (root / split / "tench").symlink_to("n01440764")
    part = ImageNet(split, root=str(root))
    assert part.targets == list(range(1000))
    err = capfd.readouterr().err
    assert "hidden names and leftovers of systems (2, " in err
    assert "folders that count elsewhere (1, such as n02123045/all)" in err
    assert "folders of no class (1, such as tench)" in err


# --- folders that were met before ---


@pytest.mark.parametrize(
    ("place", "target"),
    [
        ("cat/loop", ".."),
        ("cat/loop", "."),
        ("cat/loop", "../.."),
        ("loop", ".."),
        ("loop", "."),
        ("dog/puppies/loop", ".."),
        ("dog/puppies/loop", "../../.."),
        ("cat/dogs", "../dog"),
        ("cat/dogs", "../dog/puppies"),
        ("dog/again", "puppies"),
        ("cat/more", "../../val"),
        ("cat/more", "../../val/dog"),
        ("more", "../val"),
        ("cat/self", "self"),
    ],
)
def test_links_never_count_a_photo_twice_or_for_another_class(root, capfd, place, target):
    (root / "train" / place).symlink_to(target)
    assert found_in(root) == CLEAN
    assert f"such as {place})\n" in capfd.readouterr().err


def test_links_to_each_other_end(root):
    (root / "train/cat/a").symlink_to("../dog/b")
    (root / "train/dog/b").symlink_to("../cat/a")
    assert found_in(root) == CLEAN


def test_links_to_folders_elsewhere_are_followed_once(root, tmp_path):
    photo(tmp_path / "pool" / "cats", "x.png")
    (tmp_path / "pool" / "cats" / "up").symlink_to("..")
    photo(tmp_path / "pool" / "eels", "y.png")
    (root / "train" / "cat" / "more").symlink_to(tmp_path / "pool" / "cats")
    (root / "train" / "cat" / "same").symlink_to(tmp_path / "pool" / "cats")
    (root / "train" / "eel").symlink_to(tmp_path / "pool" / "eels")
    found = found_in(root)
    # the pool itself is linked from a cat's folder; what was met in it before is not met again
    assert found == {"cat": [*CATS, "cat/more/x.png"], "dog": DOGS, "eel": ["eel/y.png"]}


def test_parts_and_classes_may_be_links(root, tmp_path):
    shutil.move(root / "train", tmp_path / "elsewhere")
    (root / "train").symlink_to(tmp_path / "elsewhere")
    assert found_in(root) == CLEAN
    shutil.move(tmp_path / "elsewhere" / "cat", tmp_path / "cats")
    (tmp_path / "elsewhere" / "cat").symlink_to(tmp_path / "cats")
    assert found_in(root) == CLEAN


def test_a_nested_folder_that_is_a_class_by_a_link_counts_for_that_class(root):
    (root / "train" / "puppy").symlink_to("dog/puppies")
    assert found_in(root) == {"cat": CATS, "dog": ["dog/0.png"], "puppy": ["puppy/0.png", "puppy/1.png"]}


def test_two_class_folders_that_are_one(root):
    (root / "train" / "kitten").symlink_to("cat")
    with pytest.raises(ValueError, match=f"class folders 'cat' and 'kitten' of {root}/train are one folder"):
        Folder("train", root=str(root))


def test_a_class_that_leads_to_another_class_of_another_part(root):
    shutil.rmtree(root / "test" / "dog")
    (root / "test" / "dog").symlink_to(root / "train" / "cat")
    with pytest.raises(ValueError, match=r"class folder 'dog' .* whose photos are of the class 'cat'"):
        Folder("test", root=str(root))


def test_one_folder_outside_that_two_classes_link_to(root, tmp_path):
    photo(tmp_path / "pool")
    for name in ("cat", "dog"):
        (root / "train" / name / "more").symlink_to(tmp_path / "pool")
    with pytest.raises(ValueError, match="dog/more and a link in 'cat' lead to one folder"):
        Folder("train", root=str(root))


def test_a_part_that_holds_the_others_does_not_learn_from_them(tmp_path):
    root = tree(tmp_path, {"cat": 1, "dog": 1, "val/cat": 1, "val/dog": 1})
    assert found_in(root, parts={"train": "."}) == {"cat": ["cat/0.png"], "dog": ["dog/0.png"]}
    assert found_in(root, "val", parts={"train": "."}) == {"cat": ["cat/0.png"], "dog": ["dog/0.png"]}


def test_two_parts_may_be_one_folder(root):
    assert found_in(root, "test", parts={"test": "train"}) == CLEAN
    (root / "held_out").symlink_to("train")
    assert found_in(root, "test", parts={"test": "held_out"}) == CLEAN


def test_photos_come_in_the_order_of_folders_then_names(root):
    for name in ("b/1.png", "a/2.png", "a/1.png", "10.png"):
        photo((root / "train" / "cat" / name).parent, Path(name).name)
    assert found_in(root)["cat"] == [f"cat/{n}.png" for n in ("0", "1", "10", "a/1", "a/2", "b/1")]
