"""From detections to COCO metrics."""
