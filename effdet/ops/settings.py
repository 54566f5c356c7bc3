"""Settings of the post-processing, and those of the families of published models."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal, TypeAlias, get_args

MAX_COORDINATE = 1e6  # pixels; a larger coordinate, from a very large delta, would overflow areas

MAX_SIGMA = 1e6  # of soft NMS, which then decays nothing

Clip: TypeAlias = Literal["after", "before", "network", "none"]


def _check(ok: bool, name: str, must: str, got: object) -> None:
    if not ok:
        raise ValueError(f"{name} must {must}, got {got!s:.80}")


def _is_whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: object) -> bool:
    return _is_whole(value) or isinstance(value, float)


@dataclass(frozen=True, kw_only=True)
class PostprocessSettings:
    """How predictions become detections; plain values, saved with a model. Defaults are the ones we recommend.

    Values of ``clip``: "after" clips boxes after NMS to the original image; "before" clips them to it before NMS;
    "network" clips them before NMS to the last row and column of the padded network input, as one family of published
    models does; "none" does not clip.

    Raises:
        ValueError: If a value is out of range.
    """

    nms: Literal["hard", "soft"] = "soft"  # drop overlapping boxes, or decay their scores (Gaussian)
    iou_threshold: float = 0.5  # of hard NMS: overlap with a better box above which a box is dropped
    sigma: float = 0.5  # of soft NMS: width of the decay
    score_threshold: float = 0.001  # smallest score that is reported
    max_candidates: int = 5000  # number of best (anchor, class) pairs of an image that NMS gets
    max_detections: int = 100  # most detections of an image
    class_agnostic: bool = False  # NMS between boxes of different classes too
    best_class_only: bool = False  # only the best class of each anchor is a candidate
    clip: Clip = "after"
    drop_empty: bool = True  # leave out boxes that have no area, such as those outside the image once clipped

    def __post_init__(self) -> None:
        if isinstance(self.clip, bool):  # files of version 0.1
            object.__setattr__(self, "clip", "after" if self.clip else "none")
        _check(self.nms in ("hard", "soft"), "nms", "be 'hard' or 'soft'", self.nms)
        for name in ("iou_threshold", "score_threshold"):
            value = getattr(self, name)
            _check(_is_number(value) and 0 <= value <= 1, name, "lie in [0, 1]", value)
        _check(_is_number(self.sigma) and 0 < self.sigma < MAX_SIGMA, "sigma", "be positive", self.sigma)
        for name in ("max_candidates", "max_detections"):
            value = getattr(self, name)
            _check(_is_whole(value), name, "be a whole number", value)
            _check(1 <= value < 2**31, name, "be 1 or more" if value < 1 else "be less than 2^31", value)
        for name in ("class_agnostic", "best_class_only", "drop_empty"):
            _check(isinstance(getattr(self, name), bool), name, "be true or false", getattr(self, name))
        _check(self.clip in get_args(Clip), "clip", f"be one of {', '.join(get_args(Clip))}", self.clip)

    def with_least_score(self, score: float) -> PostprocessSettings:
        """Return the settings with a threshold that is at least so high.

        The detections that reach it are the same: a box is dropped, or its score decays, by better boxes only.
        """
        return self if score <= self.score_threshold else replace(self, score_threshold=score)

    @classmethod
    def preset(cls, name: str) -> PostprocessSettings:
        """Return the settings with which a family of published models is evaluated: see docs/explanations/presets.md.

        Args:
            name: "default", "fast", "google", "effdet" or "zylo".

        Raises:
            ValueError: If there is no such preset.
        """
        if name not in PRESETS:
            raise ValueError(f"preset must be one of {', '.join(PRESETS)}, got '{name}'")
        return PRESETS[name]


PRESETS = {
    "default": PostprocessSettings(),
    "fast": PostprocessSettings(),  # differs in preprocessing only
    "google": PostprocessSettings(clip="none", drop_empty=False),
    "effdet": PostprocessSettings(nms="hard", score_threshold=0.0, clip="before", drop_empty=False),
    "zylo": PostprocessSettings(
        nms="hard",
        score_threshold=0.05,
        max_candidates=50_000,
        max_detections=5_000,
        best_class_only=True,
        clip="network",
        drop_empty=False,
    ),
}
