"""Checkpoints: what is written comes back, and damage is noticed."""

from __future__ import annotations

import errno
import logging
from pathlib import Path
from typing import Any

import pytest
import torch

from tmsgd_bench.engine import checkpoint

CPU = torch.device("cpu")


def state(epoch: int) -> dict[str, object]:
    return {
        "epoch": epoch,
        "tensor": torch.arange(100) * epoch,
        "nested": {"values": [1.5, None, "text"], "pair": (1, 2)},
    }


def damage(path: Path, how: str) -> None:
    data = bytearray(path.read_bytes())
    if how == "flipped bit":
        data[len(data) // 3] ^= 4
    path.write_bytes(data[: len(data) // 2] if how == "truncated" else b"" if how == "empty" else data)


def test_a_state_comes_back_as_it_was(tmp_path: Path) -> None:
    checkpoint.save(tmp_path, 3, state(3))
    found = checkpoint.load_latest(tmp_path, CPU)
    assert found is not None
    assert torch.equal(found.pop("tensor"), torch.arange(100) * 3)
    assert found == {"epoch": 3, "nested": {"values": [1.5, None, "text"], "pair": (1, 2)}}


def test_the_last_two_are_kept(tmp_path: Path) -> None:
    for epoch in range(1, 12):
        checkpoint.save(tmp_path, epoch, state(epoch))
    assert [path.name[:17] for path in sorted(tmp_path.iterdir())] == ["checkpoint-000010", "checkpoint-000011"]


@pytest.mark.parametrize("how", ["flipped bit", "truncated", "empty"])
def test_a_damaged_one_is_passed_over_with_a_warning(
    how: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    checkpoint.save(tmp_path, 1, state(1))
    damage(checkpoint.save(tmp_path, 2, state(2)), how)
    with caplog.at_level(logging.WARNING):
        found = checkpoint.load_latest(tmp_path, CPU)
    assert found is not None and found["epoch"] == 1
    assert "checkpoint-000002" in caplog.text and "damaged" in caplog.text


def test_without_a_good_one_there_is_none(tmp_path: Path) -> None:
    assert checkpoint.load_latest(tmp_path, CPU) is None
    damage(checkpoint.save(tmp_path, 1, state(1)), "truncated")
    assert checkpoint.load_latest(tmp_path, CPU) is None
    assert not checkpoint.exists(tmp_path)  # a damaged one would take a good one's place


def test_a_half_written_file_is_no_checkpoint(tmp_path: Path) -> None:
    (tmp_path / "writing-1.tmp").write_bytes(b"half")
    assert checkpoint.load_latest(tmp_path, CPU) is None and not checkpoint.exists(tmp_path)
    checkpoint.clear(tmp_path)
    assert not list(tmp_path.iterdir())


def test_objects_that_could_run_code_are_not_loaded(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    checkpoint.save(tmp_path, 1, {"epoch": 1, "code": Path})
    assert checkpoint.load_latest(tmp_path, CPU) is None
    assert "torch cannot read it, UnpicklingError" in caplog.text


def put(folder: Path, how: str) -> None:
    """Something in the place of a newest checkpoint."""
    path = folder / f"checkpoint-000009-{'0' * 64}.pt"
    if how == "a folder":
        path.mkdir()
    elif how == "a loop":
        path.symlink_to(path)
    elif how == "a list":
        checkpoint.save(folder, 9, [1, 2], keep=None)  # type: ignore[arg-type]


@pytest.mark.parametrize("how", ["a folder", "a loop", "a list"])
def test_what_is_no_checkpoint_is_passed_over_and_takes_no_good_ones_place(
    how: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    checkpoint.save(tmp_path, 2, state(2))
    put(tmp_path, how)
    found = checkpoint.load_latest(tmp_path, CPU)
    assert found is not None and found["epoch"] == 2 and "checkpoint-000009" in caplog.text
    for epoch in (3, 4):
        checkpoint.save(tmp_path, epoch, state(epoch))
    assert [epoch for epoch, _ in checkpoint.epochs(tmp_path)] == [9, 4, 3]
    for epoch in (10, 11):
        checkpoint.save(tmp_path, epoch, state(epoch))
    assert [epoch for epoch, _ in checkpoint.epochs(tmp_path)] == [11, 10]
    checkpoint.clear(tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_checkpoint_that_may_not_be_read_is_passed_over_and_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    checkpoint.save(tmp_path, 1, state(1))
    path, real = checkpoint.save(tmp_path, 2, state(2)), Path.open

    def refuse(self: Path, *arguments: Any, **options: Any) -> Any:
        if self == path:
            raise PermissionError(errno.EACCES, "Permission denied")
        return real(self, *arguments, **options)

    monkeypatch.setattr(Path, "open", refuse)
    found = checkpoint.load_latest(tmp_path, CPU)
    assert found is not None and found["epoch"] == 1 and path.exists()
    assert path.name in caplog.text and "Permission denied" in caplog.text
