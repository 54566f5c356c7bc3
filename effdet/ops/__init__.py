"""Pure tensor geometry: boxes, anchors, non-maximum suppression."""
