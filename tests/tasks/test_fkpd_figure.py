"""Figure 1: which runs it shows, in which order, what it says of them, and that points are where they belong."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from PIL import Image

from tasks.fkpd.figure import FILE, PICTURE, TASK, WIDTH, KeyPoints, draw, write
from tmsgd_bench.errors import StoreError
from tmsgd_bench.results import figure_runs
from tmsgd_bench.results.figure_runs import OPTIMIZERS, Wanted
from tmsgd_bench.results.store import CONFIG, read_runs

WriteRun = Callable[..., Path]
FACES, POINTS, SIDE = 3, 5, 20
TRAIN = "python run.py -m task=fkpd optimizer=sgd,tmsgd,sgdm,tmsgdm,adam,apollo"


def key_points(shift: float = 1.0, seed: int = 0) -> KeyPoints:
    """Random faces, with found points beside the true ones."""
    rng = np.random.default_rng(seed)
    truth = rng.uniform(0, SIDE, (FACES, POINTS, 2)).astype(np.float32)
    images = rng.integers(0, 256, (FACES, SIDE, SIDE), dtype=np.uint8)
    return KeyPoints(images, truth, truth + np.float32(shift))


def choose(frame: pd.DataFrame, **asked: Any) -> pd.DataFrame:
    """The runs that the figure shows."""
    return figure_runs.choose(frame, Wanted(TASK, FILE, "key points", **asked))


@pytest.fixture
def add(tmp_path: Path, write_run: WriteRun) -> Callable[..., Path]:
    """A function that adds a run of the task with key points to a store, and returns its folder."""

    def add_run(optimizer: str = "sgd", points: KeyPoints | None = None, **changes: Any) -> Path:
        data = {"kind": "real", "limit": None, "fingerprint": "f"} | changes.pop("data", {})
        task = {"name": "fkpd", "dataset": "fkpd"} | changes.pop("task", {})
        if changes.get("status", "done") == "done":
            changes["extra"] = (points or key_points()).save
        return write_run(tmp_path / "runs", optimizer, task=task, data=data, **{"final": 0.125, **changes})

    return add_run


def runs(tmp_path: Path) -> pd.DataFrame:
    return read_runs(tmp_path / "runs")


def edit(run: Path, old: str, new: str) -> None:
    """Change a run's settings by hand."""
    text = (run / CONFIG).read_text(encoding="utf-8")
    assert old in text
    (run / CONFIG).write_text(text.replace(old, new), encoding="utf-8")


def texts(figure: Figure) -> list[str]:
    """What is written in a figure: beside the rows, then above."""
    return [text.get_text() for axes in figure.axes for text in axes.texts] + [t.get_text() for t in figure.texts]


def lines(axes: Axes) -> dict[str, np.ndarray]:
    """The points in a cell, by their label."""
    return {str(line.get_label()): np.asarray(line.get_xydata()) for line in axes.get_lines()}


# --- the file of one run -------------------------------------------------------------------------------------------


def test_points_are_read_as_they_were_written(tmp_path: Path) -> None:
    points = key_points()
    points.save(tmp_path)
    found = KeyPoints.load(tmp_path)
    for name, value in vars(points).items():
        assert np.array_equal(getattr(found, name), value) and getattr(found, name).dtype == value.dtype


def test_the_same_points_make_the_same_files(tmp_path: Path) -> None:
    contents = []
    for name in ("one", "other"):
        (tmp_path / name).mkdir()
        key_points().save(tmp_path / name)
        key_points().draw(tmp_path / name)
        contents.append([(tmp_path / name / file).read_bytes() for file in (FILE, PICTURE)])
    assert contents[0] == contents[1]


@pytest.mark.parametrize("damage", ["missing", "empty", "cut", "text", "pickled", "of another shape", "nothing in it"])
def test_points_that_cannot_be_used_are_named_with_the_fix(tmp_path: Path, damage: str) -> None:
    path = tmp_path / FILE
    points = key_points()
    points.save(tmp_path)
    match damage:
        case "missing":
            path.unlink()
        case "empty":
            path.write_bytes(b"")
        case "cut":
            path.write_bytes(path.read_bytes()[:-100])
        case "text":
            path.write_text("points", encoding="utf-8")
        case "pickled":
            np.savez(path, images=np.array([{}]), truth=points.truth, predicted=points.predicted)
        case "of another shape":
            np.savez(path, images=points.images, truth=points.truth, predicted=points.predicted[1:])
        case _:
            np.savez(path)
    with pytest.raises(StoreError) as raised:
        KeyPoints.load(tmp_path)
    assert str(path) in str(raised.value) and "train" in str(raised.value)


# --- which runs ----------------------------------------------------------------------------------------------------


def test_rows_are_in_the_papers_order(tmp_path: Path, add: Callable[..., Path]) -> None:
    for optimizer in sorted(OPTIMIZERS):
        add(optimizer)
    assert (
        tuple(choose(runs(tmp_path))["optimizer"]) == OPTIMIZERS == ("sgd", "tmsgd", "sgdm", "tmsgdm", "adam", "apollo")
    )


def test_other_optimizers_follow(tmp_path: Path, add: Callable[..., Path]) -> None:
    for optimizer in ("adam", "tmsgd", "sgd"):
        add(optimizer, options={"name": "a_new_one"} if optimizer == "adam" else {})
    assert list(choose(runs(tmp_path))["optimizer"]) == ["sgd", "tmsgd", "a_new_one"]


@pytest.mark.parametrize(
    "other",
    [
        {"data": {"kind": "synthetic"}},
        {"protocols": ["smoke"]},
        {"protocols": []},
        {"task": {"name": "tc"}},
        {"status": "failed"},
        {"status": "abandoned"},
    ],
    ids=str,
)
def test_runs_of_another_kind_are_left_out(tmp_path: Path, add: Callable[..., Path], other: dict[str, Any]) -> None:
    add("sgd")
    add("adam", **other)
    assert list(choose(runs(tmp_path))["optimizer"]) == ["sgd"]


def test_runs_by_no_protocol_are_shown_when_asked_for(tmp_path: Path, add: Callable[..., Path]) -> None:
    add("sgd", protocols=[])
    assert list(choose(runs(tmp_path), protocol=None)["optimizer"]) == ["sgd"]


def test_all_rows_have_one_seed_the_one_with_most_optimizers(tmp_path: Path, add: Callable[..., Path]) -> None:
    """Among several the smallest; or the one that is asked for."""
    for seed, optimizers in ((0, ["sgd"]), (1, ["sgd", "adam"]), (2, ["sgd", "adam"])):
        for optimizer in optimizers:
            add(optimizer, seed=seed)
    every = runs(tmp_path)
    assert set(choose(every)["seed"]) == {1}
    for seed, count in ((0, 1), (1, 2), (2, 2)):
        found = choose(every, seed=seed)
        assert set(found["seed"]) == {seed} and len(found) == count


def test_all_rows_have_one_setting_the_most_complete_then_the_newest(tmp_path: Path, add: Callable[..., Path]) -> None:
    """Runs with another batch size are never beside each other."""
    add("sgd", batch_size=5, started="2026-01-01T00:00:00+00:00")
    add("sgd", batch_size=10, started="2026-01-02T00:00:00+00:00")
    assert list(choose(runs(tmp_path))["batch_size"]) == [10]
    add("adam", batch_size=5, started="2026-01-01T00:00:00+00:00")
    assert list(choose(runs(tmp_path))["batch_size"]) == [5, 5]


def test_of_several_switch_epochs_the_protocols_is_shown(tmp_path: Path, add: Callable[..., Path]) -> None:
    """Also when no protocol is asked for, and the other is newer."""
    folder = add("tmsgd")
    add("tmsgd", options={"switch_epoch": 1}, protocols=[], started="2026-02-01T00:00:00+00:00")
    for protocol in ("table2", None):
        assert list(choose(runs(tmp_path), protocol=protocol)["run_id"]) == [folder.name]


@pytest.mark.parametrize(
    ("asked", "command"),
    [
        ({}, f"{TRAIN} seed=0"),
        ({"seed": 3}, f"{TRAIN} seed=3"),
        ({"data": "synthetic", "protocol": "smoke"}, f"{TRAIN} seed=0 data=synthetic protocol=smoke"),
        ({"protocol": None}, f"{TRAIN} seed=0"),
    ],
    ids=str,
)
@pytest.mark.parametrize("there", [False, True])
def test_without_points_it_says_how_to_get_some(
    tmp_path: Path, add: Callable[..., Path], asked: dict[str, Any], command: str, there: bool
) -> None:
    if there:  # runs, but without the file: trained before there was one
        (add("sgd", seed=asked.get("seed", 0)) / FILE).unlink()
        add("adam", seed=asked.get("seed", 0), status="diverged")
    with pytest.raises(StoreError) as raised:
        write(runs(tmp_path), tmp_path / "figures", **asked)
    assert f"'{command}'" in str(raised.value)
    assert not (tmp_path / "figures").exists()


def test_choosing_changes_nothing_in_the_frame(tmp_path: Path, add: Callable[..., Path]) -> None:
    add("sgd")
    every = runs(tmp_path)
    before = every.copy(deep=True)
    write(every, tmp_path)
    pd.testing.assert_frame_equal(every, before)


# --- the picture ---------------------------------------------------------------------------------------------------


def test_every_cell_has_its_face_its_labels_and_the_rows_own_points(tmp_path: Path, add: Callable[..., Path]) -> None:
    for shift, optimizer in enumerate(("sgd", "tmsgd"), start=1):
        add(optimizer, key_points(shift))
    figure = draw(choose(runs(tmp_path)))
    assert len(figure.axes) == 2 * FACES
    for place, axes in enumerate(figure.axes):
        row, face = divmod(place, FACES)
        expected = key_points(row + 1)
        (image,) = axes.images
        assert np.array_equal(image.get_array(), expected.images[face])
        assert axes.get_xlim() == (0, SIDE) and axes.get_ylim() == (SIDE, 0)  # rows count downwards
        found = lines(axes)
        assert np.array_equal(found["labelled"], expected.truth[face])
        assert np.array_equal(found["found by the network"], expected.predicted[face])


def test_true_and_found_points_differ_in_shape_and_in_lightness(tmp_path: Path, add: Callable[..., Path]) -> None:
    """So that they do in grey print too."""
    add("sgd")
    true, found = draw(choose(runs(tmp_path))).axes[0].get_lines()
    assert true.get_marker() != found.get_marker()
    fill, stroke = (
        float(np.dot(to_rgb(colour), [0.299, 0.587, 0.114]))
        for colour in (true.get_markerfacecolor(), found.get_markeredgecolor())
    )
    assert fill - stroke > 0.5


def test_rows_name_the_optimizer_and_its_error(tmp_path: Path, add: Callable[..., Path]) -> None:
    add("sgd", final=0.12345)
    add("tmsgd", final=1.5e30)
    assert texts(draw(choose(runs(tmp_path))))[:2] == ["SGD\nMSE 0.1235", "TM-SGD\nMSE 1.5e+30"]


def test_a_diverged_run_has_a_row_that_says_so_without_found_points(tmp_path: Path, add: Callable[..., Path]) -> None:
    add("sgd")
    add("adam", status="diverged")
    figure = draw(choose(runs(tmp_path)))
    assert texts(figure)[:2] == ["SGD\nMSE 0.1250", "Adam\ndiverged"]
    found = lines(figure.axes[FACES])
    assert np.array_equal(found["labelled"], key_points().truth[0])
    assert np.isnan(found["found by the network"]).all()


def test_a_row_that_never_switched_says_so(tmp_path: Path, add: Callable[..., Path]) -> None:
    add("tmsgd", options={"switch_epoch": 3})
    assert texts(draw(choose(runs(tmp_path))))[0] == "TM-SGD\n(never switches)\nMSE 0.1250"


@pytest.mark.parametrize(
    ("changes", "asked", "title"),
    [
        ({}, {}, "real data · seed 0 · 3 epochs · protocol table2"),
        (
            {"data": {"kind": "synthetic", "limit": 1500}, "seed": 4, "protocols": ["smoke"]},
            {"data": "synthetic", "protocol": "smoke"},
            "synthetic data, not the real training frames, partial: 1,500 training frames · seed 4 · 3 epochs · "
            "protocol smoke",
        ),
        ({"protocols": [], "epochs": 7}, {"protocol": None}, "real data · seed 0 · 7 epochs · by no protocol"),
        (
            {"protocols": ["table2", "corrected"]},
            {},
            "real data · seed 0 · 3 epochs · protocol corrected and table2",
        ),
    ],
    ids=["real", "synthetic", "free", "both"],
)
def test_the_title_says_what_the_runs_are(
    tmp_path: Path, add: Callable[..., Path], changes: dict[str, Any], asked: dict[str, Any], title: str
) -> None:
    add("sgd", **changes)
    assert title in texts(draw(choose(runs(tmp_path), **asked)))


def test_unverified_data_are_marked(tmp_path: Path, add: Callable[..., Path]) -> None:
    add("sgd")
    chosen = choose(runs(tmp_path)).assign(verified=False)
    assert "real data, unverified · seed 0 · 3 epochs · protocol table2" in texts(draw(chosen))


def test_runs_with_other_faces_are_refused(tmp_path: Path, add: Callable[..., Path]) -> None:
    first, other = add("sgd"), add("adam", key_points(seed=1))
    with pytest.raises(StoreError) as raised:
        write(runs(tmp_path), tmp_path / "figures")
    assert other.name in str(raised.value) and first.name in str(raised.value)
    assert "force=true" in str(raised.value)


def test_it_is_written_as_png_and_pdf_with_the_same_bytes_every_time(tmp_path: Path, add: Callable[..., Path]) -> None:
    add("sgd")
    contents = []
    for name in ("one", "other"):
        paths = write(runs(tmp_path), tmp_path / name / "below")
        assert paths == [tmp_path / name / "below" / f"figure1.{kind}" for kind in ("png", "pdf")]
        contents.append([path.read_bytes() for path in paths])
    assert contents[0] == contents[1]
    assert contents[0][1].startswith(b"%PDF")
    with Image.open(paths[0]) as picture:
        assert picture.format == "PNG" and picture.width == 200 * WIDTH


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path, add: Callable[..., Path]) -> None:
    add("sgd")
    blocked = tmp_path / "file"
    blocked.touch()
    with pytest.raises(StoreError, match="choose another folder") as raised:
        write(runs(tmp_path), blocked / "figures")
    assert str(blocked / "figures") in str(raised.value)
