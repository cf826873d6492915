"""Text classification: documents as tensors, the model's split embedding, and the task around them."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import Optimizer

import tasks
from tasks.tc import TextClassification, data
from tasks.tc.model import LSTMClassifier, SplitEmbedding
from tasks.tc.task import EVALUATION_BATCH
from tmsgd_bench import TMSGD
from tmsgd_bench.errors import ConfigError, DataError
from tmsgd_bench.optim.apollo import Apollo
from tmsgd_bench.seeding import subset
from tmsgd_bench.task import Task, TaskSettings

TRAIN = ["earn\tprofit rose and rose", "acq\tfirm buys firm in cash deal now", "ship\tport closed"]
TEST = ["acq\tbid for firm", "money-fx\tdollar fell in cash trading late"]
LONGEST = 7
TARGET = "tasks.tc.model.LSTMClassifier"


def write(folder: Path, train: Iterable[str] = TRAIN, test: Iterable[str] = TEST) -> Path:
    """Write documents in R8's layout; returns the folder."""
    for split, lines in (("train", train), ("test", test)):
        (folder / f"r8-{split}-all-terms.txt").write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return folder


def words_of(lines: Iterable[str]) -> list[list[str]]:
    return [line.split("\t")[1].split() for line in lines]


def settings(folder: Path, **changes: Any) -> TaskSettings:
    """Those of a small run; ``changes`` replaces some."""
    made = replace(
        TaskSettings(
            data_folder=folder,
            data_limit=None,
            batch_size=16,
            seed=0,
            device=torch.device("cpu"),
            model={"embedding": 6, "hidden": 5},
        ),
        **changes,
    )
    return replace(made, model={"_target_": TARGET, **made.model})


def make(folder: Path, tokens: int = 16, padding: str = "end", **changes: Any) -> TextClassification:
    torch.manual_seed(0)
    return TextClassification(settings(folder, **changes), tokens=tokens, padding=padding)


# --- documents as tensors ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("padding", ["end", "start"])
def test_short_documents_are_padded_on_the_chosen_side(tmp_path: Path, padding: str) -> None:
    loaded = data.load(settings(write(tmp_path)), LONGEST, padding)
    for row, words in zip(loaded.train_words, words_of(TRAIN), strict=True):
        used = row[: len(words)] if padding == "end" else row[LONGEST - len(words) :]
        assert (used != data.PAD).all()
        assert int((row != data.PAD).sum()) == len(words)


@pytest.mark.parametrize("padding", ["end", "start"])
@pytest.mark.parametrize("tokens", [1, 3, LONGEST, 32])
def test_the_first_words_of_every_document_are_kept_in_order(tmp_path: Path, tokens: int, padding: str) -> None:
    """Equal words have equal numbers and different words different ones, over both splits."""
    loaded = data.load(settings(write(tmp_path)), tokens, padding)
    words: dict[int, str] = {}
    for rows, lines in ((loaded.train_words, TRAIN), (loaded.test_words, TEST)):
        assert rows.shape == (len(lines), tokens)
        assert rows.dtype == torch.int64
        for row, text in zip(rows, words_of(lines), strict=True):
            numbers = [int(number) for number in row if number != data.PAD]
            assert len(numbers) == min(tokens, len(text))
            for number, word in zip(numbers, text, strict=False):
                assert words.setdefault(number, word) == word
    assert len(set(words.values())) == len(words)


def test_labels_are_the_numbers_of_the_classes(tmp_path: Path) -> None:
    loaded = data.load(settings(write(tmp_path)), 3, "end")
    assert [data.CLASSES[k] for k in loaded.train_labels] == ["earn", "acq", "ship"]
    assert [data.CLASSES[k] for k in loaded.test_labels] == ["acq", "money-fx"]
    assert loaded.train_labels.dtype == torch.int64


@pytest.mark.parametrize("tokens", [1, 3, 32])
@pytest.mark.parametrize("limit", [None, 1, 2])
def test_the_vocabulary_is_that_of_both_splits_whole_texts(tmp_path: Path, tokens: int, limit: int | None) -> None:
    """Also of words behind the ones that are read, and of documents that a limit leaves out."""
    loaded = data.load(settings(write(tmp_path), data_limit=limit), tokens, "end")
    everything = {word for words in words_of([*TRAIN, *TEST]) for word in words}
    assert loaded.vocabulary_size == len(everything) + 1


@pytest.mark.parametrize("tokens", [1, 3, 32])
@pytest.mark.parametrize("limit", [None, 1, 2])
def test_words_that_training_reaches_are_numbered_first(tmp_path: Path, tokens: int, limit: int | None) -> None:
    """Each of the numbers 1 … reachable − 1 occurs in the training words, and no other."""
    loaded = data.load(settings(write(tmp_path), data_limit=limit), tokens, "end")
    used = set(loaded.train_words.unique().tolist()) - {data.PAD}
    assert used == set(range(1, loaded.reachable))
    assert int(loaded.test_words.max()) < loaded.vocabulary_size


def test_numbers_do_not_depend_on_the_order_of_documents(tmp_path: Path) -> None:
    (tmp_path / "one").mkdir()
    (tmp_path / "other").mkdir()
    one = data.load(settings(write(tmp_path / "one")), 32, "end")
    other = data.load(settings(write(tmp_path / "other", TRAIN[::-1], TEST[::-1])), 32, "end")
    assert torch.equal(one.train_words, other.train_words.flip(0))
    assert torch.equal(one.test_words, other.test_words.flip(0))


@pytest.mark.parametrize("limit", [1, 50, 599, 600, 10_000])
def test_a_limit_keeps_a_fixed_subset_of_training_and_all_of_test(synthetic_r8: Path, limit: int) -> None:
    whole, part = (data.load(settings(synthetic_r8, data_limit=n), 32, "end") for n in (None, limit))
    kept = subset(600, limit)
    assert len(part.train_labels) == min(limit, 600)
    assert torch.equal(part.train_labels, whole.train_labels[kept])
    assert torch.equal(part.train_words == data.PAD, whole.train_words[kept] == data.PAD)
    assert torch.equal(part.test_labels, whole.test_labels)
    assert torch.equal(part.test_words == data.PAD, whole.test_words == data.PAD)


def test_moving_to_a_device_keeps_everything(tmp_path: Path) -> None:
    loaded = data.load(settings(write(tmp_path)), 3, "end")
    moved = loaded.to(torch.device("cpu"))
    assert (moved.vocabulary_size, moved.reachable) == (loaded.vocabulary_size, loaded.reachable)
    for name in ("train_words", "train_labels", "test_words", "test_labels"):
        assert torch.equal(getattr(moved, name), getattr(loaded, name))


def test_the_real_r8_has_the_papers_sizes(real_r8: Path) -> None:
    """5,485 and 2,189 documents, 8 classes in both, 23,585 words and the pad; 52 % of them are never reached."""
    loaded = data.load(settings(real_r8), 32, "end")
    assert loaded.train_words.shape == (5485, 32)
    assert loaded.test_words.shape == (2189, 32)
    assert len(loaded.train_labels.unique()) == len(loaded.test_labels.unique()) == len(data.CLASSES) == 8
    assert loaded.vocabulary_size == 23_585 + 1
    assert round(100 * (1 - loaded.reachable / loaded.vocabulary_size)) == 52


# --- bad files -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "line",
    ["", "earn", "earn profit rose", "sport\tgoal", "EARN\tprofit", " earn\tprofit", "earn\t", "earn\t  ", "\tprofit"],
    ids=repr,
)
@pytest.mark.parametrize("split", ["train", "test"])
def test_a_bad_line_is_named_by_file_and_number(tmp_path: Path, split: str, line: str) -> None:
    lines = {"train": TRAIN, "test": TEST} | {split: ["acq\tgood", line, "acq\tgood"]}
    write(tmp_path, **lines)
    with pytest.raises(DataError) as raised:
        data.load(settings(tmp_path), 3, "end")
    assert str(raised.value).startswith(f"{tmp_path / f'r8-{split}-all-terms.txt'}, line 2, ")
    assert str(raised.value).endswith(": mend it.")


def test_only_of_r8_itself_is_one_told_to_delete_a_file(tmp_path: Path) -> None:
    """Data of one's own are in a folder of another name."""
    (tmp_path / "r8").mkdir()
    write(tmp_path / "r8", ["sport\tgoal"])
    with pytest.raises(DataError, match=r"delete it .* and run 'python -m tmsgd_bench data prepare r8'\.$"):
        data.load(settings(tmp_path / "r8"), 3, "end")


@pytest.mark.parametrize("mark", ["\x0c", "\u2028"], ids=ascii)
def test_only_a_line_feed_ends_a_line(tmp_path: Path, mark: str) -> None:
    """Other characters that Python calls line boundaries are spaces in a text, and do not shift line numbers."""
    documents = data.read_documents(write(tmp_path, [f"earn\tone{mark}two"]) / "r8-train-all-terms.txt")
    assert documents == [("earn", ["one", "two"])]


def test_carriage_returns_are_not_part_of_a_word(tmp_path: Path) -> None:
    """A file that was saved on Windows."""
    path = tmp_path / "r8-train-all-terms.txt"
    path.write_bytes(b"earn\tprofit rose\r\nacq\tbid\r\n")
    assert data.read_documents(path) == [("earn", ["profit", "rose"]), ("acq", ["bid"])]


@pytest.mark.parametrize("split", ["train", "test"])
@pytest.mark.parametrize("contents", [b"", b"earn\t\xff\xfe\n", None], ids=["empty", "not UTF-8", "missing"])
def test_a_file_that_cannot_be_used_is_named_with_the_fix(tmp_path: Path, split: str, contents: bytes | None) -> None:
    (tmp_path / "r8").mkdir()
    path = write(tmp_path / "r8") / f"r8-{split}-all-terms.txt"
    if contents is None:
        path.unlink()
    else:
        path.write_bytes(contents)
    with pytest.raises(DataError) as raised:
        data.load(settings(path.parent), 3, "end")
    message = str(raised.value)
    assert str(path) in message
    assert "run 'python -m tmsgd_bench data prepare r8'" in message
    assert contents is None or "delete" in message  # prepare leaves a file alone that is there


# --- model ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rows", "reachable", "classes", "embedding", "hidden"), [(23_586, 11_300, 8, 100, 50), (9, 4, 3, 2, 5)]
)
def test_parameter_counts_follow_the_formula(
    rows: int, reachable: int, classes: int, embedding: int, hidden: int
) -> None:
    """Word vectors; four gates of input, recurrent and two bias terms; a linear layer."""
    model = LSTMClassifier(rows, reachable, classes, embedding, hidden)
    counts = {name: sum(p.numel() for p in module.parameters()) for name, module in model.named_children()}
    assert counts == {
        "embedding": reachable * embedding,
        "lstm": 4 * hidden * (embedding + hidden + 2),
        "head": (hidden + 1) * classes,
    }
    assert model.embedding.unreached.shape == (rows - reachable, embedding)


def test_the_output_is_the_linear_layer_on_the_last_step() -> None:
    """Against an LSTM cell stepped by hand."""
    torch.manual_seed(0)
    model = LSTMClassifier(9, 9, 3, 4, 5).double()
    cell = nn.LSTMCell(4, 5).double()
    cell.load_state_dict({name.removesuffix("_l0"): value for name, value in model.lstm.state_dict().items()})
    words = torch.randint(0, 9, (2, 6))
    state = (torch.zeros(2, 5).double(), torch.zeros(2, 5).double())
    for step in range(6):
        state = cell(model.embedding(words[:, step]), state)
    torch.testing.assert_close(model(words), model.head(state[0]), rtol=1e-12, atol=1e-14)


def test_initial_word_vectors_are_those_of_a_whole_embedding() -> None:
    """One draw for the whole table, wherever it is split: weights do not depend on what is reachable."""
    tables = []
    for reachable in (1, 5, 9):
        torch.manual_seed(3)
        split = SplitEmbedding(9, reachable, 4)
        tables.append((torch.cat([split.weight, split.unreached]), torch.rand(1)))
    torch.manual_seed(3)
    whole = nn.Embedding(9, 4).weight
    for table, following in tables:
        assert torch.equal(table, whole)
        assert torch.equal(following, tables[0][1])


def test_evaluation_looks_up_all_words_and_training_the_reachable_ones() -> None:
    split = SplitEmbedding(9, 5, 4)
    whole = torch.cat([split.weight, split.unreached])
    assert torch.equal(split.eval()(torch.arange(9)), whole)
    assert torch.equal(split.train()(torch.arange(5)), whole[:5])
    with pytest.raises(IndexError):
        split(torch.tensor([5]))


OPTIMIZERS: dict[str, Callable[[Iterable[nn.Parameter]], Optimizer]] = {
    "SGD": lambda p: torch.optim.SGD(p, lr=0.1),
    "SGD-M": lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9),
    "TM-SGD": lambda p: TMSGD(p, lr=0.1, switch_step=4),
    "TM-SGD-M": lambda p: TMSGD(p, lr=0.02, momentum=0.9, switch_step=4),
    "Adam": lambda p: torch.optim.Adam(p, lr=0.01),
    "Adam, fused": lambda p: torch.optim.Adam(p, lr=0.01, fused=True),
}


def pair(vocabulary: int, reachable: int, width: int) -> tuple[LSTMClassifier, LSTMClassifier, Tensor]:
    """A model, its twin with a whole embedding, and the initial word vectors."""
    torch.manual_seed(0)
    split = LSTMClassifier(vocabulary, reachable, 8, width, 3)
    start = torch.cat([split.embedding.weight.detach(), split.embedding.unreached])
    whole = copy.deepcopy(split)
    whole.embedding = nn.Embedding.from_pretrained(start.clone(), freeze=False)
    return split, whole, start


def train(model: nn.Module, optimizer: Optimizer, reachable: int) -> None:
    """Ten steps on random documents; some reachable words are met late or never."""
    numbers = torch.Generator().manual_seed(1)
    for step in range(10):
        words = torch.randint(0, max(1, reachable * (step + 1) // 12), (4, 6), generator=numbers)
        labels = torch.randint(0, 8, (4,), generator=numbers)
        optimizer.zero_grad()
        F.cross_entropy(model(words), labels).backward()
        optimizer.step()


@pytest.mark.parametrize("sizes", [(37, 23, 5), (900, 400, 13), (5, 5, 3)], ids=str)
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_training_is_bit_for_bit_that_of_a_whole_embedding(name: str, sizes: tuple[int, int, int]) -> None:
    """Across the switch of TM-SGD too. The rows left out are, in the whole embedding, where they started."""
    split, whole, start = pair(*sizes)
    reachable = sizes[1]
    for model in (split, whole):
        train(model, OPTIMIZERS[name](model.parameters()), reachable)
    table = whole.embedding.weight
    assert not torch.equal(table[:reachable], start[:reachable])
    assert torch.equal(split.embedding.weight, table[:reachable])
    assert torch.equal(table[reachable:], start[reachable:])
    assert torch.equal(split.embedding.unreached, start[reachable:])
    for part in ("lstm", "head"):
        for one, other in zip(
            split.get_submodule(part).parameters(), whole.get_submodule(part).parameters(), strict=True
        ):
            assert torch.equal(one, other)
    words = torch.arange(sizes[0]).repeat(2)[None]
    assert torch.equal(split.eval()(words), whole.eval()(words))


def test_training_with_apollo_is_that_of_a_whole_embedding_up_to_rounding() -> None:
    """Its norm is a sum over the tensor, whose rounding depends on how many zeros are in it; rows without a
    gradient stay all the same."""
    split, whole, start = pair(37, 23, 5)
    for model in (split, whole):
        train(model, Apollo(model.parameters(), lr=0.01, warmup_steps=0, foreach=True), 23)
    torch.testing.assert_close(split.embedding.weight, whole.embedding.weight[:23], rtol=1e-5, atol=1e-6)
    assert torch.equal(whole.embedding.weight[23:], start[23:])


# --- task ----------------------------------------------------------------------------------------------------------


def flat(batches: Iterable[tuple[Tensor, Tensor]]) -> list[tuple[list[int], int]]:
    """Every example of an epoch, in order."""
    return [(w.tolist(), int(k)) for words, labels in batches for w, k in zip(words, labels, strict=True)]


@pytest.mark.parametrize("size", [1, 7, 50, 64])
def test_an_epoch_covers_every_example_once(synthetic_r8: Path, size: int) -> None:
    task = make(synthetic_r8, batch_size=size, data_limit=50)
    batches = list(task.batches(0))
    assert len(batches) == task.steps_per_epoch == math.ceil(50 / size)
    assert [len(labels) for _, labels in batches[:-1]] == [size] * (len(batches) - 1)
    examples = zip(task.data.train_words.tolist(), task.data.train_labels.tolist(), strict=True)
    assert sorted(flat(batches)) == sorted(examples)


def test_the_loss_is_the_mean_cross_entropy(synthetic_r8: Path) -> None:
    task = make(synthetic_r8)
    words, labels = next(iter(task.batches(0)))
    chances = task.model(words).double().softmax(dim=1)
    expected = -chances[torch.arange(len(labels)), labels].log().mean()
    assert float(task.loss((words, labels)).detach()) == pytest.approx(float(expected.detach()), rel=1e-6)


@pytest.mark.parametrize("size", [1, 17, 512])
@torch.no_grad()
def test_evaluation_agrees_with_a_computation_by_hand(
    synthetic_r8: Path, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    """In float64, document by document, for any size of its batches."""
    monkeypatch.setattr("tasks.tc.task.EVALUATION_BATCH", size)
    task = make(synthetic_r8)
    task.model.eval()
    logits = task.model(task.data.test_words).double()
    chances = [row.softmax(dim=0)[label] for row, label in zip(logits, task.data.test_labels, strict=True)]
    right = sum(int(row.argmax()) == int(label) for row, label in zip(logits, task.data.test_labels, strict=True))
    found = task.evaluate()
    assert found["accuracy"] == pytest.approx(100.0 * right / len(logits), rel=1e-6)
    assert found["test_loss"] == pytest.approx(-sum(math.log(chance) for chance in chances) / len(logits), rel=1e-5)


@pytest.mark.parametrize("name", ["SGD", "TM-SGD", "Adam"])
def test_the_loss_falls_on_the_stand_in(synthetic_r8: Path, name: str) -> None:
    """Below that of the best constant prediction, the entropy of the labels, which is what learning nothing gives."""
    task = make(synthetic_r8, padding="start", model={"embedding": 16, "hidden": 12})
    optimizers = {"classifier": OPTIMIZERS[name](task.model.parameters())}
    shares = task.data.train_labels.bincount().double() / task.train_size
    entropy = float(-(shares * shares.log()).sum())
    for epoch in range(10):
        losses = [float(task.training_step(batch, optimizers)["loss"]) for batch in task.batches(epoch)]
        if sum(losses) / len(losses) < entropy:
            return
    pytest.fail(f"{losses[-1]} after 10 epochs is not below {entropy}")


@pytest.mark.parametrize("examples", [1, 16, 17, 513, 600, 10_000])
def test_the_sample_for_the_sharpness_is_the_default_one_in_larger_batches(synthetic_r8: Path, examples: int) -> None:
    task = make(synthetic_r8)
    pairs, default = list(task.probe(examples)), list(Task.probe(task, examples))
    assert [len(labels) for (_, labels), _ in pairs] == [size for _, size in pairs]
    assert len(pairs) == math.ceil(sum(size for _, size in default) / EVALUATION_BATCH)
    for part in (0, 1):
        ours, theirs = (torch.cat([batch[part] for batch, _ in found]) for found in (pairs, default))
        assert torch.equal(ours, theirs)


# --- options -------------------------------------------------------------------------------------------------------


def test_the_task_is_built_by_its_name(synthetic_r8: Path) -> None:
    task = tasks.build("tasks.tc.TextClassification", settings(synthetic_r8), {"tokens": 4, "padding": "start"})
    assert isinstance(task, TextClassification)
    assert task.data.train_words.shape == (600, 4)


@pytest.mark.parametrize("target", ["tasks.tc.Nothing", "tasks.nothing.Task", "no name"])
def test_an_unknown_task_class_is_refused_with_the_fix(synthetic_r8: Path, target: str) -> None:
    with pytest.raises(ConfigError, match="_target_") as raised:
        tasks.build(target, settings(synthetic_r8), {})
    assert repr(target) in str(raised.value)


@pytest.mark.parametrize(
    "options",
    [
        {"padding": "left"},
        {"padding": None},
        {"unknown": 1},
        {"tokens": 0},
        {"tokens": -1},
        {"tokens": 2.5},
        {"tokens": "many"},
    ],
    ids=str,
)
def test_an_option_that_cannot_be_used_is_refused(synthetic_r8: Path, options: dict[str, Any]) -> None:
    """In one sentence that names it, before anything is trained."""
    with pytest.raises(ConfigError, match=next(iter(options))):
        tasks.build("tasks.tc.TextClassification", settings(synthetic_r8), {"tokens": 8, "padding": "end", **options})


@pytest.mark.parametrize(
    "model", [{"embedding": 6}, {"embedding": 0, "hidden": 5}, {"embedding": 6, "hidden": 0}], ids=str
)
def test_a_model_that_cannot_be_built_is_refused(synthetic_r8: Path, model: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        tasks.build("tasks.tc.TextClassification", settings(synthetic_r8, model=model), {"tokens": 8, "padding": "end"})
