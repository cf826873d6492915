"""The figure of a switch-epoch study: which runs it shows, and what it says of them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tmsgd_bench import cli
from tmsgd_bench.errors import StoreError
from tmsgd_bench.results.figure_switch import draw, studies, write
from tmsgd_bench.results.store import read_runs

FINALS = {0: (90.0, 91.0), 5: (90.5, 92.0), 2: (89.0, 93.0)}


def tmsgd(switch: int, **changes: Any) -> dict[str, Any]:
    return {"name": "tmsgd", "label": "TM-SGD", "lr": 0.01, "switch_epoch": switch, **changes}


@pytest.fixture
def root(tmp_path: Path, write_run: Callable[..., Path]) -> Path:
    """Three switch epochs with two seeds each, and SGD."""
    for switch, finals in FINALS.items():
        for seed, final in enumerate(finals):
            protocols = ["table2"] if switch == 2 else []
            own = {"optimizer": tmsgd(switch), "protocols": protocols, "epochs": 9}
            _write(write_run, tmp_path, seed, final, own)
    for seed, final in enumerate((90.2, 91.4)):
        write_run(tmp_path, "sgd", seed, final=final, epochs=9)
    return tmp_path


def _write(write_run: Callable[..., Path], root: Path, seed: int, final: float, own: dict[str, Any]) -> None:
    optimizer, rest = own["optimizer"], {key: value for key, value in own.items() if key != "optimizer"}
    write_run(root, "tmsgd", seed, final=final, options=optimizer, **rest)


def test_the_means_are_those_of_the_seeds_at_each_switch_epoch(root: Path) -> None:
    ((own, base),) = studies(read_runs(root), "table2")
    (axes,) = draw(own, base).axes
    label = "TM-SGD, mean ± standard deviation"
    (bars,) = (container for container in axes.containers if container.get_label() == label)
    x, y = bars[0].get_data()
    assert dict(zip(x, y, strict=True)) == {switch: sum(FINALS[switch]) / 2 for switch in sorted(FINALS)}
    (level,) = (line for line in axes.get_lines() if line.get_label() == "SGD (n=2)")
    assert level.get_ydata()[0] == pytest.approx((90.2 + 91.4) / 2)


def test_where_a_run_diverged_there_is_no_mean(root: Path, write_run: Callable[..., Path]) -> None:
    """The runs that are left are those that went well."""
    write_run(root, "tmsgd", 2, status="diverged", final=None, options=tmsgd(5), protocols=[], epochs=9)
    write_run(root, "sgd", 2, status="diverged", final=None, epochs=9)
    ((own, base),) = studies(read_runs(root), "table2")
    figure = draw(own, base)
    (bars,) = figure.axes[0].containers
    x, y = bars[0].get_data()
    assert [epoch for epoch, mean in zip(x, y, strict=True) if np.isfinite(mean)] == [0, 2]
    assert "1 diverged" in figure.axes[0].get_title()
    assert "SGD: 1 of 3 diverged" in [text.get_text() for text in figure.axes[0].get_legend().get_texts()]


def test_it_says_what_the_runs_are(root: Path) -> None:
    ((own, base),) = studies(read_runs(root), "table2")
    title = draw(own, base).axes[0].get_title()
    assert title == "tc, lstm, real data · 9 epochs, batch 5, lr 0.01 · 2 seeds · few seeds"


def test_a_study_without_the_protocol_is_drawn_only_when_asked_for(
    tmp_path: Path, write_run: Callable[..., Path]
) -> None:
    for switch in (0, 1):
        _write(write_run, tmp_path, 0, 90.0, {"optimizer": tmsgd(switch), "protocols": []})
    runs = read_runs(tmp_path)
    assert list(studies(runs, "table2")) == []
    ((own, base),) = studies(runs, None)
    assert set(own["switch_epoch"]) == {0, 1} and base.empty


def test_runs_with_other_options_are_no_part_of_a_study(root: Path, write_run: Callable[..., Path]) -> None:
    other = {"optimizer": tmsgd(7, weight_decay=0.1), "protocols": [], "epochs": 9}
    _write(write_run, root, 0, 10.0, other)
    ((own, _),) = studies(read_runs(root), "table2")
    assert 7 not in set(own["switch_epoch"])


def test_the_command_writes_a_picture_of_each_study(root: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    out = tmp_path_factory.mktemp("figures")
    assert cli.main(["figure", "switch", "--results", str(root), "--out", str(out)]) == 0
    assert sorted(path.name for path in out.glob("switch-*")) == [
        "switch-tc-lstm-tmsgd.pdf",
        "switch-tc-lstm-tmsgd.png",
    ]
    with Image.open(out / "switch-tc-lstm-tmsgd.png") as picture:
        assert picture.format == "PNG"


def test_every_study_has_a_picture_of_its_own(
    root: Path, write_run: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Two more studies, which differ from the first and from each other in an option of the optimizer."""
    for decay in (1e-4, 5e-4):
        for switch in (0, 5):
            own = {"optimizer": tmsgd(switch, weight_decay=decay), "protocols": ["table2"], "epochs": 9}
            _write(write_run, root, 0, 90.0, own)
    written = write(read_runs(root), tmp_path_factory.mktemp("figures"))
    assert len({path.name for path in written}) == len(written) == 6


def test_without_a_study_it_says_how_to_make_one(tmp_path: Path, write_run: Callable[..., Path]) -> None:
    write_run(tmp_path, "sgd", 0)
    with pytest.raises(StoreError, match="experiment=switch"):
        write(read_runs(tmp_path), tmp_path / "figures")
