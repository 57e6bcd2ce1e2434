"""acsar.probes against literal restatements, scikit-learn and hand calculations."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.neighbors import KNeighborsClassifier
from torch import Tensor

from acsar import probes
from acsar.probes import ProbeSchedule


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def blobs(count: int, classes: int, seed: int) -> tuple[Tensor, Tensor]:
    centres = 4 * noise(classes, 12, seed=99)
    labels = torch.arange(count) % classes
    return centres[labels] + 0.3 * noise(count, 12, seed=seed), labels


def test_knn1_is_the_literal_loop_for_any_block_size() -> None:
    gallery, queries, labels = noise(37, 9), noise(21, 9, seed=1), torch.arange(37) % 5
    expected = []
    for q in queries.double():
        cosines = [float(q @ g / (q.norm() * g.norm())) for g in gallery.double()]
        expected.append(int(labels[cosines.index(max(cosines))]))
    for rows in (1, 4, 10, 100):
        assert probes.knn1(gallery, labels, queries, rows).tolist() == expected


def test_knn1_agrees_with_scikit_learn() -> None:
    (gallery, labels), (queries, _) = blobs(200, 7, 1), blobs(90, 7, 2)
    gallery, queries = gallery + noise(200, 12, seed=5) * 3, queries + noise(90, 12, seed=6) * 3
    peer = KNeighborsClassifier(1, metric="cosine").fit(gallery.numpy(), labels.numpy())
    assert probes.knn1(gallery, labels, queries, 32).tolist() == peer.predict(queries.numpy()).tolist()


@pytest.mark.parametrize("rows", [1, 2, 3, 8])
def test_knn1_gives_ties_to_the_smallest_index(rows: int) -> None:
    gallery = torch.tensor([[0.0, 1.0], [1.0, 0.0], [2.0, 0.0], [1.0, 0.0], [0.0, 3.0]])
    assert probes.knn1(gallery, torch.arange(5), torch.tensor([[5.0, 0.0], [0.0, 1.0], [0.0, 0.0]]), rows).tolist() == [1, 0, 0]


def test_knn1_ignores_the_scale_of_rows() -> None:
    (gallery, labels), (queries, _) = blobs(60, 5, 3), blobs(30, 5, 4)
    scaled = gallery * torch.rand(60, 1, generator=torch.Generator().manual_seed(1)).add(0.1)
    assert torch.equal(probes.knn1(gallery, labels, queries), probes.knn1(scaled, labels, queries * 7))


def literal_sgd(x: Tensor, y: Tensor, test: Tensor, classes: int, schedule: ProbeSchedule, seed: int) -> tuple[Tensor, list[float]]:
    """The same schedule through autograd and torch.optim.SGD, with probes' own draws."""
    layer = torch.nn.Linear(x.shape[1], classes)
    with torch.no_grad():
        layer.weight.copy_(torch.randn(classes, x.shape[1], generator=probes._generator(seed, -1)) * schedule.init)
        layer.bias.zero_()
    optimizer = torch.optim.SGD(layer.parameters(), schedule.lr, schedule.momentum, weight_decay=schedule.weight_decay)
    steps = torch.optim.lr_scheduler.MultiStepLR(optimizer, list(schedule.drops), schedule.factor)
    losses = []
    for epoch in range(schedule.epochs):
        total = 0.0
        order = torch.randperm(len(x), generator=probes._generator(seed, epoch))
        for rows in order.split(min(schedule.batch, len(x))):
            loss = torch.nn.functional.cross_entropy(layer(x[rows]), y[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            total += float(loss.detach()) * len(rows)
        steps.step()
        losses.append(total / len(x))
    return layer(test).detach(), losses


@pytest.mark.parametrize("decay", [0.0, 1e-3])
@pytest.mark.parametrize("batch", [16, 1024])
def test_linear_probe_is_autograd_sgd(decay: float, batch: int) -> None:
    x, y, test = noise(50, 8), torch.arange(50) % 4, noise(20, 8, seed=1)
    schedule = ProbeSchedule(lr=0.1, batch=batch, epochs=20, drops=(10, 15), weight_decay=decay)
    expected, losses = literal_sgd(x, y, test, 4, schedule, seed=3)
    found = probes.linear_probe(x, y, test, 4, schedule, seed=3)
    torch.testing.assert_close(found.scores, expected, rtol=1e-5, atol=1e-5)
    assert found.losses == pytest.approx(losses, rel=1e-5)
    torch.testing.assert_close(test @ found.weight.T + found.bias, found.scores, rtol=1e-5, atol=1e-5)


def test_linear_probe_separates_blobs() -> None:
    (x, y), (test, truth) = blobs(300, 6, 1), blobs(120, 6, 2)
    found = probes.linear_probe(x, y, test, 6, probes.official())
    assert probes.top_k(found.scores, truth) == 1.0
    assert found.losses[-1] < 0.01 < found.losses[0] and len(found.losses) == 80


def test_linear_probe_repeats_and_depends_on_its_seed_and_no_global_state() -> None:
    (x, y), (test, _) = blobs(100, 3, 1), blobs(9, 3, 2)
    before = torch.get_rng_state()
    first, again, other = (probes.linear_probe(x, y, test, 3, probes.unit(), seed).scores for seed in (0, 0, 1))
    assert torch.equal(first, again) and not torch.equal(first, other)
    assert torch.equal(before, torch.get_rng_state())


def people(count: int, classes: int, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """Blobs that overlap, and which fifth of them is held aside."""
    x, y = blobs(count, classes, seed)
    return x + 3 * noise(count, 12, seed=seed + 50), y, torch.arange(count) % 5 == 2


def watched_epochs(
    x: Tensor, y: Tensor, aside: Tensor, schedule: ProbeSchedule, seed: int
) -> tuple[list[float], list[float], list[Tensor]]:
    """Rates, held-aside accuracies and scores of classifier A, told in the paper's words, through autograd and torch.optim.SGD."""
    train, truth = x[~aside], y[~aside]
    layer = torch.nn.Linear(x.shape[1], 6)
    with torch.no_grad():
        layer.weight.copy_(torch.randn(6, x.shape[1], generator=probes._generator(seed, -1)) * schedule.init)
        layer.bias.zero_()
    optimizer = torch.optim.SGD(layer.parameters(), schedule.lr, schedule.momentum, weight_decay=schedule.weight_decay)
    rates, accuracy, scores, without = [], [], [], 0
    for epoch in range(schedule.epochs):
        rates.append(optimizer.param_groups[0]["lr"])
        order = torch.randperm(len(train), generator=probes._generator(seed, epoch))
        for rows in order.split(schedule.batch_of(len(train))):
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(layer(train[rows]), truth[rows]).backward()
            optimizer.step()
        scores.append(layer(x[aside]).detach())
        accuracy.append(float((scores[-1].argmax(1) == y[aside]).double().mean()))
        without = 0 if epoch == 0 or accuracy[-1] > max(accuracy[:-1]) else without + 1
        if without == schedule.stop:
            break
        if without == schedule.plateau:
            optimizer.param_groups[0]["lr"] *= schedule.factor
    return rates, accuracy, scores


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_course_is_the_papers_schedule_in_its_own_words(seed: int) -> None:
    x, y, aside = people(300, 6, seed)
    schedule = ProbeSchedule(lr=0.05, batch=64, epochs=40, plateau=3, stop=5, weight_decay=1e-3)
    rates, accuracy, scores = watched_epochs(x, y, aside, schedule, seed)
    found, kept = probes.course(x, y, aside, 6, schedule, seed)
    assert found.rates == pytest.approx(rates) and found.accuracy == pytest.approx(accuracy)
    assert found.epoch == 1 + accuracy.index(max(accuracy)) == len(rates) - 5
    assert rates[-3:] == pytest.approx([rates[-4]] + [0.1 * rates[-4]] * 2) and len(rates) < 40
    torch.testing.assert_close(kept, scores[found.epoch - 1], rtol=1e-4, atol=1e-4)


def test_course_of_the_official_schedule_runs_to_the_end_and_takes_the_earliest_best_epoch() -> None:
    x, y = blobs(200, 5, 1)
    aside = torch.arange(200) < 40
    found, kept = probes.course(x, y, aside, 5, ProbeSchedule(epochs=8, drops=(3, 6), min_batches=4))
    assert found.rates == pytest.approx([2, 2, 2, 0.2, 0.2, 0.2, 0.02, 0.02]) and found.accuracy[-1] == 1.0
    assert found.epoch == 1 + found.accuracy.index(1.0) and kept.shape == (40, 5)


def test_course_never_trains_on_what_it_watches() -> None:
    x, y, aside = people(150, 6, 3)
    first, scores = probes.course(x, y, aside, 6, ProbeSchedule(epochs=4, unit=True), seed=1)
    last = probes.linear_probe(x[~aside], y[~aside], x[aside], 6, ProbeSchedule(epochs=first.epoch, unit=True), seed=1)
    torch.testing.assert_close(scores, last.scores)
    lied = torch.where(aside, (y + 1) % 6, y)
    assert probes.course(x, lied, aside, 6, ProbeSchedule(epochs=4, unit=True), seed=1)[0].accuracy != first.accuracy


@pytest.mark.parametrize("aside", [torch.zeros(9, dtype=torch.bool), torch.ones(9, dtype=torch.bool), torch.zeros(8, dtype=torch.bool)])
def test_course_needs_rows_to_watch_and_rows_to_train_on(aside: Tensor) -> None:
    with pytest.raises(ValueError, match="held aside"):
        probes.course(noise(9, 2), torch.arange(9) % 3, aside, 3, probes.paper())


def test_classifier_b_follows_the_course() -> None:
    (x, y), (test, truth) = blobs(120, 4, 1), blobs(40, 4, 2)
    x, test = x + 3 * noise(120, 12, seed=7), test + 3 * noise(40, 12, seed=8)
    schedule, rates = ProbeSchedule(batch=32, lr=0.1, epochs=80), (0.1, 0.1, 0.05, 0.01)
    found = probes.linear_probe(x, y, test, 4, schedule, 3, probes.Course(2, rates, (0.5, 0.75, 0.5, 0.5)), truth)
    early = probes.linear_probe(x, y, test, 4, ProbeSchedule(batch=32, lr=0.1, epochs=2), 3)
    whole, _ = literal_sgd(x, y, test, 4, ProbeSchedule(batch=32, lr=0.1, epochs=2, drops=()), 3)
    assert torch.equal(found.scores, early.scores) and torch.equal(found.weight, early.weight) and torch.equal(found.bias, early.bias)
    torch.testing.assert_close(found.scores, whole, rtol=1e-5, atol=1e-5)
    assert len(found.losses) == len(found.accuracy) == 4 and not torch.equal(found.last, found.scores)
    assert found.accuracy[1] == probes.top_k(found.scores, truth) and found.accuracy[3] == probes.top_k(found.last, truth)


def test_test_labels_steer_nothing() -> None:
    (x, y), (test, truth) = blobs(90, 3, 1), blobs(30, 3, 2)
    schedule = ProbeSchedule(epochs=10, unit=True, min_batches=4)
    plain, told, lied = (probes.linear_probe(x, y, test, 3, schedule, 0, None, t) for t in (None, truth, (truth + 1) % 3))
    assert torch.equal(plain.scores, told.scores) and torch.equal(plain.scores, lied.scores) and torch.equal(plain.last, plain.scores)
    assert plain.accuracy == () and max(told.accuracy) == 1.0 and max(lied.accuracy) < 0.5


@settings(max_examples=15, deadline=None)
@given(scale=st.floats(1e-3, 1e3), shift=st.floats(-10, 10))
def test_unit_schedule_ignores_units_and_origin(scale: float, shift: float) -> None:
    (x, y), (test, _) = blobs(64, 4, 1), blobs(16, 4, 2)
    schedule = ProbeSchedule(epochs=5, unit=True, min_batches=4)
    plain = probes.linear_probe(x, y, test, 4, schedule)
    moved = probes.linear_probe((x + shift) * scale, y, (test + shift) * scale, 4, schedule)
    torch.testing.assert_close(moved.scores, plain.scores, rtol=1e-2, atol=2e-2)


def test_schedules_by_benchmark() -> None:
    assert (probes.official("ntu60").batch, probes.official("ntu60").lr) == (1024, 2.0)
    assert (probes.official("pku2").batch, probes.official("pku2").lr) == (256, 0.032)
    rates = [probes.official().rate(epoch) for epoch in (0, 49, 50, 69, 70, 79)]
    assert rates == pytest.approx([2, 2, 0.2, 0.2, 0.02, 0.02])
    assert probes.official().batch_of(40_091) == 1024 and probes.official().batch_of(1000) == 62
    assert probes.official("pku2").batch_of(5_339) == 256 and ProbeSchedule().batch_of(300) == 300
    assert probes.schedule_for("ntu60") == probes.official("ntu60") and probes.schedule_for("exchange") == probes.unit()
    assert probes.unit().batch_of(40_091) == 1024 and probes.unit().batch_of(1000) == 62 and probes.unit().batch_of(3) == 1


def test_the_papers_schedule_by_benchmark() -> None:
    ntu, pku, own = (probes.paper(name) for name in ("ntu120", "pku2", ""))
    assert (ntu.lr, ntu.batch, ntu.weight_decay) == (2.0, 1024, 0.0) and (pku.lr, pku.batch, pku.weight_decay) == (0.032, 256, 1e-3)
    assert {(s.plateau, s.stop, s.factor, s.epochs) for s in (ntu, pku, own)} == {(3, 5, 0.1, 80)}
    assert probes.schedule_for("pku2", "paper") == pku and probes.schedule_for("exchange", "paper") == probes.unit("paper")
    assert probes.unit("paper").unit and probes.unit("paper").batch_of(1000) == 62


@pytest.mark.parametrize("labels", [[0, 1, 2, 3], [-1, 0, 1, 2]])
def test_linear_probe_refuses_labels_outside_the_classes(labels: list[int]) -> None:
    with pytest.raises(ValueError, match="do not fit 3 classes"):
        probes.linear_probe(noise(4, 2), torch.tensor(labels), noise(1, 2), 3, probes.official())


def test_probes_refuse_what_is_no_feature_matrix() -> None:
    with pytest.raises(ValueError, match="need"):
        probes.knn1(noise(4, 2), torch.arange(3), noise(1, 2))
    with pytest.raises(ValueError, match="need"):
        probes.linear_probe(noise(0, 2), torch.arange(0), noise(1, 2), 3, probes.official())


def test_top_k_counts_equal_scores_by_class_order() -> None:
    scores = torch.tensor([[1.0, 1.0, 0.0], [3.0, 2.0, 1.0], [0.0, 0.0, 0.0]])
    labels = torch.tensor([1, 0, 2])
    assert [probes.top_k(scores, labels, k) for k in (1, 2, 3)] == pytest.approx([1 / 3, 2 / 3, 1.0])
    with pytest.raises(ValueError, match="not finite"):
        probes.top_k(scores * math.nan, labels)


def test_confusion_counts_truth_by_row() -> None:
    found = probes.confusion(torch.tensor([0, 1, 1, 2]), torch.tensor([0, 0, 1, 1]), 3)
    assert found.tolist() == [[1, 1, 0], [0, 1, 1], [0, 0, 0]]


def test_fusion_by_hand() -> None:
    a, b = torch.tensor([[0.0, math.log(3)]]), torch.tensor([[math.log(4), 0.0]])
    torch.testing.assert_close(probes.fuse_scores([a, b]), torch.tensor([[0.5 * 0.25 + 0.5 * 0.8, 0.5 * 0.75 + 0.5 * 0.2]]))
    torch.testing.assert_close(probes.fuse_scores([a, b], [1.0, 0.0]), torch.softmax(a, 1))
    expected = torch.tensor([[0.4 * math.log(4), 0.6 * math.log(3)]])
    torch.testing.assert_close(probes.fuse_scores([a, b], [0.6, 0.4], rule="logits"), expected)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 3), st.permutations(range(8)))
def test_fusion_ignores_row_order_and_logit_offsets(seed: int, streams: int, order: list[int]) -> None:
    scores = [noise(8, 5, seed=seed + s) for s in range(streams)]
    fused = probes.fuse_scores(scores)
    assert torch.equal(probes.fuse_scores([s[order] for s in scores]), fused[order])
    torch.testing.assert_close(probes.fuse_scores([s + 3 for s in scores]), fused)
    torch.testing.assert_close(fused.sum(1), torch.full((8,), 0.5 * streams))


def test_fusion_refuses_other_shapes_and_weights() -> None:
    with pytest.raises(ValueError, match="one shape"):
        probes.fuse_scores([noise(2, 3), noise(3, 3)])
    with pytest.raises(ValueError, match="1 weights for 2"):
        probes.fuse_scores([noise(2, 3), noise(2, 3)], [1.0])
    with pytest.raises(ValueError, match="no fusion rule is called 'mean'"):
        probes.fuse_scores([noise(2, 3)], rule="mean")


def test_interval_covers_the_true_accuracy_about_as_often_as_it_says() -> None:
    generator = np.random.default_rng(0)
    inside = 0
    for trial in range(200):
        correct = torch.from_numpy(generator.random(150) < 0.7)
        low, high = probes.interval(correct, draws=300, seed=trial)
        inside += low <= 0.7 <= high
    assert 0.88 <= inside / 200 <= 0.99


def test_interval_over_subjects_is_wider_when_subjects_differ() -> None:
    subjects = torch.arange(10).repeat_interleave(40)
    correct = (subjects % 2).bool()
    by_sample, by_subject = probes.interval(correct), probes.interval(correct, subjects)
    assert by_sample[0] < 0.5 < by_sample[1] and by_subject[0] < 0.5 < by_subject[1]
    assert by_subject[1] - by_subject[0] > 3 * (by_sample[1] - by_sample[0])


def test_interval_weighs_subjects_by_their_clips() -> None:
    subjects = torch.tensor([7] * 9 + [3])
    low, high = probes.interval(torch.tensor([1.0] * 9 + [0.0]), subjects)
    assert (low, high) == (0.0, 1.0)
    assert probes.interval(torch.ones(5), torch.zeros(5)) == (1.0, 1.0)


def test_interval_repeats_and_needs_values() -> None:
    values = noise(50)
    assert probes.interval(values, seed=1) == probes.interval(values, seed=1) != probes.interval(values, seed=2)
    with pytest.raises(ValueError, match="no values"):
        probes.interval(torch.zeros(0))
