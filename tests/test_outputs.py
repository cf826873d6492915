"""Folders that commands write: nothing is lost that the same commands did not write."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tmsgd_bench import cli, files, manifest, outputs
from tmsgd_bench.errors import StoreError
from tmsgd_bench.results import packed

Contents = dict[str, bytes]
Capture = pytest.CaptureFixture[str]
WriteRun = Callable[..., Path]


def snapshot(folder: Path) -> Contents:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def fill(texts: dict[str, str]) -> Callable[[Path], None]:
    def write(place: Path) -> None:
        for name, text in texts.items():
            (place / name).parent.mkdir(parents=True, exist_ok=True)
            files.write_text(place / name, text)

    return write


def in_runs(name: str) -> bool:
    return name.startswith("runs/")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """An output with two runs and a foreign file beside them."""
    place = tmp_path / "deep" / "out"
    outputs.renew(place, fill({"table.md": "old", "runs/a/result": "1", "runs/b/result": "2", "runs/b/x/y": "3"}))
    (place / "README.md").write_text("mine")
    return place


def refused(folder: Path, texts: dict[str, str], word: str) -> None:
    """Writing is refused with a sentence that names what is in the way, and nothing changes."""
    before = snapshot(folder)
    with pytest.raises(StoreError, match=r"^[^\n]+\.$") as raised:
        outputs.renew(folder, fill(texts), in_runs)
    assert word in str(raised.value)
    assert snapshot(folder) == before
    assert not list(folder.glob(".new-*"))


def test_what_was_written_is_replaced_and_the_rest_stays(folder: Path) -> None:
    outputs.renew(folder, fill({"table.md": "new", "runs/a/result": "1", "runs/c/result": "4"}), in_runs)
    kept = {name: text for name, text in snapshot(folder).items() if name != manifest.NAME}
    expected = {"table.md": b"new", "runs/a/result": b"1", "runs/c/result": b"4", "README.md": b"mine"}
    assert kept == expected
    assert not (folder / "runs" / "b").exists()
    assert manifest.problems(folder) == []
    assert set(manifest.read(folder) or {}) == set(expected) - {"README.md"}


def test_without_leave_nothing_is_deleted(folder: Path) -> None:
    before = snapshot(folder)
    outputs.renew(folder, fill({"other.md": "new"}))
    assert before.items() - snapshot(folder).items() == {(manifest.NAME, before[manifest.NAME])}


@pytest.mark.parametrize("name", ["table.md", "runs/a/result", "runs/b/result", "runs/b/x/y"])
def test_a_changed_file_is_neither_replaced_nor_deleted(folder: Path, name: str) -> None:
    (folder / name).write_text("edited")
    refused(folder, {"table.md": "new", "runs/a/result": "new"}, str(folder / name))


def test_a_changed_file_that_is_not_written_stays_unknown(folder: Path) -> None:
    """Writing another file must not make the edited one ours."""
    (folder / "table.md").write_text("edited")
    outputs.renew(folder, fill({"other.md": "new"}))
    assert manifest.problems(folder) == ["table.md differs from its checksum"]
    refused(folder, {"table.md": "new"}, "table.md")


def test_foreign_files_are_neither_replaced_nor_deleted(folder: Path) -> None:
    refused(folder, {"README.md": "new"}, "README.md")
    (folder / "runs" / "b" / "weights.pt").write_text("large")
    refused(folder, {"runs/a/result": "1"}, "weights.pt")


def test_a_manifest_of_a_run_goes_with_the_run(folder: Path) -> None:
    """One that was added later, too; unless it does not fit the run."""
    manifest.write(folder / "runs" / "b", ["result", "x/y"])
    damaged = (folder / "runs" / "b" / manifest.NAME).read_bytes().replace(b"bytes", b"bites")
    outputs.renew(folder, fill({"runs/a/result": "1"}), in_runs)
    assert not (folder / "runs" / "b").exists()
    outputs.renew(folder, fill({"runs/b/result": "2"}))
    (folder / "runs" / "b" / manifest.NAME).write_bytes(damaged)
    refused(folder, {"runs/a/result": "1"}, manifest.NAME)


@pytest.mark.parametrize("text", ["", "{}", "[1]", '{"files": {"../../x": {"sha256": "", "bytes": 0}}}'])
def test_a_damaged_manifest_is_refused(folder: Path, text: str) -> None:
    (folder / manifest.NAME).write_text(text)
    refused(folder, {"table.md": "new"}, manifest.NAME)


def test_links_lead_nowhere(folder: Path, tmp_path: Path) -> None:
    """Neither is a linked file overwritten, nor one deleted behind a linked folder."""
    shutil.copytree(folder / "runs", tmp_path / "elsewhere")
    shutil.rmtree(folder / "runs")
    (folder / "runs").symlink_to(tmp_path / "elsewhere")
    before = snapshot(tmp_path / "elsewhere")
    refused(folder, {"runs/a/result": "new"}, "leads out of")
    refused(folder, {"table.md": "new"}, "leads out of")
    assert snapshot(tmp_path / "elsewhere") == before
    (tmp_path / "mine").write_text("old")
    (folder / "table.md").unlink()
    (folder / "table.md").symlink_to(tmp_path / "mine")
    refused(folder, {"table.md": "new"}, "table.md")


def test_a_command_that_was_killed_can_be_repeated(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Even between the last file and the manifest."""
    texts = {"table.md": "new", "runs/a/result": "1", "runs/c/result": "4"}
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(manifest, "write", _interrupted)
        outputs.renew(folder, fill(texts), in_runs)
    outputs.renew(folder, fill(texts), in_runs)
    assert manifest.problems(folder) == []
    assert set(snapshot(folder)) == {*texts, manifest.NAME, "README.md"}


def _interrupted(*_: object) -> None:
    raise KeyboardInterrupt


def test_a_full_disk_changes_nothing(folder: Path) -> None:
    before = snapshot(folder)

    def full(place: Path) -> None:
        (place / "table.md").write_text("new")
        raise OSError(28, "No space left on device")

    with pytest.raises(StoreError, match="No space left on device"):
        outputs.renew(folder, full, in_runs)
    assert snapshot(folder) == before


def test_a_refused_output_leaves_no_empty_folder(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError):
        outputs.renew(tmp_path / "out", lambda place: 1 / 0)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("target", ["store", "store/run", "store/new/deep", ".", "link", "link/run", "a/../store"])
def test_an_output_is_apart_from_its_sources(tmp_path: Path, target: str) -> None:
    (tmp_path / "store" / "run").mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "store")
    with pytest.raises(StoreError, match="overlaps"):
        outputs.apart(tmp_path / target, [tmp_path / "other", tmp_path / "store"])
    outputs.apart(tmp_path / "store-out", [tmp_path / "store"])


# --- commands ------------------------------------------------------------------------------------------------------


@pytest.fixture
def results(tmp_path: Path, write_run: WriteRun) -> Path:
    root = tmp_path / "results" / "runs"
    for seed in range(3):
        write_run(root, "sgd", seed, final=90.0 + seed)
        write_run(root, "tmsgd", seed, final=91.0 - seed)
    write_run(root, "adam", 0, status="failed")
    return root


OUT = [
    ["table", "5", "--out"],
    ["claims", "--out"],
    ["targets", "--out"],
    ["report", "--out"],
    ["figure", "switch", "--out"],
]


@pytest.mark.parametrize("place", [".", "..", "sub", "../../results"])
@pytest.mark.parametrize("command", [*OUT, ["export", "--history"]], ids=lambda command: command[0])
def test_no_command_writes_over_its_results(
    capsys: Capture, results: Path, tmp_path: Path, command: list[str], place: str
) -> None:
    before = snapshot(tmp_path)
    target = results / place if command[0] != "export" else results / "sub" / "runs.csv"
    assert cli.main([*command, str(target), "--results", str(results)]) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.startswith("error: ") and err.count("\n") == 1
    assert snapshot(tmp_path) == before


@pytest.mark.parametrize("command", OUT[:4], ids=lambda command: command[0])
def test_no_command_writes_over_foreign_files(
    capsys: Capture, results: Path, tmp_path: Path, command: list[str]
) -> None:
    out = tmp_path / "out"
    numerics = ["--numerics", str(tmp_path)] if command[0] in ("claims", "report") else []
    arguments = [*command, str(out), "--results", str(results), *numerics]
    assert cli.main(arguments) == 0
    assert cli.main(arguments) == 0  # its own files, it does
    name = min(snapshot(out).keys() - {manifest.NAME})
    shutil.rmtree(out)
    fill({name: "mine"})(out)
    assert cli.main(arguments) == 2
    assert snapshot(out) == {name: b"mine"}
    assert str(out / name) in capsys.readouterr().err


def test_a_folder_of_runs_that_no_command_wrote_stays(capsys: Capture, results: Path, tmp_path: Path) -> None:
    shutil.copytree(results, tmp_path / "out" / "runs")
    before = snapshot(tmp_path / "out")
    shutil.rmtree(next(results.glob("tc-lstm-sgd-seed2*")))
    assert cli.main(["table", "5", "--out", str(tmp_path / "out"), "--results", str(results)]) == 0
    assert before.items() <= snapshot(tmp_path / "out").items()


def test_runs_that_are_nowhere_else_are_deleted_only_by_force(capsys: Capture, results: Path, tmp_path: Path) -> None:
    arguments = ["table", "5", "--out", str(tmp_path / "out"), "--results", str(results)]
    assert cli.main(arguments) == 0
    gone = next(results.glob("tc-lstm-sgd-seed2*"))
    shutil.rmtree(gone)
    before = snapshot(tmp_path / "out")
    assert cli.main(arguments) == 2
    assert f"1 run that the results lack, {gone.name}" in capsys.readouterr().err
    assert snapshot(tmp_path / "out") == before
    assert cli.main([*arguments, "--force"]) == 0
    assert len(runs := packed.read(tmp_path / "out" / packed.NAME)) == 5 and gone.name not in runs


def test_an_empty_table_is_refused_and_writes_nothing(capsys: Capture, results: Path, tmp_path: Path) -> None:
    arguments = ["table", "--out", str(tmp_path / "out"), "--results", str(results)]
    assert cli.main([*arguments, "5"]) == 0
    before = snapshot(tmp_path)
    for more in (["5", "--protocol", "smoke"], ["5", "--data", "synthetic"], ["3"]):
        assert cli.main([*arguments, *more]) == 2
        assert "no run enters table" in capsys.readouterr().err
    assert snapshot(tmp_path) == before


def test_two_tables_do_not_share_a_folder(capsys: Capture, results: Path, tmp_path: Path, write_run: WriteRun) -> None:
    out = tmp_path / "out"
    outputs.renew(out, fill({"table3.md": "", "runs/a/result.json": "{}"}))
    before = snapshot(out)
    assert cli.main(["table", "5", "--out", str(out), "--results", str(results)]) == 2
    assert "table3.md" in capsys.readouterr().err and snapshot(out) == before


@pytest.mark.parametrize("command", [["claims", "--out"], ["report", "--out"], ["export"]], ids=lambda one: one[0])
def test_nothing_is_written_of_no_runs(capsys: Capture, tmp_path: Path, command: list[str]) -> None:
    (tmp_path / "store").mkdir()
    assert cli.main([*command, str(tmp_path / "out.csv"), "--results", str(tmp_path / "store")]) == 2
    assert f"there is no run in {tmp_path / 'store'}" in capsys.readouterr().err
    assert not (tmp_path / "out.csv").exists()


@pytest.mark.parametrize("command", [["report"], ["figure", "switch"]], ids=lambda one: one[0])
def test_results_of_another_store_have_no_place_by_default(capsys: Capture, results: Path, command: list[str]) -> None:
    """The default one holds what was made of the default results."""
    assert cli.main([*command, "--results", str(results)]) == 2
    assert "--out" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["table5", "settings", "numerics", "report", "step", "sharpness", "switch"])
def test_published_outputs_are_as_they_were_written(name: str) -> None:
    """So that their commands can renew them."""
    assert manifest.problems(Path(__file__).parents[1] / "results" / name) == []
