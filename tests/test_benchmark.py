"""The figures of the benchmark on disk are those of its table, and say on what they were measured."""

import json
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parents[1]


@pytest.fixture
def ratios(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    import ratios

    yield ratios
    del sys.modules["ratios"]


def test_the_tables_are_those_of_the_figures(ratios):
    found = json.loads((ROOT / "docs/benchmark.json").read_text(encoding="utf-8"))
    lines = [ratios.Line(**line) for line in found["lines"]]
    rows = [ratios.Growth(**row) for row in found["growth"]]
    printed = (ROOT / "docs/benchmark.md").read_text(encoding="utf-8")
    mine, theirs = (
        [row for row in text.splitlines() if row.startswith("| bcos")]
        for text in (ratios.table(lines, found["about"], "") + ratios.growth_table(rows), printed)
    )
    assert mine == theirs != []
    assert {row.kind for row in rows} == {"images", "classes", "side", "depth"}
    assert {"torch", "bcos", "timm", "captum", "onnxruntime", "machine", "rounds"} <= found["about"].keys()


def test_a_ratio_is_taken_round_by_round(ratios):
    line = ratios.line("m", "a", "b", 1.0, {"a": [1.0, 4.0, 9.0], "b": [2.0, 4.0, 3.0]})
    assert (line.ratio, line.low, line.high) == (1.0, 0.75, 2.0)
    assert "missed" not in ratios.table([line], {"rounds": 3}, "")


def test_images_that_are_drawn_once_are_those_of_the_data(monkeypatch, tmp_path):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    import downsampling

    from bcos_vit.data import Shapes, shapes

    monkeypatch.setitem(shapes.LENGTHS, "train", 8)
    monkeypatch.setattr(downsampling, "RUNS", tmp_path)
    part = Shapes("train", seed=3, side=16, plain_epochs=1, canvases_from=2)
    for epoch in (0, 2):  # on plain backgrounds, and canvases
        drawn, anew = downsampling.drawn_once(part, epoch), part.of_epoch(epoch)
        assert len(drawn) == len(anew) == 8
        for index in (0, 7):
            assert all(map(torch.equal, drawn[index], anew[index]))
    kept = sorted(tmp_path.rglob("*.pt"))
    assert len(kept) == 2
    before = [path.stat().st_mtime_ns for path in kept]
    assert torch.equal(downsampling.drawn_once(part, 0)[5][0], part.of_epoch(0)[5][0])
    assert [path.stat().st_mtime_ns for path in kept] == before
