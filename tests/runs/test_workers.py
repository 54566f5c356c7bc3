"""Tests of effdet/runs/workers.py."""

import os

import pytest
import torch

from effdet.runs.workers import choose_workers


@pytest.mark.parametrize(
    ("device", "cores", "local_size", "workers"),
    [
        ("cpu", 1, 1, 1),
        ("cpu", 2, 1, 1),
        ("cpu", 6, 1, 3),
        ("cpu", 64, 1, 4),
        ("cpu", 8, 2, 2),
        ("cuda", 1, 1, 1),
        ("cuda", 6, 1, 6),
        ("cuda", 64, 1, 8),
        ("cuda", 16, 8, 2),
        ("cuda", 4, 8, 1),
    ],
)
def test_workers_follow_from_device_and_cores(monkeypatch, device, cores, local_size, workers):
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: range(cores), raising=False)
    assert choose_workers(None, torch.device(device), local_size=local_size) == workers


@pytest.mark.parametrize("asked", [0, 1, 12])
def test_a_number_that_was_asked_for_is_taken(asked):
    assert choose_workers(asked, torch.device("cpu")) == asked


def test_without_affinity_all_cores_count(monkeypatch):
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 6)
    assert choose_workers(None, torch.device("cpu")) == 3
