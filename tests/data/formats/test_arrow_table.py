from dataclasses import fields

import numpy as np
import pytest

from effdet.data.formats import openimages
from effdet.data.formats.interface import Source

pytest.importorskip("pyarrow", reason="tables are read by Python without it")

HEADER = "ImageID,Source,LabelName,Confidence,XMin,XMax,YMin,YMax,IsOccluded,IsTruncated,IsGroupOf"
ROW = "a,xclick,/m/1,1,0.25,0.5,.125,1,0,0,0"
ODD = {
    "plain": ROW,
    "group": "a,xclick,/m/2,1,0.25,0.5,1e-1,1,0,0,1",
    "spaces": " a ,xclick, /m/1,1, 0.25,0.5 ,0.125,1,0,0,0",
    "quotes": '"a",xclick,"/m/1",1,0.25,"0.5",0.125,1,0,0,0',
    "missing number": "a,xclick,/m/1,1,,0.5,0.125,1,0,0,0",
    "missing class": "a,xclick,,1,0.25,0.5,0.125,1,0,0,0",
    "missing flag": "a,xclick,/m/1,1,0.25,0.5,0.125,1,0,0,",
    "text": "a,xclick,/m/1,1,left,0.5,0.125,1,0,0,0",
    "not a number": "a,xclick,/m/1,1,nan,0.5,0.125,1,0,0,0",
    "underscore": "a,xclick,/m/1,1,0_1,0.5,0.125,1,0,0,0",
    "infinite": "a,xclick,/m/1,1,inf,0.5,0.125,1,0,0,0",
    "short": "a,xclick,/m/1,1,0.25",
    "long": ROW + ",1,2,3",
    "empty line": "",
    "other image": "b,xclick,/m/1,1,0.25,0.5,0.125,1,0,0,0",
    "null in words": "NA,xclick,null,1,0.25,0.5,0.125,1,0,0,0",
}


@pytest.mark.parametrize("row", ODD.values(), ids=ODD)
def test_both_readers_see_the_same(tmp_path, write_coco, monkeypatch, row):
    write_coco(tmp_path)
    table = tmp_path / "train-annotations-bbox.csv"
    table.write_text("\n".join([HEADER, ROW, row, ROW.replace("/m/1", "/m/3")]) + "\n")
    source = Source(table, (tmp_path / "images",), format="openimages", part="train")
    fast = openimages.read_openimages(source)
    monkeypatch.setattr(openimages, "plain_pieces", lambda *_, **__: None)
    slow = openimages.read_openimages(source)
    for field in fields(fast):
        a, b = getattr(fast, field.name), getattr(slow, field.name)
        assert np.array_equal(a, b) and a.dtype == b.dtype if isinstance(a, np.ndarray) else a == b, field.name
