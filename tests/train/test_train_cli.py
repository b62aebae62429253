"""`psp-train` as a user meets it: options, exit codes, one line for every mistake, and nothing left by a mistake."""

import json
import shutil
import sys
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest
import torch
from models import tiny_model
from PIL import Image
from training import draw_faces, make_settings, stand_ins

from psp_runtime import console
from psp_runtime.tasks import TASKS
from psp_train import cli
from psp_train.drawn import dataset
from psp_train.networks.config import EncoderConfig
from psp_train.recipes import make_recipe
from psp_train.training import build
from psp_train.training.distributed import Process
from psp_train.training.objective import load_networks
from psp_train.training.run_folder import RunFolder
from psp_train.training.settings import Settings


@pytest.fixture(scope="module")
def faces(tmp_path_factory):
    return draw_faces(tmp_path_factory.mktemp("cli") / "drawn")


@pytest.fixture(scope="module")
def generator(tmp_path_factory):
    """A StyleGAN2 file without an average w."""
    path = tmp_path_factory.mktemp("generator") / "stylegan2.pt"
    torch.save({"g_ema": tiny_model().decoder.state_dict()}, path)
    return path


@pytest.fixture
def psp_train(monkeypatch, capsys):
    """Run the tool in this process: exit code, stdout and stderr."""

    def run(*args: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["psp-train", *map(str, args)])
        with pytest.raises(SystemExit) as end:
            cli.main()
        return end.value.code or 0, *capsys.readouterr()

    showwarning = console.warnings.showwarning
    yield run
    console.warnings.showwarning = showwarning


@pytest.fixture
def tiny(monkeypatch):
    """Published sizes become tiny ones, and published losses stand-ins."""
    config = tiny_model().encoder.config
    monkeypatch.setattr(build, "published_config", lambda *shape: EncoderConfig(*shape, config.units, config.widths))
    monkeypatch.setattr(build, "load_networks", lambda recipe, weights: stand_ins())


def assert_mistake(result: tuple[int, str, str], *expected: object) -> None:
    """Exit code 2 and one line on stderr that says all that is expected."""
    code, out, err = result
    lines = [line for line in err.splitlines() if not line.startswith("warning: ")]
    assert code == 2 and out == "" and len(lines) == 1 and lines[0].startswith("error: "), err
    assert all(str(part) in lines[0] for part in expected), err


@pytest.mark.parametrize(
    ("args", "expected"),
    [
        (("--demo", "--out", "OUT"), "give --task, one of inversion, frontalization,"),
        (("--task", "portrait", "--demo", "--out", "OUT"), "unknown task 'portrait': choose one of inversion"),
        (("--task", "inversion", "--demo"), "give --out"),
        (("--task", "sketch", "--demo", "--variant", "big", "--out", "OUT"), "unknown variant 'big'"),
        (("--task", "sketch", "--demo", "--set", "l3=1", "--out", "OUT"), "--set l3=1: expected NAME=VALUE"),
        (("--task", "sketch", "--demo", "--set", "l2=big", "--out", "OUT"), "'big' is not a value of l2"),
        (("--task", "sketch", "--demo", "--set", "l2=-1", "--out", "OUT"), "l2 is -1.0"),
        (("--task", "sketch", "--demo", "--set", "render_size=16", "--out", "OUT"), "makes 32, 64, 128, 256"),
        (("--task", "sketch", "--demo", "--set", "seed=99999999999999999999", "--out", "OUT"), "expected a number up"),
        (("--task", "sketch", "--demo", "--set", "moco=1", "--out", "OUT"), "moco"),
        (("--task", "sketch", "--device", "cuda", "--demo", "--out", "OUT"), "no CUDA GPU"),
        (("--task", "inversion", "--data", "FACES", "--out", "OUT"), "give --weights"),
        (("--task", "sketch", "--demo", "--init", "none.pt", "--out", "OUT"), "no checkpoint at none.pt"),
        (("--task", "sketch", "--demo", "--weights", "w", "--generator", "g.pt"), "leave out --generator, --weights"),
    ],
)
def test_mistakes_in_options(args, expected, psp_train, faces, tmp_path):
    if "cuda" in args and torch.cuda.is_available():
        pytest.skip("there is a GPU")
    paths = {"OUT": tmp_path / "run", "FACES": faces / "faces"}
    assert_mistake(psp_train(*(paths.get(arg, arg) for arg in args)), expected)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("args", "expected"),
    [
        (("--task", "inversion"), "give --data"),
        (("--task", "inversion", "--data", "none"), "no folder none"),
        (("--task", "sketch", "--data", "SKETCHES"), "give --target"),
        (("--task", "inversion", "--data", "FACES"), "--held-out 100 leaves none of 8 samples to train on"),
        (("--task", "inversion", "--data", "FACES", "--set", "mask=labels"), "give --masks"),
        (("--task", "segmentation", "--data", "FACES", "--target", "SKETCHES"), "colour picture, expected a label map"),
        (("--task", "inversion", "--data", "FACES", "--set", "render_size=128"), "makes 32, 64"),
        (("--task", "inversion", "--data", "FACES", "--masks", "SKETCHES"), "--masks are for --set mask=labels"),
    ],
)
def test_mistakes_in_data(args, expected, psp_train, faces, generator, tiny, tmp_path):
    paths = {"SKETCHES": faces / "sketches", "FACES": faces / "faces"}
    args = (*(paths.get(arg, arg) for arg in args), "--generator", generator, "--out", tmp_path / "run")
    assert_mistake(psp_train(*args), expected)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("out", ["", "run", "below/run"])
def test_a_run_among_its_data(out, psp_train, faces, generator, tiny, tmp_path, monkeypatch):
    """It keeps pictures of what it makes: a resume would train on them."""
    shutil.copytree(faces / "faces", tmp_path / "faces")
    monkeypatch.chdir(tmp_path / "faces")
    args = ("--task", "inversion", "--generator", generator, "--held-out", 2, "--out", Path(out))
    assert_mistake(psp_train(*args, "--data", "."), "lies in --data .", "give a folder outside")
    assert_mistake(psp_train(*args, "--data", faces / "faces", "--target", "."), "lies in --target .")
    assert len(list(tmp_path.rglob("*"))) == 1 + 8


def test_no_generator(psp_train, faces, tiny, tmp_path):
    args = ("--task", "inversion", "--data", faces / "faces", "--out", tmp_path / "run")
    assert_mistake(psp_train(*args), "give --generator, a StyleGAN2 checkpoint")
    assert_mistake(psp_train(*args, "--generator", tmp_path / "x.pt"), "no checkpoint at", "x.pt")
    assert list(tmp_path.iterdir()) == []


def test_all_missing_weights_in_one_line(psp_train, faces, generator, tmp_path):
    args = ("--task", "inversion", "--data", faces / "faces", "--generator", generator, "--out", tmp_path / "run")
    names = ("alexnet-owt-7be5be79.pth", "alex.pth", "model_ir_se50.pth", "https://")
    assert_mistake(psp_train(*args, "--weights", tmp_path), *names, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_one_process_reads_the_label_maps_for_all(faces, tiny, tmp_path, monkeypatch):
    settings = make_settings(faces, tmp_path / "run", "segmentation")
    asked = []
    monkeypatch.setattr(cli, "build", lambda settings, read_label_maps: asked.append(read_label_maps) or sys.exit())
    monkeypatch.setattr(cli.distributed, "first_goes_first", lambda process: nullcontext())
    for rank in (0, 1):
        with pytest.raises(SystemExit):
            cli.train(settings, Process(rank, 2, torch.device("cpu")), new=True)
    assert asked == [True, False]
    read = []
    monkeypatch.setattr(build.folders, "check_label_maps", lambda items, task: read.append(len(items)))
    for check in (True, False):
        build.build_samples(settings, check)
    assert read == [8]


def test_a_bad_label_map(psp_train, faces, generator, tiny, tmp_path):
    labels = tmp_path / "labels"
    labels.mkdir()
    for path in (faces / "labels").iterdir():
        (labels / path.name).write_bytes(path.read_bytes())
    Image.fromarray(np.full((64, 64), 19, np.uint8)).save(labels / "a3.png")
    args = ("--data", labels, "--target", faces / "faces", "--generator", generator, "--held-out", 2)
    mistake = psp_train("--task", "segmentation", *args, "--out", tmp_path / "run")
    assert_mistake(mistake, labels / "a3.png", "class id 19", "knows 0..18")
    assert not (tmp_path / "run").exists()


def test_a_run_from_the_beginning_and_on(psp_train, faces, generator, tiny, tmp_path):
    """Train, find the folder taken, resume with more steps: from anywhere, and again without naming them."""
    run = tmp_path / "run"
    args = ("--task", "sketch", "--data", faces / "sketches", "--target", faces / "faces", "--generator", generator)
    every = ("--held-out", 2, "--log-every", 1, "--validate-every", 2, "--save-every", 1, "--workers", 0)
    code, out, err = psp_train(*args, *every, "--out", run, "--steps", 1, "--set", "batch_size=2")
    assert (code, out) == (0, "") and "training sketch 1/1" in err
    assert RunFolder(run).steps() == [1]
    before = (run / "metrics.jsonl").read_text()
    assert_mistake(psp_train(*args, "--out", run), "already holds a training", "--resume")
    assert (run / "metrics.jsonl").read_text() == before
    assert psp_train("--resume", run, "--steps", 2)[0] == 0
    assert RunFolder(run).steps() == [1, 2]
    stored = Settings.from_json(RunFolder(run).settings())
    assert stored.recipe == make_recipe("sketch", overrides=dict(batch_size=2, steps=2))
    assert (stored.data, stored.out, stored.held_out) == (faces / "sketches", run, 2)
    assert psp_train("--resume", run)[0] == 0 and RunFolder(run).steps() == [1, 2]


def test_a_run_cannot_take_back_steps(psp_train, faces, tmp_path):
    run = RunFolder(tmp_path / "run")
    run.create(make_settings(faces, run.path).to_json())
    run.save(2, {}, {})
    before = (run.path / "run.json").read_bytes()
    assert_mistake(psp_train("--resume", run.path, "--steps", 1), "--steps 1", "has done 2 steps already")
    assert (run.path / "run.json").read_bytes() == before


def test_the_new_run_is_a_file(psp_train, faces, tmp_path):
    (tmp_path / "run").touch()
    mistake = psp_train("--task", "inversion", "--data", faces / "faces", "--out", tmp_path / "run")
    assert_mistake(mistake, tmp_path / "run", "is a file, expected a folder")


def test_resume_of_no_run(psp_train, tmp_path):
    assert_mistake(psp_train("--resume", tmp_path / "run"), tmp_path / "run", "holds no training")
    (tmp_path / "run.json").write_text("{")
    assert_mistake(psp_train("--resume", tmp_path), "holds no training")
    (tmp_path / "run.json").write_text("{}")
    assert_mistake(psp_train("--resume", tmp_path), "another version")


@pytest.mark.parametrize(
    ("args", "refused"),
    [
        (("--set", "l2=3"), "l2"),
        (("--set", "seed=1", "--steps", 9), "seed"),
        (("--amp", "bf16"), "--amp"),
        (("--task", "sketch"), "--task"),
        (("--data", "elsewhere", "--compile"), "--compile, --data"),
    ],
)
def test_resume_with_other_settings(args, refused, psp_train, faces, tmp_path):
    settings = make_settings(faces, tmp_path / "run")
    RunFolder(settings.out).create(settings.to_json())
    mistake = psp_train("--resume", settings.out, *args)
    assert_mistake(mistake, f"only --steps can change, not {refused}")
    assert [path.name for path in settings.out.iterdir()] == ["run.json"]


def test_options_of_the_command_line(psp_train):
    code, out, _ = psp_train("--help")
    assert code == 0
    assert all(name in out for name in ("--task", "--resume", "--demo", "--set", "torchrun", "plot", "sketches"))


def test_plot(psp_train, tmp_path):
    rows = [{"step": step, "split": "train", "loss": 1 / step} for step in (1, 2, 3)]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    code, out, err = psp_train("plot", tmp_path)
    assert (code, out.strip(), err) == (0, str(tmp_path / "curves.png"), "")
    assert_mistake(psp_train("plot", tmp_path / "none"), "metrics.jsonl")


def test_sketches(psp_train, faces, tmp_path):
    code, out, err = psp_train("sketches", faces / "faces", tmp_path / "sketches")
    assert code == 0 and "sketches made: 8" in out, err
    with Image.open(tmp_path / "sketches/a3.png") as sketch:
        assert sketch.mode == "L" and sketch.size == (256, 256)
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos/a.png").write_bytes(b"no picture")
    assert psp_train("sketches", tmp_path / "photos", tmp_path / "more")[0] == 1


# ---- What a training starts from ------------------------------------------------------------------------------


def test_the_average_w_is_computed_where_the_file_has_none(generator, tiny, faces, tmp_path):
    settings = make_settings(faces, tmp_path / "run", generator=generator)
    model = build.build_model(settings)
    with torch.no_grad():
        w = model.decoder.map(torch.randn(20_000, 32, generator=torch.Generator().manual_seed(9)))
    assert (model.latent_avg == model.latent_avg[0]).all()
    assert (model.latent_avg[0] - w.mean(0)).abs().max() < 5 * w.std() / 20_000**0.5
    without = make_settings(faces, tmp_path / "run", generator=generator, start_from_average=False)
    assert not build.build_model(without).latent_avg.any()


def test_a_stored_average_w_is_used(generator, tiny, faces, tmp_path):
    average = torch.arange(32.0)
    torch.save(torch.load(generator, weights_only=True) | {"latent_avg": average}, tmp_path / "g.pt")
    model = build.build_model(make_settings(faces, tmp_path / "run", generator=tmp_path / "g.pt"))
    assert torch.equal(model.latent_avg, average.expand(10, 32))
    assert not any(p.requires_grad for p in model.decoder.parameters()) and not model.decoder.training
    assert all(p.requires_grad for p in model.encoder.parameters())


def test_a_seed_is_a_start(generator, tiny, faces, tmp_path):
    starts = [
        build.build_model(make_settings(faces, tmp_path / "run", generator=generator, seed=seed)).encoder.state_dict()
        for seed in (0, 0, 1)
    ]
    assert all(torch.equal(starts[0][key], starts[1][key]) for key in starts[0])
    assert not torch.equal(starts[0]["styles.0.linear.weight"], starts[2]["styles.0.linear.weight"])


def test_the_encoder_starts_from_weights_where_they_are(generator, tiny, faces, tmp_path, monkeypatch):
    """Sketches keep their own first layer, as in the reference all of it, where photos' would be for other numbers.

    Where there is no file, a warning says that weights are random.
    """
    settings = make_settings(faces, tmp_path / "run", "sketch", generator=generator, weights=tmp_path)
    with pytest.warns(UserWarning, match="random weights: no model_ir_se50.pth"):
        fresh = build.build_model(settings).encoder.state_dict()
    state = {key: torch.full_like(value, 2) for key, value in fresh.items() if key.startswith(("input", "body"))}
    state["input_layer.0.weight"] = torch.full((8, 3, 3, 3), 2.0)
    monkeypatch.setattr(build, "irse50_state", lambda folder: state)
    started = build.build_model(settings).encoder.state_dict()
    stem = {key for key in state if key.startswith("input_layer.")}
    assert len(stem) > 4 and all(torch.equal(started[key], fresh[key]) for key in stem)
    assert all((started[key] == 2).all() for key in state.keys() - stem)
    assert torch.equal(started["styles.0.linear.weight"], fresh["styles.0.linear.weight"])
    photos = make_settings(faces, tmp_path / "run", generator=generator, weights=tmp_path)
    started = build.build_model(photos).encoder.state_dict()
    assert all((started[key] == 2).all() for key in state)


def test_an_encoder_goes_on_from_a_checkpoint(generator, tiny, faces, tmp_path):
    before = tiny_model(seed=3)
    opts = {"dataset_type": "ffhq_encode", "encoder_type": "GradualStyleEncoder"}
    torch.save({"state_dict": before.state_dict(), "opts": opts}, tmp_path / "psp.pt")
    settings = make_settings(faces, tmp_path / "run", "segmentation", generator=generator, init=tmp_path / "psp.pt")
    state, theirs = build.build_model(settings).encoder.state_dict(), before.encoder.state_dict()
    assert state["input_layer.0.weight"].shape[1] == 19
    assert all(torch.equal(state[key], theirs[key]) for key in theirs if not key.startswith("input_layer."))
    torch.save({"state_dict": before.state_dict(), "opts": opts | {"dataset_type": "cars_encode"}}, tmp_path / "psp.pt")
    again = build.build_model(settings).encoder.state_dict()  # of whatever task
    assert all(torch.equal(again[key], state[key]) for key in theirs if not key.startswith("input_layer."))
    other = make_settings(faces, tmp_path / "run", "segmentation", "w", generator=generator, init=tmp_path / "psp.pt")
    with pytest.raises(build.PspError, match="another encoder"):
        build.build_model(other)


def test_a_resumed_run_needs_no_init(generator, tiny, faces, tmp_path):
    """It may have been a step of another run, and be deleted."""
    settings = make_settings(faces, tmp_path / "run", generator=generator, init=tmp_path / "gone.pt")
    with pytest.raises(build.PspError, match="no checkpoint at"):
        build.build_model(settings)
    settings.out.mkdir()
    for suffix in ("pt", "state"):
        (settings.out / f"step_00000002.{suffix}").touch()
    build.build_model(settings)


def test_files_of_another_training_are_not_continued(psp_train, tmp_path):
    for name in ("step_00000002.pt", "metrics.jsonl"):
        run = tmp_path / name / "run"
        run.mkdir(parents=True)
        (run / name).write_text("{}")
        mistake = psp_train("--task", "sketch", "--demo", "--out", run)
        assert_mistake(mistake, f"{name} is left from another training", "give another --out")
        assert [path.name for path in run.iterdir()] == [name]


@pytest.mark.skipif(sys.platform == "win32", reason="links need rights there")
def test_faces_are_drawn_through_a_link_and_into_the_working_folder(tmp_path, monkeypatch):
    task = TASKS["sketch"]
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    assert all(item.source.exists() for item in dataset.sample_files(task, tmp_path / "link", count=1))
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    assert all(item.source.exists() for item in dataset.sample_files(task, Path(), count=1))
    dataset.sample_files(task, Path(), count=2)  # other faces replace ours
    assert sorted(path.name for path in Path("faces").iterdir()) == ["00000.png", "00001.png"]


def test_a_folder_that_another_run_has_drawn_meanwhile(tmp_path, monkeypatch):
    task, draw = TASKS["sketch"], dataset._draw_all

    def slow(folder, count, seed):
        with monkeypatch.context() as patch:
            patch.setattr(dataset, "_draw_all", draw)
            dataset.sample_files(task, tmp_path / "drawn", count=2)
        draw(folder, count, seed)

    monkeypatch.setattr(dataset, "_draw_all", slow)
    items = dataset.sample_files(task, tmp_path / "drawn", count=2)
    assert all(item.source.exists() for item in items) and [p.name for p in tmp_path.iterdir()] == ["drawn"]


def test_demo_faces_are_drawn_once(tmp_path):
    items = dataset.sample_files(TASKS["segmentation"], tmp_path / "drawn", masks=True, count=3)
    assert [item.source.parent.name for item in items] == ["labels"] * 3
    assert all(path.exists() for item in items for path in (item.source, item.target, item.mask))
    times = {path: path.stat().st_mtime_ns for path in (tmp_path / "drawn").rglob("*.png")}
    dataset.sample_files(TASKS["sketch"], tmp_path / "drawn", count=3)
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "drawn").rglob("*.png")} == times and len(times) == 9


def test_faces_are_not_drawn_among_other_files(psp_train, tmp_path):
    """A demo's --data is where to draw: not a folder of photos."""
    photo = tmp_path / "photos/a.png"
    photo.parent.mkdir()
    photo.write_bytes(b"a photo")
    for data in (photo.parent, photo):
        mistake = psp_train("--task", "sketch", "--demo", "--data", data, "--out", tmp_path / "run")
        assert_mistake(mistake, data, "holds other files", "another --data")
    assert list(tmp_path.rglob("*")) == [photo.parent, photo]


def test_faces_whose_drawing_was_stopped_are_drawn_again(tmp_path, monkeypatch):
    def stopped(*_):
        raise KeyboardInterrupt

    task = TASKS["sketch"]
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(dataset, "ProcessPoolExecutor", stopped)
        dataset.sample_files(task, tmp_path, count=2)
    assert all(item.source.exists() for item in dataset.sample_files(task, tmp_path, count=2))


def test_a_demo_trains_over_the_bundled_generator():
    settings = Settings(make_recipe("sketch", "w"), Path("run"), demo=True)
    model = build.build_model(settings)
    assert (model.encoder.config.kind, model.encoder.config.input_channels) == ("w", 1)
    assert model.decoder.config.size == 256 and model.latent_avg.any()


def test_only_what_a_recipe_needs_is_loaded():
    assert load_networks(make_recipe("inversion", overrides=dict(lpips=0.0, identity=0.0)), None) == {}
