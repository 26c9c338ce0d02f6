"""What a process needs that was forked from one that has computed already.

The threads that torch computes with do not survive a fork, but torch goes on waiting for them: a model in a child of
``multiprocessing``, of a server that loads it before it forks its workers, or of ``os.fork`` would hang at its first
large operation, predicting or explaining. On one thread it computes.
"""

from __future__ import annotations

import os

import torch


def _compute_on_one_thread() -> None:
    if torch.get_num_threads() > 1:
        torch.set_num_threads(1)


if hasattr(os, "register_at_fork"):  # other systems cannot fork
    os.register_at_fork(after_in_child=_compute_on_one_thread)
