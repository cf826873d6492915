"""R8 as tensors: documents as rows of word numbers."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from tmsgd_bench.errors import DataError
from tmsgd_bench.task import TaskSettings

PAD = 0
CLASSES = ("acq", "crude", "earn", "grain", "interest", "money-fx", "ship", "trade")
PREPARE = "delete it if it is there and run 'python -m tmsgd_bench data prepare r8'"
Document = tuple[str, list[str]]


@dataclass(frozen=True)
class R8:
    """What is trained on and what is evaluated.

    Args:
        train_words, test_words: int64, shape (documents, tokens); 0 pads. Those to test on are the test split's, or the
            validation split's of a run that validates.
        train_labels, test_labels: int64, shape (documents,), indices into ``CLASSES``.
        vocabulary_size: words of all full texts that were read, and the pad.
        reachable: words that occur in ``train_words``, and the pad; their numbers come first.
    """

    train_words: Tensor
    train_labels: Tensor
    test_words: Tensor
    test_labels: Tensor
    vocabulary_size: int
    reachable: int

    def to(self, device: torch.device) -> R8:
        """The same on a device."""
        return replace(
            self,
            train_words=self.train_words.to(device),
            train_labels=self.train_labels.to(device),
            test_words=self.test_words.to(device),
            test_labels=self.test_labels.to(device),
        )


def load(settings: TaskSettings, tokens: int, padding: str) -> R8:
    """Read, number and cut the documents of a folder in R8's layout.

    The vocabulary is taken from all words of the training and of the test split, as in the paper's recipe, also under
    ``data_limit``; for a run that validates from those of the training split. Words that training shows to the network
    are numbered first. Under ``data_limit`` what is evaluated stays whole; ``evaluation_limit`` leaves a part of it.

    Args:
        settings: the run's.
        tokens: how many leading words of a document are used.
        padding: "end" or "start": on which side short documents are filled up.

    Raises:
        DataError: a file is missing, or a line is not ``label<TAB>text`` with a known label.
    """
    documents = read_documents(settings.data_folder / "r8-train-all-terms.txt")
    to_train, validation = settings.split(len(documents))
    if validation is None:
        test = read_documents(settings.data_folder / "r8-test-all-terms.txt")
    else:
        test = [documents[number] for number in validation]
    vocabulary = {word for _, words in (*documents, *test) for word in words}
    test = test if settings.validates else [test[number] for number in settings.evaluated_of(len(test))]
    train = [documents[number] for number in to_train]
    reached = {word for _, words in train for word in words[:tokens]}
    ordered = [*sorted(reached), *sorted(vocabulary - reached)]
    numbers = {word: number for number, word in enumerate(ordered, start=PAD + 1)}
    return R8(
        *_tensors(train, numbers, tokens, padding),
        *_tensors(test, numbers, tokens, padding),
        vocabulary_size=len(vocabulary) + 1,
        reachable=len(reached) + 1,
    )


def _fix(path: Path) -> str:
    """What to do about a bad file; nobody is told to delete data of their own."""
    return PREPARE if path.parent.name == "r8" else "mend it"


def read_documents(path: Path) -> list[Document]:
    """The (label, words) of every line.

    Raises:
        DataError: see :func:`load`; names the file and the line.
    """
    try:
        lines = path.read_text(encoding="utf-8").removesuffix("\n").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"cannot read {path} ({error}): {_fix(path)}.") from error
    if lines == [""]:
        raise DataError(f"{path} is empty: {_fix(path)}.")
    return [_document(path, number, line) for number, line in enumerate(lines, start=1)]


def _document(path: Path, number: int, line: str) -> Document:
    label, tab, text = line.partition("\t")
    words = text.split()
    if not tab or label not in CLASSES or not words:
        raise DataError(
            f"{path}, line {number}, is not a label ({', '.join(CLASSES)}), a tab and a text: {_fix(path)}."
        )
    return label, words


def _tensors(documents: list[Document], numbers: dict[str, int], tokens: int, padding: str) -> tuple[Tensor, Tensor]:
    words = torch.full((len(documents), tokens), PAD)
    for row, (_, text) in zip(words, documents, strict=True):
        ids = torch.tensor([numbers[word] for word in text[:tokens]])
        where = slice(0, len(ids)) if padding == "end" else slice(tokens - len(ids), tokens)
        row[where] = ids
    labels = torch.tensor([CLASSES.index(label) for label, _ in documents])
    return words, labels
