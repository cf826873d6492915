"""Figure 2: which runs it shows, what it says of them, and its pixels."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure
from PIL import Image

from tasks.ig.figure import FILE, MOST, PICTURE, SAMPLES, Samples, draw, spread, tile, write
from tmsgd_bench.errors import StoreError
from tmsgd_bench.results import store
from tmsgd_bench.results.figure_runs import Wanted, choose

ORDER = ["sgd", "tmsgd", "sgdm", "tmsgdm", "adam", "apollo"]
Add = Callable[..., Path]


def samples(epochs: list[int], shade: int = 0) -> Samples:
    """Images of 8 × 8 pixels; each has a gray value of its own."""
    values = (shade + np.arange(len(epochs) * SAMPLES)) % 256
    shape = (len(epochs), SAMPLES, 3, 8, 8)
    images = np.broadcast_to(values.reshape(len(epochs), SAMPLES, 1, 1, 1), shape).astype(np.uint8)
    return Samples(np.array(epochs), images)


@pytest.fixture
def add(tmp_path: Path, write_run: Callable[..., Path]) -> Add:
    """A function that adds a run with images to the store ``tmp_path / "runs"``."""

    def added(optimizer: str = "sgd", epochs: list[int] | None = None, metric: str = "fid", **changes: Any) -> Path:
        task = changes.pop("task", {"name": "ig", "features": "inception"})
        if changes.get("status", "done") == "done":
            changes["outcome"] = {"metric": metric, "direction": "min", "unit": "", **changes.pop("outcome", {})}
            changes.setdefault("extra", samples([1, 5] if epochs is None else epochs).save)
        return write_run(tmp_path / "runs", optimizer, task=task, **changes)

    return added


def read(tmp_path: Path) -> pd.DataFrame:
    return store.read_runs(tmp_path / "runs")


def texts(figure: Figure) -> list[str]:
    """Every text of a figure."""
    found = [text.get_text() for text in figure.texts]
    for axes in figure.axes:
        found += [axes.get_title(), *(text.get_text() for text in axes.texts)]
    return [text for text in found if text]


def drawn(tmp_path: Path, **wanted: Any) -> Figure:
    return draw(choose(read(tmp_path), Wanted("ig", FILE, "generated images", **wanted)))


def test_what_is_saved_comes_back(tmp_path: Path) -> None:
    saved = samples([1, 10, 120], shade=7)
    saved.save(tmp_path)
    found = Samples.load(tmp_path)
    assert np.array_equal(found.epochs, saved.epochs) and np.array_equal(found.images, saved.images)
    assert found.images.dtype == np.uint8


@pytest.mark.parametrize("contents", [None, b"", b"PK no archive"], ids=["missing", "empty", "text"])
def test_damaged_images_are_named_with_the_fix(tmp_path: Path, contents: bytes | None) -> None:
    if contents is not None:
        (tmp_path / FILE).write_bytes(contents)
    with pytest.raises(StoreError) as raised:
        Samples.load(tmp_path)
    assert str(tmp_path / FILE) in str(raised.value) and "train its run again" in str(raised.value)


@pytest.mark.parametrize("arrays", ["epochs", "kind", "shape", "name"])
def test_arrays_that_do_not_belong_together_are_refused(tmp_path: Path, arrays: str) -> None:
    good = samples([1, 5])
    wrong: dict[str, Any] = {
        "epochs": {"epochs": np.array([1]), "images": good.images},
        "kind": {"epochs": good.epochs, "images": good.images.astype(np.float32)},
        "shape": {"epochs": good.epochs, "images": good.images[:, :, 0]},
        "name": {"epochs": good.epochs},
    }
    np.savez(tmp_path / FILE, **wrong[arrays])
    with pytest.raises(StoreError, match="cannot use"):
        Samples.load(tmp_path)


@pytest.mark.parametrize("count", [1, 3, 4, 5, 16])
def test_every_image_of_a_cell_is_where_it_belongs(count: int) -> None:
    """Four abreast, two white pixels apart, each pixel as it was."""
    images = np.random.default_rng(0).integers(0, 255, (count, 3, 8, 6), dtype=np.uint8)
    page = tile(images)
    assert page.shape == (-(-count // 4) * 10 - 2, 4 * 8 - 2, 3)
    seen = np.zeros(page.shape[:2], dtype=bool)
    for number, image in enumerate(images):
        place = np.s_[number // 4 * 10 : number // 4 * 10 + 8, number % 4 * 8 : number % 4 * 8 + 6]
        assert np.array_equal(page[place].transpose(2, 0, 1), image)
        seen[place] = True
    assert (page[~seen] == 255).all()


@pytest.mark.parametrize("count", range(1, 20))
def test_columns_are_few_and_have_the_first_and_the_last(count: int) -> None:
    epochs = [3 * number + 1 for number in range(count)]
    found = spread(epochs)
    assert len(found) == min(count, MOST) and found == sorted(set(found)) and set(found) <= set(epochs)
    assert (found[0], found[-1]) == (epochs[0], epochs[-1])


def test_rows_are_the_papers_and_columns_the_epochs(tmp_path: Path, add: Add) -> None:
    for number, optimizer in enumerate(reversed(ORDER)):
        add(optimizer, extra=samples([1, 5, 30], shade=10 * number).save)
    figure = drawn(tmp_path)
    assert len(figure.axes) == 6 * 3
    labels = [text.split("\n")[0] for text in texts(figure) if "FID" in text]
    assert labels == ["SGD", "TM-SGD", "SGD-M", "TM-SGD-M", "Adam", "Apollo"]
    assert [axes.get_title() for axes in figure.axes[:3]] == ["1 epoch", "5 epochs", "30 epochs"]
    for place, axes in enumerate(figure.axes):
        row, column = divmod(place, 3)
        (image,) = axes.get_images()
        expected = samples([1, 5, 30], shade=10 * (5 - row)).images[column]
        assert np.array_equal(np.asarray(image.get_array()), tile(expected))


def test_the_files_are_written_and_the_same_each_time(tmp_path: Path, add: Add) -> None:
    add("sgd")
    add("tmsgd")
    paths = write(read(tmp_path), tmp_path / "new" / "folder")
    assert [path.name for path in paths] == ["figure2.png", "figure2.pdf"]
    first = [path.read_bytes() for path in paths]
    assert [path.read_bytes() for path in write(read(tmp_path), tmp_path / "new" / "folder")] == first
    with Image.open(paths[0]) as picture:
        assert picture.width == 1400  # 7 inches at 200 dpi


def test_a_run_without_images_at_a_time_has_an_empty_cell(tmp_path: Path, add: Add) -> None:
    add("sgd", epochs=[1, 5])
    add("tmsgd", epochs=[5])
    figure = drawn(tmp_path)
    assert [len(axes.get_images()) for axes in figure.axes] == [1, 1, 0, 1]
    assert "–" in texts(figure)


def test_a_diverged_run_has_a_row_that_says_so(tmp_path: Path, add: Add) -> None:
    add("sgd")
    add("adam", status="diverged")
    figure = drawn(tmp_path)
    assert "Adam\ndiverged" in texts(figure)
    assert [len(axes.get_images()) for axes in figure.axes] == [1, 1, 0, 0]


def test_the_distance_of_few_features_is_not_called_fid(tmp_path: Path, add: Add) -> None:
    add("sgd", metric="fid64", final=1.25)
    labels = texts(drawn(tmp_path))
    assert "SGD\nFID-64 1.25" in labels
    assert any(text.count("FID-64: of 64 features") == 1 for text in labels)
    assert not any("random" in text for text in labels)


def test_a_distance_that_is_no_fid_is_not_called_fid(tmp_path: Path, add: Add) -> None:
    add("sgd", metric="random_features_distance", final=1.25)
    labels = texts(drawn(tmp_path))
    assert "SGD\ndistance 1.25" in labels
    assert any("distance: of a random network's features, no FID" in text for text in labels)
    assert not any("FID 1.25" in text for text in labels)


def test_how_diverse_the_images_are_is_said(tmp_path: Path, add: Add) -> None:
    def diverse(folder: Path) -> None:
        history = pd.read_parquet(folder / store.HISTORY).assign(diversity=[0.9, 0.5, 0.1234])
        store.write_history(folder / store.HISTORY, history.to_dict("records"))
        samples([1, 5]).save(folder)

    add("sgd", final=0.5, extra=diverse)
    assert "SGD\nFID 0.5\ndiversity 0.123" in texts(drawn(tmp_path))


@pytest.mark.parametrize(
    ("changes", "wanted", "words"),
    [
        ({}, {}, "real data · seed 0 · 3 epochs · protocol table2"),
        (
            {"data": {"kind": "synthetic", "limit": 48, "fingerprint": "f"}},
            {"data": "synthetic"},
            "synthetic data, not the real photos, partial: 48 photos · seed 0",
        ),
        ({"protocols": []}, {"protocol": None}, "by no protocol"),
        ({"seed": 4}, {"seed": 4}, "seed 4"),
    ],
    ids=["protocol", "synthetic", "custom", "seed"],
)
def test_the_title_says_what_it_is(
    tmp_path: Path, add: Add, changes: dict[str, Any], wanted: dict[str, Any], words: str
) -> None:
    add("sgd", **changes)
    assert any(words in text for text in texts(drawn(tmp_path, **wanted)))


@pytest.mark.parametrize(
    ("changes", "wanted"),
    [
        ({"data": {"kind": "synthetic", "limit": None, "fingerprint": "f"}}, {}),
        ({"protocols": ["smoke"]}, {}),
        ({"seed": 1}, {"seed": 0}),
        ({"task": {"name": "tc"}}, {}),
        ({"status": "failed"}, {}),
        ({"status": "diverged"}, {}),
    ],
    ids=["data", "protocol", "seed", "task", "failed", "diverged"],
)
def test_without_a_run_that_fits_the_command_is_named(
    tmp_path: Path, add: Add, changes: dict[str, Any], wanted: dict[str, Any]
) -> None:
    add("sgd", **changes)
    with pytest.raises(StoreError) as raised:
        write(read(tmp_path), tmp_path / "out", **wanted)
    assert "'python run.py -m task=ig " in str(raised.value)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({}, "task=ig optimizer=sgd,tmsgd,sgdm,tmsgdm,adam,apollo seed=0'"),
        ({"data": "synthetic", "protocol": "smoke", "seed": 3}, "seed=3 data=synthetic protocol=smoke'"),
        ({"protocol": None}, "seed=0'"),
    ],
    ids=str,
)
def test_the_command_asks_for_what_was_wanted(tmp_path: Path, arguments: dict[str, Any], words: str) -> None:
    with pytest.raises(StoreError) as raised:
        write(read(tmp_path), tmp_path, **arguments)
    assert words in str(raised.value)


def test_the_seed_with_the_most_optimizers_is_drawn(tmp_path: Path, add: Add) -> None:
    add("sgd", seed=0)
    for optimizer in ("sgd", "adam"):
        add(optimizer, seed=1)
        add(optimizer, seed=2)
    chosen = choose(read(tmp_path), Wanted("ig", FILE, "images"))
    assert list(chosen["seed"]) == [1, 1] and list(chosen["optimizer"]) == ["sgd", "adam"]


def test_runs_of_different_settings_are_never_side_by_side(tmp_path: Path, add: Add) -> None:
    """A batch size that changed in between: the larger set is drawn, then the newer one."""
    add("sgd", batch_size=64)
    add("tmsgd", batch_size=64)
    add("adam", batch_size=128, started="2027-01-01T00:00:00+00:00")
    assert list(choose(read(tmp_path), Wanted("ig", FILE, "images"))["optimizer"]) == ["sgd", "tmsgd"]
    add("sgd", batch_size=128, started="2027-01-01T00:00:00+00:00")
    assert list(choose(read(tmp_path), Wanted("ig", FILE, "images"))["optimizer"]) == ["sgd", "adam"]


def test_an_optimizer_has_one_row(tmp_path: Path, add: Add) -> None:
    """Of several switch epochs the one that follows a protocol."""
    add("tmsgd", protocols=["table2"])
    add("tmsgd", protocols=[], options={"switch_epoch": 1}, started="2027-01-01T00:00:00+00:00")
    chosen = choose(read(tmp_path), Wanted("ig", FILE, "images", protocol=None))
    assert list(chosen["protocols"]) == [("table2",)]


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path, add: Add) -> None:
    add("sgd")
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="choose another folder"):
        write(read(tmp_path), tmp_path / "file" / "out")


def test_a_runs_own_picture_has_a_column_for_each_time(tmp_path: Path) -> None:
    for epochs in ([1], [1, 5, 30], list(range(1, 13))):
        samples(epochs).draw(tmp_path)
        with Image.open(tmp_path / PICTURE) as picture:
            assert picture.width == pytest.approx(1400 * min(len(epochs), MOST) / max(3, min(len(epochs), MOST)), abs=2)
