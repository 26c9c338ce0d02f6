"""Photos may be called anything: every one gets results of its own, and what is said stays a line."""

import os
import subprocess
import sys
from pathlib import Path
from unicodedata import normalize

import pytest
from safetensors import safe_open

from bcos_vit import create_model, save_model
from commands import paired

ODD = {
    "with blanks": " a  cat .png",
    "accents": "Kätzchen, schläft.jpg.png",
    "many scripts": "مرحبا 猫 ไทย हिन्दी \N{SLEEPING FACE}.png",
    "mathematics": "$x^$.png",
    "more mathematics": r"\frac{1}{0}_{$.png",
    "newline": "one\ntwo.png",
    "terminal": "\x1b[31mred\a.png",
    "undecodable": os.fsdecode(b"caf\xe9.png"),
    "quotes": "'\"`$(ls)`.png",
    "wildcards": "*?[a].png",
    "200 characters": "x" * 196 + ".png",
    "80 characters of 3 bytes": "猫" * 80 + ".png",
    "hidden": ".cat.png",
    "dots": "...png",
    "no suffix": "cat",
    "dash": "-x.png",
    "backslash": "a\\b.png",
    "a result": "cat.1-wolf.png",
}


@pytest.fixture
def named(tmp_path, photo):
    """Make a photo of any name."""

    def make(name):
        (tmp_path / "in").mkdir(exist_ok=True)
        (tmp_path / "in" / name).write_bytes(photo.read_bytes())
        return tmp_path / "in" / name

    return make


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("kind", ODD)
def test_any_name_gets_its_picture_and_its_file(command, named, model_file, tmp_path, kind):
    path = named(ODD[kind])
    arguments = ("--model", model_file, "--out", tmp_path / "out", "--targets", "wolf")
    said = command("explain", path, *arguments)
    assert (said.status, said.err) == (0, "")
    (line,) = said.out.splitlines()
    assert line.isprintable()
    (name,) = paired(tmp_path / "out")
    assert line.endswith(f"{name}.png")
    assert name.endswith(".1-wolf")
    assert name.isprintable()
    with safe_open(tmp_path / "out" / f"{name}.safetensors", framework="pt") as file:
        assert line.startswith(f"{file.metadata()['photo']}: wolf, ")


@pytest.mark.parametrize("kind", ["newline", "terminal", "undecodable"])
def test_a_refused_name_is_one_printable_line(command, named, model_file, tmp_path, kind):
    named(ODD[kind]).write_bytes(b"")
    said = command("explain", tmp_path / "in" / ODD[kind], "--model", model_file, "--out", tmp_path / "out")
    first, last = said.err.splitlines()
    assert first.isprintable()
    assert first.endswith(".png is empty")
    assert last == "bcos-vit explain: 1 of 1 photos failed"


def test_photos_of_one_name_do_not_overwrite_each_other(command, tmp_path, photo, model_file):
    names = ("a/cat.png", "b/cat.png", "b/cat-2.png", "b/cat.jpg", "b/CAT.png", "b/.cat.png")
    for name in names:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(photo.read_bytes())
    arguments = ("--model", model_file, "--out", tmp_path / "out", "--targets", "wolf")
    said = command("explain", *(tmp_path / name for name in names), tmp_path / names[0], *arguments)
    assert said.status == 0
    found = paired(tmp_path / "out")
    assert len({name.casefold() for name in found}) == 7  # not all file systems tell capitals apart
    shown = [line.split(": ")[0] for line in said.out.splitlines()]
    assert shown == [str(tmp_path / name) for name in (*names, names[0])]


def test_classes_that_share_a_name_do_not_overwrite_each_other(command, tmp_path, photo, model_file):
    arguments = ("--model", model_file, "--out", tmp_path, "--targets", "3,4,3-vs-4,4-vs-3,2")
    assert command("explain", photo, *arguments).status == 0
    assert paired(tmp_path).keys() == {"cat.3-crane", "cat.4-Crane", "cat.3-vs-4", "cat.4-vs-3", "cat.2--x-"}


def test_a_leading_dash_is_a_name_after_two(command, named, model_file, tmp_path, monkeypatch):
    monkeypatch.chdir(named("-x.png").parent)
    arguments = ("--model", model_file, "--out", "-out", "--targets", "1")
    assert command("explain", "-x.png", *arguments).status == 2
    assert command("explain", "--model", model_file, "--targets", "1", "--out=-out", "--", "-x.png").status == 0
    assert paired(Path("-out")).keys() == {"-x.1-wolf"}


def test_model_and_folder_may_have_odd_names_too(command, photo, model_file, tmp_path):
    model = tmp_path / "$x^$ \n\N{CAT FACE}.safetensors"
    model.write_bytes(model_file.read_bytes())
    out = tmp_path / os.fsdecode(b"caf\xe9\n")
    said = command("explain", photo, "--model", model, "--out", out, "--targets", "wolf")
    assert (said.status, said.err) == (0, "")
    (line,) = said.out.splitlines()
    assert line.isprintable()
    plain = out.rename(tmp_path / "plain")  # what safetensors can open
    assert paired(plain).keys() == {"cat.1-wolf"}


@pytest.mark.slow
def test_a_terminal_that_cannot_show_a_name_is_no_reason_to_stop(named, model_file, tmp_path):
    path = named("\N{CAT FACE}.png")
    done = subprocess.run(
        [sys.executable, "-m", "bcos_vit.cli", "explain", path, "--model", model_file, "--out", tmp_path / "out"],
        env=os.environ | {"PYTHONIOENCODING": "ascii:strict", "PYTHONUTF8": "1"},
        capture_output=True,
        check=False,
    )
    assert (done.returncode, b"Traceback" in done.stderr) == (0, False)
    assert done.stdout.decode("ascii").startswith(f"{path.parent}/\\U0001f431.png: ")
    assert len(paired(tmp_path / "out")) == 1


@pytest.mark.parametrize(
    ("name", "kept"),
    [
        ("Kätzchen", "Kätzchen"),
        ("小猫", "小猫"),
        ("बिल्ली", "बिल्ली"),
        ("a/../b", "a-b"),
        ("猫" * 99, "猫" * 26),
        ("x" * 300, "x" * 80),
    ],
)
def test_classes_keep_the_letters_of_their_script(command, model_file, photo, tmp_path, name, kept):
    model = create_model(model_file)
    model.class_names = ("other", name, "c", "d", "e")
    save_model(model, tmp_path / "named.safetensors")
    words = ("--model", tmp_path / "named.safetensors", "--out", tmp_path / "out", "--targets", "1")
    assert command("explain", photo, *words).status == 0
    assert paired(tmp_path / "out").keys() == {f"cat.1-{kept}"}


def test_a_photo_of_a_decomposed_name_is_called_in_one_form(command, named, model_file, tmp_path):
    words = ("--model", model_file, "--out", tmp_path / "out", "--targets", "1")
    assert command("explain", named(normalize("NFD", "Kätzchen.png")), *words).status == 0
    assert paired(tmp_path / "out").keys() == {normalize("NFC", "Kätzchen.1-wolf")}
