"""Validation splits: what a run that is evaluated on one trains on, and that it never looks at the test split."""

from __future__ import annotations

import importlib
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from omegaconf import DictConfig
from torch import Tensor

import tasks
from tmsgd_bench import seeding
from tmsgd_bench.data import synthetic
from tmsgd_bench.engine import compose, task_data
from tmsgd_bench.engine.task_data import TaskData
from tmsgd_bench.errors import ConfigError
from tmsgd_bench.task import Task, TaskSettings

CONF = Path(__file__).parents[2] / "conf"
CPU = torch.device("cpu")
SMALL = {
    "ic": ("model.width=2",),
    "tc": ("model.hidden=4", "model.embedding=4"),
    "fkpd": ("model.width=2", "model.hidden=2", "model.blocks=[1,1,1,1]"),
    "ig": ("model.filters=2", "task.features=random"),
    "seg": (),
    "od": (),
}
"""Options that make the models of the tasks small."""
SHARES = (0.1, 0.5, 0.9)
Examples = list[Sequence[Any]]
"""What tells the examples of a split: a list for each thing that they consist of."""


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data root for the synthetic data of all tests here."""
    return tmp_path_factory.mktemp("validation")


@pytest.fixture
def composed(root: Path) -> Iterator[Callable[..., DictConfig]]:
    """A function that composes the settings of a task on all of its synthetic data."""
    with initialize_config_dir(str(CONF)):
        yield lambda task, *given: hydra_compose(
            "config",
            overrides=[
                *(f"task={task}", "data=synthetic", "protocol=smoke", "data.limit=null", f"data.root={root}"),
                *("data.evaluation_limit=null", "workers=0", *SMALL.get(task, ()), *given),
            ],
        )


def make(config: DictConfig) -> Task:
    torch.manual_seed(0)
    return compose.make_task(config, CPU, tasks.build)


# --- the split -----------------------------------------------------------------------------------------------------


def settings(**changes: Any) -> TaskSettings:
    return TaskSettings(**{**_SETTINGS, **changes})


_SETTINGS: dict[str, Any] = {
    "data_folder": Path("data"),
    "data_limit": None,
    "batch_size": 1,
    "seed": 0,
    "device": CPU,
    "model": {},
}


@pytest.mark.parametrize("share", [1e-9, *SHARES, 0.999])
@pytest.mark.parametrize("size", [2, 3, 10, 1001])
def test_the_two_sides_are_disjoint_and_together_the_training_split(size: int, share: float) -> None:
    train, validation = settings(validation_share=share).split(size)
    assert validation is not None
    assert sorted([*train.tolist(), *validation.tolist()]) == list(range(size))
    assert train.tolist() == sorted(train.tolist()) and validation.tolist() == sorted(validation.tolist())
    assert min(len(train), len(validation)) >= 1
    assert abs(len(validation) - share * size) <= 0.5 or min(len(train), len(validation)) == 1


def test_the_split_is_the_same_for_every_seed_and_batch_size() -> None:
    splits = [settings(validation_share=0.2, seed=seed, batch_size=seed + 1).split(50) for seed in range(3)]
    for split in splits[1:]:
        assert all(torch.equal(one, other) for one, other in zip(split, splits[0], strict=True) if other is not None)


@pytest.mark.parametrize("limit", [1, 7, 40, 1000])
def test_a_limit_leaves_the_validation_split_whole(limit: int) -> None:
    train, validation = settings(validation_share=0.2).split(50)
    some, same = settings(validation_share=0.2, data_limit=limit).split(50)
    assert validation is not None and same is not None and torch.equal(validation, same)
    assert len(some) == min(limit, len(train)) and set(some.tolist()) <= set(train.tolist())


@pytest.mark.parametrize("limit", [None, 1, 7, 1000])
def test_on_the_test_split_training_uses_what_the_limit_leaves(limit: int | None) -> None:
    train, validation = settings(data_limit=limit).split(50)
    assert validation is None and torch.equal(train, seeding.subset(50, limit))


@pytest.mark.parametrize("size", [0, 1])
def test_too_few_examples_are_refused(size: int) -> None:
    with pytest.raises(ConfigError, match=r"too few for a validation split: set task\.evaluate_on=test"):
        settings(validation_share=0.5).split(size)


# --- the tasks -----------------------------------------------------------------------------------------------------


def examples(task: Any) -> tuple[Examples, Examples]:
    """What tells the examples that a task trains on, and those that it is evaluated on."""
    match task.__class__.__name__:
        case "ImageClassification":
            data = task.data
            return [data.train_images, data.train_labels], [data.test_images, data.test_labels]
        case "TextClassification":  # the numbers of words depend on the vocabulary
            data = task.data
            return [data.train_words > 0, data.train_labels], [data.test_words > 0, data.test_labels]
        case "FacialKeyPoints":
            return [task.train.sizes, task.train.points], [task.test.sizes, task.test.points]
        case "ImageGeneration":
            return [task.photos], [task.reference]
    return [task.train.names], [task.test.names]


def chosen(values: Sequence[Any], numbers: Tensor) -> Sequence[Any]:
    return values[numbers] if isinstance(values, Tensor) else [values[number] for number in numbers]


def same(one: Sequence[Any], other: Sequence[Any]) -> bool:
    return torch.equal(one, other) if isinstance(one, Tensor) and isinstance(other, Tensor) else one == other


@pytest.mark.parametrize("task", SMALL)
def test_a_run_that_validates_divides_what_the_other_trains_on(composed: Callable[..., DictConfig], task: str) -> None:
    whole, _ = examples(make(composed(task)))
    made = make(composed(task, "task.evaluate_on=validation", "task.validation_share=0.3", "seed=5"))
    train, validation = settings(validation_share=0.3).split(len(whole[0]))
    assert validation is not None and made.train_size == len(train)
    for side, numbers in zip(examples(made), (train, validation), strict=True):
        assert all(same(part, chosen(of_whole, numbers)) for part, of_whole in zip(side, whole, strict=True))


@pytest.mark.parametrize("split", ["test", "validation"])
@pytest.mark.parametrize("task", SMALL)
def test_a_limit_leaves_so_many_examples_to_evaluate_on(
    composed: Callable[..., DictConfig], task: str, split: str
) -> None:
    """The same for every seed, and trains on what it would train on without. The photos of ig have no test split."""
    on = ("task.validation_share=0.3", f"task.evaluate_on={split}")
    trained, evaluated = examples(make(composed(task, *on, "seed=1")))
    some = make(composed(task, *on, "seed=2", "data.evaluation_limit=3"))
    if task == "ig" and split == "test":
        assert all(same(part, whole) for part, whole in zip(examples(some)[1], evaluated, strict=True))
        return
    numbers = seeding.subset(len(evaluated[0]), 3)
    assert all(same(part, whole) for part, whole in zip(examples(some)[0], trained, strict=True))
    assert all(same(part, chosen(whole, numbers)) for part, whole in zip(examples(some)[1], evaluated, strict=True))


DECODERS = {"fkpd": "tasks.fkpd.data.read_frame", "ig": "tasks.ig.data.read_photo", "seg": "tasks.voc._photo"}


@pytest.mark.parametrize("task", DECODERS)
def test_with_both_limits_no_other_example_is_even_decoded(
    composed: Callable[..., DictConfig], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, task: str
) -> None:
    """So that a smoke run on real data takes seconds. The second time nothing is decoded."""
    module, name = DECODERS[task].rsplit(".", 1)
    real, calls = getattr(importlib.import_module(module), name), []
    monkeypatch.setattr(DECODERS[task], lambda *given, **named: (calls.append(given), real(*given, **named))[1])
    for _ in range(2):
        made = make(composed(task, f"data.root={tmp_path}", "data.limit=4", "data.evaluation_limit=3"))
        if task == "seg":
            assert len(made.train.photos) + len(made.test.photos) == 7
        assert len(calls) == (4 if task == "ig" else 7)


@pytest.mark.parametrize("splits", ["train/val", "trainval/test"])
@pytest.mark.parametrize("task", ["seg", "od"])
def test_of_both_years_of_voc_no_image_is_on_both_sides(
    composed: Callable[..., DictConfig], task: str, splits: str
) -> None:
    """Images of one year that are listed under other names in the other one count as the same."""
    both = ("data.years=2007+2012", f"task.splits={splits}")
    (whole,), _ = examples(make(composed(task, *both)))
    (train,), (validation,) = examples(make(composed(task, *both, "task.evaluate_on=validation")))
    assert sorted([*train, *validation]) == sorted(whole)
    plain = [name.removeprefix("2007_") for name in (*train, *validation)]
    assert len(plain) == len(set(plain))


TEST_FILES = {
    "ic": ("cifar10/cifar-10-batches-py/test_batch",),
    "tc": ("r8/r8-test-all-terms.txt",),
    "fkpd": ("fkpd/test", "fkpd/test_frames_keypoints.csv"),
    "seg": ("voc2007/VOCdevkit/VOC2007/ImageSets/Segmentation/test.txt",),
    "od": ("voc2007/VOCdevkit/VOC2007/ImageSets/Main/test.txt",),
}
"""What serves testing alone, of each data set that has a test split."""


@pytest.mark.parametrize("task", TEST_FILES)
def test_what_serves_testing_alone_may_be_absent(
    composed: Callable[..., DictConfig], tmp_path: Path, task: str
) -> None:
    """Also of data that are not verified, whose fingerprint is of the files that are there."""
    name = TEST_FILES[task][0].split("/")[0]
    (tmp_path / name).mkdir()
    synthetic.write(name, tmp_path / name)
    given = ["data=real", f"data.root={tmp_path}", "data.verify=false", "task.evaluate_on=validation"]
    given += ["task.splits=trainval/test"] if name == "voc2007" else []
    before = compose.run_spec(composed(task, *given))
    for path in (tmp_path / file for file in TEST_FILES[task]):
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    if name == "voc2007":  # the images of the list, too
        _keep_listed(tmp_path / "voc2007/VOCdevkit/VOC2007")
    assert compose.run_spec(composed(task, *given)).identity == before.identity
    assert make(composed(task, *given)).train_size > 0


def _keep_listed(folder: Path) -> None:
    """Delete the images and annotations that the list of training images does not name."""
    names = set((folder / "ImageSets/Main/trainval.txt").read_text().split())
    for path in (*folder.glob("JPEGImages/*"), *folder.glob("Annotations/*"), *folder.glob("SegmentationClass/*")):
        if path.stem not in names:
            path.unlink()


@pytest.mark.parametrize("task", SMALL)
def test_verified_data_need_no_files_for_testing(composed: Callable[..., DictConfig], task: str) -> None:
    config = composed(task, "task.evaluate_on=validation")
    assert not _data(config).needs_test and _data(composed(task)).needs_test is (task != "seg")


def _data(config: DictConfig) -> TaskData:
    return task_data.chosen(compose.checked(config))


# --- the run -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("task", SMALL)
def test_on_the_test_split_the_share_is_no_part_of_a_runs_identity(
    composed: Callable[..., DictConfig], task: str
) -> None:
    spec = compose.run_spec(composed(task))
    assert not {"evaluate_on", "validation_share"} & set(spec.task)
    assert compose.run_spec(composed(task, "task.validation_share=0.4")).identity == spec.identity


def test_the_validation_split_and_its_share_are(composed: Callable[..., DictConfig]) -> None:
    given = ([], ["task.evaluate_on=validation"], ["task.evaluate_on=validation", "task.validation_share=0.2"])
    specs = [compose.run_spec(composed("tc", *overrides)) for overrides in given]
    assert len({spec.identity for spec in specs}) == 3
    assert [spec.task.get("evaluate_on") for spec in specs] == [None, "validation", "validation"]


def test_a_limit_of_the_evaluation_is_part_of_the_identity_where_there_is_one(
    composed: Callable[..., DictConfig],
) -> None:
    assert "evaluation_limit" not in compose.run_spec(composed("tc")).data
    limited = compose.run_spec(composed("tc", "data.evaluation_limit=7"))
    assert limited.data["evaluation_limit"] == 7 and limited.identity != compose.run_spec(composed("tc")).identity
    with pytest.raises(ConfigError, match=r"data\.evaluation_limit"):
        compose.run_spec(composed("tc", "data.evaluation_limit=0"))


@pytest.mark.parametrize("task", SMALL)
def test_a_run_that_validates_follows_no_protocol(composed: Callable[..., DictConfig], task: str) -> None:
    limits = [f"data.{name}=${{task.smoke.limit}}" for name in ("limit", "evaluation_limit")]
    config = composed(task, "task.evaluate_on=validation", *limits)
    choices = {"task": task, "model": str(config.model.name), "optimizer": "tmsgd", "data": "synthetic"}
    assert compose.followed_protocols(config, compose.run_spec(config), choices) == ()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("task.evaluate_on=train", r"task\.evaluate_on must be one of test, validation, not 'train'"),
        ("task.evaluate_on=null", r"task\.evaluate_on must be one of test, validation"),
        ("task.validation_share=0", r"task\.validation_share must be a finite number > 0 and < 1"),
        ("task.validation_share=1", r"task\.validation_share must be a finite number > 0 and < 1"),
        ("task.validation_share=half", r"task\.validation_share must be a finite number > 0 and < 1"),
        ("~task.evaluate_on", r"setting 'task\.evaluate_on' is missing"),
        ("~task.validation_share", r"setting 'task\.validation_share' is missing"),
    ],
)
def test_other_values_are_refused(composed: Callable[..., DictConfig], given: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as raised:
        compose.run_spec(composed("tc", given))
    assert "\n" not in str(raised.value)


def test_too_few_photos_to_compare_with_are_refused(composed: Callable[..., DictConfig]) -> None:
    with pytest.raises(ConfigError, match=r"raise task\.validation_share\.$"):
        make(composed("ig", "task.evaluate_on=validation", "task.validation_share=0.001"))
