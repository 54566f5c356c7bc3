"""All formats, one line each. Where a folder has several, the first of them that is divided best is taken."""

from effdet.data.formats.coco import COCO
from effdet.data.formats.csv_table import CSV
from effdet.data.formats.cvat import CVAT
from effdet.data.formats.interface import Format
from effdet.data.formats.label_studio import LABEL_STUDIO
from effdet.data.formats.labelme import LABELME
from effdet.data.formats.openimages import OPENIMAGES
from effdet.data.formats.shards import SHARDS
from effdet.data.formats.voc import VOC
from effdet.data.formats.yolo import YOLO

FORMATS: dict[str, Format] = {
    format.name: format for format in (COCO, YOLO, VOC, OPENIMAGES, CVAT, LABEL_STUDIO, LABELME, CSV, SHARDS)
}
