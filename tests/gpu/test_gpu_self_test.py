"""The command's own laws hold on the device, in less than a minute beside the compiler's."""

from __future__ import annotations

from bcos_vit.cli.main import main
from devices import DEVICE


def test_the_self_test(capsys) -> None:
    status = main(["doctor", "--self-test", "--device", str(DEVICE)])
    said = capsys.readouterr().out
    assert status == 0, said
    assert said.splitlines()[-1].startswith("verdict: all ")
