"""Freed memory is kept: the kernel is not asked for the same pages again and again. Threads are
no more than the cores that are granted."""

import platform
import subprocess
import sys

import pytest
import torch

from triptych.cli.options import Where
from triptych.study import local
from triptych.study.local import Place, default_workers
from triptych.train import allocation
from triptych.train.allocation import keep_freed_memory

CPU = torch.device("cpu")
glibc = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="mallopt is glibc's")

PROGRAM = """
import resource
import torch
{before}

def work():
    a = [torch.ones(10_000_000) for _ in range(3)]  # 40 MB: above what glibc keeps by itself
    return sum(x[0] for x in a)

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    work()
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

# The first few find an old place taken by something small, and take a new one.
print(sorted(faults() for _ in range(25))[12])
"""
PREPARED = {
    "asked": "from triptych.train.allocation import keep_freed_memory; keep_freed_memory()",
    "a command": "from triptych.cli.options import Where; Where().ready()",
    "a job of a study": (
        "from triptych.study.local import Place\n"
        "Place('digits', None, None, torch.device('cpu')).load()"
    ),
}


def faults(before):
    out = subprocess.run(
        [sys.executable, "-c", PROGRAM.format(before=before)], capture_output=True, text=True
    )
    return float(out.stdout)


@glibc
@pytest.mark.parametrize("prepared", PREPARED)
def test_no_page_is_asked_for_twice(prepared):
    assert faults(PREPARED[prepared]) < 500


def test_another_c_library_is_no_error(monkeypatch):
    class Other:
        pass

    monkeypatch.setattr("ctypes.CDLL", lambda _: Other())
    assert not keep_freed_memory()


@pytest.mark.parametrize(
    "prepare", [lambda: Where().ready(), lambda: Place("digits", None, None, CPU).load()]
)
def test_no_more_threads_than_cores_are_granted(prepare, monkeypatch):
    before = torch.get_num_threads()
    try:
        for threads, granted, left in ((4, 3, 3), (2, 3, 2)):
            torch.set_num_threads(threads)
            monkeypatch.setattr(allocation, "cpu_count", lambda granted=granted: granted)
            prepare()
            assert torch.get_num_threads() == left
    finally:
        torch.set_num_threads(before)


def test_a_process_for_each_core_that_is_granted(monkeypatch):
    monkeypatch.setattr(local, "cpu_count", lambda: 3)
    assert [default_workers(jobs) for jobs in (2, 3, 9, 0)] == [2, 3, 3, 1]
