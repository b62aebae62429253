"""What cannot be done with the verbs: one line, exit 2, nothing written."""

from pathlib import Path

import numpy as np
import pytest
from cli_runs import PspRun
from PIL import Image
from tiny_family import STYLE_DIM, STYLES, write_family
from working_folder import mistake


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        # values
        ("mix a.png -n 0", "Invalid value for '--count' / '-n'"),
        ("mix a.png -n 1001", "Invalid value for '--count' / '-n'"),
        (
            "mix a.png -n 2 --layers 8-14",
            "--layers 8-14: expected layers such as 8-13, 4,6,8-9 or 8-, this engine",
        ),
        ("mix a.png -n 2 --layers 0-999999999999", "this engine has 0..13"),
        ("mix a.png -n 2 --layers 14-", "--layers 14-: expected layers"),
        ("mix a.png -n 2 --layers 9-8", "--layers 9-8: expected layers such as 8-13"),
        ("mix a.png -n 2 --layers -1", "--layers -1: expected layers"),
        ("mix a.png -n 2 --layers x", "--layers x: expected layers"),
        ("mix a.png -n 2 --alpha 1.5", "alpha 1.5: expected 0"),
        ("transfer a.png --style-of b.png --alpha -0.5", "alpha -0.5: expected 0"),
        ("mix a.png -n 2 --psi nan", "psi nan: expected a number"),
        ("mix a.png -n 2 --seed -1", "seed -1: expected 0 to"),
        ("morph a.png --to b.png --steps 1", "Invalid value for '--steps'"),
        ("edit a.png --direction smile.npy --strength 1:2", "--strength 1:2: expected a number"),
        ("edit a.png --direction smile.npy --strength 1:2:1", "--strength 1:2:1: expected a number"),
        ("edit a.png --direction smile.npy --strength 1:2:999999999", "2 to 1000 steps"),
        ("edit a.png --direction smile.npy --strength inf", "--strength inf: expected numbers"),
        ("edit a.png --direction smile.npy --strength 0:inf:3", "--strength 0:inf:3: expected a number"),
        ("edit a.png --direction smile.npy --strength 0,1e40", "--strength 0,1e+40: expected numbers"),
        (
            "edit a.png --direction latents.npy",
            "--direction latents.npy holds several directions: choose one with --component (0 to 1)",
        ),
        ("edit a.png --direction lost.npy", "cannot read lost.npy: No such file"),
        ("edit a.png --direction a.png", "cannot read a.png: not a .npy, .npz or .pt file"),
        (
            "edit smile.npy --direction wide.npy",
            "--direction wide.npy: expected numbers [8] or [14,8], given float64 [512]",
        ),
        (
            "decode wide.npy",
            "wide.npy: expected latents [B,14,8] or [14,8] of this engine, given float64 [512]",
        ),
        ("decode engines", "engines: no latents in this folder"),
        ("decode none.npy", "none.npy: the latents of no picture at all, [0, 14, 8]"),
        # other pictures
        ("morph a.png --to none.png", "cannot read none.png: No such file"),
        ("morph a.png --to latents.npy", "latents.npy has the latents of 2 pictures, expected one"),
        ("transfer a.png --style-of wide.npy", "wide.npy: expected"),
        # contradictions
        ("mix a.png --direction smile.npy", "No such option: --direction"),
        ("morph a.png --to b.png --style-of c.png", "No such option: --style-of"),
        ("run a.png --seed 3", "No such option: --seed"),
        ("edit a.png --direction smile.npy --psi 1", "No such option: --psi"),
        ("morph a.png", "Missing option '--to'"),
        ("edit a.png", "Missing option '--direction'"),
        ("swap map.png", "Missing option '--classes'"),
        ("mix --seed 3", "expected pictures: psp mix INPUTS --engine ENGINE"),
        ("decode --device cpu", "expected saved latents: psp decode INPUTS"),
        ("mix a.png --url http://127.0.0.1:1", "expected one of --engine ENGINE and --url URL"),
        ("mixx a.png", "there is no psp mixx: did you mean psp mix?"),
        ("morph a.png --to b.png --strength 2", "No such option: --strength"),
        ("morph a.png --to b.png --layers 8", "No such option: --layers"),
        ("mix a.png -n 2 --gif x.gif", "No such option: --gif"),
        (
            "edit a.png --direction smile.npy --gif x.gif",
            "--gif animates one input in several steps, given one picture",
        ),
        ("morph a.png b.png --to c.png --webp x.webp", "--webp animates one input in several steps, given 2 inputs"),
        ("morph a.png --to b.png --gif x.webp", "--gif x.webp: expected a name that ends in .gif"),
        ("mix a.png latents.npy", "latents.npy holds latents, the other inputs are pictures"),
        ("run latents.npy", "latents.npy holds latents, expected pictures: psp decode latents.npy"),
        ("run wide.npy", "wide.npy: expected latents [B,14,8] or [14,8] of this engine, given float64 [512]"),
        ("run lost.pt", "cannot read lost.pt: No such file"),
        ("decode a.png", "cannot read a.png: not a .npy, .npz or .pt file"),
        ("decode latents.npy --couple", "No such option: --couple"),
        ("mix latents.npy --couple", "--couple needs pictures, and latents.npy holds latents"),
        ("mix latents.npy --ray", "--ray takes pictures, latents.npy holds latents"),
        ("run a.png --ray --url http://127.0.0.1:1", "--ray and --url contradict each other: workers open the engine"),
        ("run a.png --ray --grid g.png", "--ray and --grid contradict each other"),
        ("run a.png --actors 2", "--actors goes with --ray, which is not given"),
        ("decode latents.npy --save-latents x.npy", "No such option: --save-latents"),
        ("mix a.png -n 2 --save-latents x.npy", "No such option: --save-latents"),
        ("direction a.png t.csv", "Got unexpected extra argument"),
        ("direction t.csv --sefa", "--sefa computes directions from the engine alone: leave out the examples"),
        ("direction t.csv --count 3", "--count goes with --sefa, which is not given"),
        ("direction t.csv --rows-before", "--rows-before goes with --sefa, which is not given"),
        ("direction", "expected examples or --sefa: psp direction TABLE.csv --engine ENGINE"),
        ("direction --sefa --count 9", "--count 9: expected 1 to 8, the directions there are"),
        ("direction --sefa", "has 0 of the 13 style weights under the names of psp export"),
        ("direction --sefa --out x.txt", "--out x.txt: expected a name that ends in .npy"),
        (
            "edit a.png --direction wide.npy --component 1",
            "--component 1: wide.npy holds one direction, leave it out",
        ),
        ("direction t.csv --grid g.png", "No such option: --grid"),
        ("direction t.csv", "cannot read t.csv: No such file"),
        (
            "run a.png --couple --grid g.png",
            "--couple is for pictures and animations, and a sheet shows its inputs anyway",
        ),
        ("run a.png --batch 99999999999999999999", "Invalid value for '--batch'"),
        # the engine's task
        (
            "run a.png --downsample 8",
            "--downsample is for super_resolution engines, engines/psp.onnx is one of inversion",
        ),
        ("run a.png --mask triangle", "--mask is for inpainting engines"),
        ("run a.png --sketch-from-photo", "--sketch-from-photo is for sketch engines"),
        ("swap a.png --classes 13=0", "psp swap is for segmentation engines"),
        # names
        ("run a.png --grid g.gif", "cannot write g.gif: its name must end in one of"),
        (
            "run a.png --grid a.png",
            "a.png, the output of --grid, is an input too: choose another name or folder for it",
        ),
        ("transfer a.png --style-of b.png --out b.png", "b.png, the output of a.png, is an input too"),
        ("mix a.png -n 2 --out r.png --grid r_1.png", "a.png and --grid would both become r_1.png"),
        ("run a.png --out latents.npy", "must end in one of"),
        ("run a.png --grid engines", "must end in one of"),
    ],
)
def test_mistakes_are_one_line_and_write_nothing(psp: PspRun, arguments: str, message: str) -> None:
    np.save("wide.npy", np.zeros(512))
    np.save("none.npy", np.zeros((0, STYLES, STYLE_DIM)))
    assert message in mistake(psp(*arguments.split()), "wide.npy", "none.npy")


@pytest.mark.parametrize(
    ("engine", "arguments", "message"),
    [
        ("seg", "swap map.png --classes 13", "--classes 13: expected class ids OLD=NEW"),
        (
            "seg",
            "swap map.png --classes 4=5,4=6",
            "--classes 4=5,4=6: expected class ids OLD=NEW, such as 13=0 or 4=5,5=4, each",
        ),
        ("seg", "swap map.png --classes 13=19", "--classes 13=19: there is no class 19, this engine knows 0..18"),
        ("seg", "morph map.png --to a.png", "a.png is a colour picture, expected a label map"),
        ("seg", "transfer map.png --style-of b.png", "b.png is a colour picture, expected a label map"),
        ("seg", "mix map.png --classes 13=0", "No such option: --classes"),
        ("seg", "run bad.png", "bad.png has class id 77 at (x=3, y=2), this engine knows 0..18"),
        ("sr", "run a.png --downsample 0", "downsample 0: expected a factor of 1 to 64"),
        ("inpaint", "run a.png --mask none.png", "cannot read none.png: No such file"),
        ("inpaint", "run a.png --mask bad.png", "bad.png is black all over: expected white where"),
    ],
)
def test_mistakes_that_depend_on_the_engine(psp: PspRun, engine: str, arguments: str, message: str) -> None:
    bad = np.zeros((256, 256), np.uint8)
    bad[2, 3] = 77
    Image.fromarray(bad).save("bad.png")
    assert message in mistake(psp(*arguments.split(), engine=engine), "bad.png")


def test_random_styles_without_the_mapping_network(psp: PspRun, tmp_path: Path) -> None:
    write_family(tmp_path, "alone")
    (tmp_path / "alone.mapping.onnx").unlink()
    (tmp_path / "engines").unlink()
    (tmp_path / "engines").mkdir()
    for path in tmp_path.glob("alone*.onnx"):
        path.rename(tmp_path / "engines" / path.name)
    message = mistake(psp("mix", "a.png", "-n", 2, engine="alone"))
    assert "random styles need engines/alone.mapping.onnx, which is not there" in message
