"""The README tells the truth: its table is that of the code, its Python runs, its files exist."""

import re
import shlex
from pathlib import Path

from hydra import compose, initialize_config_dir

from bcos_vit import list_models
from bcos_vit.cli.main import _parser
from bcos_vit.cli.models import markdown

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
IMAGENET = (ROOT / "docs/imagenet.md").read_text(encoding="utf-8")


def test_zoo_table_is_that_of_the_command():
    assert "\n".join(markdown(list_models())) in README


def test_python_runs_as_printed(tmp_path, monkeypatch):
    blocks = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    monkeypatch.chdir(tmp_path)
    exec("\n".join(blocks), {})
    assert (tmp_path / "explanation.png").stat().st_size > 10_000


def test_commands_are_understood():
    lines = re.findall(r"^    (\S.*)$", README + IMAGENET, re.MULTILINE)
    commands = [shlex.split(line, comments=True) for line in lines]
    scripts = {"train.py": "train", "evaluate.py": "evaluate"}
    counted = dict.fromkeys(["bcos-vit", *scripts], 0)
    for command in commands:
        if command[0] == "bcos-vit":
            counted["bcos-vit"] += 1
            _parser().parse_args(command[1:])  # exits if it cannot
        elif command[0] == "python":
            counted[command[1]] += 1
            words = command[2:]
            if words[:1] == ["-m"]:  # of several runs, the first
                words = [word.partition(",")[0] for word in words[1:]]
            with initialize_config_dir(str(ROOT / "configs"), version_base="1.3"):
                compose(scripts[command[1]], words)
    assert all(counted.values())


def test_linked_files_exist():
    links = re.findall(r"\]\(([^)#:]+)\)", README)
    assert "docs/gallery.png" in links
    for link in links:
        assert (ROOT / link).exists(), link


def test_opens_with_a_picture():
    heading, _, picture = README.splitlines()[:3]
    assert heading == "# bcos_vit"
    assert picture.startswith("![")


def test_costs_are_those_of_the_benchmark():
    section = README.partition("## What an explanation costs")[2].partition("\n## ")[0]
    measured = (ROOT / "docs/benchmark.md").read_text(encoding="utf-8").splitlines()
    rows = [line for line in section.splitlines() if line.startswith("| `bcos") or line.startswith("| bcos")]
    assert rows
    assert not [row for row in rows if row not in measured]
