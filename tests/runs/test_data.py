import numpy as np
import pytest

from effdet.config import DataConfig
from effdet.data.findings import DataError
from effdet.runs.data import read_data


def test_a_part_of_the_images_is_drawn_from_all_of_them_and_always_the_same(demo_root):
    train, val = read_data(DataConfig(root=str(demo_root)))
    few, fewer = read_data(DataConfig(root=str(demo_root), max_train_images=5, max_val_images=2))
    again, _ = read_data(DataConfig(root=str(demo_root), max_train_images=5))

    assert (len(few), len(fewer)) == (5, 2)
    assert few.fingerprint() == again.fingerprint()
    names = train.names.tolist()
    positions = [names.index(name) for name in few.names.tolist()]
    assert positions == sorted(positions) != list(range(5))
    for index, position in enumerate(positions):
        for part, whole in zip(few.annotations(index), train.annotations(position), strict=True):
            assert np.array_equal(part, whole)
    assert few.class_names == train.class_names
    assert len(val) > 2


def test_more_images_than_there_are_means_all(demo_root):
    all_of_them, _ = read_data(DataConfig(root=str(demo_root)))
    most, _ = read_data(DataConfig(root=str(demo_root), max_train_images=10**6))
    assert most.fingerprint() == all_of_them.fingerprint()


def test_demo_data_that_is_not_there_can_be_drawn(tmp_path):
    with pytest.raises(DataError, match=r"demo data .* does not exist; draw it with: tools/data.py demo --root"):
        read_data(DataConfig(root=str(tmp_path / "demo")))
