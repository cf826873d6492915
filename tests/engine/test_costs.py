"""Costs of a run: processor seconds of every process, and a peak of memory that begins anew."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tmsgd_bench.engine import costs
from tmsgd_bench.engine.clocks import Clocks

CPU = torch.device("cpu")
MIB = 2**20
needs_linux = pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="only Linux tells the peak")


def work() -> None:
    """Some processor time."""
    sum(number * number for number in range(300_000))


def test_the_processor_seconds_of_earlier_processes_count() -> None:
    earlier = Clocks(CPU)
    work()
    later = Clocks(CPU)
    later.load_state_dict(saved := earlier.state_dict())
    work()
    assert 0 < saved["processor"] < later.processor


def test_a_state_without_processor_seconds_can_be_loaded() -> None:
    clocks, state = Clocks(CPU), Clocks(CPU).state_dict()
    clocks.load_state_dict({key: value for key, value in state.items() if key != "processor"})
    assert clocks.earlier_processor == 0


def test_children_that_have_ended_count() -> None:
    before = costs.processor_seconds()
    subprocess.run([sys.executable, "-c", "sum(n * n for n in range(1_000_000))"], check=True)
    assert costs.processor_seconds() - before >= 0.02  # the child alone; waiting for it costs nothing


@needs_linux
def test_a_new_peak_forgets_an_earlier_one() -> None:
    large = torch.ones(100 * MIB // 4)
    before = costs.peak_memory(CPU)["peak_memory_mib"]
    del large
    costs.reset_peak_memory(CPU)
    after = costs.peak_memory(CPU)["peak_memory_mib"]
    assert before is not None and after is not None and before - after > 50


def test_a_system_that_does_not_tell_leaves_the_peak_open(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError

    monkeypatch.setattr(costs.Path, "read_text", refuse)
    monkeypatch.setattr(costs.Path, "write_text", refuse)
    costs.reset_peak_memory(CPU)
    assert costs.peak_memory(CPU)["peak_memory_mib"] is None
