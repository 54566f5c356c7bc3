"""The detector: network, post-processing, prediction from files, saving and loading."""
