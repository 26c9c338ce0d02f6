"""Positions: the published additive code against its formula, and what rotary positions must do to q.k."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from bcos_vit.layers.position import Rotation, rotate, rotation, sincos_code
from laws import assert_close
from twins import turned

GRIDS = [(1, 1), (3, 3), (2, 5), (4, 1)]
DOUBLE = torch.zeros((), dtype=torch.float64)


@pytest.fixture
def _default_float64() -> None:
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(before)


# --- additive ---


def published_code(height: int, width: int, dim: int) -> np.ndarray:
    code = np.zeros((height * width, dim))
    quarter = dim // 4
    for row in range(height):
        for column in range(width):
            for j in range(quarter):
                omega = 10_000 ** (-j / (quarter - 1))
                token = code[row * width + column]
                token[j], token[quarter + j] = np.sin(column * omega), np.cos(column * omega)
                token[2 * quarter + j], token[3 * quarter + j] = np.sin(row * omega), np.cos(row * omega)
    return code


@pytest.mark.parametrize("dim", [8, 12, 32])
@pytest.mark.parametrize("grid", GRIDS, ids=str)
def test_sincos_code_is_the_published_one(grid: tuple[int, int], dim: int) -> None:
    expected = torch.from_numpy(published_code(*grid, dim))
    assert_close(sincos_code(*grid, dim, like=torch.zeros(())), expected, 1e-6)
    code = sincos_code(*grid, dim, like=DOUBLE)
    assert code.dtype == torch.float64
    assert_close(code, expected, 1e-6)  # float32 inside, as the reference computes it
    assert torch.equal(code, code.float().double())


@pytest.mark.usefixtures("_default_float64")
@pytest.mark.parametrize("grid", GRIDS, ids=str)
def test_sincos_code_follows_torchs_default_precision(grid: tuple[int, int]) -> None:
    assert_close(sincos_code(*grid, 16, like=DOUBLE), torch.from_numpy(published_code(*grid, 16)), 1e-12)


# --- rotary ---


@pytest.mark.parametrize("head_dim", [4, 8, 20])
@pytest.mark.parametrize("grid", GRIDS, ids=str)
def test_rotation_angles(grid: tuple[int, int], head_dim: int) -> None:
    height, width = grid
    quarter = head_dim // 4
    cos, sin = rotation(height, width, head_dim, like=DOUBLE)
    assert cos.shape == sin.shape == (height * width, 2, quarter)
    for row in range(height):
        for column in range(width):
            for half, index in enumerate((row, column)):  # the first half turns with the row
                for j in range(quarter):
                    angle = index * 100 ** (-j / quarter)
                    token = row * width + column
                    assert float(cos[token, half, j]) == pytest.approx(np.cos(angle), abs=1e-12)
                    assert float(sin[token, half, j]) == pytest.approx(np.sin(angle), abs=1e-12)


def test_rotation_in_half_precision_is_computed_in_float32() -> None:
    like = torch.zeros((), dtype=torch.bfloat16)
    for coarse, fine in zip(rotation(1, 300, 8, like), rotation(1, 300, 8, like.float()), strict=True):
        assert coarse.dtype == torch.bfloat16
        assert torch.equal(coarse, fine.bfloat16())


@pytest.mark.parametrize("head_dim", [4, 8, 20])
def test_rotate_turns_these_planes(head_dim: int) -> None:
    # Within each half, dimensions j and j + d/4 are one plane with an angle of its own.
    quarter = head_dim // 4
    angle = torch.rand(1, 2, quarter, dtype=torch.float64)
    expected = torch.zeros(head_dim, head_dim, dtype=torch.float64)
    for half in range(2):
        for j in range(quarter):
            a, b = (head_dim // 2 * half + j + shift for shift in (0, quarter))
            c, s = angle[0, half, j].cos(), angle[0, half, j].sin()
            expected[a, a], expected[a, b], expected[b, a], expected[b, b] = c, -s, s, c
    units = torch.eye(head_dim, dtype=torch.float64)[:, None]  # (d, N = 1, d)
    turned_units = rotate(units, Rotation(angle.cos(), angle.sin()))
    assert_close(turned_units[:, 0].T, expected)


@pytest.mark.parametrize("grid", [(3, 3), (2, 5), (4, 1)], ids=str)
def test_rotate_is_multiplication_by_complex_phases(grid: tuple[int, int]) -> None:
    t = torch.randn(2, 3, grid[0] * grid[1], 8, dtype=torch.float64)  # (B, H, N, d)
    found = rotate(t, rotation(*grid, 8, like=t))
    assert_close(found, turned(t.transpose(1, 2), grid).transpose(1, 2))
    assert_close(found.norm(dim=-1), t.norm(dim=-1))
    assert torch.equal(found[:, :, 0], t[:, :, 0])  # the first token is the origin


def tokens_at(turn: Rotation, grid: tuple[int, int], start: tuple[int, int], size: tuple[int, int]) -> Rotation:
    """The angles of a window of a larger grid."""
    number = torch.arange(grid[0] * grid[1]).view(grid)
    window = number[start[0] : start[0] + size[0], start[1] : start[1] + size[1]].flatten()
    return Rotation(turn.cos[window], turn.sin[window])


def products(q: Tensor, k: Tensor, q_turn: Rotation, k_turn: Rotation) -> Tensor:
    return rotate(q, q_turn) @ rotate(k, k_turn).mT


@pytest.mark.parametrize("shift", [(1, 0), (0, 3), (2, 4)], ids=str)
def test_only_relative_positions_matter(shift: tuple[int, int]) -> None:
    large, size = (5, 7), (2, 3)
    q, k = torch.randn(2, 6, 8, dtype=torch.float64)
    turn = rotation(*large, 8, like=q)
    here, there = (tokens_at(turn, large, start, size) for start in ((0, 0), shift))
    logits = products(q, k, here, here)
    assert_close(products(q, k, there, there), logits)
    # It is no trifle: shifting the queries alone does change them.
    assert (products(q, k, there, here) - logits).abs().max() > 0.1 * logits.abs().max()


def test_rows_and_columns_turn_apart() -> None:
    q = torch.ones(1, 8, dtype=torch.float64)
    steps = {}
    for name, grid in {"down": (2, 1), "right": (1, 2)}.items():
        cos, sin = rotation(*grid, 8, like=q)
        steps[name] = rotate(q, Rotation(cos[1:], sin[1:]))[0]
    assert torch.equal(steps["down"][4:], q[0, 4:])
    assert torch.equal(steps["right"][:4], q[0, :4])
    assert torch.equal(steps["down"][:4], steps["right"][4:])
    assert not torch.allclose(steps["down"][:4], q[0, :4])
