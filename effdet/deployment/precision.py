"""Choose the precision in which a runtime computes: bf16 where the processor and a check on photos allow it."""

from __future__ import annotations

import logging

from effdet.deployment.description import Description
from effdet.deployment.formats import Precision
from effdet.deployment.runtimes import openvino_core
from effdet.kernels.processor import has_bf16

logger = logging.getLogger(__name__)

AUTO = "auto"
MAX_BF16_DROP = 0.002  # AP (0…1) that bf16 may lose on photos
RUNTIMES_OF_AUTO = ("onnxruntime", "openvino")


def choose_precision(description: Description, runtime: str, name: str) -> Precision:
    """Return the precision for ``precision="auto"``; a line in the log says why.

    An int8 or bf16 file stays what it is. Otherwise it is bf16 in OpenVINO, if the processor has instructions for it
    and the file says that on photos it lost no more than ``MAX_BF16_DROP``; else fp32.

    Args:
        description: What the file says about itself.
        runtime: What computes the network.
        name: Of the file or weights, for the line.
    """
    precision, reason = _choice(description, runtime)
    logger.info("%s is computed in %s: %s", name, precision, reason)
    return precision


def openvino_has_bf16() -> bool:
    """Return whether this processor has instructions for bf16 that OpenVINO uses.

    Both must say so: the processor by its instructions, and OpenVINO by the formats that it lists for it.

    Raises:
        ImportError: If OpenVINO is not installed.
    """
    return has_bf16() and "BF16" in openvino_core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")


def check_auto(precision: str | None, runtime: str) -> None:
    """Raise ``ValueError`` if a precision is neither "auto" nor None, or the runtime leaves no choice."""
    if precision not in (AUTO, None):
        raise ValueError(f"precision must be 'auto' or None for that of the file, got '{precision}'; export it anew")
    if precision == AUTO and runtime not in RUNTIMES_OF_AUTO:
        raise ValueError(f"precision 'auto' goes with {', '.join(RUNTIMES_OF_AUTO)}, got runtime '{runtime}'")


def _choice(description: Description, runtime: str) -> tuple[Precision, str]:
    if description.precision in ("int8", "bf16"):
        return description.precision, "the file was exported so"
    if runtime != "openvino":
        return "fp32", "ONNX Runtime has no bf16 on a CPU, OpenVINO may have"
    if not openvino_has_bf16():
        return "fp32", "this processor has no instructions for bf16 that OpenVINO uses"
    drop = description.bf16_drop
    if drop is None:
        return "fp32", "what bf16 costs was not measured; export it with --precision auto --check DATA"
    if drop > MAX_BF16_DROP:
        return "fp32", f"bf16 lost {drop:.4f} AP on photos, more than {MAX_BF16_DROP}"
    return "bf16", f"the processor has instructions for it, and on photos AP changed by {-drop:+.4f}"
