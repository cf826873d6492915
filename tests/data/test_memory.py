"""What fits into memory: what the system says, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from tmsgd_bench.data import memory
from tmsgd_bench.errors import ConfigError

KIB = 1024


def write(path: Path, text: str | None) -> Path:
    if text is not None:
        path.write_text(text)
    return path


@pytest.mark.parametrize(
    ("meminfo", "limit", "expected"),
    [
        ("MemTotal: 9 kB\nMemAvailable:    500 kB\n", None, 500 * KIB),
        ("MemTotal: 9 kB\nMemAvailable:    500 kB\n", "max\n", 500 * KIB),
        ("MemAvailable: 500 kB\n", "1000\n", 1000),
        ("MemAvailable: 500 kB\n", "900000000\n", 500 * KIB),
        (None, "1000\n", 1000),
        ("MemTotal: 9 kB\n", "1000\n", 1000),
    ],
)
def test_what_is_free_is_what_the_system_and_the_container_leave(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, meminfo: str | None, limit: str | None, expected: int
) -> None:
    monkeypatch.setattr(memory, "MEMINFO", write(tmp_path / "meminfo", meminfo))
    monkeypatch.setattr(memory, "CONTAINER", write(tmp_path / "memory.max", limit).parent)
    assert memory.available() == expected


@pytest.mark.parametrize(
    ("current", "stat", "expected"),
    [
        ("300\n", None, 700),
        ("300\n", "anon 100\nactive_file 9\ninactive_file 200\n", 900),
        ("1200\n", None, 0),
        ("100\n", "inactive_file 200\n", 1000),
    ],
)
def test_of_a_containers_limit_what_is_in_use_is_not_free(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, current: str, stat: str | None, expected: int
) -> None:
    monkeypatch.setattr(memory, "MEMINFO", write(tmp_path / "meminfo", "MemAvailable: 500 kB\n"))
    monkeypatch.setattr(memory, "CONTAINER", tmp_path)
    for name, text in (("memory.max", "1000\n"), ("memory.current", current), ("memory.stat", stat)):
        write(tmp_path / name, text)
    assert memory.available() == expected


def test_what_does_not_fit_is_refused_with_its_size(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "available", lambda: 3 * memory.GIB)
    memory.check(3 * memory.GIB, "the things", "take fewer")
    with pytest.raises(ConfigError, match=r"the things .*3\.5 GiB.* 3\.0 GiB.*take fewer"):
        memory.check(7 * memory.GIB // 2, "the things", "take fewer")
