"""Paths on the command line of ``train.py`` and ``evaluate.py``, as a shell hands them on."""

import os
import subprocess
import sys

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser

import runs
from bcos_vit.config_words import readable

ODD = [
    *("/tmp/a=b", "my photos, 2024 (1)", "[x]/y", "[x]", "{a: b}", "a#b", "café/x", "日本語", "it's, a", 'a"b', "a'b"),
    *("a;b&c!", "(1)", "a(1)", "glob(x)", "2024", "1e5", "true", "x ", " x", "a\nb", "trail,\\", '\\",'),
    *("$HOME,", "`ls`", "*?,"),
]
PLAIN = [
    "/tmp/photos",
    "my photos",
    "../a-b_c.d/e",
    "a:b",
    "100%",
    "0012",
    "'x, y'",
    '"a=b"',
    "null",
    "runs/${seed}",
    "",
]


def typed(line):
    """The words that a program gets which is called so in a shell."""
    code = "import sys; sys.stdout.write(chr(0).join(sys.argv[1:]))"
    line = line.replace("python train.py", f"{sys.executable} -c '{code}'", 1)
    done = subprocess.run(["bash", "-c", line], capture_output=True, check=True)
    return os.fsdecode(done.stdout).split("\0")


def refusal(*words):
    with pytest.raises(ValueError, match="cannot be read, since Hydra gives signs ") as raised:
        readable(words, program="train.py")
    return str(raised.value)


@pytest.mark.parametrize("path", ODD)
def test_the_line_to_type_hands_the_path_on(path):
    line = refusal("seed=1", f"data.root={path}", f"resume={path}").partition(" type: ")[2]
    words = readable(typed(line), program="train.py")
    chosen = runs.config(*words, "data=folder")
    assert (chosen.seed, chosen.data.root, chosen.resume) == (1, path, path)


@pytest.mark.parametrize("key", ["data.root", "model.name", "output", "resume"])
@pytest.mark.parametrize("path", PLAIN)
def test_what_can_be_read_is_left_alone(key, path):
    assert readable([f"{key}={path}"], program="train.py") == [f"{key}={path}"]


def test_several_values_are_meant_in_a_multirun():
    words = ["--multirun", "data.root=a,b", "seed=0,1", "+data.x=[1,2]", "~model.x", "--config-dir", "/a=b"]
    assert readable(words, program="train.py") == words
    assert refusal("-m", "output=a=b").endswith("type: python train.py -m 'output=\"a=b\"'")
    assert readable(["seed=0,1", "metrics=[speed]"], program="evaluate.py") == ["seed=0,1", "metrics=[speed]"]


def test_home_is_expanded(monkeypatch):
    monkeypatch.setenv("HOME", "/home/of me")
    words = readable(["data.root=~/a b, c", "output=~", "+x=~nobody-at-all/y"], program="train.py")
    assert words == ['data.root="/home/of me/a b, c"', 'output="/home/of me"', '+x="~nobody-at-all/y"']
    assert runs.config(words[0], "data=folder").data.root == "/home/of me/a b, c"
    several = readable(["-m", "model.name=~/a,~/b c"], program="train.py")
    assert several == ["-m", 'model.name="/home/of me/a","/home/of me/b c"']


def test_home_is_expanded_in_each_value_of_a_multirun(monkeypatch):
    monkeypatch.setenv("HOME", "/home/of me")
    words = readable(["-m", "data.root=~/a,b, ~/c", "seed=0,1"], program="train.py")
    assert words == ["-m", 'data.root="/home/of me/a",b,"/home/of me/c"', "seed=0,1"]
    read = OverridesParser.create().parse_override(words[1])
    assert [getattr(value, "text", value) for value in read.value().list] == ["/home/of me/a", "b", "/home/of me/c"]


def test_a_path_that_a_shell_took_apart_at_spaces_is_put_together():
    said = refusal("output=my", "last", "run (2)", "seed=1", "-cn", "train")
    assert said.startswith("output=my last run (2) cannot be read, ")
    assert said.endswith(" type: python train.py 'output=\"my last run (2)\"' seed=1 -cn train")
    for alone in (["seed=1", "photos"], ["photos"], ["output=run", "~model.x"], ["output=run", "-m"]):
        assert readable(alone, program="train.py") == alone


def test_the_command_answers_in_a_sentence(tmp_path):
    done = runs.command("data=folder", "data.root=my photos, 2024 (1)", "output=a=b", folder=tmp_path)
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: data.root=my photos, 2024 (1) and output=a=b cannot be read, ")
    assert typed(line.partition(" type: ")[2])[1:] == ['data.root="my photos, 2024 (1)"', 'output="a=b"']
    assert list(tmp_path.iterdir()) == []
