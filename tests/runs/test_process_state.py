import contextlib
import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from effdet.runs.process_state import huge_pages, log_level, process_state

HUGE_PAGES = Path("/sys/kernel/mm/transparent_hugepage/enabled")

FAULTS = """
import resource
from effdet.runs.process_state import huge_pages
import contextlib
stack = contextlib.ExitStack()
stack.enter_context(huge_pages())
import torch
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(4):
    torch.ones(2**24)  # 64 MiB
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def page_faults(**settings):
    environment = {name: value for name, value in os.environ.items() if name != "THP_MEM_ALLOC_ENABLE"} | settings
    result = subprocess.run([sys.executable, "-c", FAULTS], env=environment, capture_output=True, text=True, check=True)
    return int(result.stdout)


@pytest.mark.skipif(
    not HUGE_PAGES.exists() or "[never]" in HUGE_PAGES.read_text(), reason="the system has no huge pages"
)
def test_large_tensors_come_in_huge_pages():
    assert page_faults() < page_faults(THP_MEM_ALLOC_ENABLE="0") / 4


def test_the_choice_of_the_user_stays(monkeypatch):
    monkeypatch.setenv("THP_MEM_ALLOC_ENABLE", "0")
    with huge_pages():
        assert os.environ["THP_MEM_ALLOC_ENABLE"] == "0"
    assert os.environ["THP_MEM_ALLOC_ENABLE"] == "0"


def test_the_environment_is_as_before(monkeypatch):
    monkeypatch.delenv("THP_MEM_ALLOC_ENABLE", raising=False)
    with huge_pages():
        assert os.environ["THP_MEM_ALLOC_ENABLE"] == "1"
    assert "THP_MEM_ALLOC_ENABLE" not in os.environ


def test_a_run_finds_and_leaves_the_process_in_a_known_state():
    cpu, before = torch.device("cpu"), (torch.get_num_threads(), torch.backends.cudnn.benchmark)
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    with torch.no_grad(), contextlib.suppress(KeyError), process_state(cpu, seed=3, threads=2):
        assert torch.is_grad_enabled()
        assert torch.get_num_threads() == 2
        first = torch.rand(3)
        raise KeyError
    assert (torch.get_num_threads(), torch.backends.cudnn.benchmark) == before
    assert torch.equal(torch.rand(3), expected)  # the caller's random numbers go on as if nothing had been
    with torch.inference_mode(), process_state(cpu, seed=3, threads=None):
        again = torch.rand(3)
        assert not again.is_inference()
    assert torch.equal(first, again)


@pytest.mark.parametrize(
    ("level", "is_main", "inside"),
    [
        (logging.NOTSET, True, logging.INFO),
        (logging.DEBUG, True, logging.DEBUG),
        (logging.ERROR, True, logging.INFO),  # log.txt gets its lines
        (logging.INFO, False, logging.ERROR),
    ],
)
def test_the_main_process_logs_its_lines_and_the_others_their_errors(level, is_main, inside):
    logger = logging.getLogger("effdet")
    logger.setLevel(level)
    try:
        with log_level(is_main=is_main):
            assert logger.level == inside
        assert logger.level == level
    finally:
        logger.setLevel(logging.NOTSET)
