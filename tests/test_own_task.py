"""A task of the user's own, outside the checkout: what the template writes works, and what a YAML lacks is named."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tmsgd_bench import cli, templates
from tmsgd_bench.engine import sweep

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty folder with a new task, to be the current one."""
    templates.write(tmp_path, templates.task("birds"))
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield tmp_path
    for name in [name for name in sys.modules if name.startswith("birds_")]:
        del sys.modules[name]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    """Call run.py's main in this process, with the new task."""
    monkeypatch.syspath_prepend(str(ROOT))
    import run as module

    def call(*arguments: str) -> int:
        monkeypatch.setattr(sweep.SweepCallback, "folder", None)
        base = ["task=birds", "data=synthetic", "data.root=data", "results.root=runs", "device=cpu", "progress=log"]
        flags = [argument for argument in arguments if argument.startswith("-")]
        settings = [argument for argument in arguments if argument not in flags]
        monkeypatch.setattr(sys, "argv", ["run.py", "--config-dir", "my", *flags, *base, *settings])
        return module.main()

    return call


def test_what_the_template_writes_passes_its_test_as_it_is(tmp_path: Path) -> None:
    """From an empty folder, as a user starts it."""
    assert cli.main(["new", "task", "my_birds", "--out", str(tmp_path)]) == 0
    environment = {"PYTHONPATH": f"{tmp_path}:{ROOT}", "PATH": "", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "test_my_birds.py"]
    ended = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stdout
    assert "5 passed" in ended.stdout


def test_a_new_task_is_trained_with_its_own_settings_and_data(
    folder: Path, run: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    """In a sweep; its runs are compared with the paper's tools."""
    assert run("-m", "protocol=smoke", "optimizer=sgd,tmsgd") == 0
    assert cli.main(["compare", "--results", "runs"]) == 0
    printed = capsys.readouterr().out
    assert "birds, birds_net, synthetic birds (200 training examples)" in printed and "TM-SGD, switch 1" in printed
    assert cli.main(["report", "--results", "runs", "--out", "report"]) == 0
    assert 'aria-labelledby="own-1-birds-birds_net-head"' in Path("report/index.html").read_text(encoding="utf-8")
    assert run("plan=true") == 0
    assert "20 epochs to train" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["birds"], "is there already, and nothing was written"),
        (["tc"], "a task tc already"),
        (["r8"], "a data set r8 already"),
        (["lstm"], "a model lstm already"),
        (["sgd"], "an optimizer sgd already"),
        (["Birds"], "cannot name a task"),
        (["class"], "cannot name a task"),
    ],
)
def test_a_name_that_cannot_be_used_is_refused(
    arguments: list[str], sentence: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = sorted(folder.rglob("*"))
    assert cli.main(["new", "task", *arguments]) == 2
    assert sentence in capsys.readouterr().err and sorted(folder.rglob("*")) == before


LACKS = [
    ("task", r"defaults:\n(  .*\n)+", (), "the task has no model: add '- override /model@_global_.model: NAME'"),
    ("task", r"_target_: .*\n", (), "setting 'task._target_' is missing"),
    ("task", r"name: .*\n", (), "setting 'task.name' is missing"),
    ("task", r"dataset: .*\n", (), "setting 'task.dataset' is missing"),
    ("task", r"noise: .*\n", (), "setting 'task.noise' is missing, which Birds needs"),
    ("task", r"own: .*\n", (), "task=birds has no values for protocol=own: add a line 'own: {epochs: …, lr: …"),
    ("task", r"smoke: .*\n", ("protocol=smoke",), "YAML, or choose protocol=own"),
    ("task", r"epochs: 20, ", (), "setting 'task.own.epochs' is missing: add epochs to the block own"),
    ("task", r"lr: 0.1, ", (), "setting 'task.own.lr' is missing"),
    ("task", r", schedule: null", (), "setting 'task.own.schedule' is missing"),
    ("task", r", limit: 200", ("protocol=smoke",), "setting 'task.smoke.limit' is missing"),
    ("model", r"_target_: .*\n", (), "setting 'model._target_' is missing"),
    ("model", r"name: .*\n", (), "setting 'model.name' is missing"),
    ("model", r"hidden: .*\n", (), "setting 'model.hidden' is missing, which network needs"),
    ("data_entries", r"title: .*\n", (), "describes no data set (the key title is missing)"),
]


@pytest.mark.parametrize(("group", "pattern", "arguments", "sentence"), LACKS, ids=[one[3] for one in LACKS])
def test_what_a_yaml_lacks_is_told_in_one_sentence(
    group: str,
    pattern: str,
    arguments: tuple[str, ...],
    sentence: str,
    folder: Path,
    run: Callable[..., int],
    capsys: pytest.CaptureFixture[str],
) -> None:
    (path,) = (folder / "my" / group).iterdir()
    text = path.read_text(encoding="utf-8")
    changed = re.sub(pattern, "", text, count=1)
    assert changed != text
    path.write_text(changed, encoding="utf-8")
    assert run("plan=true", *arguments) == 2
    said = capsys.readouterr().err
    assert sentence in said and said.count("\n") == 1


@pytest.fixture
def searchable(folder: Path) -> None:
    """Give the task a validation split and the block tuned, and add an optimizer with a fixed learning rate."""
    yaml, module = folder / "my/task/birds.yaml", folder / "birds_task.py"
    block = "reduced: {epochs: 2, lr: 0.1, batch_size: 16, switch_epoch: 1, schedule: null, limit: 200}"
    split = "tuned: ${.reduced}\nevaluate_on: test\nvalidation_share: 0.1\n"
    yaml.write_text(f"{yaml.read_text(encoding='utf-8')}{block}\n{split}", encoding="utf-8")
    metric = "    metrics = ("
    text = module.read_text(encoding="utf-8").replace(metric, f"    splits_training = True\n{metric}")
    module.write_text(text, encoding="utf-8")
    (folder / "my/optimizer").mkdir()
    text = "name: fixed\nlabel: Fixed\n_target_: torch.optim.RMSprop\nlr: 0.1\n"
    (folder / "my/optimizer/fixed.yaml").write_text(text, encoding="utf-8")


@pytest.mark.usefixtures("searchable")
def test_a_validation_split_without_a_task_that_takes_it_is_refused(
    folder: Path, run: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    module = folder / "birds_task.py"
    module.write_text(module.read_text(encoding="utf-8").replace("splits_training = True", ""), encoding="utf-8")
    assert run("protocol=reduced", "plan=true") == 2
    said = capsys.readouterr().err
    assert "set splits_training = True in birds_task." in said and said.count("\n") == 1


@pytest.mark.usefixtures("searchable")
def test_a_search_of_an_optimizer_with_a_fixed_rate_is_refused_once(
    run: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    """Before any run starts, also where it equals a rate of the grid."""
    for arguments in ((), ("plan=true",)):
        assert run("experiment=search", "optimizer=fixed", *arguments) == 2
        said = capsys.readouterr().err
        assert "write 'lr: ${lr}' in its YAML" in said and said.count("\n") == 1
    assert run("experiment=search", "optimizer=sgd", "plan=true") == 0
    assert "14 runs" in capsys.readouterr().out
    assert run("protocol=reduced", "optimizer=fixed", "seed=2000", "plan=true") == 0  # a seed of the search's tests


def test_a_protocol_that_a_task_lacks_is_named_with_those_it_has(
    folder: Path, run: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("protocol=table2", "plan=true") == 2
    said = capsys.readouterr().err
    assert "task=birds has no values for protocol=table2" in said and "protocol=smoke or protocol=own" in said
