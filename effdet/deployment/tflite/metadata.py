"""TFLite metadata: what MediaPipe reads in a model, and files that travel behind it in a zip.

Schema: ``metadata_schema.fbs`` of TFLite Support, version 1.0. A slot is the position of a field in its table.
"""

from __future__ import annotations

import hashlib
import io
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

NAME = "TFLITE_METADATA"  # of the buffer in the model
IDENTIFIER = b"M001"
LABELS = "labels.txt"
DESCRIPTION = "effdet.json"
CHECKSUM = "effdet.sha256"  # of everything before the zip
_PARSER = "1.0.0"

_FEATURE, _IMAGE, _BOUNDING_BOX = 1, 2, 3  # Content.content_properties_type
NORMALIZATION = 1  # ProcessUnit.options_type
_VALUE_LABELS = 3  # AssociatedFile.type: line i names the value i
_BOUNDARIES, _RATIO = 1, 0  # BoundingBoxProperties: edges, as shares of the image
_RGB, _GRAYSCALE = 1, 2  # ImageProperties.color_space


@dataclass(frozen=True, kw_only=True)
class InputScale:
    """What a program does to pixels of 0…255 before it gives them to the model: (pixel − mean) / std."""

    mean: float
    std: float
    channels: int


def make_metadata(name: str, scale: InputScale, outputs: Sequence[str]) -> bytes:
    """Return the metadata of a detector.

    Args:
        name: Of the model.
        scale: How the input is normalised.
        outputs: Names of the output tensors. The four of ``nms.OUTPUTS`` are described as MediaPipe wants it.
    """
    import flatbuffers

    builder = flatbuffers.Builder(1024)
    image = _table(builder, [_GRAYSCALE if scale.channels == 1 else _RGB if scale.channels == 3 else None], bytes_=(0,))
    options = _table(builder, [_floats(builder, [scale.mean]), _floats(builder, [scale.std])])
    unit = _table(builder, [NORMALIZATION, options], bytes_=(0,))
    content = _content(builder, _IMAGE, image)
    text = builder.CreateString("image")
    inputs = [_table(builder, [text, None, None, content, _offsets(builder, [unit]), None, None])]
    described = [_output(builder, one) for one in outputs]
    fields = [None, None, _offsets(builder, inputs), _offsets(builder, described), *[None] * 6]
    subgraph = _offsets(builder, [_table(builder, fields)])
    text, parser = builder.CreateString(name), builder.CreateString(_PARSER)
    root = _table(builder, [text, None, None, subgraph, None, None, None, parser])
    builder.Finish(root, file_identifier=IDENTIFIER)
    return bytes(builder.Output())


def _output(builder: Any, name: str) -> int:
    files = None
    if name == "category":
        label_file = _table(builder, [builder.CreateString(LABELS), None, _VALUE_LABELS, None, None], bytes_=(2,))
        files = _offsets(builder, [label_file])
    if name == "location":
        index = builder.CreateNumpyVector(_uint32([1, 0, 3, 2]))  # where left, top, right, bottom stand
        box = _table(builder, [index, _BOUNDARIES, _RATIO], bytes_=(1, 2))
        content = _content(builder, _BOUNDING_BOX, box)
    else:
        content = _content(builder, _FEATURE, _table(builder, []))
    text = builder.CreateString(name)
    return _table(builder, [text, None, None, content, None, None, files])


def _content(builder: Any, kind: int, properties: int) -> int:
    return _table(builder, [kind, properties, None], bytes_=(0,))


def _table(builder: Any, fields: Sequence[int | None], bytes_: Sequence[int] = ()) -> int:
    """Write a table whose fields are offsets, or single bytes where their slot is among ``bytes_``."""
    builder.StartObject(len(fields))
    for slot, value in enumerate(fields):
        if value is None:
            continue
        if slot in bytes_:
            builder.PrependInt8Slot(slot, value, -1)
        else:
            builder.PrependUOffsetTRelativeSlot(slot, value, 0)
    return int(builder.EndObject())


def _offsets(builder: Any, tables: Sequence[int]) -> int:
    builder.StartVector(4, len(tables), 4)
    for table in reversed(tables):
        builder.PrependUOffsetTRelative(table)
    return int(builder.EndVector())


def _floats(builder: Any, values: Sequence[float]) -> int:
    import numpy as np

    return int(builder.CreateNumpyVector(np.array(values, np.float32)))


def _uint32(values: Sequence[int]) -> Any:
    import numpy as np

    return np.array(values, np.uint32)


def append_files(data: bytes, files: dict[str, str]) -> bytes:
    """Return a model with text files in a zip behind it, stored uncompressed, where MediaPipe finds them."""
    stream = io.BytesIO()
    stream.write(data)
    with zipfile.ZipFile(stream, "a", zipfile.ZIP_STORED) as archive:
        for name, text in files.items():
            archive.writestr(zipfile.ZipInfo(name, date_time=(1980, 1, 1, 0, 0, 0)), text.encode())
    return stream.getvalue()


def label_lines(class_names: Sequence[str]) -> str:
    """Return the label file: one name a line; line breaks inside a name become spaces."""
    return "".join(" ".join(name.split()) + "\n" for name in class_names)


def checksum(data: bytes) -> str:
    """Return the SHA-256 of a model without the zip behind it, in hexadecimal digits."""
    return hashlib.sha256(data).hexdigest()
