"""``bcos-vit doctor --self-test``: the laws hold here, and what is broken is named, with exit status 1."""

from __future__ import annotations

import math
import re

import pytest
import torch

from bcos_vit.cli import self_test
from bcos_vit.cli.self_test import LAWS, Finding
from bcos_vit.explanation import inherent
from bcos_vit.layers import attention, bcos, norm

KINDS = ("shipped", "random ViT", "random ViTC")


@pytest.fixture(autouse=True)
def compiled(monkeypatch):
    """Compilation takes as long as all others together, and one test is enough."""
    monkeypatch.setattr(torch, "compile", lambda model, **_: model)


@pytest.fixture
def broken(command):
    """Run the self-test and return the laws that do not hold."""

    def run():
        said = command("doctor", "--self-test", "--device", "cpu")
        lines = said.out.partition("self-test on cpu\n")[2].splitlines()
        wrong = [line.removeprefix("  WRONG ") for line in lines if line.startswith("  WRONG")]
        assert said.status == (1 if wrong else 0)
        assert said.err == ""
        if wrong:
            expected = f"verdict: {len(wrong)} of {len(KINDS) * len(LAWS) + 1} laws do not hold on cpu "
            assert lines[-1].startswith(expected)
            assert lines[-1].endswith(" s): report all of the above")
        return wrong

    return run


def test_all_laws_hold(command):
    said = command("doctor", "--self-test", "--device", "cpu")
    assert (said.status, said.err) == (0, "")
    assert said.out.startswith("versions\n")
    *lines, verdict = said.out.partition("self-test on cpu\n")[2].splitlines()
    figure = r" +\d\.\de[-+]\d\d \(at most \d\.\de[-+]\d\d\)"
    for kind in KINDS:
        for law in LAWS:
            assert [line for line in lines if re.fullmatch(f"  ok    {kind}: {law}{figure}", line)], (kind, law)
    assert re.fullmatch(f"  ok    compiled against eager logits{figure}", lines[-1])
    assert re.fullmatch("  -     memory at its highest.* torch does not count it on cpu", lines[-2])
    assert re.fullmatch(rf"verdict: all {len(lines) - 1} laws hold on cpu \(\d+ s\)", verdict)


def unfrozen():
    return False


@pytest.mark.parametrize("module", [norm, attention], ids=["norm", "attention"])
def test_a_forgotten_freeze_is_found(broken, monkeypatch, module):
    monkeypatch.setattr(module, "is_frozen", unfrozen)
    wrong = broken()
    for kind in KINDS:
        assert any(line.startswith(f"{kind}: second derivative while explaining, which is zero ") for line in wrong)


def test_an_unfrozen_cosine_is_found(broken, monkeypatch):
    monkeypatch.setattr(bcos, "freeze", lambda t: t)
    assert len(broken()) > len(KINDS)


def test_a_tape_that_is_cut_is_found(broken, monkeypatch):
    """As by a backward pass that cannot be differentiated: the second derivative is zero, and means nothing."""
    whole = attention.Mix.backward
    monkeypatch.setattr(attention.Mix, "backward", staticmethod(lambda ctx, g: whole(ctx, g.detach())))
    wrong = broken()
    assert [line.partition(":")[0] for line in wrong] == list(KINDS)
    cut = "ArithmeticError: the backward pass of an explanation is cut off from blocks.0.attention.project"
    assert all(cut in line for line in wrong)


def test_a_device_that_computes_something_else_is_found(broken, monkeypatch):
    """Which the CPU is made to do in float32 only."""
    right = bcos.cosine_power

    def power(l, n, r, b):
        return right(l, n, r, b) * (1.001 if l.dtype == torch.float32 else 1)

    monkeypatch.setattr(bcos, "cosine_power", power)
    wrong = broken()
    for kind in KINDS:
        assert any(line.startswith(f"{kind}: logits of explanations against float64 on the CPU ") for line in wrong)
        assert any(line.startswith(f"{kind}: rows of all classes against float64 on the CPU ") for line in wrong)
    assert len(wrong) == 3 * len(KINDS)  # with predictions; sums still close: of those alone nothing would be seen


def test_ledgers_that_do_not_close_are_found(broken, monkeypatch):
    right = inherent._contributions
    monkeypatch.setattr(inherent, "_contributions", lambda *given: 2 * right(*given))
    wrong = broken()
    for kind in KINDS:
        for precision in ("float32", "bfloat16", "autocast to bfloat16"):
            assert any(line.startswith(f"{kind}: residual of the ledger, {precision} ") for line in wrong)


def test_an_error_is_the_finding_of_one_law(broken, monkeypatch):
    def fails(*_):
        raise NotImplementedError("no such\noperation")

    monkeypatch.setattr(self_test, "anatomy", fails)
    wrong = broken()
    assert len(wrong) == len(KINDS)
    assert all(line.endswith(" NotImplementedError: no such operation") for line in wrong)


def test_compiled_code_that_computes_something_else_is_found(broken, monkeypatch):
    monkeypatch.setattr(torch, "compile", lambda model, **_: lambda images: 1.01 * model(images))
    (line,) = broken()
    assert line.startswith("compiled against eager logits ")


def test_no_compiler_is_no_fault(command, monkeypatch):
    def missing(*_, **__):
        raise RuntimeError("no working\nC++ compiler")

    monkeypatch.setattr(torch, "compile", missing)
    said = command("doctor", "--self-test", "--device", "cpu")
    assert said.status == 0
    line = said.out.splitlines()[-2]
    assert line.startswith("  -     compiled against eager logits ")
    assert line.endswith(" torch.compile does not work here: RuntimeError: no working C++ compiler")


@pytest.mark.parametrize(("figure", "holds"), [(1e-6, True), (1e-5, True), (2e-5, False), (math.nan, False)])
def test_a_figure_is_held_against_its_limit(figure, holds):
    finding = Finding("residual", 1e-5, figure)
    assert finding.holds is holds
    assert str(finding).startswith("ok " if holds else "WRONG ")


@pytest.mark.parametrize("device", ["gpu", "meta", "cpu:x"])
def test_a_device_that_cannot_be_used_is_named(command, device):
    said = command("doctor", "--self-test", "--device", device)
    assert said.status == 2
    assert said.err.startswith(f"bcos-vit doctor: --device {device} cannot be used: ")
    assert len(said.err.splitlines()) == 1


def test_a_device_without_a_test_is_asked_about(command):
    said = command("doctor", "--device", "cpu")
    assert (said.status, said.out) == (2, "")
    assert said.err == "bcos-vit doctor: --device cpu says where to test: add --self-test\n"


@pytest.mark.slow
def test_compiled_code_is_right_here(monkeypatch):
    monkeypatch.undo()
    finding = self_test._compiling(torch.device("cpu"))
    assert finding.holds is not False
