"""Models to and from the Hub, which is played by this machine."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from huggingface_hub import HfApi, ModelCard
from safetensors.torch import load_file

from bcos_vit import ViT, create_model
from loopback import COMMIT, Loopback, serving
from toys import toy

FILES = ["README.md", "config.json", "model.safetensors"]


# --- push_to_hub ---


@pytest.fixture
def pushed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> dict[str, Any]:
    """What the Hub would have been asked; the files that it would have got lie in ``pushed["folder"]``."""
    asked: dict[str, Any] = {}

    def create_repo(self: HfApi, repo_id: str, **given: Any) -> SimpleNamespace:
        asked["created"] = repo_id, given["private"]
        return SimpleNamespace(repo_id=repo_id)

    def upload_folder(self: HfApi, *, folder_path: Path, **given: Any) -> str:
        asked.update(given, folder=Path(shutil.copytree(folder_path, tmp_path / "uploaded")))
        return "https://huggingface.co/user/name/commit/1"

    monkeypatch.setattr(HfApi, "create_repo", create_repo)
    monkeypatch.setattr(HfApi, "upload_folder", upload_folder)
    return asked


@pytest.mark.parametrize("name", ["bcos_vit_digits", "standard_vit_digits"])
def test_pushing_uploads_the_whole_folder(name: str, pushed: dict[str, Any], tmp_path: Path) -> None:
    model = create_model(name, pretrained=True)
    assert model.push_to_hub("user/name", private=True, commit_message="Weights") == (
        "https://huggingface.co/user/name/commit/1"
    )
    assert pushed["created"] == ("user/name", True)
    assert (pushed["repo_id"], pushed["repo_type"], pushed["commit_message"]) == ("user/name", "model", "Weights")
    assert sorted(path.name for path in pushed["folder"].iterdir()) == FILES
    assert ModelCard.load(pushed["folder"] / "README.md").data.library_name == "bcos_vit"
    again = ViT.from_pretrained(pushed["folder"])
    assert (again.spec, again.class_names, again.about) == (model.spec, model.class_names, model.about)
    assert all(torch.equal(again.state_dict()[key], tensor) for key, tensor in model.state_dict().items())


def test_saving_can_push_too(pushed: dict[str, Any], tmp_path: Path) -> None:
    model = toy("bcos_vit_digits")
    model.save_pretrained(tmp_path / "mine", push_to_hub=True, repo_id="user/name")
    assert pushed["repo_id"] == "user/name"
    for folder in (pushed["folder"], tmp_path / "mine"):
        assert sorted(path.name for path in folder.iterdir()) == FILES
        found = load_file(folder / "model.safetensors")
        assert all(torch.equal(found[key], tensor) for key, tensor in model.state_dict().items())


# --- from_pretrained ---

SCRIPT = """
import json, sys, bcos_vit
from safetensors.torch import save_file
for call in sys.stdin:
    source, out, options = json.loads(call)
    try:
        model = bcos_vit.ViT.from_pretrained(source, **options)
    except Exception as error:
        said = {"error": type(error).__name__, "os": isinstance(error, OSError), "message": str(error)}
    else:
        save_file(dict(model.state_dict()), out)
        said = {"spec": repr(model.spec), "names": model.class_names, "about": model.about}
        said |= {"training": model.training, "size": model.transform.image_size}
    print(json.dumps(said), flush=True)
"""


class Hub:
    """The Hub's place taken by a server, and a process that knows no other."""

    def __init__(self, server: Loopback, home: Path) -> None:
        self.server, self.home, self.out = server, home, home.with_name("found.safetensors")
        own = {"HF_ENDPOINT": server.address, "HF_HOME": str(home), "HF_HUB_DISABLE_XET": "1"}
        own |= {"no_proxy": "127.0.0.1", "HF_HUB_DISABLE_TELEMETRY": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
        kept = {key: value for key, value in os.environ.items() if not key.startswith(("HF_", "HUGGING"))}
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        self.process = subprocess.Popen([sys.executable, "-c", SCRIPT], env=kept | own, **pipes)

    def load(self, source: str, **options: Any) -> dict[str, Any]:
        """What the process says of ``from_pretrained``; the tensors lie in ``out``."""
        self.process.stdin.write(json.dumps([source, str(self.out), options]) + "\n")
        self.process.stdin.flush()
        said: dict[str, Any] = json.loads(self.process.stdout.readline())
        return said

    def asked(self) -> list[str]:
        """The requests since the last time."""
        found = self.server.requests.copy()
        self.server.requests.clear()
        return found


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hub]:
    folder = tmp_path_factory.mktemp("hub")
    for name in ("name", "broken", "empty"):
        (folder / "repositories" / name).mkdir(parents=True)
    shared().save_pretrained(folder / "repositories" / "name")
    shared().save_pretrained(folder / "repositories" / "broken")
    (folder / "repositories" / "broken" / "config.json").write_text("[1]")
    with serving(folder / "repositories") as server:
        hub = Hub(server, folder / "home")
        yield hub
        hub.process.kill()
        hub.process.communicate()


def shared() -> ViT:
    model = toy("bcos_vitc_ti_patch1_14", dtype=torch.float64, position="rope")
    model.class_names, model.about = ("a", "b", "c", "d", "ö"), {"recipe": {"seed": 0}}
    return model


def gets(requests: list[str]) -> list[str]:
    return [request.removeprefix("GET ") for request in requests if request.startswith("GET ")]


def test_models_come_from_the_hub_exactly_and_stay(hub: Hub) -> None:
    model, files = shared(), ("config.json", "model.safetensors")
    said = hub.load("user/name")
    assert said == {
        "spec": repr(model.spec),
        "names": list(model.class_names),
        "about": model.about,
        "training": False,
        "size": model.spec.image_size,
    }
    found = load_file(hub.out)
    assert found.keys() == model.state_dict().keys()
    for key, tensor in model.state_dict().items():
        assert found[key].dtype == torch.float64
        assert torch.equal(found[key], tensor), key
    assert gets(hub.asked()) == [f"/user/name/resolve/main/{file}" for file in files]
    assert sorted(p.name for p in hub.home.glob(f"hub/models--user--name/snapshots/{COMMIT}/*")) == list(files)

    assert hub.load("user/name", num_classes=3, image_size=96)["size"] == 96
    assert load_file(hub.out)["head.classify.weight"].shape[0] == 3
    assert gets(hub.asked()) == []  # what is kept has not changed
    assert hub.load("user/name", local_files_only=True) == said
    assert hub.asked() == []


def test_another_revision_another_cache_and_another_time(hub: Hub) -> None:
    cache = hub.home.with_name("elsewhere")
    assert "spec" in hub.load("user/name", revision="v2", cache_dir=str(cache))
    assert "/user/name/resolve/v2/model.safetensors" in gets(hub.asked())
    assert list(cache.glob(f"models--user--name/snapshots/{COMMIT}/model.safetensors"))
    assert "spec" in hub.load("user/name", revision="v2", cache_dir=str(cache), force_download=True)
    assert len(gets(hub.asked())) == 2


def test_repositories_that_hold_no_model(hub: Hub) -> None:
    said = hub.load("user/empty")
    assert said["os"], said
    assert "config.json" in said["message"]
    said = hub.load("user/broken")
    assert said["error"] == "ValueError"
    assert said["message"].startswith("the config.json of user/broken is no spec of a model: ")
    assert hub.load("user/empty", local_files_only=True)["os"]
    assert hub.load("user/name", depht=1)["message"] == "unknown override 'depht', did you mean 'depth'?"
    assert not [path for path in gets(hub.asked()) if path.endswith("model.safetensors")]
