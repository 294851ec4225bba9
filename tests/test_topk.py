"""The streaming top-k against a full sort, with planted ties, in any order of arrival."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deconv.mining.topk import TopK

CHANNELS, IMAGES = 4, 23


def candidates(seed: int) -> np.ndarray:
    """Rows (channel, score, image, row, col), every image once for each channel; few values, so many tie."""
    generator = np.random.default_rng(seed)
    channel, image = (grid.ravel() for grid in np.meshgrid(np.arange(CHANNELS), np.arange(IMAGES), indexing="ij"))
    score = generator.integers(1, 5, len(channel))
    row, col = generator.integers(0, 9, (2, len(channel)))
    return np.stack([channel, score, image, row, col], axis=1)


def expected(rows: np.ndarray, channel: int, k: int) -> list[tuple[float, ...]]:
    own = [tuple(row[1:]) for row in rows.tolist() if row[0] == channel]
    return sorted(own, key=lambda peak: (-peak[0], *peak[1:]))[:k]


def held(table: TopK, channel: int) -> list[tuple[float, ...]]:
    columns = table.score[channel], table.image[channel], table.row[channel], table.col[channel]
    return [peak for peak in zip(*(column.tolist() for column in columns), strict=True) if peak[1] >= 0]


def offer(table: TopK, rows: np.ndarray) -> None:
    channel, score, image, row, col = rows.T
    table.offer(channel, score.astype(np.float32), image, row, col)


@given(seed=st.integers(0, 2**20), k=st.integers(1, 30), pieces=st.integers(1, 9))
def test_any_order_and_any_pieces_give_the_full_sort(seed: int, k: int, pieces: int) -> None:
    rows = candidates(seed)
    table = TopK(CHANNELS, k)
    for piece in np.array_split(np.random.default_rng(seed).permutation(rows), pieces):
        offer(table, piece)
    for channel in range(CHANNELS):
        assert held(table, channel) == expected(rows, channel, k)


@given(seed=st.integers(0, 2**20), k=st.integers(1, 12))
def test_merging_shards_is_the_same_in_any_order_and_grouping(seed: int, k: int) -> None:
    rows = candidates(seed)
    parts = [rows[rows[:, 2] % 3 == shard] for shard in range(3)]
    tables = []
    for order in ((0, 1, 2), (2, 0, 1), (1, 2, 0)):
        shards = [TopK(CHANNELS, k) for _ in parts]
        for shard, part in zip(shards, parts, strict=True):
            offer(shard, part)
        first, second, third = (shards[i] for i in order)
        second.merge(third)
        first.merge(second)
        tables.append(first)
    for channel in range(CHANNELS):
        assert all(held(table, channel) == expected(rows, channel, k) for table in tables)


def test_fewer_candidates_than_k_leave_missing_places() -> None:
    table = TopK(2, 5)
    table.offer(np.array([1]), np.array([2.5], dtype=np.float32), np.array([7]), np.array([3]), np.array([4]))
    assert (table.image[0] == -1).all() and table.image[1].tolist() == [7, -1, -1, -1, -1]
    assert table.weakest.tolist() == [-np.inf, -np.inf] and table.score[1, 0] == 2.5


def test_tables_of_other_shapes_do_not_merge() -> None:
    with pytest.raises(ValueError, match="cannot merge"):
        TopK(2, 5).merge(TopK(2, 6))
