"""Photos in folders: which classes there are, and which images belong to a part."""

from pathlib import Path

import pytest
import torch

from bcos_vit.data import DataModule, Folder
from bcos_vit.models.zoo import preprocessing
from photo_tree import tree

ANIMALS = {"train/cat": 2, "train/dog": 1, "train/eel": 3, "val/eel": 2, "val/cat": 1, "test/dog": 2}


def found_in(part):
    """Class name and file name of every image of a part."""
    assert [label for _, label in part.samples] == part.targets
    return [(part.class_names[label], Path(path).parent.name, Path(path).name) for path, label in part.samples]


@pytest.mark.parametrize("split", ["train", "val", "test"])
def test_classes_are_those_of_the_training_part_everywhere(tmp_path, split):
    part = Folder(split, root=str(tree(tmp_path, ANIMALS)))
    assert part.class_names == ("cat", "dog", "eel")
    assert all(name == folder for name, folder, _ in found_in(part))
    assert len(part) == {"train": 6, "val": 3, "test": 2}[split]


def test_a_part_that_lacks_a_class_keeps_the_numbers(tmp_path):
    root = str(tree(tmp_path, ANIMALS))
    assert [label for _, label in Folder("val", root=root)] == [0, 2, 2]
    assert [label for _, label in Folder("test", root=root)] == [1, 1]


def test_items_are_the_photos_of_their_classes(tmp_path):
    part = Folder("val", root=str(tree(tmp_path, ANIMALS)))
    # each folder has a grey of its own, and each photo its number on top
    assert [(photo.mode, photo.size, photo.getpixel((0, 0))) for photo, _ in part] == [
        ("RGB", (9, 7), (160, 160, 160)),
        ("RGB", (9, 7), (120, 120, 120)),
        ("RGB", (9, 7), (121, 121, 121)),
    ]


def test_the_transform_is_applied(tmp_path):
    part = Folder("test", preprocessing(8), root=str(tree(tmp_path, ANIMALS)))
    image, label = part[1]
    assert label == 1
    torch.testing.assert_close(image, torch.full((3, 8, 8), 201 / 255))


def test_class_folders_that_are_empty_outside_training_are_no_harm(tmp_path):
    root = tree(tmp_path, ANIMALS)
    (root / "val" / "dog").mkdir()
    assert found_in(Folder("val", root=str(root))) == [
        ("cat", "cat", "0.png"),
        *(("eel", "eel", f"{n}.png") for n in (0, 1)),
    ]


def test_hidden_folders_and_stray_files_are_no_classes(tmp_path):
    root = tree(
        tmp_path, {"train/cat": 1, "train/dog": 1, "train/.ipynb_checkpoints": 1, "val/dog": 1, "val/.trash": 1}
    )
    (root / "train" / "LICENSE.txt").write_text("free")
    (root / "val" / "contents.png").write_bytes(b"")
    (root / "val" / "dog" / "notes.txt").write_text("no image")
    assert Folder("train", root=str(root)).class_names == ("cat", "dog")
    assert found_in(Folder("val", root=str(root))) == [("dog", "dog", "0.png")]


def test_folders_within_a_class_belong_to_it(tmp_path):
    part = Folder("train", root=str(tree(tmp_path, {"train/cat": 1, "train/cat/indoors": 2, "train/dog": 1})))
    assert part.class_names == ("cat", "dog")
    assert part.targets == [0, 0, 0, 1]


def test_parts_may_be_folders_of_other_names(tmp_path):
    root = str(tree(tmp_path, {"train/cat": 1, "train/dog": 1, "val/dog": 2, "held_out/cat": 3}))
    assert found_in(Folder("test", root=root, parts={"test": "val"})) == found_in(Folder("val", root=root))
    assert len(Folder("test", root=root, parts={"test": "held_out"})) == 3
    assert len(Folder("val", root=root, parts={"test": "held_out"})) == 2  # others stay


def test_classes_follow_the_folder_that_trains(tmp_path):
    root = str(tree(tmp_path, {"learn/cat": 1, "learn/dog": 1, "train/ant": 1, "val/dog": 2}))
    assert Folder("val", root=root, parts={"train": "learn"}).targets == [1, 1]
    with pytest.raises(ValueError, match=r"the class 'dog', which .*train does not have"):
        Folder("val", root=root)


def test_a_part_may_be_the_root_itself(tmp_path):
    root = str(tree(tmp_path, {"cat": 1, "dog": 2}))
    for split in ("train", "val", "test"):
        part = Folder(split, root=root, parts={split: "."})
        assert (part.class_names, part.targets) == (("cat", "dog"), [0, 1, 1])


def test_a_set_to_evaluate_on_needs_no_training_part(tmp_path):
    part = Folder("test", root=str(tree(tmp_path, {"test/9": 1, "test/10": 2})))
    assert part.class_names == ("10", "9")  # sorted as text
    assert part.targets == [0, 0, 1]


def test_the_data_module_serves_folders(tmp_path):
    root = str(tree(tmp_path, ANIMALS))
    module = DataModule(
        lambda split, transform: Folder(split, transform, root=root), batch_size=2, eval_transform=preprocessing(8)
    )
    batches = list(module.val_dataloader())
    assert [images.shape for images, _ in batches] == [(2, 3, 8, 8), (1, 3, 8, 8)]
    assert torch.cat([labels for _, labels in batches]).tolist() == [0, 2, 2]
    assert module.class_names == ("cat", "dog", "eel")
