"""A run as a whole: outcomes, resuming with the same bits, skipping, replacing, locking."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from toy import OPTIMIZERS, STEPS, ToyTask, make_options, make_spec, task_maker
from whole_runs import Killed, history, kill_at, result

from tmsgd_bench import files, manifest
from tmsgd_bench.engine import checkpoint
from tmsgd_bench.engine.runner import run
from tmsgd_bench.errors import ConfigError, DataError, RunIsBusy, StoreError
from tmsgd_bench.results import store
from tmsgd_bench.results.store import RunFolder


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_an_interrupted_run_ends_with_the_same_bits(name: str, tmp_path: Path) -> None:
    """Interrupted in the first epoch, just before, at and after the switch, and in the last epoch."""
    spec = make_spec(name)
    run(spec, make_options(tmp_path / "whole"), task_maker())
    for epoch, step in [(0, 2), (2, 3), (3, 0), (3, 2), (4, 0), (5, 3)]:
        root = tmp_path / f"{epoch}-{step}"
        with pytest.raises(Killed):
            run(spec, make_options(root), task_maker(on_step=kill_at(epoch, step)))
        run(spec, make_options(root), task_maker())
        assert result(root, spec)["weights_sha256"] == result(tmp_path / "whole", spec)["weights_sha256"]
        pd.testing.assert_frame_equal(history(root, spec), history(tmp_path / "whole", spec), check_exact=True)


def test_a_run_interrupted_at_every_epoch_ends_with_the_same_bits(tmp_path: Path) -> None:
    spec = make_spec("tmsgdm")
    run(spec, make_options(tmp_path / "whole"), task_maker())
    for epoch in range(6):
        with pytest.raises(Killed):
            run(spec, make_options(tmp_path / "torn"), task_maker(on_step=kill_at(epoch, 1)))
    run(spec, make_options(tmp_path / "torn"), task_maker())
    assert result(tmp_path / "torn", spec)["weights_sha256"] == result(tmp_path / "whole", spec)["weights_sha256"]
    environment = files.read_json(tmp_path / "torn" / spec.run_id / store.ENVIRONMENT)
    assert environment is not None
    assert len(environment["before"]) == 5  # every process that contributed a checkpoint is on record


def test_a_resumed_run_does_not_train_finished_epochs_again(tmp_path: Path) -> None:
    seen: list[int] = []
    spec = make_spec()
    with pytest.raises(Killed):
        run(spec, make_options(tmp_path), task_maker(on_step=kill_at(4, 1)))
    run(spec, make_options(tmp_path), task_maker(on_step=lambda epoch, step: seen.append(epoch)))
    assert sorted(set(seen)) == [4, 5]


def test_a_damaged_checkpoint_falls_back_to_the_one_before(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    spec = make_spec()
    run(spec, make_options(tmp_path / "whole"), task_maker())
    with pytest.raises(Killed):
        run(spec, make_options(tmp_path / "torn"), task_maker(on_step=kill_at(4, 1)))
    newest = max((tmp_path / "torn" / ".work" / spec.run_id).glob("checkpoint-*.pt"))
    damaged = bytearray(newest.read_bytes())
    damaged[len(damaged) // 2] ^= 1
    newest.write_bytes(damaged)
    with caplog.at_level(logging.INFO):
        run(spec, make_options(tmp_path / "torn"), task_maker())
    assert "is damaged" in caplog.text
    assert "resuming after 3 of 6 epochs" in caplog.text
    assert result(tmp_path / "torn", spec)["weights_sha256"] == result(tmp_path / "whole", spec)["weights_sha256"]


def test_a_finished_run_is_skipped_without_building_its_task(tmp_path: Path) -> None:
    spec = make_spec()
    assert run(spec, make_options(tmp_path), task_maker()).status == "done"

    def forbidden(_: torch.device) -> ToyTask:
        raise AssertionError("built")

    assert run(spec, make_options(tmp_path), forbidden).status == "skipped"


def test_force_trains_again_and_keeps_the_old_result_until_then(tmp_path: Path) -> None:
    spec = make_spec()
    run(spec, make_options(tmp_path), task_maker())
    before = result(tmp_path, spec)
    with pytest.raises(Killed):
        run(spec, make_options(tmp_path, force=True), task_maker(on_step=kill_at(3, 1)))
    assert result(tmp_path, spec) == before
    assert run(spec, make_options(tmp_path, force=True), task_maker()).status == "done"
    after = result(tmp_path, spec)
    assert after["weights_sha256"] == before["weights_sha256"]
    assert after["training_seconds"] != before["training_seconds"]
    assert not list((tmp_path / ".work").iterdir()) and not list((tmp_path / ".replaced").iterdir())


def test_an_interrupted_forced_run_resumes(tmp_path: Path) -> None:
    seen: list[int] = []
    spec = make_spec()
    run(spec, make_options(tmp_path), task_maker())
    with pytest.raises(Killed):
        run(spec, make_options(tmp_path, force=True), task_maker(on_step=kill_at(4, 1)))
    assert "begun to train it again" in store.read_runs(tmp_path).iloc[0]["note"]
    run(spec, make_options(tmp_path, force=True), task_maker(on_step=lambda epoch, step: seen.append(epoch)))
    assert sorted(set(seen)) == [4, 5]


def test_a_diverging_run_is_a_result_with_the_epoch_and_step(tmp_path: Path) -> None:
    def poison(epoch: int, step: int) -> None:
        if (epoch, step) == (2, 1):
            with torch.no_grad():
                task[0].model[0].weight.fill_(torch.inf)

    task: list[ToyTask] = []
    build = task_maker(on_step=poison)
    spec = make_spec("sgd")
    outcome = run(spec, make_options(tmp_path), lambda device: task.append(build(device)) or task[0])  # type: ignore[func-returns-value]
    found = result(tmp_path, spec)
    assert outcome.status == found["status"] == "diverged"
    assert found["diverged_at"] == {"loss": "loss", "epoch": 2, "step": 1}
    assert found["final"] is None and found["epochs_done"] == 2
    assert run(spec, make_options(tmp_path), task_maker()).status == "skipped"


def test_a_failed_run_keeps_its_exception_and_is_retried(tmp_path: Path) -> None:
    def fail(epoch: int, step: int) -> None:
        if epoch == 3:
            raise RuntimeError("out of luck")

    spec = make_spec()
    with pytest.raises(RuntimeError, match="out of luck"):
        run(spec, make_options(tmp_path), task_maker(on_step=fail))
    row = store.read_runs(tmp_path).iloc[0]
    assert (row["status"], row["note"]) == ("failed", "RuntimeError: out of luck")
    kept = files.read_json(tmp_path / ".work" / spec.run_id / store.FAILURE)
    assert kept is not None and "Traceback" in kept["error"]
    assert run(spec, make_options(tmp_path), task_maker()).status == "done"
    assert list(store.read_runs(tmp_path)["status"]) == ["done"]


@pytest.mark.parametrize("error", [ConfigError("no"), DataError("no")])
def test_a_run_that_cannot_start_leaves_nothing_behind(error: Exception, tmp_path: Path) -> None:
    def refuse(_: torch.device) -> ToyTask:
        raise error

    with pytest.raises(type(error)):
        run(make_spec(), make_options(tmp_path), refuse)
    assert store.read_runs(tmp_path).empty


def test_a_run_that_another_process_trains_is_left_alone(tmp_path: Path) -> None:
    spec = make_spec()
    with (
        store.RunFolder(tmp_path, spec.run_id).locked(),
        pytest.raises(RunIsBusy, match="another process"),
    ):
        run(spec, make_options(tmp_path), task_maker())


def test_a_full_disk_at_a_checkpoint_loses_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = make_spec()
    run(spec, make_options(tmp_path / "whole"), task_maker())
    real, saved = torch.save, [0]

    def full(state: Any, file: Any) -> None:
        saved[0] += 1
        if saved[0] == 3:
            file.write(b"half of it")
            raise OSError(28, "No space left on device")
        real(state, file)

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(StoreError, match="No space left on device"):
        run(spec, make_options(tmp_path / "torn"), task_maker())
    work = tmp_path / "torn" / ".work" / spec.run_id
    assert len(list(work.glob("checkpoint-*.pt"))) == 2 and not list(work.glob("*.tmp"))
    monkeypatch.undo()
    run(spec, make_options(tmp_path / "torn"), task_maker())
    assert result(tmp_path / "torn", spec)["weights_sha256"] == result(tmp_path / "whole", spec)["weights_sha256"]


def test_optimizers_with_one_seed_see_the_same_weights_batches_and_dropout(tmp_path: Path) -> None:
    first: dict[str, list[float]] = {}
    for name in OPTIMIZERS:
        spec = make_spec(name, epochs=1)
        build = task_maker(on_step=lambda epoch, step: None)

        def recording(device: torch.device, name: str = name, build: Any = build) -> ToyTask:
            task = build(device)
            task.on_step = lambda epoch, step: first.setdefault(name, []).append(float(torch.rand(())))
            first[f"weights of {name}"] = task.model[0].weight.flatten().tolist()
            return task

        run(spec, make_options(tmp_path), recording)
    assert all(first[name] == first["sgd"] and len(first[name]) == STEPS for name in OPTIMIZERS)
    assert all(first[f"weights of {name}"] == first["weights of sgd"] for name in OPTIMIZERS)


@pytest.mark.parametrize(("plain", "multistep"), [("sgd", "tmsgd"), ("sgdm", "tmsgdm")])
def test_a_switch_outside_the_run_is_plain_sgd_and_says_so(
    plain: str, multistep: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    spec = make_spec(multistep, switch_epoch=6, lr=OPTIMIZERS[plain]["lr"])
    with caplog.at_level(logging.WARNING):
        run(spec, make_options(tmp_path), task_maker())
    label = "SGD-M" if plain == "sgdm" else "SGD"
    assert f"the switch epoch 6 lies outside its 6 epochs, so this run is plain {label}" in caplog.text
    run(make_spec(plain), make_options(tmp_path), task_maker())
    found = result(tmp_path, spec)
    assert found["switched"] is False and "plain SGD" in found["note"]
    assert found["weights_sha256"] == result(tmp_path, make_spec(plain))["weights_sha256"]


def test_the_switch_epoch_is_the_first_multistep_epoch(tmp_path: Path) -> None:
    """Up to it the history equals SGD's; two Euler steps later the weights part."""
    run(make_spec("sgd"), make_options(tmp_path), task_maker())
    run(make_spec("tmsgd"), make_options(tmp_path), task_maker())
    sgd, switched = history(tmp_path, make_spec("sgd")), history(tmp_path, make_spec("tmsgd"))
    pd.testing.assert_frame_equal(sgd[:3], switched[:3], check_exact=True)
    assert not sgd["error"][3:].eq(switched["error"][3:]).any()


def test_a_run_writes_its_settings_environment_history_and_result(tmp_path: Path) -> None:
    spec = make_spec("apollo").following(("table2",))
    run(spec, make_options(tmp_path, save_weights=True), task_maker())
    folder = tmp_path / spec.run_id
    assert {path.name for path in folder.iterdir()} == {
        *("config.yaml", "environment.json", "history.parquet", "result.json", "weights.pt", "manifest.json")
    }
    found = result(tmp_path, spec)
    rows = history(tmp_path, spec)
    assert found["final"] == rows["error"].iloc[-1] and found["best"] == rows["error"].min()
    assert set(found["clocks"]["seconds"]) == {"training", "evaluation", "bookkeeping"}
    assert found["clocks"]["warm_up_epochs"] == 1 and found["examples_per_second"] > 0
    assert found["processor_seconds"] > 0 and found["peak_gpu_memory_mib"] is None
    environment = files.read_json(folder / store.ENVIRONMENT)
    assert environment is not None and environment["packages"]["torch"] == torch.__version__.split("+")[0]
    row = store.read_runs(tmp_path).iloc[0]
    assert (row["protocols"], row["optimizer"], row["status"]) == (("table2",), "apollo", "done")


def test_warm_up_and_schedule_both_act_on_the_learning_rate(tmp_path: Path) -> None:
    """Ten warm-up updates end in the third epoch; the schedule halves the rate after epochs 2 and 4."""
    spec = make_spec("apollo")
    run(spec, make_options(tmp_path), task_maker())
    rates = history(tmp_path, spec)["lr"] / spec.optimizer["lr"]
    warm = [0.001 + 0.999 * min(updates, 10) / 10 for updates in range(4, 28, 4)]
    drops = [1.0, 0.5, 0.5, 0.25, 0.25, 0.25]
    torch.testing.assert_close(rates.tolist(), [w * d for w, d in zip(warm, drops, strict=True)])


def test_a_setting_that_cannot_be_used_is_told_alone(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Without a word on a switch of a run that is not to be."""

    def refuse(device: torch.device) -> ToyTask:
        raise ConfigError("model.width must be a multiple of 8: set it to 64.")

    with caplog.at_level(logging.WARNING), pytest.raises(ConfigError):
        run(make_spec("tmsgd", switch_epoch=6), make_options(tmp_path), refuse)
    assert caplog.text == ""


# --- damaged evidence ------------------------------------------------------------------------------------------------


def test_a_damaged_run_is_trained_again_and_kept_aside(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    spec = make_spec(epochs=1)
    run(spec, make_options(tmp_path), task_maker())
    before = result(tmp_path, spec)
    for number in (1, 2):
        path = tmp_path / spec.run_id / store.RESULT
        path.write_bytes(path.read_bytes()[:-9])
        damaged = path.read_bytes()
        assert run(spec, make_options(tmp_path), task_maker()).status == "done"
        assert result(tmp_path, spec)["weights_sha256"] == before["weights_sha256"]
        aside = tmp_path / ".damaged" / f"{spec.run_id}-{number}"
        assert (aside / store.RESULT).read_bytes() == damaged and str(aside) in caplog.text
    assert "result.json differs from its checksum" in caplog.text
    assert list(store.read_runs(tmp_path)["status"]) == ["done"]


def test_a_run_that_may_be_whole_is_not_trained_again(tmp_path: Path) -> None:
    """One without a manifest; force=true replaces it."""
    spec = make_spec(epochs=1)
    run(spec, make_options(tmp_path), task_maker())
    (tmp_path / spec.run_id / manifest.NAME).unlink()
    with pytest.raises(StoreError, match=r"manifest\.json is missing: "):
        run(spec, make_options(tmp_path), task_maker())
    assert run(spec, make_options(tmp_path, force=True), task_maker()).status == "done"
    assert list(store.read_runs(tmp_path)["status"]) == ["done"]


@pytest.mark.parametrize("force", [False, True])
@pytest.mark.parametrize("what", ["clear", "publish"])
def test_a_run_killed_at_its_very_end_is_published_without_training_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str, force: bool
) -> None:
    spec, options = make_spec(), make_options(tmp_path, force=force)
    run(spec, make_options(tmp_path / "whole"), task_maker())

    def kill(*_: Any) -> None:
        raise Killed

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(*((checkpoint, "clear", kill) if what == "clear" else (RunFolder, "publish", kill)))
        run(spec, options, task_maker())
    trained: list[int] = []
    build = task_maker(on_step=lambda epoch, step: trained.append(epoch))
    assert run(spec, options, build).status == "done"
    assert bool(trained) == (force and what == "publish")  # the mark of a forced run is gone by then
    assert result(tmp_path, spec)["weights_sha256"] == result(tmp_path / "whole", spec)["weights_sha256"]
    names = {path.name for path in (tmp_path / spec.run_id).iterdir()}
    assert names == {"config.yaml", "environment.json", "history.parquet", "result.json", "manifest.json"}
    assert not list((tmp_path / ".work").iterdir())


@pytest.mark.parametrize("how", ["another run's", "not a run's", "fewer weights", "wrong shapes", "no rows"])
def test_a_checkpoint_with_foreign_contents_is_passed_over(
    how: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Its checksum fits; the run goes on from the one before and ends with the same bits."""
    spec = make_spec()
    run(spec, make_options(tmp_path / "whole"), task_maker())
    with pytest.raises(Killed):
        run(spec, make_options(tmp_path / "torn"), task_maker(on_step=kill_at(4, 1)))
    work = tmp_path / "torn" / ".work" / spec.run_id
    newest = max(work.glob("checkpoint-*.pt"))
    state = torch.load(newest, weights_only=True)
    weights = state["modules"]["net"]
    if how == "another run's":
        state["identity"] = "x"
    elif how == "not a run's":
        state = {"epoch": 4}
    elif how == "no rows":
        state["history"] = [1, 2, 3, 4]
    elif how == "fewer weights":
        del weights["2.bias"]
    else:
        weights["2.weight"] = weights["2.weight"][:, :3]
    newest.unlink()
    foreign = checkpoint.save(work, 4, state)
    with caplog.at_level(logging.INFO):
        run(spec, make_options(tmp_path / "torn"), task_maker())
    assert foreign.name in caplog.text and "resuming after 3 of 6 epochs" in caplog.text
    assert result(tmp_path / "torn", spec)["weights_sha256"] == result(tmp_path / "whole", spec)["weights_sha256"]
    pd.testing.assert_frame_equal(history(tmp_path / "torn", spec), history(tmp_path / "whole", spec), check_exact=True)


@pytest.mark.parametrize("text", ["{}", "[]", '{"before": []}', '{"started": 5}', '{"started": "x", "before": [{}]}'])
def test_a_damaged_record_of_earlier_processes_is_passed_over(
    text: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    spec = make_spec()
    with pytest.raises(Killed):
        run(spec, make_options(tmp_path), task_maker(on_step=kill_at(4, 1)))
    (tmp_path / ".work" / spec.run_id / store.ENVIRONMENT).write_text(text)
    assert run(spec, make_options(tmp_path), task_maker()).status == "done"
    assert ("environment.json is passed over" in caplog.text) == ("x" not in text)
    assert list(store.read_runs(tmp_path)["status"]) == ["done"]
