"""ImageNet in folders: 1,000 classes in their order, whatever lies beside, and sentences where something is missing."""

import re
import shutil

import pytest
import torch

from bcos_vit import create_model, save_model
from bcos_vit.config import build
from bcos_vit.data import Folder, ImageNet
from bcos_vit.evaluation import evaluate
from bcos_vit.evaluation.setting import model_and_data
from bcos_vit.metrics import Accuracy
from bcos_vit.models.zoo import IMAGENET, preprocessing
from evaluations import quiet
from imagenet_tree import CLASSES, add_corrupt, add_oddities, bare_tree, imagenet_tree, pixel
from runs import config

KNOWN = {
    0: ("n01440764", "tench"),
    207: ("n02099601", "golden retriever"),
    281: ("n02123045", "tabby"),
    404: ("n02690373", "airliner"),
    817: ("n04285008", "sports car"),
    954: ("n07753592", "banana"),
    999: ("n15075141", "toilet tissue"),
}
TINY = {"depth": 1, "width": 24, "heads": 3, "mlp_width": 32}
VITC = "bcos_vitc_ti_patch1_14"


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Both parts; a test that changes anything makes its own."""
    return bare_tree(tmp_path_factory.mktemp("imagenet"), "train", "val")


@pytest.fixture
def val(tmp_path):
    """A validation part of a test's own."""
    return bare_tree(tmp_path / "imagenet", "val")


def refused(kind, sentence, split, root, **arguments):
    """That ``ImageNet`` raises ``kind`` with just this sentence, in which ROOT stands for the root."""
    with pytest.raises(kind, match=f"^{re.escape(sentence.replace('ROOT', str(root)))}$"):
        ImageNet(split, root=str(root), **arguments)


def lacks(part, count, wnid):
    few = f"ROOT/{part} lacks {count} of ImageNet's 1,000 class folders, such as {wnid}"
    return f"{few}: unpack them all, or take a subset of the classes as data=folder"


def absent(part):
    return (
        f"there is no folder ROOT/{part}: ImageNet is expected as ROOT/{part}/n01440764/*.JPEG and so on, 1,000 "
        "folders, or as the archives of image-net.org in ROOT, which data.dataset.unpack=true unpacks"
    )


# --- classes ---


def test_class_numbers_are_those_of_imagenet():
    assert len(CLASSES) == 1000
    assert list(CLASSES) == sorted(CLASSES)  # which is how ImageNet numbers them
    assert all(re.fullmatch(r"n\d{8}", wnid) for wnid in CLASSES)
    assert {number: list(CLASSES.items())[number] for number in KNOWN} == KNOWN


def test_class_names_are_those_of_the_published_models():
    assert tuple(CLASSES.values()) == tuple(IMAGENET)


@pytest.mark.parametrize("split", ["train", "val", "test"])
def test_every_folder_has_its_number(whole, split):
    part = ImageNet(split, root=str(whole))
    folder = {"train": "train", "val": "val", "test": "val"}[split]
    assert part.samples == [(f"{whole}/{folder}/{w}/{w}_0.JPEG", n) for n, w in enumerate(sorted(CLASSES))]
    assert part.class_names == tuple(IMAGENET)
    assert part[999][1] == 999
    assert "image-net.org" in part.licence


def test_transform_gets_the_photo(whole):
    part = ImageNet("val", lambda photo: (photo.mode, photo.size), root=str(whole))
    assert part[281] == (("RGB", (1, 1)), 281)


def test_numbers_are_right_whatever_lies_beside(val):
    for name in ("a", "n00000001", "n02000000", "n99999999", ".hidden", "n01440764.unpacking"):
        (val / "val" / name).mkdir()
        (val / "val" / name / "0.JPEG").write_bytes(pixel())
    (val / "val" / "n01440763").write_text("a file")
    (val / "val" / "0.JPEG").write_bytes(pixel())
    (val / "val" / "n01440764" / "notes.txt").write_text("no photo")
    part = ImageNet("val", root=str(val))
    assert [number for _, number in part.samples] == list(range(1000))
    assert [path.split("/")[-2] for path, _ in part.samples] == list(CLASSES)


def test_numbers_of_one_part_do_not_hang_on_another(val):
    (val / "train" / "n02123045").mkdir(parents=True)  # Folder would take the classes from here
    assert len(ImageNet("val", root=str(val))) == 1000


def test_files_of_a_class_come_sorted(val):
    names = ["ILSVRC2012_val_00000010.JPEG", "ILSVRC2012_val_00000002.JPEG", "b.jpg", "Z.JPEG", "a.png", "c.jpeg"]
    for name in names:
        (val / "val" / "n15075141" / name).write_bytes(pixel())
    found = [path.split("/")[-1] for path, number in ImageNet("val", root=str(val)).samples if number == 999]
    assert found == sorted([*names, "n15075141_0.JPEG"])


def test_parts_may_have_other_names(whole, tmp_path):
    (tmp_path / "ILSVRC2012_img_val").symlink_to(whole / "val")
    part = ImageNet("test", root=str(tmp_path), parts={"test": "ILSVRC2012_img_val"})
    assert [number for _, number in part.samples] == list(range(1000))


# --- what is missing ---


@pytest.mark.parametrize(("split", "folder"), [("train", "train"), ("test", "val")])
def test_a_missing_class_folder(tmp_path, split, folder):
    root = bare_tree(tmp_path, folder)
    shutil.rmtree(root / folder / "n02123045")
    refused(ValueError, lacks(folder, 1, "n02123045"), split, root)
    shutil.rmtree(root / folder / "n01440764")
    (root / folder / "n01440764").write_text("a file is no folder")
    refused(ValueError, lacks(folder, 2, "n01440764"), split, root)


def test_a_flat_folder(tmp_path):
    (tmp_path / "val").mkdir()
    for number in range(50):
        (tmp_path / "val" / f"ILSVRC2012_val_{number:08}.JPEG").write_bytes(pixel())
    refused(ValueError, lacks("val", "1,000", "n01440764"), "val", tmp_path)


def test_folders_of_other_names(tmp_path):
    for name in ("tench", "tabby"):
        (tmp_path / "val" / name).mkdir(parents=True)
    refused(ValueError, lacks("val", "1,000", "n01440764"), "test", tmp_path)


@pytest.mark.parametrize(("split", "part"), [("train", "train"), ("val", "val"), ("test", "val")])
def test_a_missing_part(tmp_path, split, part):
    (tmp_path / "other").mkdir()
    refused(FileNotFoundError, absent(part), split, tmp_path)
    refused(FileNotFoundError, absent(part), split, tmp_path / "none")
    (tmp_path / part).write_text("a file")
    refused(FileNotFoundError, absent(part), split, tmp_path)


def test_evaluation_needs_no_training_part(val):
    for split in ("val", "test"):
        assert len(ImageNet(split, root=str(val))) == 1000
    refused(FileNotFoundError, absent("train"), "train", val)


def test_a_class_without_photos_to_learn_from(tmp_path):
    root = bare_tree(tmp_path, "train", "val")
    for part in ("train", "val"):
        (root / part / "n02123045" / "n02123045_0.JPEG").unlink()
    with pytest.raises(ValueError, match=f"^there are no images in {root}/train/n02123045"):
        ImageNet("train", root=str(root))
    assert len(ImageNet("val", root=str(root))) == 999


def test_no_root():
    for split in ("train", "val"):
        for unpack in (False, True):
            sentence = "no folder is given: say where the images lie, as data.root=FOLDER"
            refused(ValueError, sentence, split, "", unpack=unpack)


@pytest.mark.parametrize("split", ["dev", "", "Val", None])
@pytest.mark.parametrize("unpack", [False, True])
def test_another_split(whole, split, unpack):
    refused(ValueError, f"split must be train, val or test, found {split!r}", split, whole, unpack=unpack)


def test_another_part(whole):
    refused(ValueError, "split must be train, val or test, found 'tset'", "val", whole, parts={"tset": "val"})


# --- models ---


def test_trained_weights_keep_their_head(whole, tmp_path, capsys):
    model = create_model(VITC, image_size=32, **TINY)
    assert model.class_names == tuple(IMAGENET)
    save_model(model, tmp_path / "trained.safetensors")
    chosen = config(f"model.name={tmp_path}/trained.safetensors", "data=imagenet", f"data.root={whole}")
    further, data = model_and_data(chosen, "val", adapt=True)
    assert "a new head" not in capsys.readouterr().out
    assert torch.equal(further.head.classify.weight, model.head.classify.weight)
    assert further.class_names == data.class_names == tuple(IMAGENET)
    assert chosen.image_size == 32


def test_trained_weights_of_another_order_keep_their_head(whole, tmp_path, capsys):
    model = create_model(VITC, image_size=32, **TINY)
    model.class_names = tuple(reversed(IMAGENET))
    save_model(model, tmp_path / "trained.safetensors")
    chosen = config(f"model.name={tmp_path}/trained.safetensors", "data=imagenet", f"data.root={whole}")
    further, _ = model_and_data(chosen, "val", adapt=True)
    assert "a new head" not in capsys.readouterr().out
    assert torch.equal(further.head.classify.weight, model.head.classify.weight.flip(0))
    assert further.class_names == tuple(IMAGENET)


def test_trained_weights_of_other_classes_get_a_head(whole, tmp_path, capsys):
    model = create_model(VITC, image_size=32, **TINY)
    model.class_names = tuple(f"{name}s" for name in IMAGENET)
    save_model(model, tmp_path / "trained.safetensors")
    chosen = config(f"model.name={tmp_path}/trained.safetensors", "data=imagenet", f"data.root={whole}")
    further, _ = model_and_data(chosen, "val", adapt=True)
    assert "a new head" in capsys.readouterr().out
    assert not torch.equal(further.head.classify.weight, model.head.classify.weight)
    assert further.class_names == tuple(IMAGENET)


def test_a_model_is_evaluated_on_all_classes(whole, tmp_path):
    # all photos are alike, and so are the predictions: one of a thousand is right, and it is in the right place
    save_model(create_model(VITC, image_size=16, **TINY), tmp_path / "m.safetensors")
    chosen = config(f"model.name={tmp_path}/m.safetensors", "data=imagenet", f"data.root={whole}", "data.num_workers=0")
    model, data = model_and_data(chosen, "test", adapt=False)
    report = evaluate(model, data, {"accuracy": Accuracy}, trainer=quiet())
    predicted = torch.cat([model(images).argmax(1) for images, _ in data.test_dataloader()])
    assert report.images == 1000
    assert int((predicted == torch.arange(1000)).sum()) == 1
    assert report.figures["accuracy"]["top1"] == pytest.approx(0.001)
    assert list(report.class_names) == list(IMAGENET)


# --- the kinds of files that ImageNet holds ---


@pytest.fixture(scope="module")
def odd(tmp_path_factory):
    """Folders of a few classes with odd files, and with corrupt ones: root, odd and corrupt files."""
    whole = tmp_path_factory.mktemp("odd")
    first = list(CLASSES)[:5] + list(CLASSES)[500:503]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("imagenet_tree.CLASSES", {wnid: CLASSES[wnid] for wnid in first})
        imagenet_tree(whole, train=1, val=1)
    return whole, add_oddities(whole, "val"), add_corrupt(whole, "val")


def imagenet_data(root, **arguments):
    """The data module of configs/data/imagenet.yaml, over folders of any number."""
    chosen = config("data=imagenet", f"data.root={root}", "image_size=224").data
    chosen.dataset = {"_target_": "bcos_vit.data.Folder", "_partial_": True}
    return build(chosen, num_workers=0, **arguments)


@pytest.mark.parametrize("which", ["train_transform", "eval_transform"])
@pytest.mark.parametrize("kind", ["cmyk", "grey", "palette", "pixel", "huge"])
def test_odd_files_are_transformed_like_any_other(odd, kind, which):
    root, files, _ = odd
    data = imagenet_data(root)
    part = Folder("val", getattr(data, which), root=str(root))
    image, label = part[[path for path, _ in part.samples].index(str(files[kind]))]
    assert image.shape == (3, 224, 224)
    assert image.dtype == torch.float32
    assert 0 <= float(image.min()) <= float(image.max()) <= 1
    assert part.classes[label] == files[kind].parent.name


def test_corrupt_files_of_imagenet_are_left_out_and_odd_ones_kept(odd):
    root, files, corrupt = odd
    data = imagenet_data(root, corrupt="skip", eval_transform=preprocessing(16))
    images, labels = map(torch.cat, zip(*data.val_dataloader(), strict=True))
    assert len(images) == len(labels) == 8 + len(files)
    reasons = data.reasons("val", data.skipped("val"))
    assert sorted(reason.split(" ")[0] for reason in reasons) == sorted(map(str, corrupt.values()))
