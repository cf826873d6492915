"""Selective search (Uijlings et al. 2013, IJCV 104), by OpenCV: computed once for each image, and kept.

OpenCV finds the same boxes each time, but hands them out in an order drawn from the C library's random numbers, which
nobody starts. Here they are mixed in a way of their own, so that the same image always has the same proposals.
"""

from __future__ import annotations

import hashlib
import logging
import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from filelock import FileLock, Timeout
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from tasks.od.options import SEARCH
from tmsgd_bench import files, shared_memory
from tmsgd_bench.data import sealed
from tmsgd_bench.data.loading import START
from tmsgd_bench.engine.progress import counted
from tmsgd_bench.errors import ConfigError, DataError, StoreError

log = logging.getLogger(__name__)

VERSION = 1  # to be raised when what is found in the same image changes
ABOUT = "about.json"


@dataclass(frozen=True)
class Search:
    """What selective search depends on.

    Args:
        mode: "fast", of two colour spaces and two similarities, or "quality", of more.
        base_k: scale of the first segmentation; the smaller, the more regions it begins with.
        increment_k: how much larger those of the following ones are.
        sigma: of the Gaussian that smooths the image before.

    Raises:
        ConfigError: a value is of the wrong kind or out of its range.
    """

    mode: str = "fast"
    base_k: int = 150
    increment_k: int = 150
    sigma: float = 0.8

    def __post_init__(self) -> None:
        for name, check in SEARCH.items():
            check(f"model.proposals.{name}", getattr(self, name))

    @property
    def key(self) -> str:
        """Name of the folder that keeps what is found with these settings."""
        return f"selective-search-{files.digest({'version': VERSION, **asdict(self)})[:16]}"

    def boxes(self, photo: Tensor) -> np.ndarray:
        """All boxes of one image, int16, shape (boxes, 4): x1, y1, x2, y2 as in :mod:`tmsgd_bench.voc.devkit`.

        Args:
            photo: uint8, shape (3, height, width), red, green and blue.

        Raises:
            DataError: OpenCV's selective search is not installed.
        """
        cv2 = opencv()
        cv2.setNumThreads(1)
        search = cv2.ximgproc.segmentation.createSelectiveSearchSegmentation()
        search.setBaseImage(np.ascontiguousarray(photo.permute(1, 2, 0).numpy()[..., ::-1]))
        start = search.switchToSelectiveSearchFast if self.mode == "fast" else search.switchToSelectiveSearchQuality
        start(self.base_k, self.increment_k, float(self.sigma))
        rectangles = np.asarray(search.process(), dtype=np.int64).reshape(-1, 4)
        return mixed(
            np.concatenate([rectangles[:, :2], rectangles[:, :2] + rectangles[:, 2:]], axis=1).astype(np.int16)
        )


def mixed(boxes: np.ndarray) -> np.ndarray:
    """Different boxes, in an order that depends on their coordinates alone, and in which the first so many are a fair
    sample of all: of the largest ones, or of OpenCV's own order, the first 1,000 find fewer objects."""
    different = np.unique(boxes, axis=0)
    return different[np.random.RandomState(0).permutation(len(different))]  # its numbers never change with numpy


def opencv() -> Any:
    """OpenCV with its contributed modules.

    Raises:
        DataError: it is not installed, or without them.
    """
    try:
        import cv2

        if hasattr(cv2, "ximgproc"):
            return cv2
        lack = "OpenCV is installed without its contributed modules (uninstall opencv-python)"
    except ImportError:
        lack = "OpenCV is not installed"
    raise DataError(f"selective search cannot run, for {lack}: pip install -e '.[od]'.")


class Photos(Protocol):
    """Images by their number, uint8, (3, height, width) each."""

    def __len__(self) -> int: ...

    def __getitem__(self, number: int) -> Tensor: ...


@dataclass(frozen=True)
class Kept:
    """Boxes on disk, a file for each image.

    A file is named after the image and a digest of its pixels, so it serves every list and every copy of the image, and
    never another image of the same name.

    Args:
        folder: of all images and one :attr:`Search.key`.
        names: of the images.
        photos: the images.
        search: the settings.
    """

    folder: Path
    names: Sequence[str]
    photos: Photos
    search: Search

    def path(self, number: int) -> Path:
        """The file of one image's boxes."""
        photo = self.photos[number]
        key = hashlib.sha256(f"{tuple(photo.shape)}".encode())
        key.update(photo.contiguous().numpy().data)
        return self.folder / f"{self.names[number]}-{key.hexdigest()[:16]}.npy"

    def load(self, number: int) -> np.ndarray | None:
        """The boxes that are kept, or None if there are none that can be used."""
        path = self.path(number)
        try:
            with path.open("rb") as file:
                if sealed.is_whole(file):
                    file.seek(0)
                    return np.asarray(np.load(file, allow_pickle=False))
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError:  # it may not be read: as good as damaged
            pass
        log.warning("%s is damaged: its proposals are computed anew", path)
        return None

    def find(self, number: int) -> tuple[np.ndarray, str]:
        """Search in one image and keep what is found; with the reason why it could not be kept, or ""."""
        boxes = self.search.boxes(self.photos[number])
        try:
            files.write_atomically(self.path(number), lambda path: _save(path, boxes))
        except (OSError, StoreError) as error:
            return boxes, files.os_reason(error)
        return boxes, ""


def _save(path: Path, boxes: np.ndarray) -> None:
    with path.open("wb") as file:  # np.save would add .npy to the temporary name
        np.save(file, boxes)
    sealed.seal(path)


def proposals(kept: Kept, jobs: int) -> list[np.ndarray]:
    """The boxes of every image; what is not kept yet is computed, image by image, in parallel.

    Each image's boxes are on disk as soon as they are found, so whatever ends this early, the next call goes on from
    there. Where the folder cannot be written, everything is computed, with a warning.

    Args:
        jobs: processes that compute; 1 for this one alone.

    Raises:
        DataError: something must be computed, and OpenCV's selective search is not installed.
    """
    with _alone(kept):
        by_image = {number: kept.load(number) for number in range(len(kept.names))}
        missing = [number for number, boxes in by_image.items() if boxes is None]
        if missing:
            version = opencv().__version__  # says what is missing before any process is started
            log.info("selective search by OpenCV %s in %d images, %d at a time", version, len(missing), jobs)
            _note(kept, version)
            by_image |= _compute(kept, missing, jobs)
    return [boxes for boxes in by_image.values() if boxes is not None]


@contextmanager
def _alone(kept: Kept) -> Iterator[None]:
    """Let no other process search at the same time: the two would do the same work, on the same cores."""
    try:
        kept.folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(kept.folder / ".lock")
        try:
            lock.acquire(timeout=0)
        except Timeout:
            log.info("waiting for another process that computes proposals in %s", kept.folder)
            lock.acquire()
    except OSError as error:
        log.info("%s cannot be locked (%s)", kept.folder, error.strerror)  # what follows from it is said once later
        yield
        return
    try:
        yield
    finally:
        lock.release()


def _note(kept: Kept, version: str) -> None:
    """Write down which OpenCV found what is in the folder."""
    path = kept.folder / ABOUT
    earlier = (sealed.read_record(path) or {}).get("opencv", [])
    if earlier and version not in earlier:
        log.warning(
            "other proposals in %s are by OpenCV %s: delete the folder to have all by one version",
            kept.folder,
            earlier[-1],
        )
    sealed.keep_record(path, {"search": asdict(kept.search), "opencv": sorted({*earlier, version})})


class _Missing(Dataset[tuple[int, np.ndarray, str]]):
    def __init__(self, kept: Kept, numbers: Sequence[int]) -> None:
        self.kept, self.numbers = kept, numbers

    def __len__(self) -> int:
        return len(self.numbers)

    def __getitem__(self, position: int) -> tuple[int, np.ndarray, str]:
        number = self.numbers[position]
        return number, *self.kept.find(number)


def _finish_first(worker: int) -> None:
    """Leave Ctrl-C to the process that waits for this one, and end after the image that is being searched."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _as_it_is(row: Any) -> Any:
    return row  # torch would else make a tensor of each array


def _workers(wanted: int) -> int:
    """So many processes, or none besides this one where none can be started, with a warning."""
    try:
        shared_memory.check(wanted, "expect it to take longer")
    except ConfigError as error:
        log.warning("selective search runs in one process: %s", error)
        return 0
    return wanted


def _compute(kept: Kept, missing: Sequence[int], jobs: int) -> dict[int, np.ndarray | None]:
    workers = _workers(0 if jobs == 1 else min(jobs, len(missing)))
    rows = _Missing(kept, missing)
    loader: DataLoader[Any] = DataLoader(
        rows,
        batch_size=None,
        num_workers=workers,
        multiprocessing_context=START if workers else None,
        collate_fn=_as_it_is,
        worker_init_fn=_finish_first,
        in_order=False,
    )
    by_image: dict[int, np.ndarray | None] = {}
    problem = ""
    for number, boxes, reason in counted(loader, len(missing), "selective search", "image"):
        by_image[number] = boxes
        if reason and not problem:
            problem = reason
            log.warning("proposals cannot be kept in %s (%s): they are computed anew for each run", kept.folder, reason)
    return by_image
