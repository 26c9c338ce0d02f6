"""Names of folders in any bytes become text that can be printed, stored and compared; the files are still opened."""

import json
import os
import unicodedata

import pytest

from bcos_vit.data import DataModule, Folder
from bcos_vit.data.names import printable, shortened
from imagenet_tree import pixel
from photo_tree import tree

LATIN, NFC, NFD = os.fsdecode("Kätzchen".encode("latin-1")), "Kätzchen", unicodedata.normalize("NFD", "Kätzchen")


def photos(root, *folders):
    for folder in folders:
        (root / folder).mkdir(parents=True)
        (root / folder / "0.jpg").write_bytes(pixel())
    return root


@pytest.mark.parametrize("folder", [LATIN, NFC, NFD], ids=ascii)
def test_a_class_has_one_name_however_its_folder_is_written(tmp_path, folder):
    part = Folder("train", root=str(photos(tmp_path, f"train/{folder}", "train/cat")))
    assert part.class_names == ("Kätzchen", "cat")
    assert [label for _, label in part] == [0, 1]  # and the files are found
    assert json.loads(json.dumps(part.class_names, ensure_ascii=False).encode()) == ["Kätzchen", "cat"]


@pytest.mark.parametrize(("train", "val"), [(NFD, NFC), (NFC, NFD), (LATIN, NFC), (NFC, LATIN)], ids=ascii)
def test_parts_that_were_written_by_different_systems_fit(tmp_path, train, val):
    root = photos(tmp_path, f"train/{train}", "train/Zebra", f"val/{val}", "val/Zebra")
    for split in ("train", "val"):
        assert Folder(split, root=str(root)).class_names == ("Kätzchen", "Zebra")
        assert Folder(split, root=str(root)).targets == [0, 1]


@pytest.mark.parametrize(("one", "other"), [(NFC, NFD), (NFC, LATIN)], ids=ascii)
def test_two_folders_of_one_name_are_refused(tmp_path, one, other):
    root = photos(tmp_path, f"train/{one}", f"train/{other}")
    with pytest.raises(ValueError, match=r"^two folders of .*train are the class 'Kätzchen', by the names .*: merge"):
        Folder("train", root=str(root))


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("two\nlines", "two\\nlines"),
        ("tab\there", "tab\\there"),
        ("\x1b[31mred", "\\x1b[31mred"),
        ("a\u2028b", "a\\u2028b"),
        (os.fsdecode(b"\x80\xff"), "\\x80ÿ"),
        ("猫", "猫"),
        ("a b", "a b"),
        ("\u00a0", "\u00a0"),
    ],
    ids=ascii,
)
def test_what_cannot_be_shown_is_written_as_an_escape(tmp_path, name, text):
    assert printable(name) == text
    part = Folder("train", root=str(photos(tmp_path, f"train/{name}", "train/z")))
    assert text in part.class_names
    assert len(list(part)) == 2


def test_paths_keep_what_is_right_in_them():
    assert printable(f"/data/{NFC}/{LATIN}/x.png") == f"/data/{NFC}/{NFC}/x.png"


def test_reasons_and_refusals_can_be_stored(tmp_path):
    root = photos(tmp_path, f"train/{LATIN}", "train/z", f"val/{LATIN}")
    (root / "val" / LATIN / "1.jpg").write_bytes(b"")
    data = DataModule(Folder, root=str(root), batch_size=2, corrupt="skip")
    (root / "val" / LATIN / "0.jpg").write_bytes(b"")
    with pytest.raises(ValueError, match="no image of the"):
        data.check_parts(["val"])
    assert all(reason.encode() for reason in data.reasons("val", data.skipped("val")))
    (root / "val" / f"{LATIN}2").mkdir()
    with pytest.raises(ValueError, match="holds the class 'Kätzchen2', which") as caught:
        Folder("val", root=str(root))
    assert str(caught.value).encode()


def test_an_empty_folder_in_odd_bytes_is_named(tmp_path):
    root = tree(tmp_path, {"train/a": 1})
    (root / "train" / LATIN).mkdir()
    with pytest.raises(ValueError, match=r"no images in .*train/Kätzchen: fill or remove it"):
        Folder("train", root=str(root))


def test_long_lists_are_shortened():
    assert shortened(["a"]) == "'a'"
    assert shortened([str(n) for n in range(1002)], most=2) == "'0', '1' and 1,000 more"
