import torch

from shoal.models import Queue


def keys(first: int, n: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Recognisable keys: the number of the image in every place."""
    index = torch.arange(first, first + n)
    return index[:, None].float().expand(n, 2), index


def test_a_ring_whose_length_is_no_multiple_of_the_batch_wraps():
    queue = Queue(7, 2)
    for step in range(5):
        queue.enqueue(*keys(3 * step, 3))
        queue.flush()
        assert int(queue.head) == 3 * (step + 1) % 7
    assert sorted(queue.index.tolist()) == list(range(8, 15))
    assert torch.equal(queue.keys[:, 0], queue.index.float())
    # The newest key stands just before the head.
    assert queue.index[(queue.head - 1) % 7] == 14


def test_of_more_keys_than_fit_the_last_stay():
    queue = Queue(4, 2)
    queue.enqueue(*keys(0, 11))
    queue.flush()
    assert sorted(queue.index.tolist()) == [7, 8, 9, 10]
    assert int(queue.head) == 11 % 4


def test_keys_wait_until_the_step_is_over():
    queue = Queue(8, 2)
    before = queue.keys.clone()
    queue.enqueue(*keys(0, 2))
    queue.enqueue(*keys(2, 2))
    assert torch.equal(queue.keys, before)
    queue.flush()
    assert queue.index.tolist() == [0, 1, 2, 3, -1, -1, -1, -1]
    queue.flush()
    assert int(queue.head) == 4


def test_it_starts_with_directions_of_no_image():
    queue = Queue(50, 16)
    torch.testing.assert_close(queue.keys.norm(dim=1), torch.ones(50))
    assert (queue.index == -1).all()
    assert set(queue.state_dict()) == {"keys", "index", "head"}
