"""The stand-in for R8: the same bytes every time, R8's layout, learnable but not perfectly."""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch

from tasks.tc import data as tc
from tmsgd_bench.data import synthetic
from tmsgd_bench.data.catalog import catalog, find
from tmsgd_bench.data.synthetic import r8
from tmsgd_bench.task import TaskSettings

GOLDEN = {
    1: {
        "r8-test-all-terms.txt": "86461ddee8e26e8e7a70e2fc4f0d0f12e53354b89ba50f9111be9de885840f2e",
        "r8-train-all-terms.txt": "7a4ecd7850320a8d070036858806c5ffed51b8da67913e978fba6a18a6c9790b",
    }
}
"""SHA-256 of the files of each version."""


def read(folder: Path, split: str) -> list[tuple[str, list[str]]]:
    text = (folder / f"r8-{split}-all-terms.txt").read_text(encoding="utf-8")
    return [(label, words.split(" ")) for label, words in (line.split("\t") for line in text.splitlines())]


def settings(folder: Path) -> TaskSettings:
    return TaskSettings(folder, data_limit=None, batch_size=5, seed=0, device=torch.device("cpu"), model={})


def digests(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder.iterdir())}


def topic(words: list[str]) -> str | None:
    """The class whose own words a document carries; None if it carries none."""
    own = {name.replace("-", ""): name for name in r8.CLASSES}
    found = {own[stem] for word in words if (stem := word.rstrip("0123456789")) in own}
    assert len(found) <= 1
    return found.pop() if found else None


def test_every_data_set_has_a_stand_in() -> None:
    for name in catalog():
        assert synthetic.version(name) >= 1


def test_the_bytes_are_the_same_every_time(tmp_path: Path, synthetic_r8: Path) -> None:
    """Whatever was drawn from the global generators before."""
    np.random.default_rng().random(3)
    torch.rand(3)
    r8.write(tmp_path)
    assert digests(tmp_path) == digests(synthetic_r8)


def test_the_bytes_are_those_of_the_version(synthetic_r8: Path) -> None:
    """A synthetic run is identified by the version alone. If this fails, a change here (or of NumPy's streams) has
    changed the stand-in: raise ``VERSION`` and note the new digests."""
    assert digests(synthetic_r8) == GOLDEN[r8.VERSION]


def test_it_has_the_names_of_the_real_files(synthetic_r8: Path) -> None:
    assert {path.name for path in synthetic_r8.iterdir()} == {file.name for file in find("r8").files}


def test_its_lines_have_the_real_layout(synthetic_r8: Path) -> None:
    """``label<TAB>words``, words in lower case with single spaces."""
    for split, size in r8.SIZES.items():
        documents = read(synthetic_r8, split)
        assert len(documents) == size
        assert {label for label, _ in documents} == set(tc.CLASSES)
        for _, words in documents:
            assert "" not in words
            assert " ".join(words) == " ".join(words).lower()


def test_it_has_the_classes_of_the_task() -> None:
    assert r8.CLASSES == tc.CLASSES


def test_its_largest_classes_are_those_of_the_real_data(synthetic_r8: Path) -> None:
    counts = Counter(label for label, _ in read(synthetic_r8, "train"))
    assert [label for label, _ in counts.most_common(2)] == ["earn", "acq"]


def test_the_tasks_loader_reads_it(synthetic_r8: Path) -> None:
    """The very function that reads the real data."""
    loaded = tc.load(settings(synthetic_r8), tokens=32, padding="end")
    assert [tc.CLASSES[label] for label in loaded.train_labels] == [label for label, _ in read(synthetic_r8, "train")]
    assert [tc.CLASSES[label] for label in loaded.test_labels] == [label for label, _ in read(synthetic_r8, "test")]
    assert int(loaded.train_words.max()) < loaded.reachable <= loaded.vocabulary_size


def test_one_document_in_twelve_carries_a_random_classs_words(synthetic_r8: Path) -> None:
    """So 7 of 96 are mislabelled and no classifier reaches 100 %; the share is within four standard errors."""
    share = 1 / 12 * 7 / 8
    documents = [d for split in r8.SIZES for d in read(synthetic_r8, split)]
    told = [(label, found) for label, words in documents if (found := topic(words)) is not None]
    wrong = sum(label != found for label, found in told)
    assert abs(wrong - share * len(told)) < 4 * math.sqrt(len(told) * share * (1 - share))


@pytest.mark.parametrize("tokens", [32, 1000])
def test_it_can_be_learnt(synthetic_r8: Path, tokens: int) -> None:
    """The class with the nearest mean word count (by angle) is right more often than the largest class is."""
    loaded = tc.load(settings(synthetic_r8), tokens, padding="end")
    train, test = (_counts(words, loaded.vocabulary_size) for words in (loaded.train_words, loaded.test_words))
    means = np.stack([train[loaded.train_labels.numpy() == k].mean(axis=0) for k in range(len(tc.CLASSES))])
    means /= np.linalg.norm(means, axis=1, keepdims=True)
    labels = loaded.test_labels.numpy()
    right = int(((test @ means.T).argmax(axis=1) == labels).sum())
    assert right > np.bincount(labels).max()


def _counts(words: torch.Tensor, vocabulary_size: int) -> np.ndarray:
    """Word counts of each document, the pad left out."""
    counts = torch.zeros(len(words), vocabulary_size).scatter_add_(1, words, torch.ones(words.shape))
    counts[:, tc.PAD] = 0
    return counts.numpy()
