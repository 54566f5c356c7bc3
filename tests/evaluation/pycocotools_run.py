"""pycocotools as its demo runs it, the outside truth of several tests."""

import contextlib
import copy
import io


def accumulated(truth, results):
    """Return pycocotools' evaluation of result rows by a COCO annotation dict; both stay as they are."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO()
        coco.dataset = copy.deepcopy(truth)
        coco.createIndex()
        evaluation = COCOeval(coco, coco.loadRes(copy.deepcopy(results)), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return evaluation
