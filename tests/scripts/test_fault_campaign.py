"""A share of the campaign of faults; and the campaign itself: what it breaks, and what it takes for a failure."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random
from types import ModuleType
from typing import Any

import pytest

SHARE = {"archives": 80, "corruptions": 2, "torn-runs": 3, "hostile-stores": 3, "kills": 2}
"""How many trials of each kind: those that need few processes."""


@pytest.fixture(scope="module")
def campaign(script: Callable[[str], ModuleType]) -> ModuleType:
    return script("fault_campaign")


@pytest.fixture(scope="module")
def place(campaign: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Any:
    return campaign.Place(tmp_path_factory.mktemp("faults"))


@pytest.mark.usefixtures("charts_drawn_once")
@pytest.mark.parametrize("kind", SHARE)
def test_faults_are_survived(kind: str, campaign: ModuleType, place: Any) -> None:
    trials = [campaign.KINDS[kind].trial(place, 0, number) for number in range(SHARE[kind])]
    failed = [f"{trial.outcome}: {trial.fault}: {trial.detail}" for trial in trials if trial.outcome != "survived"]
    assert not failed, "\n".join(failed)


# --- the campaign itself -------------------------------------------------------------------------------------------


@pytest.fixture
def kinds(campaign: ModuleType, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Two kinds in place of the real ones: one is survived, of the other every second trial is not."""
    from faults.trial import Fault, Kind

    def lose(trial: Any) -> None:
        trial.fault = f"fault {trial.random.random()}"
        if trial.number % 2:
            raise Fault("lost", "it is gone")

    some = {
        "good": Kind("good", lambda trial: None, count=3),
        "bad": Kind("bad", lose, count=4),
        "absent": Kind("absent", lose, hindrance=lambda: "no disk"),
    }
    monkeypatch.setattr(campaign, "KINDS", some)
    yield


@pytest.mark.usefixtures("kinds")
def test_a_loss_is_counted_and_printed_with_the_command_that_shows_it_again(
    campaign: ModuleType, capsys: pytest.CaptureFixture[str]
) -> None:
    assert campaign.main(["--seconds", "60", "--seed", "5"]) == 1
    said = capsys.readouterr().out
    rows = {line.split()[0]: line.split("|")[1:] for line in said.splitlines() if "|" in line}
    assert [int(cell) for cell in rows["good"]] == [3, 3, 0, 0, 0]
    assert [int(cell) for cell in rows["bad"]] == [4, 2, 2, 0, 0]
    assert "skipped: absent: no disk" in said
    assert said.count("it is gone") == 2 and "--only bad --seed 5 --trial 1\n" in said
    fault = said.partition("lost: bad: ")[2].partition("\n")[0]
    assert campaign.main(["--only", "bad", "--seed", "5", "--trial", "1"]) == 1
    assert fault in capsys.readouterr().out


@pytest.mark.usefixtures("kinds")
def test_without_a_loss_it_ends_well_and_without_a_trial_it_does_not(campaign: ModuleType) -> None:
    assert campaign.main(["--seconds", "60", "--only", "good"]) == 0
    assert campaign.main(["--seconds", "60", "--only", "absent"]) == 1


@pytest.mark.usefixtures("campaign")
def test_a_difference_is_honest_only_if_the_damaged_thing_is_named() -> None:
    from faults.commands import Ended
    from faults.corruptions import expect_honest
    from faults.trial import Fault

    def outcome(said: str, code: int = 0) -> str:
        try:
            expect_honest("runs", Ended(code, said), Ended(0, "run-a 90\n"), ("run-a",))
        except Fault as fault:
            return fault.outcome
        return "survived"

    assert outcome("run-a 90\n") == "survived"
    assert outcome("run-a 91\n") == outcome("") == outcome("run-a 90\n", code=2) == "believed"
    assert outcome("something is damaged\n") == outcome("run-b is damaged\nrun-a 91\n") == "believed"
    assert outcome("run-a 91\nrun-a: result.json is damaged\n") == "survived"
    assert outcome("Traceback (most recent call last)\nrun-a is damaged\n", code=1) == "traceback"


@pytest.mark.usefixtures("campaign")
@pytest.mark.parametrize("when", ["before", "torn", "after"])
@pytest.mark.parametrize("at", [1, 2, 3, 4])
def test_a_wound_strikes_once_at_its_operation(
    at: int, when: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Writing a file, renaming it and deleting it, as the project does; another folder's operations do not count."""
    import builtins
    import io
    import os

    from faults import wounds

    for name in (*wounds.OPERATIONS, "fsync"):
        monkeypatch.setattr(os, name, getattr(os, name))
    monkeypatch.setattr(builtins, "open", builtins.open)
    monkeypatch.setattr(io, "open", io.open)
    root, struck = tmp_path / "root", list[tuple[list[str], int]]()
    root.mkdir()

    def strike(watch: wounds.Watch) -> None:
        struck.append((sorted(path.name for path in root.iterdir()), sum(p.stat().st_size for p in root.iterdir())))

    monkeypatch.setattr(wounds.Watch, "strike", strike)
    watch = wounds.inflict(wounds.Wound(root, at, when))
    (tmp_path / "elsewhere").write_text("text")
    (root / "new").write_text("text")
    (root / "new").replace(root / "renamed")
    (root / "renamed").unlink()
    seen = {
        "before": [([], 0), (["new"], 4), (["renamed"], 4)],
        "torn": [(["new"], 2), (["new"], 4), (["renamed"], 4)],
        "after": [(["new"], 0), (["renamed"], 4), ([], 0)],
    }
    assert struck == seen[when][at - 1 : at] and watch.seen == 3


@pytest.mark.usefixtures("campaign")
@pytest.mark.parametrize("content", ['{"a": 1}\n', "a: 1\nb: 2\n", "\udcff 7"])
def test_damage_changes_a_file_and_is_the_same_for_the_same_seed(content: str, tmp_path: Path) -> None:
    from faults.damage import TOLERANT, damage

    def damaged(seed: int) -> tuple[str, bytes | None]:
        path = tmp_path / "file.json"
        path.write_text(content, **TOLERANT)
        how = damage(path, Random(seed))
        after = path.read_bytes() if path.is_file() else None
        if path.is_dir():
            path.rename(tmp_path / f"folder {len(list(tmp_path.iterdir()))}")
        return how, after

    before = content.encode(**TOLERANT)
    ways = [damaged(seed) for seed in range(40)]
    assert ways == [damaged(seed) for seed in range(40)]
    assert all(after != before for how, after in ways if "exchanged" not in how)
    assert len({how.split()[0] for how, _ in ways}) > 5
