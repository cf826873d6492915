"""What happens to what is printed: a full disk, a reader who has seen enough, a terminal that knows ASCII alone."""

from __future__ import annotations

import io
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tmsgd_bench import cli, terminal
from tmsgd_bench.results import store

WriteRun = Callable[..., Path]
ROOT = Path(__file__).parents[1]


class Failing(io.RawIOBase):
    """An output that fails once something reaches it."""

    def __init__(self, error: OSError) -> None:
        self.error = error

    def writable(self) -> bool:
        return True

    def write(self, _: object) -> int:
        raise self.error


@pytest.fixture
def results(tmp_path: Path, write_run: WriteRun) -> Path:
    for seed in range(3):
        write_run(tmp_path, "sgd", seed)
        write_run(tmp_path, "tmsgd", seed, final=91.0)
    return tmp_path


COMMANDS = [["runs"], ["runs", "--format", "csv"], ["show", "tc-lstm-sgd-seed0"], ["table", "5"], ["compare"]]


def on(stream: io.RawIOBase, patch: pytest.MonkeyPatch, results: Path, command: list[str], buffered: bool) -> int:
    size = 1 << 20 if buffered else 1
    patch.setattr(sys, "stdout", io.TextIOWrapper(io.BufferedWriter(stream, size), encoding="utf-8"))
    return cli.main([*command, "--results", str(results)])


@pytest.mark.parametrize("buffered", [False, True])
@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_an_output_that_fails_is_blamed_and_no_run(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    results: Path,
    command: list[str],
    buffered: bool,
) -> None:
    with monkeypatch.context() as patch:
        assert on(Failing(OSError(28, "No space left on device")), patch, results, command, buffered) == 2
    err = capsys.readouterr().err
    assert err == (
        "error: cannot print (No space left on device): free some space, or send the output to another place.\n"
    )


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_a_reader_who_has_seen_enough_ends_it_quietly(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, results: Path, command: list[str]
) -> None:
    with monkeypatch.context() as patch:
        assert on(Failing(BrokenPipeError(32, "Broken pipe")), patch, results, command, buffered=True) == 0
    assert capsys.readouterr().err == ""


def test_a_script_ends_quietly_where_its_reader_has_seen_enough() -> None:
    command = [sys.executable, str(ROOT / "scripts/verdict_rates.py"), "--help"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=ROOT) as script:
        assert script.stdout is not None and script.stderr is not None
        script.stdout.close()
        assert (script.wait(), script.stderr.read()) == (0, b"")


def test_every_script_is_started_so() -> None:
    for path in (ROOT / "scripts").glob("*.py"):
        text = path.read_text(encoding="utf-8")
        assert "__main__" not in text or "sys.exit(terminal.piped(main))" in text or path.name == "build_docs.py"


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_characters_that_a_terminal_lacks_are_replaced(
    monkeypatch: pytest.MonkeyPatch, results: Path, command: list[str]
) -> None:
    raw = io.BytesIO()
    stream = io.TextIOWrapper(raw, encoding="ascii")  # kept here: it closes what is below when it goes
    with monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", stream)
        assert cli.main([*command, "--results", str(results)]) == 0
    assert raw.getvalue().isascii() and raw.getvalue()


def test_numbers_keep_their_signs_where_a_terminal_has_ascii_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    raw = io.BytesIO()
    stream = io.TextIOWrapper(raw, encoding="ascii")
    with monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", stream)
        terminal.prepare()
        terminal.say("+0.62 [−2.02, +3.27] – ± 鞋")
    stream.flush()
    assert raw.getvalue() == b"+0.62 [-2.02, +3.27] - +- ?\n"


@pytest.mark.slow
def test_a_process_says_the_same(results: Path) -> None:
    """Python tries to write once more at its end; that must not add words of its own."""
    command = f"{shlex.quote(sys.executable)} -m tmsgd_bench runs --format csv --results {shlex.quote(str(results))}"
    script = f"{command} >/dev/full; echo $?; ({command}; echo $? >&2) | head -0"
    done = subprocess.run(["bash", "-c", script], cwd=ROOT, capture_output=True, text=True)
    full, seen_enough = done.stderr.splitlines()
    assert (done.stdout, seen_enough) == ("2\n", "0")
    assert full.startswith("error: cannot print (No space left")


def test_a_closed_output_is_an_error(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, results: Path
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", None)
        assert cli.main(["runs", "--results", str(results)]) == 2
    assert "the output is closed" in capsys.readouterr().err


def test_a_file_that_cannot_be_used_is_named(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, results: Path
) -> None:
    def denied(*_: object) -> None:
        raise PermissionError(13, "Permission denied", str(results / "x"))

    monkeypatch.setattr(store, "read_runs", denied)
    assert cli.main(["runs", "--results", str(results)]) == 2
    assert capsys.readouterr().err == f"error: cannot use {results / 'x'} (Permission denied).\n"


def test_a_damaged_history_is_named(capsys: pytest.CaptureFixture[str], results: Path) -> None:
    path = next(results.glob("tc-lstm-sgd-seed0*")) / "history.parquet"
    path.write_bytes(b"PAR1 no")
    show, export = ["show", "tc-lstm-sgd-seed0"], ["export", str(results.parent / "out.csv"), "--history"]
    for command, code in ((show, 1), (export, 0)):
        assert cli.main([*command, "--results", str(results)]) == code
        err = capsys.readouterr().err
        assert str(path.parent) in err and path.name in err and "restore it" in err and "delete" not in err
