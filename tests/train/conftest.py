"""Fixtures of several tests of training and evaluation."""

import sys
import warnings
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
from eval_cases import NAMES, PIXELS, save_pictures
from models import tiny_model
from tiny_engines import write_onnx
from training import draw_faces, make_settings, stand_ins, train

from psp_train import cli
from psp_train.evaluation import cli as eval_cli
from psp_train.networks.config import published_config
from psp_train.training import build


@pytest.fixture(scope="module")
def one_thread():
    """Sums of floats depend on the number of threads: ours is that of the processes we start."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def drawn(tmp_path_factory):
    """A folder of eight drawn faces, their label maps and sketches; nobody writes into it."""
    return draw_faces(tmp_path_factory.mktemp("faces") / "drawn")


@pytest.fixture(scope="module")
def finished(one_thread, drawn, tmp_path_factory):
    """A training that nothing interrupted, and its trainer."""
    settings = make_settings(drawn, tmp_path_factory.mktemp("finished") / "run")
    return settings, train(settings)


@pytest.fixture(scope="session")
def generator(tmp_path_factory):
    """A StyleGAN2 file without an average w."""
    path = tmp_path_factory.mktemp("generator") / "stylegan2.pt"
    torch.save({"g_ema": tiny_model().decoder.state_dict()}, path)
    return path


@pytest.fixture
def tiny(monkeypatch):
    """Published sizes become tiny ones, and published losses stand-ins."""
    config = tiny_model().encoder.config

    def tiny_config(*shape):
        published = published_config(*shape)
        return replace(published, units=config.units, widths=config.widths)

    monkeypatch.setattr(build, "published_config", tiny_config)
    monkeypatch.setattr(build, "load_networks", lambda recipe, weights: stand_ins())


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A working folder with an engine and test pictures, one of them in a sub-folder."""
    monkeypatch.chdir(tmp_path)
    write_onnx(Path("psp.onnx"))
    save_pictures(dict(zip(NAMES, PIXELS)), "test")
    return tmp_path


@pytest.fixture
def psp_train(monkeypatch, capsys):
    """Run psp-train in this process: exit code, stdout, stderr."""
    return partial(run_command, monkeypatch, capsys, "psp-train", cli.main)


@pytest.fixture
def psp_eval(here, monkeypatch, capsys):
    """Run psp-eval in this process, in the working folder `here`: exit code, stdout, stderr."""
    return partial(run_command, monkeypatch, capsys, "psp-eval", eval_cli.main)


def run_command(monkeypatch, capsys, name, main, *arguments):
    monkeypatch.setattr(sys, "argv", [name, *map(str, arguments)])
    monkeypatch.setattr(warnings, "showwarning", warnings.showwarning)  # put back afterwards: a command has its own
    with pytest.raises(SystemExit) as end:
        main()
    return end.value.code or 0, *capsys.readouterr()
