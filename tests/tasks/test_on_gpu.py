"""Every task end to end on a GPU, where there is one: it trains, switches, evaluates, and repeats itself."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from tmsgd_bench.engine import sweep
from tmsgd_bench.results import store

ROOT = Path(__file__).parents[2]
RUNS = {
    "tc": ["task=tc"],
    "ic vgg16": ["task=ic", "model=vgg16"],
    "ic resnet18": ["task=ic", "model=resnet18"],
    "fkpd": ["task=fkpd"],
    "ig": ["task=ig", "task.features=random"],
    "ctr": ["task=ctr"],
    "seg": ["task=seg"],
    "od rfbnet": ["task=od", "model=rfbnet"],
    "od fast_rcnn": ["task=od", "model=fast_rcnn"],
}
ROUNDED = {name: RUNS[name] for name in ("seg", "od rfbnet", "od fast_rcnn")}
Start = Callable[..., dict[str, Any]]

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU on this machine")


@pytest.fixture
def start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Start:
    """Run one setting on the stand-in, in the store of that name; its result and its environment as one."""
    monkeypatch.syspath_prepend(str(ROOT))
    import run as module

    def call(name: str, *settings: str) -> dict[str, Any]:
        monkeypatch.setattr(sweep.SweepCallback, "folder", None)
        places = [f"data.root={tmp_path}/data", f"results.root={tmp_path}/{name}", "progress=log"]
        common = ["data=synthetic", "protocol=smoke", "optimizer=tmsgd", "device=cuda", "workers=2"]
        monkeypatch.setattr(sys, "argv", ["run.py", *places, *common, *settings])
        assert module.main() == 0
        (folder,) = (tmp_path / name).glob("*-seed*")
        return {
            key: value
            for file in (store.RESULT, store.ENVIRONMENT)
            for key, value in json.loads((folder / file).read_text()).items()
        }

    return call


@pytest.mark.parametrize("settings", RUNS.values(), ids=RUNS)
def test_a_task_trains_on_a_gpu_and_repeats_itself_to_the_last_bit(settings: list[str], start: Start) -> None:
    if "model=fast_rcnn" in settings:
        pytest.importorskip("cv2.ximgproc")
    first, second = (start(name, *settings, "deterministic=true") for name in ("first", "second"))
    assert first["status"] == "done"
    assert first["device"] == "cuda"
    assert first["weights_sha256"] == second["weights_sha256"]
    assert first["final"] == second["final"]


@pytest.mark.parametrize("settings", ROUNDED.values(), ids=ROUNDED)
def test_bfloat16_and_channels_last_work_on_a_gpu(settings: list[str], start: Start) -> None:
    if "model=fast_rcnn" in settings:
        pytest.importorskip("cv2.ximgproc")
    assert start("runs", *settings, "task.precision=bfloat16", "task.channels_last=true")["status"] == "done"
