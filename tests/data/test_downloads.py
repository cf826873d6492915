"""Downloads that break: tried again, gone on with, and never mixed up."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from local_server import serving

from tmsgd_bench.data import downloads
from tmsgd_bench.data.sources import DataFile
from tmsgd_bench.errors import DataError

BYTES = bytes(range(256)) * 40
Answer = Callable[[BaseHTTPRequestHandler, int], None]


class Server:
    """Serves one file, however ``answer`` does; it remembers from which byte on each answer was asked for."""

    def __init__(self) -> None:
        self.begins: list[int] = []
        self.answer: Answer = whole
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                begin = int(self.headers.get("Range", "bytes=0-").removeprefix("bytes=").removesuffix("-"))
                outer.begins.append(begin)
                outer.answer(self, begin)

            def log_message(self, *_: Any) -> None:
                """Keep the tests' output clean."""

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)

    @property
    def file(self) -> DataFile:
        digest = hashlib.sha256(BYTES).hexdigest()
        return DataFile("data.bin", f"http://127.0.0.1:{self.http.server_port}/data.bin", digest)


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    server = Server()
    with serving(server.http, monkeypatch):
        yield server


def send(handler: BaseHTTPRequestHandler, begin: int, data: bytes, sent: int, status: int) -> None:
    """Answer with ``data`` from a byte on, but break after ``sent`` bytes of it."""
    handler.send_response(status)
    if status == downloads.PARTIAL:
        handler.send_header("Content-Range", f"bytes {begin}-{len(data) - 1}/{len(data)}")
    handler.send_header("Content-Length", str(len(data) - begin))
    handler.end_headers()
    handler.wfile.write(data[begin : begin + sent])


def whole(handler: BaseHTTPRequestHandler, begin: int) -> None:
    send(handler, begin, BYTES, len(BYTES), downloads.PARTIAL if begin else 200)


def breaking(handler: BaseHTTPRequestHandler, begin: int) -> None:
    send(handler, begin, BYTES, 3_000, downloads.PARTIAL if begin else 200)


def without_ranges(handler: BaseHTTPRequestHandler, begin: int) -> None:
    send(handler, 0, BYTES, len(BYTES), 200)


def stuck(handler: BaseHTTPRequestHandler, begin: int) -> None:
    """Nothing new comes after the first 3,000 bytes."""
    send(handler, begin, BYTES, max(0, 3_000 - begin), downloads.PARTIAL if begin else 200)


def failing(*codes: int) -> Answer:
    """With an error of each code, then as ever."""
    left = list(codes)
    return lambda handler, begin: handler.send_error(left.pop(0)) if left else whole(handler, begin)


def fetch(server: Server, folder: Path, file: DataFile | None = None, most: int | None = None) -> bytes:
    path = folder / "data.bin"
    downloads.download(file or server.file, path, "put it there by hand.", most)
    return path.read_bytes()


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_download_that_breaks_goes_on_where_it_stopped(tmp_path: Path, server: Server) -> None:
    """However often, as long as something comes."""
    server.answer = breaking
    assert fetch(server, tmp_path) == BYTES
    assert server.begins == [0, 3_000, 6_000, 9_000] and names(tmp_path) == ["data.bin"]


def test_what_came_is_kept_for_the_next_call(tmp_path: Path, server: Server) -> None:
    server.answer = stuck
    with pytest.raises(DataError, match=r"3,000 of 10,240 bytes; 3,000 bytes are kept, .*: put it there by hand\.$"):
        fetch(server, tmp_path)
    assert server.begins == [0] + [3_000] * (downloads.TRIES - 1) and names(tmp_path) == [".data.bin.part"]
    server.answer = whole
    assert fetch(server, tmp_path) == BYTES
    assert server.begins[-1] == 3_000 and names(tmp_path) == ["data.bin"]


def test_ctrl_c_keeps_what_came(tmp_path: Path, server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    server.answer = breaking
    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(downloads.time, "sleep", interrupted)
        fetch(server, tmp_path)
    assert (tmp_path / ".data.bin.part").read_bytes() == BYTES[:3_000]
    assert fetch(server, tmp_path) == BYTES and 0 not in server.begins[1:]


def test_a_server_without_parts_sends_all_of_it_again(tmp_path: Path, server: Server) -> None:
    (tmp_path / ".data.bin.part").write_bytes(BYTES[:500])
    server.answer = without_ranges
    assert fetch(server, tmp_path) == BYTES and server.begins == [500]


def test_a_part_that_is_too_long_is_given_up(tmp_path: Path, server: Server) -> None:
    (tmp_path / ".data.bin.part").write_bytes(BYTES + b"more")
    server.answer = failing(downloads.OUT_OF_RANGE)
    assert fetch(server, tmp_path) == BYTES and server.begins == [len(BYTES) + 4, 0]


def test_a_part_of_another_version_is_given_up(tmp_path: Path, server: Server) -> None:
    (tmp_path / ".data.bin.part").write_bytes(b"\xff" * 500)
    assert fetch(server, tmp_path) == BYTES and server.begins == [500, 0]


def test_other_bytes_than_published_are_refused_and_not_kept(tmp_path: Path, server: Server) -> None:
    (tmp_path / ".data.bin.part").write_bytes(BYTES[:500])
    with pytest.raises(DataError, match="no longer holds the published file"):
        fetch(server, tmp_path, replace(server.file, sha256="0" * 64))
    assert names(tmp_path) == []


def test_a_complete_part_is_not_downloaded_again(tmp_path: Path, server: Server) -> None:
    (tmp_path / ".data.bin.part").write_bytes(BYTES)
    server.answer = failing(downloads.OUT_OF_RANGE)
    assert fetch(server, tmp_path) == BYTES and server.begins == [len(BYTES)]


def test_without_a_network_what_came_before_stays(tmp_path: Path, server: Server) -> None:
    (tmp_path / ".data.bin.part").write_bytes(BYTES[:500])
    with pytest.raises(DataError, match="500 bytes are kept"):
        fetch(server, tmp_path, replace(server.file, url="http://127.0.0.1:9/data.bin"))
    assert fetch(server, tmp_path) == BYTES and server.begins == [500]


@pytest.mark.parametrize(("age", "begins"), [(0.0, [0]), (2 * downloads.ABANDONED_SECONDS, [500])])
def test_the_part_of_a_killed_process_is_taken_up(
    tmp_path: Path, server: Server, age: float, begins: list[int]
) -> None:
    """Not at once: the process may live."""
    part = tmp_path / ".data.bin.12345.part"
    part.write_bytes(BYTES[:500])
    os.utime(part, (time.time() - age, time.time() - age))
    assert fetch(server, tmp_path) == BYTES and server.begins == begins
    assert names(tmp_path) == ([".data.bin.12345.part", "data.bin"] if age == 0.0 else ["data.bin"])


def test_nothing_is_kept_of_a_file_without_a_known_digest(tmp_path: Path, server: Server) -> None:
    """Its parts could be of two versions, and nobody would notice."""
    server.answer = stuck
    with pytest.raises(DataError, match="the connection broke"):
        fetch(server, tmp_path, replace(server.file, sha256=None))
    assert names(tmp_path) == []


@pytest.mark.parametrize("codes", [(503,), (500, 429, 502), (408,)])
def test_an_error_that_passes_is_waited_for(tmp_path: Path, server: Server, codes: tuple[int, ...]) -> None:
    server.answer = failing(*codes)
    assert fetch(server, tmp_path) == BYTES and len(server.begins) == len(codes) + 1


@pytest.mark.parametrize("code", [401, 403, 404, 410])
def test_an_error_that_stays_is_told_at_once(tmp_path: Path, server: Server, code: int) -> None:
    server.answer = failing(*[code] * 9)
    with pytest.raises(DataError, match=str(code)):
        fetch(server, tmp_path)
    assert len(server.begins) == 1 and names(tmp_path) == []


def test_the_pauses_grow(tmp_path: Path, server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    pauses: list[float] = []
    monkeypatch.setattr(downloads, "PAUSE_SECONDS", 1.0)
    monkeypatch.setattr(downloads.time, "sleep", pauses.append)
    server.answer = failing(*[503] * 9)
    with pytest.raises(DataError, match="503"):
        fetch(server, tmp_path)
    assert pauses == [1.0, 2.0, 4.0] and len(server.begins) == downloads.TRIES == 4


@pytest.mark.parametrize("most", [0, 100, len(BYTES) - 1])
def test_a_file_that_is_too_large_is_given_up(tmp_path: Path, server: Server, most: int) -> None:
    with pytest.raises(DataError, match=f"more than {most:,} bytes"):
        fetch(server, tmp_path, most=most)
    assert len(server.begins) == 1 and names(tmp_path) == []
    assert fetch(server, tmp_path, most=len(BYTES)) == BYTES
