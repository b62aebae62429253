"""Many processes train as one with their batches together."""

import socket

import numpy as np
import pytest
import torch
from training import ALONE, exit_code, gradients, largest_error, losses, make_settings, said, start, train

from psp_runtime.errors import PspError
from psp_train.training.distributed import Process
from psp_train.training.run_folder import RunFolder

pytestmark = pytest.mark.usefixtures("one_thread")


def test_another_number_of_processes_cannot_resume(finished):
    settings, trainer = finished
    trainer.process = Process(0, 2, torch.device("cpu"))
    try:
        with pytest.raises(PspError, match="was trained by 1 processes, and now there are 2"):
            trainer.restore()
    finally:
        trainer.process = ALONE


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


@pytest.mark.parametrize(
    "both",
    [
        dict(task="frontalization"),
        pytest.param(dict(task="frontalization", accumulate=2), marks=pytest.mark.long),
        pytest.param(dict(variant="e4e", adversarial=0.1), marks=pytest.mark.slow),  # one discriminator for both
    ],
)
def test_two_processes_are_one_with_twice_the_batch(both, drawn, tmp_path):
    both = both | dict(steps=2)
    settings = make_settings(drawn, tmp_path / "two", batch_size=1, **both)
    group = dict(WORLD_SIZE=2, MASTER_ADDR="127.0.0.1", MASTER_PORT=free_port())
    processes = [start(settings, RANK=rank, LOCAL_RANK=rank, **group) for rank in (0, 1)]
    for process in processes:
        assert exit_code(process) == 0, said(settings).read_text()
    ranks = [dict(np.load(tmp_path / f"gradients{rank}.npz")) for rank in (0, 1)]
    single = make_settings(drawn, tmp_path / "one", batch_size=2, **both)
    expected = gradients(single)
    assert max(largest_error(found, expected) for found in ranks) < 1e-9
    train(single)  # in float32
    np.testing.assert_allclose(losses(settings.out), losses(single.out), rtol=1e-3)
    assert RunFolder(settings.out).steps() == RunFolder(single.out).steps() == [2]


def test_accumulated_batches_are_one_batch(drawn, tmp_path):
    """The gradients of two batches in one step are those of a batch of both, where BatchNorm keeps its statistics.

    In training BatchNorm sees each batch alone, as in any framework: two small batches are not one large one.
    """
    many = make_settings(drawn, tmp_path / "many", batch_size=2, accumulate=2)
    one = make_settings(drawn, tmp_path / "one", batch_size=4)
    assert largest_error(gradients(many, follow=False), gradients(one, follow=False)) < 1e-9


def test_a_process_alone_is_not_wrapped(finished):
    _, trainer = finished
    assert trainer.renderer.encoder is trainer.model.encoder and trainer.process is ALONE
