from __future__ import annotations

import pickle
import sys

import numpy as np
import pytest

from effdet.data.text_column import TextColumn

TEXTS = ["a.jpg", "", "Blüte/😀.png", "a.jpg", "日本"]


def test_a_column_is_a_sequence_of_its_texts() -> None:
    column = TextColumn.from_texts(TEXTS)
    assert list(column) == column.tolist() == TEXTS
    assert (len(column), column[-1], column.index("日本"), "b" in column) == (5, "日本", 4, False)
    assert column[1:4].tolist() == TEXTS[1:4]
    assert column.take(np.array([4, 0, 0])).tolist() == ["日本", "a.jpg", "a.jpg"]
    assert column.take(np.array([], dtype=np.int64)).tolist() == []
    assert column == TextColumn.from_texts(TEXTS)
    assert column != TextColumn.from_texts(TEXTS[:-1])
    assert pickle.loads(pickle.dumps(column)) == column
    with pytest.raises(IndexError):
        column[5]


def test_an_empty_column() -> None:
    assert TextColumn.from_texts([]).tolist() == []


def test_half_of_a_surrogate_pair_is_refused() -> None:
    with pytest.raises(UnicodeEncodeError):
        TextColumn.from_texts(["\ud800"])


def test_many_texts_take_the_room_of_their_letters() -> None:
    column = TextColumn.from_texts(f"{number:012d}.jpg" for number in range(100_000))
    assert sys.getsizeof(column) + column.blob.nbytes + column.offsets.nbytes < 100_000 * (16 + 8) + 1000
