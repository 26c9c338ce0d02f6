"""What is wrong with a folder of photos is said in a sentence that names the folder."""

import errno
import os
import re
from pathlib import Path

import pytest

from bcos_vit.data import Folder
from photo_tree import tree

ANIMALS = {"train/cat": 1, "train/dog": 1, "val/cat": 1}


def refused(kind, sentence, split, root, **arguments):
    """That ``Folder`` raises ``kind`` with ``sentence``, in which ROOT stands for the root."""
    with pytest.raises(kind, match=re.escape(sentence.replace("ROOT", str(root)))):
        Folder(split, root=str(root), **arguments)


def test_no_root_given():
    with pytest.raises(ValueError, match=r"^no folder is given: say where the images lie, as data\.root=FOLDER$"):
        Folder("val", root="")


def test_a_missing_root(tmp_path):
    refused(FileNotFoundError, "there is no folder ROOT", "val", tmp_path / "none")


@pytest.mark.parametrize("split", ["train", "val", "test"])
def test_a_missing_part(tmp_path, split):
    root = tree(tmp_path, {"other/cat": 1})
    advice = f"make it, or name another folder of ROOT with data.dataset.parts.{split}=..."
    refused(FileNotFoundError, f"there is no folder ROOT/{split} for the {split} part: {advice}", split, root)
    refused(FileNotFoundError, "there is no folder ROOT/mine", split, root, parts={split: "mine"})


def test_a_file_in_place_of_a_folder(tmp_path):
    root = tree(tmp_path, ANIMALS)
    (root / "test").write_text("a file")
    refused(FileNotFoundError, "there is no folder ROOT/test", "test", root)
    refused(FileNotFoundError, "there is no folder ROOT", "val", root / "test")
    (root / "val" / "dog").write_text("a file")
    assert Folder("val", root=str(root)).targets == [0]


def test_an_unknown_class(tmp_path):
    root = tree(tmp_path, ANIMALS | {"val/wolf": 1, "test/dgo": 1})
    refused(ValueError, "ROOT/val holds the class 'wolf', which ROOT/train does not have", "val", root)
    refused(ValueError, "ROOT/test holds the class 'dgo', which ROOT/train does not have", "test", root)
    assert len(Folder("train", root=str(root))) == 2


def test_a_training_part_without_classes(tmp_path):
    root = tree(tmp_path, {"train": 0, "val/cat": 1})
    refused(ValueError, "ROOT/val holds the class 'cat', which ROOT/train does not have", "val", root)


@pytest.mark.parametrize("content", [{"val": 0}, {"val": 0, "val/.hidden": 1}, {"val": 2}], ids=str)
def test_a_part_without_class_folders(tmp_path, content):
    root = tree(tmp_path, content)
    sentence = "ROOT/val holds no class folders: images are expected as ROOT/val/CLASS/IMAGE"
    refused(ValueError, sentence, "val", root)


@pytest.mark.parametrize("split", ["train", "val", "test"])
def test_a_part_without_images(tmp_path, split):
    root = tree(tmp_path, {f"{split}/cat": 0, f"{split}/dog": 0})
    (root / split / "cat" / "readme.txt").write_text("soon")
    refused(ValueError, f"there are no images in the class folders of ROOT/{split}", split, root)


def test_a_class_without_images_to_learn_from(tmp_path):
    root = tree(tmp_path, ANIMALS | {"train/eel": 0})
    refused(ValueError, "there are no images in ROOT/train/eel: fill or remove it", "train", root)


@pytest.mark.parametrize("split", ["dev", "", None, "Test"])
def test_another_split(tmp_path, split):
    refused(ValueError, f"split must be train, val or test, found {split!r}", split, tree(tmp_path, ANIMALS))


def test_another_part(tmp_path):
    sentence = "split must be train, val or test, found 'tset'"
    refused(ValueError, sentence, "val", tree(tmp_path, ANIMALS), parts={"tset": "val"})


@pytest.mark.parametrize("name", ["val", "train", "val/cat", "train/dog", "val/cat/indoors"])
def test_a_folder_that_cannot_be_read(tmp_path, monkeypatch, name):
    root = tree(tmp_path, ANIMALS | {"val/cat/indoors": 1})
    listed = os.scandir

    def scandir(folder):  # permissions do not stop a superuser, who may run the tests
        if Path(folder) == root / name:
            raise PermissionError(errno.EACCES, "Permission denied", str(folder))
        return listed(folder)

    monkeypatch.setattr(os, "scandir", scandir)
    split = "train" if name == "train/dog" else "val"
    refused(PermissionError, f"cannot read the folder ROOT/{name}: Permission denied", split, root)
