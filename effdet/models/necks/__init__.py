"""Feature pyramids: the bi-directional one of the paper and those that others put in its place."""
