"""From images to predictions to detections."""
