"""Average precision: by hand, against the official program's loops, against pycocotools, and its invariances."""

from __future__ import annotations

import math
import warnings
from collections import defaultdict
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tmsgd_bench.voc import (
    Detections,
    Truth,
    average_precisions,
    mean_average_precision,
    precision_recall,
)
from tmsgd_bench.voc.average_precision import ELEVEN, Points

BOTH: tuple[Points, ...] = ("11", "all")
ONE = math.nextafter(1.0, 2.0)  # eleven times 1/11, added up as the reference program does
FULL = (0.0, 0.0, 10.0, 10.0)
HALF = (0.0, 0.0, 5.0, 10.0)  # IoU 0.5 with FULL
AWAY = (50.0, 50.0, 60.0, 60.0)


def truth_of(*objects: tuple[int, int, tuple[float, ...], bool]) -> Truth:
    """From (image, label, box, difficult)."""
    images, labels, boxes, difficult = zip(*objects, strict=True) if objects else ((), (), (), ())
    box_array = np.array(boxes, dtype=float).reshape(-1, 4)
    return Truth(np.array(images, int), np.array(labels, int), box_array, np.array(difficult, bool))


def found_of(*rows: tuple[int, int, tuple[float, ...], float]) -> Detections:
    """From (image, label, box, score)."""
    images, labels, boxes, scores = zip(*rows, strict=True) if rows else ((), (), (), ())
    box_array = np.array(boxes, dtype=float).reshape(-1, 4)
    return Detections(np.array(images, int), np.array(labels, int), box_array, np.array(scores, float))


def ap(found: Detections, truth: Truth, points: Points = "11", threshold: float = 0.5) -> float:
    """Of class 0."""
    return float(average_precisions(found, truth, 3, threshold, points)[0])


def select(found: Detections, chosen: Any) -> Detections:
    return Detections(*(column[chosen] for column in vars(found).values()))


# --- by hand -------------------------------------------------------------------------------------------------------


def test_right_wrong_right_of_two() -> None:
    """Precision 1, 1/2, 2/3 at recall 1/2, 1/2, 1."""
    truth = truth_of((0, 0, FULL, False), (1, 0, FULL, False))
    found = found_of((0, 0, FULL, 0.9), (0, 0, AWAY, 0.8), (1, 0, FULL, 0.7))
    assert ap(found, truth) == pytest.approx((6 * 1 + 5 * 2 / 3) / 11, abs=1e-15)
    assert ap(found, truth, "all") == pytest.approx(0.5 * 1 + 0.5 * 2 / 3, abs=1e-15)
    curve = precision_recall(found, truth, 0)
    assert curve.recall.tolist() == [0.5, 0.5, 1.0]
    assert curve.precision.tolist() == [1.0, 0.5, 2 / 3]


def test_a_precision_counts_at_all_smaller_recalls() -> None:
    """Wrong, right, right: 0, 1/2, 2/3; the largest at any recall up to 1 is 2/3."""
    truth = truth_of((0, 0, FULL, False), (1, 0, FULL, False))
    found = found_of((0, 0, AWAY, 0.9), (0, 0, FULL, 0.8), (1, 0, FULL, 0.7))
    for points in BOTH:
        assert ap(found, truth, points) == pytest.approx(2 / 3, abs=1e-15)


@pytest.mark.parametrize("hits", range(11))
def test_a_recall_of_exactly_k_tenths_reaches_its_point_as_numpy_has_it(hits: int) -> None:
    """But for 3, 6 and 7 of 10, because numpy's points lie above 0.3, 0.6 and 0.7 by a rounding."""
    truth = truth_of(*((image, 0, FULL, False) for image in range(10)))
    found = found_of(*((image, 0, FULL, 0.5) for image in range(hits)))
    reached = hits + (hits not in (3, 6, 7)) if hits else 0
    assert ap(found, truth) == pytest.approx(reached / 11, abs=1e-15)
    assert ap(found, truth, "all") == pytest.approx(hits / 10, abs=1e-15)


def test_a_second_detection_of_an_object_is_wrong() -> None:
    truth = truth_of((0, 0, FULL, False), (1, 0, FULL, False))
    found = found_of((0, 0, HALF, 0.9), (0, 0, FULL, 0.8), (1, 0, FULL, 0.7))
    assert precision_recall(found, truth, 0).hits.tolist() == [1, 1, 2]


def test_the_object_of_largest_iou_is_taken_even_if_it_is_taken_already() -> None:
    """The second detection overlaps both objects enough; the free one does not help it."""
    truth = truth_of((0, 0, (0, 0, 10, 10), False), (0, 0, (0, 0, 10, 14), False))
    found = found_of((0, 0, (0, 0, 10, 10), 0.9), (0, 0, (0, 0, 10, 11), 0.8))
    assert precision_recall(found, truth, 0).hits.tolist() == [1, 1]


def test_of_two_objects_alike_the_first_is_taken() -> None:
    """A difficult twin after it does no harm; before it, it swallows the detection."""
    twins = [(0, 0, FULL, False), (0, 0, FULL, True)]
    found = found_of((0, 0, FULL, 0.9))
    assert [ap(found, truth_of(*order)) for order in (twins, twins[::-1])] == [ONE, 0.0]


def test_difficult_objects_neither_help_nor_harm() -> None:
    """Two detections of one, before all others, are as if they were not there."""
    truth = truth_of((0, 0, FULL, True), (1, 0, FULL, False), (2, 0, FULL, True))
    found = found_of((0, 0, FULL, 0.9), (0, 0, HALF, 0.8), (1, 0, FULL, 0.7))
    curve = precision_recall(found, truth, 0)
    assert curve.positives == 1 and curve.hits.tolist() == [1]
    assert ap(found, truth) == ONE and ap(found, truth, "all") == 1.0


def test_a_detection_that_misses_a_difficult_object_is_wrong() -> None:
    truth = truth_of((0, 0, FULL, True), (1, 0, FULL, False))
    found = found_of((0, 0, (0, 0, 4, 10), 0.9), (1, 0, FULL, 0.7))
    assert precision_recall(found, truth, 0).hits.tolist() == [0, 1]


def test_an_iou_of_exactly_the_threshold_is_enough() -> None:
    truth = truth_of((0, 0, FULL, False))
    assert ap(found_of((0, 0, HALF, 0.9)), truth) == ONE
    assert ap(found_of((0, 0, HALF, 0.9)), truth, threshold=math.nextafter(0.5, 1.0)) == 0.0
    assert ap(found_of((0, 0, (0.0, 0.0, math.nextafter(5.0, 0.0), 10.0), 0.9)), truth) == 0.0


def test_boxes_that_only_touch_do_not_overlap() -> None:
    assert ap(found_of((0, 0, (10, 0, 20, 10), 0.9)), truth_of((0, 0, FULL, False)), threshold=1e-9) == 0.0


def test_a_box_inside_out_or_empty_is_wrong_and_does_no_harm() -> None:
    truth = truth_of((0, 0, FULL, False))
    for box in ((10, 10, 0, 0), (10, 0, 0, 10), (5, 5, 5, 5), (0, 0, 10, 0)):
        assert precision_recall(found_of((0, 0, box, 0.9), (0, 0, FULL, 0.8)), truth, 0).hits.tolist() == [0, 1]


def test_classes_and_images_are_told_apart() -> None:
    truth = truth_of((0, 0, FULL, False), (1, 1, FULL, False))
    found = found_of((1, 0, FULL, 0.9), (0, 1, FULL, 0.9), (7, 0, FULL, 0.9), (0, 0, FULL, 0.1), (1, 1, FULL, 0.1))
    assert [precision_recall(found, truth, label).hits.tolist() for label in (0, 1, 2)] == [[0, 0, 1], [0, 1], []]


def test_of_equal_scores_the_first_comes_first() -> None:
    truth = truth_of((0, 0, FULL, False))
    rows = [(0, 0, AWAY, 0.5), (0, 0, FULL, 0.5)]
    assert ap(found_of(*rows), truth, "all") == 0.5 and ap(found_of(*rows[::-1]), truth, "all") == 1.0


def test_classes_without_objects_have_no_average_precision() -> None:
    truth = truth_of((0, 0, FULL, False), (0, 1, FULL, True))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = average_precisions(found_of((0, 1, FULL, 0.9), (0, 2, FULL, 0.9)), truth, 4)
        np.testing.assert_array_equal(found, [0.0, np.nan, np.nan, np.nan])
        assert mean_average_precision(found) == 0.0
        nothing = average_precisions(found_of(), truth_of(), 2)
        assert np.isnan(nothing).all() and math.isnan(mean_average_precision(nothing))
        assert np.isnan(precision_recall(found_of((0, 2, FULL, 0.9)), truth, 2).recall).all()
    assert mean_average_precision(np.array([0.25, np.nan, 0.75])) == 0.5


# --- against the official program ----------------------------------------------------------------------------------


def official(found: Detections, truth: Truth, label: int, threshold: float, points: Points) -> float:
    """The rules of VOCevaldet.m in VOC's inclusive pixel numbers, with voc_eval's arithmetic from there on.

    Of equal scores the first in order comes first: voc_eval leaves that to numpy's unstable sort.
    """
    objects: dict[int, list[dict[str, Any]]] = defaultdict(list)
    for i in np.flatnonzero(truth.labels == label):
        own = {"box": inclusive(truth.boxes[i]), "difficult": truth.difficult[i], "det": False}
        objects[int(truth.images[i])].append(own)
    positives = sum(not one["difficult"] for own in objects.values() for one in own)
    if positives == 0:
        return math.nan
    hits, misses = 0, 0
    recall: list[float] = []
    precision: list[float] = []
    for i in sorted(np.flatnonzero(found.labels == label), key=lambda i: -found.scores[i]):
        largest, nearest = largest_overlap(inclusive(found.boxes[i]), objects[int(found.images[i])])
        if nearest is None or largest < threshold:
            misses += 1
        elif not nearest["difficult"]:
            hits, misses = (hits, misses + 1) if nearest["det"] else (hits + 1, misses)
            nearest["det"] = True
        recall.append(hits / float(positives))
        precision.append(hits / max(hits + misses, np.finfo(np.float64).eps))
    curve = np.array(recall), np.array(precision)
    return eleven_points(*curve) if points == "11" else area(*curve)


def inclusive(box: np.ndarray) -> list[int]:
    return [int(box[0]) + 1, int(box[1]) + 1, int(box[2]), int(box[3])]


def largest_overlap(bb: list[int], objects: list[dict[str, Any]]) -> tuple[float, dict[str, Any] | None]:
    largest, nearest = -math.inf, None
    for one in objects:
        gt = one["box"]
        width = min(bb[2], gt[2]) - max(bb[0], gt[0]) + 1
        height = min(bb[3], gt[3]) - max(bb[1], gt[1]) + 1
        if width > 0 and height > 0:
            areas = [(b[2] - b[0] + 1) * (b[3] - b[1] + 1) for b in (bb, gt)]
            overlap = width * height / (sum(areas) - width * height)
            if overlap > largest:
                largest, nearest = overlap, one
    return largest, nearest


def eleven_points(recall: np.ndarray, precision: np.ndarray) -> float:
    total = 0.0
    for t in np.arange(0.0, 1.1, 0.1):
        total += (np.max(precision[recall >= t]) if np.sum(recall >= t) else 0.0) / 11.0
    return float(total)


def area(recall: np.ndarray, precision: np.ndarray) -> float:
    recalls, heights = np.concatenate(([0.0], recall, [1.0])), np.concatenate(([0.0], precision, [0.0]))
    for i in range(len(heights) - 1, 0, -1):
        heights[i - 1] = max(heights[i - 1], heights[i])
    steps = np.where(recalls[1:] != recalls[:-1])[0]
    return float(np.sum((recalls[steps + 1] - recalls[steps]) * heights[steps + 1]))


def random_case(seed: int, images: int, objects: int, detections: int, side: int) -> tuple[Truth, Detections]:
    """Integer boxes in a small square, so that ties of IoU and score, duplicates and exact thresholds are frequent."""
    rng = np.random.default_rng(seed)

    def boxes(count: int) -> np.ndarray:
        corner = rng.integers(0, side, (count, 2))
        return np.concatenate([corner, corner + rng.integers(1, side + 1, (count, 2))], axis=1).astype(float)

    def column(high: int, count: int) -> np.ndarray:
        return rng.integers(0, high, count)

    truth = Truth(column(images, objects), column(3, objects), boxes(objects), rng.random(objects) < 0.3)
    scores = column(6, detections) / 4.0
    found = Detections(column(images + 1, detections), column(3, detections), boxes(detections), scores)
    near = rng.random(detections) < 0.5 if objects else np.zeros(detections, bool)
    source = column(max(objects, 1), detections)[near]
    for name in ("images", "labels", "boxes"):
        getattr(found, name)[near] = getattr(truth, name)[source]
    return truth, found


@settings(max_examples=300, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    images=st.integers(1, 5),
    objects=st.integers(0, 60),  # of three classes, a third difficult: recalls often meet a point
    detections=st.integers(0, 60),
    side=st.integers(1, 8),
    threshold=st.sampled_from([0.05, 0.25, 0.5, 0.75, 1.0]),
    points=st.sampled_from(BOTH),
)
def test_it_is_the_official_rule(
    seed: int, images: int, objects: int, detections: int, side: int, threshold: float, points: Points
) -> None:
    truth, found = random_case(seed, images, objects, detections, side)
    expected = [official(found, truth, label, threshold, points) for label in range(4)]
    measured = average_precisions(found, truth, 4, threshold, points)
    np.testing.assert_array_equal(measured, expected)
    assert ((measured >= 0.0) & (measured <= ONE) | np.isnan(measured)).all()


def test_it_is_the_official_rule_on_a_larger_case() -> None:
    truth, found = random_case(0, images=80, objects=400, detections=3000, side=40)
    for points in BOTH:
        expected = [official(found, truth, label, 0.5, points) for label in range(3)]
        np.testing.assert_array_equal(average_precisions(found, truth, 3, 0.5, points), expected)
        assert min(expected) > 0.05


@pytest.mark.parametrize("seed", range(4))
def test_it_is_pycocotools_at_eleven_recalls(seed: int) -> None:
    """Where COCO's rules cannot differ: no difficult object, and no box that overlaps two objects of its class."""
    pytest.importorskip("pycocotools")
    from torchmetrics.detection import MeanAveragePrecision

    rng = np.random.default_rng(seed)
    truth, found = apart(rng)
    metric = MeanAveragePrecision(iou_thresholds=[0.5], rec_thresholds=ELEVEN.tolist(), class_metrics=True)
    assert np.bincount(found.images).max() <= 100  # it takes no more of one image
    for image in range(12):
        own, objects = found.images == image, truth.images == image
        boxes, labels = torch.from_numpy(found.boxes[own]), torch.from_numpy(found.labels[own])
        predicted = {"boxes": boxes, "labels": labels, "scores": torch.from_numpy(found.scores[own])}
        target = {"boxes": torch.from_numpy(truth.boxes[objects]), "labels": torch.from_numpy(truth.labels[objects])}
        metric.update([predicted], [target])
    measured = average_precisions(found, truth, 5)
    theirs = metric.compute()
    assert theirs["classes"].tolist() == list(range(5))
    np.testing.assert_allclose(measured, theirs["map_per_class"].numpy(), atol=1e-6)
    assert mean_average_precision(measured) == pytest.approx(float(theirs["map"]), abs=1e-6)
    assert 0.1 < measured.min() < measured.max() < 0.95


def apart(rng: np.random.Generator) -> tuple[Truth, Detections]:
    """Objects of 20 × 20 pixels on a grid of 100, each found up to three times, shifted a little."""
    cells = [(image, x, y) for image in range(12) for x in range(4) for y in range(3)]
    kept = [cell for cell in cells if rng.random() < 0.6]
    images = np.array([image for image, _, _ in kept])
    corners = np.array([(100.0 * x, 100.0 * y) for _, x, y in kept])
    labels = rng.integers(0, 5, len(kept))
    truth = Truth(images, labels, np.concatenate([corners, corners + 20.0], 1), np.zeros(len(kept), bool))
    source = np.repeat(np.arange(len(kept)), rng.integers(0, 4, len(kept)))
    moved = truth.boxes[source] + np.tile(rng.integers(-6, 7, (len(source), 2)), 2)
    wrong = rng.random(len(source)) < 0.2
    own = np.where(wrong, rng.integers(0, 5, len(source)), labels[source])
    scores = rng.permutation(len(source)) / 1024.0  # all different, and exact in single precision
    return truth, Detections(images[source], own, moved, scores)


# --- invariances ---------------------------------------------------------------------------------------------------

CASES = pytest.mark.parametrize("seed", range(5))


def both(found: Detections, truth: Truth) -> np.ndarray:
    """By both rules."""
    return np.stack([average_precisions(found, truth, 3, 0.5, points) for points in BOTH])


@CASES
def test_only_the_order_of_scores_matters(seed: int) -> None:
    truth, found = random_case(seed, images=6, objects=30, detections=80, side=6)
    for scores in (np.exp(found.scores), 1e-300 * found.scores, found.scores.astype(np.float32) - 7):
        np.testing.assert_array_equal(both(replace(found, scores=scores), truth), both(found, truth))


@CASES
def test_the_names_of_images_and_classes_do_not_matter(seed: int) -> None:
    truth, found = random_case(seed, images=6, objects=30, detections=80, side=6)
    rng = np.random.default_rng(seed)
    images, classes = rng.permutation(1000)[:7], rng.permutation(3)
    truth_again = replace(truth, images=images[truth.images], labels=classes[truth.labels])
    found_again = replace(found, images=images[found.images], labels=classes[found.labels])
    np.testing.assert_array_equal(both(found_again, truth_again)[:, classes], both(found, truth))


@CASES
def test_the_order_of_detections_with_different_scores_does_not_matter(seed: int) -> None:
    truth, found = random_case(seed, images=6, objects=30, detections=80, side=6)
    rng = np.random.default_rng(seed)
    found = replace(found, scores=rng.permutation(80) / 80)
    np.testing.assert_array_equal(both(select(found, rng.permutation(80)), truth), both(found, truth))


@CASES
def test_wrong_detections_below_all_others_do_not_matter(seed: int) -> None:
    """However many: a recall that is reached keeps the precision it was reached with."""
    truth, found = random_case(seed, images=6, objects=30, detections=80, side=6)
    more = found_of(*((0, label, AWAY, -1.0) for label in (0, 1, 2) for _ in range(50)))
    pairs = zip(vars(found).values(), vars(more).values(), strict=True)
    np.testing.assert_array_equal(both(Detections(*map(np.concatenate, pairs)), truth), both(found, truth))


@CASES
def test_a_difficult_object_not_found_does_not_matter_and_another_does(seed: int) -> None:
    truth, found = random_case(seed, images=6, objects=30, detections=80, side=6)
    before, after = both(found, truth), {}
    for difficult in (True, False):
        more = truth_of(*((99, label, FULL, difficult) for label in (0, 1, 2)))
        pairs = zip(vars(truth).values(), vars(more).values(), strict=True)
        after[difficult] = both(found, Truth(*map(np.concatenate, pairs)))
    np.testing.assert_array_equal(after[True], before)
    assert (after[False][0] <= before[0]).all() and (after[False][1] < before[1]).all()


@CASES
def test_perfect_detections_have_average_precision_one(seed: int) -> None:
    truth, _ = random_case(seed, images=9, objects=60, detections=0, side=200)
    found = Detections(truth.images, truth.labels, truth.boxes, np.random.default_rng(seed).random(60))
    assert both(found, truth).tolist() == [[ONE] * 3, [1.0] * 3]
    half = np.flatnonzero(truth.labels == 0)[::2]
    found = select(found, half)
    assert precision_recall(found, truth, 0).precision.tolist() == [1.0] * int((~truth.difficult[half]).sum())


# --- what is refused -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_numbers_that_are_not_finite_are_refused(value: float) -> None:
    with pytest.raises(ValueError, match=r"scores of detections must be finite, but 1 is not\."):
        found_of((0, 0, FULL, 0.5), (0, 0, FULL, value))
    with pytest.raises(ValueError, match=r"boxes of detections must be finite, but 0 is not\."):
        found_of((0, 0, (0.0, value, 1.0, 1.0), 0.5))
    with pytest.raises(ValueError, match=r"boxes of truth must be finite"):
        truth_of((0, 0, (0.0, value, 1.0, 1.0), False))


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("images", np.zeros(3, int)),
        ("images", np.zeros(2)),
        ("labels", np.zeros((2, 1), int)),
        ("boxes", np.zeros((2, 5))),
        ("boxes", np.zeros((2, 4), int)),
        ("scores", np.zeros((2, 1))),
        ("scores", np.zeros(2, int)),
    ],
)
def test_other_shapes_and_kinds_are_refused(column: str, value: np.ndarray) -> None:
    found = found_of((0, 0, FULL, 0.5), (0, 0, FULL, 0.5))
    with pytest.raises(ValueError, match=r"of detections must be .* of shape"):
        replace(found, **{column: value})
    if column != "scores":
        with pytest.raises(ValueError, match=r"of truth must be .* of shape"):
            replace(truth_of((0, 0, FULL, False), (0, 0, FULL, False)), **{column: value})


@pytest.mark.parametrize("threshold", [0.0, -0.5, 1.5, math.nan])
def test_thresholds_and_rules_that_make_no_sense_are_refused(threshold: float) -> None:
    truth, found = truth_of((0, 0, FULL, False)), found_of((0, 0, FULL, 0.5))
    with pytest.raises(ValueError, match="above 0 and at most 1"):
        average_precisions(found, truth, 1, threshold)
    with pytest.raises(ValueError, match="'11' or 'all'"):
        average_precisions(found, truth, 1, points="101")  # type: ignore[arg-type]


@pytest.mark.parametrize("label", [-1, 1])
def test_labels_out_of_range_are_refused(label: int) -> None:
    """They would count for nothing in silence."""
    with pytest.raises(ValueError, match="labels must be from 0 to 0"):
        average_precisions(found_of((0, label, FULL, 0.5)), truth_of(), 1)
    with pytest.raises(ValueError, match="labels must be from 0 to 0"):
        average_precisions(found_of(), truth_of((0, label, FULL, True)), 1)
