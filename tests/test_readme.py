"""The README tells the truth: its table is that of the code, its Python runs, its files exist."""

import re
from pathlib import Path

import torch

from bcos_vit import ViT, create_model, list_models, save_model
from bcos_vit.models.zoo import CARDS

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_zoo_table_equals_the_zoo():
    rows = re.findall(r"^\| `(\w+)` \| ([\d.]+) \| (\d+) \| (\d+) \| (\d+) \| (\w+) \|", README, re.MULTILINE)
    assert [row[0] for row in rows] == list_models()
    for name, parameters, *sizes in rows:
        spec = CARDS[name].spec
        assert sizes == [str(spec.width), str(spec.depth), str(spec.heads), spec.position]
        with torch.device("meta"):
            count = sum(p.numel() for p in ViT(spec).parameters())
        assert parameters == f"{count / 1e6:.2f}"


def test_python_runs_as_printed(tmp_path, monkeypatch):
    (code,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    monkeypatch.chdir(tmp_path)
    save_model(create_model("bcos_vit_digits"), "model.safetensors")
    assert code.count("runs/.../model.safetensors") == 1
    exec(code.replace("runs/.../model.safetensors", "./model.safetensors"), {})
    assert (tmp_path / "explanation.png").stat().st_size > 10_000


def test_linked_files_exist():
    links = re.findall(r"\]\(([^)#:]+)\)", README)
    assert "docs/gallery.png" in links
    for link in links:
        assert (ROOT / link).is_file(), link


def test_opens_with_a_picture():
    heading, _, picture = README.splitlines()[:3]
    assert heading == "# bcos_vit"
    assert picture.startswith("![")
