"""Run an FP16 file in bf16, as a CPU that has it does by itself, and compare its pictures with the reference's.

The gate decides what the runtime does, not whether the file is written: below it, the file runs in FP32 unless bf16 is
asked for (`psp_runtime/engines/precision.py`).
"""

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import numpy as np

from psp_export.verify.cases import Case
from psp_export.verify.parity import psnr, whole
from psp_runtime.engines.openvino.session import OpenVINOSession
from psp_runtime.engines.precision import BF16_GATES, lacks_bf16


def measure_bf16(path: Path, cases: list[Case]) -> tuple[dict[str, float], str]:
    """Measure a file in bf16: numbers for its metadata, PSNR in dB, and words for the table.

    Where this machine cannot compute in bf16, there are no numbers and the words say why.
    """
    if lacking := lacks_bf16():
        return {}, f"bf16 not run here: it needs {lacking}"
    with closing(OpenVINOSession(path, "bf16")) as session:
        found = list(_psnrs(session, cases))
    numbers = {"bf16_mean": round(float(np.mean(found)), 2), "bf16_worst": round(min(found), 2)}
    words = f"bf16 {numbers['bf16_mean']:.1f} dB mean, {numbers['bf16_worst']:.1f} dB worst"
    if any(numbers[name] < gate for name, gate in BF16_GATES.items()):
        words += f", below {' and '.join(f'{gate:.0f}' for gate in BF16_GATES.values())}: runs in FP32"
    return numbers, words


def _psnrs(session: OpenVINOSession, cases: list[Case]) -> Iterator[float]:
    """Give the PSNR of every picture, 99 dB of an identical one."""
    run = whole(session)
    for case in cases:
        difference = np.abs(run(case.inputs)["output"].astype(np.int16) - case.expected)
        yield from (min(99.0, psnr(picture)) for picture in difference)
