"""The page of all config keys, made from ``effdet/config.py``."""

from __future__ import annotations

import inspect

from effdet import config


def markdown() -> str:
    """Return a section for each part of a config."""
    sections = (config.ModelConfig, config.DataConfig, config.TrainConfig, config.EvalConfig, config.RunConfig)
    return "\n".join(f"## {each.__name__}\n\n```python\n{inspect.getsource(each)}```\n" for each in sections)
