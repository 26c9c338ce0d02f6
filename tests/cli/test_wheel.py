"""The wheel alone, in an empty folder and without a network: the shipped models run, and are the shipped ones."""

import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import torch

from bcos_vit import create_model
from bcos_vit.models import shipped
from commands import paired

ROOT = Path(__file__).parents[2]
SHIPPED = ("bcos_vit_digits", "standard_vit_digits", "bcos_vit_shapes", "standard_vit_shapes")

OFFLINE = """
import socket, sys

def refuse(event, arguments):
    if event in ("socket.connect", "socket.getaddrinfo", "socket.gethostbyname", "socket.sendto"):
        raise ConnectionRefusedError(f"the network is off: {event}")

sys.addaudithook(refuse)
"""
CONTROL = """
refused = []
for call in (lambda: socket.getaddrinfo("localhost", 80), lambda: socket.create_connection(("127.0.0.1", 9), 1),
             lambda: socket.socket().connect(("127.0.0.1", 9))):
    try:
        call()
    except ConnectionRefusedError as error:
        refused.append("the network is off" in str(error))
print(refused)
"""
USE = """
import json, torch, bcos_vit
from bcos_vit.cli.main import main
images = torch.full((2, 3, 32, 32), 0.5)
logits = {name: bcos_vit.create_model(name, pretrained=True)(images)[0].tolist() for name in NAMES}
bcos_vit.explain(bcos_vit.create_model(NAMES[0], pretrained=True), images).check()
status = main(["explain", PHOTO, "--model", NAMES[0], "--out", OUT, "--targets", "top1,3-vs-8"])
print(json.dumps({"file": bcos_vit.__file__, "logits": logits, "status": status, "doctor": main(["doctor"])}))
"""


@pytest.fixture(scope="session")
def wheel(tmp_path_factory):
    """The wheel of the files that are, or would be, in the repository."""
    source, made = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    for name in project_files():
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, source / name)
    run([sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", made, source])
    (path,) = made.glob("*.whl")
    return path


@pytest.fixture(scope="session")
def installed(wheel, tmp_path_factory):
    """A folder that holds the wheel's content only."""
    folder = tmp_path_factory.mktemp("installed")
    pip = [sys.executable, "-m", "pip", "install", "--no-deps", "--no-index", "--no-compile", "--target", folder, wheel]
    run(pip)
    return folder


def project_files():
    """Paths of what belongs to the project, where git does not know it by its folders."""
    if (ROOT / ".git").exists():
        listed = run(["git", "ls-files", "-z", "-co", "--exclude-standard"], cwd=ROOT)
        return [name for name in listed.stdout.split("\0")[:-1] if (ROOT / name).is_file()]  # and not deleted since
    found = [*ROOT.iterdir(), *ROOT.glob("bcos_vit/**/*.py"), *ROOT.glob("checkpoints/*")]
    return [str(path.relative_to(ROOT)) for path in found if path.is_file()]


def run(command, **options):
    done = subprocess.run(command, capture_output=True, text=True, check=False, **options)
    assert done.returncode == 0, done.stdout + done.stderr
    return done


def test_wheel_holds_the_package_and_the_shipped_models_only(wheel):
    with zipfile.ZipFile(wheel) as file:
        names = set(file.namelist())
    assert {str(path.relative_to(ROOT)) for path in ROOT.glob("bcos_vit/**/*.py")} <= names
    assert {f"bcos_vit/checkpoints/{name}{suffix}" for name in SHIPPED for suffix in (".json", ".safetensors")} <= names
    assert {name.split("/")[0].split("-")[0] for name in names} == {"bcos_vit"}
    assert not [name for name in names if "__pycache__" in name]
    assert [name for name in names if name.endswith("/LICENSE")]


@pytest.mark.slow
def test_shipped_models_explain_from_the_wheel_alone_without_a_network(installed, photo, tmp_path):
    values = f"NAMES = {SHIPPED}; PHOTO = {str(photo)!r}; OUT = {str(tmp_path / 'out')!r}\n"
    (tmp_path / "runner.py").write_text(OFFLINE + CONTROL + values + USE)
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    command = [sys.executable, "runner.py"]
    done = run(command, cwd=tmp_path, env=environment | {"PYTHONPATH": str(installed)})
    assert "Traceback" not in done.stderr
    first, *_, last = done.stdout.splitlines()
    assert first == "[True, True, True]"  # the network is off indeed
    said = json.loads(last)
    assert Path(said["file"]).is_relative_to(installed)
    assert (said["status"], said["doctor"]) == (0, 0)
    assert f"  {SHIPPED[0]:<22}{installed}" in done.stdout  # and not the checkout's weights
    assert len(paired(tmp_path / "out")) == 2
    for name in SHIPPED:
        here = create_model(name, pretrained=True)(torch.full((2, 3, 32, 32), 0.5))[0]
        assert torch.allclose(torch.tensor(said["logits"][name]), here, atol=1e-5)


def test_the_script_of_the_wheel_runs(installed, tmp_path):
    environment = os.environ | {"PYTHONPATH": str(installed)}
    (script,) = (installed / "bin").glob("bcos-vit*")
    done = run([script, "models", "bcos_vit_digits"], cwd=tmp_path, env=environment)
    assert "weights     shipped" in done.stdout


@pytest.mark.parametrize("name", SHIPPED)
@pytest.mark.parametrize("place", [0, 0.5, -1, "cut", "longer"])
def test_changed_weights_are_refused(tmp_path, monkeypatch, name, place):
    weights = bytearray(shipped.shipped_weights(name).read_bytes())
    if place == "cut":
        del weights[-1]
    elif place == "longer":
        weights.append(0)
    else:
        weights[int(place * len(weights)) if place == 0.5 else place] ^= 1  # one bit
    card = json.dumps(shipped.shipped_card(name))
    (tmp_path / f"{name}.json").write_text(card)
    (tmp_path / f"{name}.safetensors").write_bytes(weights)
    monkeypatch.setattr(shipped, "FOLDERS", (tmp_path,))
    with pytest.raises(
        ValueError, match=rf"{name}\.safetensors is damaged: its SHA-256 is \w{{10}}\.\.\., the card says"
    ):
        create_model(name, pretrained=True)
