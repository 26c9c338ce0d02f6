"""Products of float32 while explaining: IEEE arithmetic inside, and what the user has chosen for speed put back."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from bcos_vit import TopK, anatomy, collapse, explain
from bcos_vit.export.certificate import compare
from bcos_vit.layers.precision import ieee_float32
from toys import NAME, VITC, images_for, toy

OPERATIONS = [("generic", "all"), *((b, o) for b in ("cuda", "mkldnn") for o in ("all", "matmul", "conv", "rnn"))]
BY_OPERATION = hasattr(torch._C, "_get_fp32_precision_getter")  # since torch 2.9

State = dict[Any, Any]


def read(get: Callable[[], Any]) -> Any:
    try:
        return get()
    except RuntimeError:
        return "cannot be read"


def state() -> State:
    """All that can be read of the process's switches, old and new."""
    found: State = {
        "products": read(torch.get_float32_matmul_precision),
        "cublas": read(lambda: torch.backends.cuda.matmul.allow_tf32),
        "cudnn": read(lambda: torch.backends.cudnn.allow_tf32),
    }
    if BY_OPERATION:
        found |= {key: torch._C._get_fp32_precision_getter(*key) for key in OPERATIONS}
    return found


def is_exact(found: State) -> bool:
    old = [found.pop(name) for name in ("products", "cublas", "cudnn")]
    return old == ["highest", False, False] and set(found.values()) <= {"ieee", "none"}


@pytest.fixture(autouse=True)
def _switches() -> Iterator[None]:
    before = state()
    yield
    torch.set_float32_matmul_precision(before["products"])
    torch.backends.cudnn.allow_tf32 = before["cudnn"]
    if BY_OPERATION:
        for key in OPERATIONS:
            torch._C._set_fp32_precision_setter(*key, "none")
        for key in OPERATIONS:
            if torch._C._get_fp32_precision_getter(*key) != before[key]:
                torch._C._set_fp32_precision_setter(*key, before[key])
    assert state() == before


def by_operation(*choices: tuple[str, str, str]) -> Callable[[], None]:
    def choose() -> None:
        if not BY_OPERATION:
            pytest.skip("torch has no switch for each operation before 2.9")
        for choice in choices:
            torch._C._set_fp32_precision_setter(*choice)

    return choose


def old(products: str, cudnn: bool) -> Callable[[], None]:
    def choose() -> None:
        torch.set_float32_matmul_precision(products)
        torch.backends.cudnn.allow_tf32 = cudnn

    return choose


CHOICES = pytest.mark.parametrize(
    "choose",
    [
        pytest.param(lambda: None, id="default"),
        pytest.param(old("high", True), id="high"),
        pytest.param(old("medium", False), id="medium"),
        pytest.param(lambda: setattr(torch.backends.cuda.matmul, "allow_tf32", True), id="cublas"),
        pytest.param(by_operation(("generic", "all", "tf32")), id="generic"),
        pytest.param(by_operation(("cuda", "all", "tf32"), ("cuda", "conv", "none")), id="a whole backend"),
        pytest.param(by_operation(("mkldnn", "matmul", "bf16"), ("mkldnn", "conv", "bf16")), id="new, of the CPU"),
        pytest.param(by_operation(("cuda", "conv", "ieee")), id="convolutions alone"),
        pytest.param(by_operation(("cuda", "matmul", "tf32")), id="new, against old"),
    ],
)


@CHOICES
def test_exact_inside_and_as_before_after(choose: Callable[[], None]) -> None:
    choose()
    before = state()
    with ieee_float32():
        assert is_exact(state())
        with ieee_float32():
            assert is_exact(state())
        assert is_exact(state())
    assert state() == before


@pytest.mark.skipif(not BY_OPERATION, reason="torch has no switch for each operation before 2.9")
def test_what_was_inherited_is_inherited_afterwards() -> None:
    choose = torch._C._set_fp32_precision_setter
    choose("generic", "all", "tf32")
    choose("mkldnn", "conv", "none")
    with ieee_float32():
        pass
    choose("generic", "all", "ieee")
    assert torch._C._get_fp32_precision_getter("mkldnn", "conv") == "ieee"


def test_an_error_leaves_nothing_behind() -> None:
    torch.set_float32_matmul_precision("medium")
    before = state()
    with pytest.raises(ZeroDivisionError), ieee_float32(), ieee_float32():
        raise ZeroDivisionError
    assert state() == before


def test_the_last_thread_out_puts_it_back() -> None:
    torch.set_float32_matmul_precision("high")
    before, inside, leave = state(), threading.Event(), threading.Event()

    def other() -> None:
        with ieee_float32():
            inside.set()
            leave.wait(60)

    with ThreadPoolExecutor(1) as pool:
        with ieee_float32():
            work = pool.submit(other)
            assert inside.wait(60)
        assert is_exact(state())
        leave.set()
        work.result(60)
    assert state() == before


def test_many_threads_end_with_what_was_before() -> None:
    torch.set_float32_matmul_precision("medium")
    before, interval = state(), sys.getswitchinterval()

    def work(_: int) -> bool:
        exact = True
        for _ in range(200):
            with ieee_float32():
                exact &= is_exact(state())
        return exact

    sys.setswitchinterval(1e-6)
    try:
        with ThreadPoolExecutor(8) as pool:
            assert all(pool.map(work, range(8)))
    finally:
        sys.setswitchinterval(interval)
    assert state() == before


# --- explaining ---


class Watched(nn.Module):
    """Hands on what it gets, and keeps what the switches are in its forward and its backward pass."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[State] = []

    def forward(self, x: Tensor) -> Tensor:
        self.seen.append(state())
        y = x * 1.0
        if y.requires_grad:
            y.register_hook(lambda _: self.seen.append(state()))
        return y


WAYS: dict[str, Callable[[nn.Module, Tensor], Any]] = {
    "explain": explain,
    "several": lambda model, images: explain(model, images, TopK(2)),
    "in parts": lambda model, images: explain(model, images, memory=1),
    "rows": lambda model, images: collapse(model, images).rows(0),
    "anatomy": anatomy,
}


@pytest.mark.parametrize("way", WAYS)
def test_both_passes_of_an_explanation(way: str) -> None:
    model = toy(NAME)
    model.blocks[0].mlp = nn.Sequential(model.blocks[0].mlp, watched := Watched())
    torch.set_float32_matmul_precision("medium")
    before = state()
    WAYS[way](model, images_for(model))
    assert len(watched.seen) >= 2
    assert all(is_exact(dict(seen)) for seen in watched.seen)
    assert state() == before
    watched.seen.clear()
    model(images_for(model))
    assert watched.seen == [before]  # a prediction follows the user


def test_classes_of_an_anatomy() -> None:
    model = toy(NAME)
    model.head.classify = nn.Sequential(model.head.classify, watched := Watched())
    model.head.classify.weight = model.head.classify[0].weight  # which the model looks at
    torch.set_float32_matmul_precision("medium")
    anatomy(model, images_for(model))
    assert len(watched.seen) >= 3  # forward, the row, and the classes
    assert all(is_exact(seen) for seen in watched.seen)


def test_a_failing_explanation_leaves_nothing_behind() -> None:
    model = toy(NAME)
    model.head.register_forward_pre_hook(lambda *_: 1 / 0)
    torch.set_float32_matmul_precision("medium")
    before = state()
    with pytest.raises(ZeroDivisionError):
        explain(model, images_for(model))
    assert state() == before


bf16_products = pytest.mark.skipif(
    not torch.ops.mkldnn._is_mkldnn_bf16_supported(), reason="this CPU has no products of bfloat16"
)


@bf16_products
@pytest.mark.parametrize("name", [NAME, VITC])
def test_ledgers_close_where_products_are_of_bfloat16(name: str) -> None:
    model = toy(name, width=192, heads=3, mlp_width=768)  # wide enough for the library that has them
    images = images_for(model, 8)
    expected = explain(model, images, 0)
    exact = model(images)
    torch.set_float32_matmul_precision("medium")
    assert not torch.equal(model(images), exact)
    found = explain(model, images, 0).check()
    assert torch.equal(found.logit, expected.logit)
    assert torch.equal(found.contributions, expected.contributions)


@bf16_products
def test_files_are_compared_where_products_are_of_bfloat16() -> None:
    model = toy(NAME, width=192, heads=3, mlp_width=768)

    def run(images: Tensor, _: Tensor | None) -> dict[str, Tensor]:
        logits = collapse(model, images).logits
        return {"logits": logits, "target": logits.argmax(1)}

    torch.set_float32_matmul_precision("medium")
    assert compare(model, run, images_for(model)).errors["logits"] < 1e-6


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of newer Pythons, to fork beside threads
def test_a_child_forked_beside_threads_does_not_wait() -> None:
    stop = threading.Event()

    def work() -> None:
        while not stop.is_set():
            with ieee_float32():
                pass

    def child() -> int:
        with ieee_float32():
            return 0 if is_exact(state()) else 1

    with ThreadPoolExecutor(2) as pool:
        [pool.submit(work) for _ in range(2)]
        try:
            for _ in range(20):
                if (pid := os.fork()) == 0:
                    signal.alarm(20)  # ends a child that waits
                    os._exit(child())
                assert os.waitpid(pid, 0)[1] == 0
        finally:
            stop.set()
