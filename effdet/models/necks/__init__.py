"""Feature pyramids: the bi-directional one of the paper and its rivals, and how their nodes add maps."""
