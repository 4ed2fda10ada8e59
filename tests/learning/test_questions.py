import pytest
import torch
import torch.nn.functional as F
from tests.clustering.refusing import refused
from tests.golden import golden

from shoal.clustering import cluster_centers
from shoal.learning import Graph, choose_questions
from shoal.learning.questions import density, hardness, most_valuable


def test_idc_asks_what_the_published_code_asks():
    data = golden("idc")
    x = data["features"]
    top = (x @ F.normalize(data["class_means"], dim=1).T).topk(2).values
    apart = torch.cdist(x, x).topk(20, largest=False).values[:, 1:]
    torch.testing.assert_close(hardness(top[:, 0] - top[:, 1]), data["hardness"], atol=1e-5, rtol=0)
    torch.testing.assert_close(density(apart), data["representativeness"], atol=1e-5, rtol=0)
    value = hardness(top[:, 0] - top[:, 1]) + density(apart)
    nothing = torch.zeros(len(x), dtype=torch.bool)
    assert most_valuable(x, value, nothing, ~nothing, 12) == data["selected"].tolist()


def test_where_the_published_value_is_no_number_it_is_low():
    found = hardness(torch.tensor([1.2, 1.0, 0.5, 0.0]))
    assert torch.isfinite(found).all()
    assert found.argmin() == 0
    assert found[3] == 0
    copies = density(torch.tensor([[0.0, 0.0], [1.0, 1.0], [2.0, 2.0]]))
    assert torch.isfinite(copies).all()


def test_a_copy_of_what_was_asked_comes_last():
    x = F.normalize(torch.randn(10, 5, generator=torch.Generator().manual_seed(0)))
    x[7] = x[2]
    asked = torch.arange(10) == 2
    assert most_valuable(x, torch.zeros(10), asked, ~asked, 9)[-1] == 7


def ask(blobs, n, **more):
    features, _, labels, graph = blobs
    centers = cluster_centers(features, labels, 4, "euclidean")
    return choose_questions(features, labels, centers, graph, n_questions=n, **more)


def test_questions_go_on_until_all_rows_are_asked_and_never_repeat(blobs):
    asked: list[int] = []
    while questions := ask(blobs, 35, asked=asked):
        rows = [question.row for question in questions]
        assert not set(rows) & set(asked)
        assert len(set(rows)) == len(rows)
        asked += rows
    assert sorted(asked) == list(range(240))


def test_the_first_stand_for_many_and_the_largest_group_comes_first(blobs):
    questions = ask(blobs, 12)
    assert all(question.reason == "typical" for question in questions)
    sizes = [question.stands_for for question in questions]
    assert sizes == sorted(sizes, reverse=True)
    assert sum(sizes) == 240
    truth = blobs[1]
    assert {int(truth[question.row]) for question in questions} == {0, 1, 2, 3}


def test_from_three_for_each_cluster_every_other_is_doubtful_and_from_ten_all(blobs):
    asked = [question.row for question in ask(blobs, 12)]
    mixed = ask(blobs, 28, asked=asked)
    assert [question.reason for question in mixed].count("typical") == 14
    last = ask(blobs, 10, asked=[*asked, *(question.row for question in mixed)])
    assert {question.reason for question in last} == {"doubtful"}


def test_doubtful_ones_are_those_of_little_margin(blobs):
    asked = list(range(40))
    margin = torch.ones(240)
    margin[100:110] = 0
    rows = [question.row for question in ask(blobs, 10, asked=asked, margin=margin)]
    assert sorted(rows) == list(range(100, 110))


@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
def test_candidates_are_the_nearest_clusters_in_order(metric):
    generator = torch.Generator().manual_seed(1)
    features = torch.randn(50, 6, generator=generator)
    labels = torch.arange(50) % 8
    centers = cluster_centers(features, labels, 8, metric)
    graph = Graph.build(features, metric)
    for question in choose_questions(features, labels, centers, graph, n_questions=30):
        x, c = features[question.row].double(), centers.double()
        apart = (x - c).norm(dim=1) if metric == "euclidean" else 1 - F.cosine_similarity(x[None], c)
        assert list(question.candidates) == apart.argsort()[:5].tolist()


def test_rows_that_belong_nowhere_are_not_asked_about(blobs):
    features, _, labels, graph = blobs
    there = labels.clone()
    there[:200] = -1
    centers = cluster_centers(features, there, 4, "euclidean")
    questions = choose_questions(features, there, centers, graph, n_questions=100)
    assert sorted(question.row for question in questions) == list(range(200, 240))


def test_the_same_seed_asks_the_same(blobs):
    assert ask(blobs, 40, seed=3) == ask(blobs, 40, seed=3)
    assert ask(blobs, 40, seed=3) != ask(blobs, 40, seed=4)


@pytest.mark.parametrize("n", [1, 2, 30])
def test_rows_that_are_all_equal(n):
    features = torch.ones(n, 3)
    graph = Graph.build(features, "cosine")
    questions = choose_questions(features, torch.zeros(n, dtype=torch.int64), torch.ones(1, 3), graph, n_questions=10)
    assert len({question.row for question in questions}) == min(n, 10)
    assert all(question.candidates == (0,) for question in questions)


def test_refusals(blobs):
    refused(ask, blobs, 0, match="n_questions")
    refused(ask, blobs, 5, asked=[240], match="beyond")
    refused(ask, blobs, 5, margin=torch.ones(3), match="240")
    features, _, labels, graph = blobs
    refused(choose_questions, features, labels, torch.ones(4, 3), graph, n_questions=2, match="centres")
    refused(choose_questions, features[:9], labels[:9], torch.ones(4, 20), graph, n_questions=2, match="240 rows")
