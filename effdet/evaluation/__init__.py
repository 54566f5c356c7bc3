"""Detections and ground truth in, COCO's numbers out."""
