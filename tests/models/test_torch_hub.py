"""``hubconf.py``: the zoo by torch.hub, from a checkout, in a process that has not imported the package yet."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from bcos_vit import create_model, list_models

ROOT = Path(__file__).parents[2]
DIGITS = ("bcos_vit_digits", "standard_vit_digits")
SCRIPT = """
import json, sys, torch
assert "bcos_vit" not in sys.modules
said = {}
for key, function, source, args, options in json.loads(sys.argv[1]):
    try:
        found = getattr(torch.hub, function)(source, *args, **options)
    except Exception as error:
        found = [type(error).__name__, str(error)]
    if function == "load" and not isinstance(found, list):
        image = torch.linspace(0, 1, 3 * 64).reshape(1, 3, 8, 8)
        logits = found(image)[0].tolist()
        found = [repr(found.spec), found.class_names, found.training, logits]
    said[key] = found
print(json.dumps(said))
"""


def load(*args: Any, **options: Any) -> tuple[Any, ...]:
    return "load", str(ROOT), args, {"source": "local"} | options


def weights(name: str) -> str:
    return str(ROOT / "checkpoints" / f"{name}.safetensors")


CALLS: dict[str, tuple[Any, ...]] = {
    "entries": ("list", "user/bcos_vit:main", (), {"trust_repo": True}),
    **{f"help {n}": ("help", "user/bcos_vit:main", (n,), {"trust_repo": True}) for n in list_models()},
    **{f"name {n}": load(n, pretrained=True) for n in DIGITS},
    **{f"file {n}": load("create_model", weights(n)) for n in DIGITS},
    **{f"other {n}": load(n, pretrained=True, num_classes=3, image_size=16) for n in DIGITS},
    **{f"untrained {n}": load(n, depth=2) for n in DIGITS},
    "unknown argument": load(DIGITS[0], pretrained=True, pretraind=True),
    "unknown field": load(DIGITS[0], depht=3),
    "unknown name": load("bcos_vit_digit"),
    "no weights": load("bcos_vitc_ti_rope_patch1_14", pretrained=True),
}


@pytest.fixture(scope="module")
def said(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What torch.hub gave back, in one new process. The checkout is its copy of a repository of GitHub, too."""
    home = tmp_path_factory.mktemp("home")
    (home / "hub").mkdir()
    (home / "hub" / "user_bcos_vit_main").symlink_to(ROOT)
    kept = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"} | {"TORCH_HOME": str(home)}
    calls = [[key, *call] for key, call in CALLS.items()]
    command = [sys.executable, "-c", SCRIPT, json.dumps(calls)]
    done = subprocess.run(command, cwd=home, env=kept, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def test_every_name_is_an_entry_point(said: dict[str, Any]) -> None:
    assert sorted(said["entries"]) == sorted([*list_models(), "create_model"])
    for name in list_models():
        assert f'create_model("{name}")' in said[f"help {name}"]
        assert "pretrained" in said[f"help {name}"]


@pytest.mark.parametrize("name", DIGITS)
def test_trained_models_by_torch_hub(name: str, said: dict[str, Any]) -> None:
    model = create_model(name, pretrained=True)
    logits = model(torch.linspace(0, 1, 3 * 64).reshape(1, 3, 8, 8))[0]
    for found in (said[f"name {name}"], said[f"file {name}"]):
        assert found[:3] == [repr(model.spec), list("0123456789"), False]
        torch.testing.assert_close(torch.tensor(found[3]), logits, rtol=1e-4, atol=1e-4)
    other = said[f"other {name}"]
    assert other[:2] == [repr(create_model(name, num_classes=3, image_size=16).spec), None]
    assert len(other[3]) == 3
    untrained = said[f"untrained {name}"]
    assert untrained[0] == repr(create_model(name, depth=2).spec)
    assert untrained[3] != pytest.approx(logits.tolist(), abs=1e-2)


def test_what_there_is_not_is_an_error(said: dict[str, Any]) -> None:
    kind, sentence = said["unknown argument"]
    assert kind == "TypeError"
    assert "unknown override 'pretraind'" in sentence
    assert said["unknown field"] == ["TypeError", "unknown override 'depht', did you mean 'depth'?"]
    assert said["unknown name"][0] == "RuntimeError"
    assert "bcos_vit_digit" in said["unknown name"][1]
    kind, sentence = said["no weights"]
    assert kind == "ValueError"
    assert "has no trained weights" in sentence
