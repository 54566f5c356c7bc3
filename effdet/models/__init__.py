"""The network alone: backbone, neck and heads, and the architectures that are published."""
