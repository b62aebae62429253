"""An engine as it is served: its name, its open pipeline, and a batcher each for it and its mapping network."""

import asyncio
import warnings
from pathlib import Path
from typing import NamedTuple

from psp_runtime.engines import contract
from psp_runtime.engines.contract import Arrays
from psp_runtime.engines.info import EngineInfo, read_info
from psp_runtime.engines.parts import check_mapping, part_path
from psp_runtime.engines.session import open_session, run_batches
from psp_runtime.errors import EngineError
from psp_runtime.pipeline import Pipeline
from psp_runtime.serving.batching import Batcher
from psp_runtime.serving.config import MAPPING_ENDING
from psp_runtime.serving.options import Serve


class Model(NamedTuple):
    """One model of the Open Inference Protocol: an engine or its mapping network.

    `device` is "cuda" or "cpu", `precision` what it computes in.
    """

    name: str
    info: EngineInfo
    device: str
    precision: str
    batcher: Batcher

    async def works(self) -> bool:
        """Tell whether it computes."""
        return await self.batcher.works(zeros(self.info, 1))


class Engine(NamedTuple):
    """An open engine: translates pictures, and is one or two models."""

    pipeline: Pipeline
    models: list[Model]

    @property
    def full(self) -> Model:
        """The model that makes pictures."""
        return self.models[0]


def zeros(info: EngineInfo, batch: int) -> Arrays:
    """Make inputs that every engine takes."""
    return {name: tensor.zeros(batch) for name, tensor in contract.inputs(info).items()}


def open_engine(path: Path, name: str, options: Serve) -> Engine:
    """Open an engine and run it once at batch 1, and at its largest batch. Raises `PspError`."""
    session = open_session(path, options.device, precision=options.precision)
    first = open_session(options.first, options.device, precision=options.precision) if options.first else None
    pipeline = Pipeline(session, options.batch, first=first)
    size = min(pipeline.batch, pipeline.session.max_batch)
    for count in sorted({1, size}):
        run_batches(pipeline.session, zeros(pipeline.info, count), size)

    def compute(inputs: Arrays) -> Arrays:
        return run_batches(pipeline.session, inputs, size)

    batcher = Batcher(compute, size, pipeline.at_once, options.delay / 1000)
    full = Model(name, pipeline.info, pipeline.device, pipeline.precision, batcher)
    mapping = part_path(path, "mapping")
    if not mapping.is_file():
        return Engine(pipeline, [full])
    try:
        check_mapping(path, pipeline.info)
    except EngineError as error:
        warnings.warn(f"{error}; it is not served", stacklevel=1)
        return Engine(pipeline, [full])
    info = read_info(mapping)
    pipeline.parts.map(zeros(info, 1)["z"])
    styles = Batcher(lambda inputs: {"w": pipeline.parts.map(inputs["z"])}, 1, 1, 0.0)
    return Engine(pipeline, [full, Model(name + MAPPING_ENDING, info, "cpu", info.precision, styles)])


async def all_work(engines: list[Engine]) -> bool:
    """Tell whether every engine makes a picture now."""
    return all(await asyncio.gather(*(model.works() for engine in engines for model in engine.models)))
