"""Image files of any kind to RGB arrays, and into the frame of the network input."""
