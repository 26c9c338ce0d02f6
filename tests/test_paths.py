"""``~`` is the home folder wherever a user gives a path, and words become names of files."""

import unicodedata

import numpy as np
import pytest
from PIL import Image

import runs
from bcos_vit import Explanation, ViT, create_model, explain, save_model
from bcos_vit.data import CIFAR10, Folder, ImageNet
from bcos_vit.explanation import files
from bcos_vit.models.pretrained import cache_folder
from bcos_vit.models.weights import is_weights_file, load_model
from bcos_vit.paths import in_a_name, user_path
from bcos_vit.photos import read_photo
from toys import toy


@pytest.fixture
def home(tmp_path, monkeypatch):
    """A home folder, which is not the current one."""
    home, work = tmp_path / "home", tmp_path / "work"
    home.mkdir()
    work.mkdir()
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.chdir(work)
    yield home
    assert list(work.iterdir()) == []  # no folder called ~


def test_an_unknown_user_and_a_later_tilde_are_left_alone(home):
    assert user_path("~") == home
    assert str(user_path("~nobody-at-all/x")) == "~nobody-at-all/x"
    assert str(user_path("a/~/b")) == "a/~/b"


def test_weights_go_to_the_home_folder_and_come_from_it(home):
    model = toy("bcos_vit_digits")
    save_model(model, "~/mine.safetensors")
    assert (home / "mine.safetensors").is_file()
    assert is_weights_file("~/mine.safetensors")
    assert create_model("~/mine.safetensors").spec == load_model("~/mine.safetensors").spec == model.spec
    model.save_pretrained("~/shared")
    assert ViT.from_pretrained("~/shared").spec == model.spec
    assert create_model("~/shared").spec == model.spec
    assert cache_folder("~/cache") == home / "cache"


def test_explanations_and_photos(home):
    model, rng = toy("bcos_vit_digits"), np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 255, (8, 8, 3), dtype=np.uint8)).save(home / "a.png")
    assert read_photo("~/a.png").size == (8, 8)
    explanation = explain(model, model.transform("~/a.png")[None])
    explanation.save("~/a.safetensors")
    assert Explanation.load("~/a.safetensors").target == explanation.target
    assert files.read("~/a.safetensors")[1]


@pytest.mark.parametrize("kind", [Folder, ImageNet, CIFAR10])
def test_data_sets_are_looked_for_in_the_home_folder(home, kind):
    with pytest.raises((OSError, RuntimeError, ValueError), match=str(home / "photos")):
        kind("train", root="~/photos")


def test_a_part_of_the_data_may_lie_elsewhere_in_the_home_folder(home, tmp_path):
    runs.write_photos(tmp_path / "photos", {"train/a": 1, "train/b": 1})
    runs.write_photos(home, {"mine/a": 2})
    assert Folder("test", root=str(tmp_path / "photos"), parts={"test": "~/mine"}).part == home / "mine"


def test_a_run_in_the_home_folder(home):
    with pytest.raises(FileNotFoundError, match=f"there is no .*{home}/none"):
        runs.train("output='~/run'", "resume='~/none/last.ckpt'")
    assert list(home.iterdir()) == []


@pytest.mark.parametrize(
    ("words", "name"),
    [
        ("Kätzchen", "Kätzchen"),
        (unicodedata.normalize("NFD", "Kätzchen"), "Kätzchen"),
        ("小猫", "小猫"),
        ("हिन्दी", "हिन्दी"),
        ("قطة صغيرة", "قطة-صغيرة"),
        ("../a/b\\c", "-a-b-c"),
        ("a\n\0b", "a-b"),
        (".hidden", "-hidden"),
        ("\N{CAT FACE}", "-"),
        ("x" * 500, "x" * 80),
        ("猫" * 80, "猫" * 26),
    ],
)
def test_names_keep_letters_of_any_script(words, name):
    assert in_a_name(words) == name
    assert len(in_a_name(words).encode()) <= 80
