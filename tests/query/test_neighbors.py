"""Nearest neighbours, against the matrix of all pairs."""

import math

import pytest
import torch
from query.pools import randn
from torch.utils._python_dispatch import TorchDispatchMode

from medssl_monai.query.neighbors import graph_degree, nearest_neighbors


@pytest.mark.parametrize(("n", "neighbors"), [(30, 5), (30, 30), (12, 2), (4, 10)])
def test_degree_is_that_of_the_symmetric_graph_without_loops(n, neighbors):
    features = randn(n, 4)
    unit = features / features.norm(dim=1, keepdim=True)
    cosine = (unit @ unit.T).fill_diagonal_(-math.inf)
    graph = torch.zeros(n, n, dtype=torch.bool)
    for row in range(n):
        closest = cosine[row].argsort(descending=True)[: min(neighbors, n) - 1]
        graph[row, closest] = cosine[row, closest] > 0
    graph |= graph.T.clone()
    assert not graph.diagonal().any()
    assert torch.equal(graph_degree(*nearest_neighbors(features, neighbors)), graph.sum(dim=1))


@pytest.mark.parametrize("neighbors", [2, 5, 20])
def test_with_positive_cosines_every_degree_is_at_least_m_minus_one(neighbors):
    features = randn(20, 4).abs()
    degree = graph_degree(*nearest_neighbors(features, neighbors))
    assert degree.min() >= neighbors - 1
    assert degree.max() <= 19
    assert int(degree.sum()) % 2 == 0  # every edge has two ends


def test_opposite_samples_are_no_neighbours():
    index, cosine = nearest_neighbors(torch.tensor([[1.0, 0.0], [-1.0, 0.0]]), 2)
    assert graph_degree(index, cosine).tolist() == [0, 0]


def test_a_sample_is_not_its_own_neighbour_even_among_twins():
    index, cosine = nearest_neighbors(torch.ones(6, 3), 4)
    assert not (index == torch.arange(6).unsqueeze(1)).any()
    torch.testing.assert_close(cosine, torch.ones(6, 3))


@pytest.mark.parametrize("chunk_elements", [1, 4, 130, 49 * 49, 10**4])
def test_neighbours_are_those_of_the_whole_matrix_whatever_the_chunk(chunk_elements):
    features = randn(50, 8)
    unit = features / features.norm(dim=1, keepdim=True)
    whole = (unit @ unit.T).fill_diagonal_(-math.inf).topk(5, dim=1)
    index, cosine = nearest_neighbors(features, 6, chunk_elements)
    assert torch.equal(index, whole.indices)
    torch.testing.assert_close(cosine, whole.values)


class LargestTensor(TorchDispatchMode):
    """Remembers how many elements the largest result of any operation has."""

    elements = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        for tensor in result if isinstance(result, (tuple, list)) else [result]:
            if isinstance(tensor, torch.Tensor):
                self.elements = max(self.elements, tensor.numel())
        return result


def test_there_is_never_a_matrix_of_all_pairs():
    features = randn(600, 8).float()
    with LargestTensor() as largest:
        graph_degree(*nearest_neighbors(features, 10, chunk_elements=2**13))
    assert largest.elements <= 2**13 < 600 * 600
