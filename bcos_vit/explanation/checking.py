"""Whether a ledger closes, within what rounding may do."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from bcos_vit.explanation.result import Explanation

TOLERANCES = {torch.float64: 1e-12, torch.float32: 1e-5, torch.bfloat16: 2e-2, torch.float16: 2e-2}
"""Largest relative residual that :meth:`Explanation.check` accepts, by the precision of the logits."""


class LedgerError(ArithmeticError):
    """The lines of a ledger do not add up to the logit.

    >>> from bcos_vit import Explanation
    >>> one = torch.ones(1)
    >>> Explanation(torch.zeros(1, 3, 1, 1), one.long(), logit=one, contributions=0.9 * one[:, None, None]).check()
    Traceback (most recent call last):
    bcos_vit.explanation.checking.LedgerError: 1 of 1 ledgers do not close within 1e-05; ... logit 1, image 0.9
    """


def require_closed(e: Explanation, tolerance: float | None) -> None:
    """Raise :class:`LedgerError` unless every relative residual is within ``tolerance`` (None: the default)."""
    allowed = TOLERANCES[e.logit.dtype] if tolerance is None else tolerance
    relative = e.relative_residual.flatten()
    wrong = ~(relative <= allowed)  # so that NaN is wrong
    if wrong.any():
        worst = int(torch.where(relative.isnan(), torch.inf, relative).argmax())
        lines = {"logit": e.logit, "image" if e.at == "image" else "tokens": e.image} | e.constants
        ledger = ", ".join(f"{name} {float(line.flatten()[worst]):.6g}" for name, line in lines.items())
        raise LedgerError(
            f"{int(wrong.sum())} of {relative.numel()} ledgers do not close within {allowed:g}; the worst, "
            f"number {worst}, leaves a relative residual of {float(relative[worst]):.3g}: {ledger}"
        )
