"""COCO's class names as published detectors number them: class k is category id k + 1, 90 in all."""

from __future__ import annotations

# "unused ID": no annotation of COCO 2017 has that id; detectors have an output for it that was never trained.
_NAMES = """
    person, bicycle, car, motorcycle, airplane, bus, train, truck, boat, traffic light, fire hydrant, -, stop sign,
    parking meter, bench, bird, cat, dog, horse, sheep, cow, elephant, bear, zebra, giraffe, -, backpack, umbrella, -,
    -, handbag, tie, suitcase, frisbee, skis, snowboard, sports ball, kite, baseball bat, baseball glove, skateboard,
    surfboard, tennis racket, bottle, -, wine glass, cup, fork, knife, spoon, bowl, banana, apple, sandwich, orange,
    broccoli, carrot, hot dog, pizza, donut, cake, chair, couch, potted plant, bed, -, dining table, -, -, toilet, -,
    tv, laptop, mouse, remote, keyboard, cell phone, microwave, oven, toaster, sink, refrigerator, -, book, clock, vase,
    scissors, teddy bear, hair drier, toothbrush
"""

COCO_IDS = tuple(range(1, 91))
COCO_NAMES = tuple(
    f"unused {number}" if name == "-" else name
    for number, name in zip(COCO_IDS, (name.strip() for name in _NAMES.split(",")), strict=True)
)
