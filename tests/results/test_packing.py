"""From run folders to a packed file and back, by the commands."""

from __future__ import annotations

import json
import math
import shutil
import threading
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from tmsgd_bench import cli, manifest
from tmsgd_bench.results import packed, packing, record, store
from tmsgd_bench.results.store import read_runs

WriteRun = Callable[..., Path]
Capture = pytest.CaptureFixture[str]


@pytest.fixture
def root(tmp_path: Path, write_run: WriteRun) -> Path:
    """A store with a run of each kind."""
    root = tmp_path / "store"
    write_run(root, "sgd", 0, final=90.1)
    write_run(root, "sgd", 1, status="diverged")
    write_run(root, "sgd", 2, final=None)
    write_run(root, "sgd", 3, status="failed")
    write_run(root, "sgd", 4, status="abandoned")
    measured = write_run(root, "tmsgd", 0)
    primary = {"name": "accuracy", "label": "", "unit": "%", "direction": "max"}
    store.add_measured(measured, {"metrics": {"accuracy": 91.1}, "primary": primary, "measured_with": {}})
    return root


def contents(root: Path) -> dict[str, bytes]:
    """The files of published runs."""
    return {str(path.relative_to(root)): path.read_bytes() for path in root.glob("[!.]*/*")}


def pack(*stores: Path, out: Path) -> int:
    return cli.main(["pack", *map(str, stores), "--out", str(out)])


def refusal(capsys: Capture) -> str:
    said = capsys.readouterr()
    assert said.out == "" and said.err.startswith("error: ") and said.err.count("\n") == 1
    return said.err


def test_unpacked_runs_are_the_folders_that_were_packed(root: Path, tmp_path: Path) -> None:
    assert pack(root, out=tmp_path / "runs.parquet") == 0
    assert cli.main(["unpack", str(tmp_path / "runs.parquet"), "--out", str(tmp_path / "new")]) == 0
    assert contents(tmp_path / "new") == contents(root)
    assert {path.name for path in (tmp_path / "new").iterdir()} == {path.name for path in root.glob("[!.]*")}
    assert set(read_runs(tmp_path / "new")["status"]) == {"done", "diverged"}
    shutil.rmtree(tmp_path / "new")
    (tmp_path / "new" / ".unpacked").mkdir(parents=True)
    packing.unpack(tmp_path / "runs.parquet", tmp_path / "new")
    assert contents(tmp_path / "new") == contents(root)


def test_a_folder_is_unpacked_by_the_packed_file_in_it(root: Path, tmp_path: Path, capsys: Capture) -> None:
    published, out = tmp_path / "published", tmp_path / "new"
    published.mkdir()
    assert cli.main(["unpack", str(published), "--out", str(out)]) == 2
    assert packed.NAME in (said := refusal(capsys)) and str(published) in said and not out.exists()
    assert pack(root, out=published / packed.NAME) == 0
    assert cli.main(["unpack", str(published), "--out", str(out)]) == 0
    assert contents(out) == contents(root)


def test_pictures_and_weights_stay_behind_and_the_unpacked_run_is_whole(tmp_path: Path, write_run: WriteRun) -> None:
    def large(folder: Path) -> None:
        (folder / "weights.pt").write_bytes(b"large")
        (folder / "faces.png").write_bytes(b"photos")

    run = write_run(tmp_path / "store", extra=large)
    assert pack(tmp_path / "store", out=tmp_path / "runs.parquet") == 0
    packing.unpack(tmp_path / "runs.parquet", tmp_path / "new")
    assert {path.name for path in (tmp_path / "new" / run.name).iterdir()} == {*record.REQUIRED, manifest.NAME}
    assert manifest.problems(tmp_path / "new" / run.name) == []
    assert packing.unpack(tmp_path / "runs.parquet", tmp_path / "store") == []  # what is there has more, and is the run
    assert (run / "faces.png").exists()


def test_a_history_keeps_every_bit_of_its_numbers(tmp_path: Path, write_run: WriteRun) -> None:
    run = write_run(tmp_path / "store", status="diverged")
    odd = [math.nan, math.inf, -0.0, 5e-324, 0.1]
    rows = [{"epoch": float(epoch), "loss": value, "accuracy": 1.0} for epoch, value in enumerate(odd)]
    store.write_history(run / store.HISTORY, rows)
    result = json.loads((run / store.RESULT).read_text()) | {"epochs_done": len(odd)}
    (run / store.RESULT).write_text(json.dumps(result))
    store.seal(run)
    packed.write(tmp_path / "runs.parquet", packing.read([tmp_path / "store"]))
    history = store.history(tmp_path / "runs.parquet" / run.name)
    assert history is not None and history["epoch"].dtype == "int64"
    assert [value.hex() for value in history["loss"]] == [value.hex() for value in odd]


def test_packing_adds_to_a_file_and_a_run_counts_once(root: Path, tmp_path: Path, write_run: WriteRun) -> None:
    out = tmp_path / "runs.parquet"
    assert pack(root, out=out) == 0
    before = packed.read(out)
    assert pack(root, out, out=out) == 0 and packed.read(out) == before
    other = write_run(tmp_path / "other", "adam", 0)
    assert pack(tmp_path / "other", out=out) == 0
    assert set(packed.read(out)) == {*before, other.name}


def test_two_commands_at_once_lose_no_run(
    root: Path, tmp_path: Path, write_run: WriteRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second begins while the first, which has read the file, is about to write it."""
    out, write = tmp_path / "runs.parquet", packed.write
    extra = write_run(tmp_path / "more", "adam", 7)
    second = threading.Thread(target=cli.main, args=(["pack", str(extra.parent), "--out", str(out)],))

    def write_late(path: Path, runs: Mapping[str, packed.Files]) -> None:
        if not second.ident:
            second.start()
            second.join(0.3)
        write(path, runs)

    monkeypatch.setattr(packed, "write", write_late)
    assert cli.main(["pack", str(root), "--out", str(out)]) == 0
    second.join()
    assert {*packed.read(out)} == {*packing.read([root]), extra.name}


def test_two_runs_of_one_name_are_not_packed(root: Path, tmp_path: Path, write_run: WriteRun, capsys: Capture) -> None:
    out, other = tmp_path / "runs.parquet", write_run(tmp_path / "other", "sgd", 0, final=80.0)
    pack(root, out=out)
    before = out.read_bytes()
    capsys.readouterr()
    assert pack(tmp_path / "other", out=out) == 2
    assert str(out / other.name) in (said := refusal(capsys)) and str(other) in said and out.read_bytes() == before


def test_a_damaged_run_is_named_and_nothing_is_packed(root: Path, tmp_path: Path, capsys: Capture) -> None:
    run = next(root.glob("tc-lstm-sgd-seed0-*"))
    (run / store.HISTORY).write_bytes(b"")
    assert pack(root, out=tmp_path / "runs.parquet") == 2
    assert str(run) in refusal(capsys) and not (tmp_path / "runs.parquet").exists()


@pytest.mark.parametrize(
    ("place", "out"),
    [("missing", "a.parquet"), ("empty", "a.parquet"), ("store", "a.csv"), ("store", "store/a.parquet")],
)
def test_what_cannot_be_packed_is_refused(root: Path, tmp_path: Path, place: str, out: str, capsys: Capture) -> None:
    (tmp_path / "empty").mkdir()
    assert pack(tmp_path / place, out=tmp_path / out) == 2
    assert str(tmp_path / (out if place == "store" else place)) in refusal(capsys)
    assert not (tmp_path / out).exists()


def test_unpacking_replaces_nothing(root: Path, tmp_path: Path, write_run: WriteRun, capsys: Capture) -> None:
    """Neither another result of the same run, nor a damaged one; and nothing else is written then."""
    pack(root, out=tmp_path / "runs.parquet")
    other = write_run(tmp_path / "new", "sgd", 1, final=80.0)
    before = contents(tmp_path / "new")
    capsys.readouterr()
    assert cli.main(["unpack", str(tmp_path / "runs.parquet"), "--out", str(tmp_path / "new")]) == 2
    assert str(other) in refusal(capsys) and contents(tmp_path / "new") == before


def test_a_full_disk_while_unpacking_is_told_and_the_same_command_goes_on(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    pack(root, out=tmp_path / "runs.parquet")
    written = []

    def full(self: Path, data: bytes) -> int:
        written.append(self)
        if len(written) == 8:
            raise OSError(28, "No space left on device")
        return original(self, data)

    original = Path.write_bytes
    capsys.readouterr()
    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_bytes", full)
        assert cli.main(["unpack", str(tmp_path / "runs.parquet"), "--out", str(tmp_path / "new")]) == 2
    assert str(tmp_path / "new") in (said := refusal(capsys)) and "No space left" in said
    assert len(read_runs(tmp_path / "new")) == 1
    packing.unpack(tmp_path / "runs.parquet", tmp_path / "new")
    assert contents(tmp_path / "new") == contents(root)


@pytest.mark.usefixtures("charts_drawn_once")
@pytest.mark.parametrize(
    "command", ["runs", "compare", "claims", "export OUT.csv", "report --out OUT", "table 5 --out OUT"]
)
def test_every_command_reads_packed_runs(root: Path, tmp_path: Path, command: str, capsys: Capture) -> None:
    for folder in (root / ".work").iterdir():  # runs in progress are not packed
        shutil.rmtree(folder)
    pack(root, out=tmp_path / "runs.parquet")
    capsys.readouterr()
    said = []
    for number, results in enumerate((root, tmp_path / "runs.parquet")):
        arguments = [word.replace("OUT", str(tmp_path / f"out{number}")) for word in command.split()]
        assert cli.main([*arguments, "--results", str(results)]) == 0
        said.append(capsys.readouterr().out.replace(f"out{number}", "out"))
    assert said[0] == said[1]


def test_a_packed_run_is_shown(root: Path, tmp_path: Path, capsys: Capture) -> None:
    pack(root, out=tmp_path / "runs.parquet")
    name = next(root.glob("tc-lstm-sgd-seed0-*")).name
    capsys.readouterr()
    shown = []
    for results in (root, tmp_path / "runs.parquet"):
        assert cli.main(["show", name, "--results", str(results)]) == 0
        shown.append(capsys.readouterr().out)
    assert f"packed in: {tmp_path / 'runs.parquet'}\n" in shown[1]
    assert shown[0].split("\n", 3)[3] == shown[1].split("\n", 3)[3]
