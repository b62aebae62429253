"""Pictures per second of a training step: ours against the same step in the reference's form, in one run.

    python benchmarks/training_step.py [--size 256] [--batch 2] [--amp bf16] [--compile]
    python benchmarks/training_step.py --demo --batch 8

The step is encoder, generator, squared error at 256x256, backward, Adam on the encoder. The loss networks of a real
step are the same on both sides and left out. Baseline: `baseline.py`, FP32, contiguous, with gradients of
the generator's weights that nobody uses. Ours: `psp_train`'s generator, frozen, channels-last, as
`psp_train.training.trainer` runs it; with --amp and --compile in further rows. All have the same weights and inputs,
and before anything is timed both forms must give the same picture and the same gradient of the codes. On a GPU the
published code runs FIR and activation in CUDA kernels, the baseline here in torch: there the ratio says nothing
about the published code.

Cost model, 2 x multiply-accumulate, of one picture at 256 with the published widths: encoder E = 119 GFLOP,
generator G = 91 GFLOP. A backward pass costs the same again for the gradient of the activations and once more
for the gradient of the weights. So the baseline needs 3 E + 3 G = 630, ours 3 E + 2 G = 539: arithmetic alone
would make 1.17x. The rest is memory: the baseline's weights per picture and single-channel FIR.

Every side runs in a process of its own, so that peak memory is its own (CPU: largest resident set; GPU:
`max_memory_allocated`); the sides take turns, `--repeats` times `--steps` steps each. The last line is JSON.
"""

import argparse
import json
import resource
import statistics
import sys
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from multiprocessing.connection import Connection

import torch
import torch.nn.functional as F
from measure import baseline, machine
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode

from psp_train import demo
from psp_train.networks import PSP, EncoderConfig, GeneratorConfig

#: Differences relative to the largest value, FP32. Rounding makes 1e-6 in the picture, and up to 1e-4 in the gradient,
#: where it moves activations across the kink of the leaky ReLU (in float64, in the tests: 1e-15 in both).
TOLERANCE = {"picture": 1e-4, "gradient": 1e-3}
WARM_STEPS = 2


@dataclass(frozen=True)
class Side:
    """One way to make the step."""

    name: str
    reference: bool = False
    amp: bool = False
    compile: bool = False


def sides(options: argparse.Namespace) -> list[Side]:
    """The two sides, and one row for each option, and for both together."""
    found = [Side("baseline", reference=True), Side("ours")]
    if options.amp:
        found.append(Side("ours, bf16", amp=True))
    if options.compile:
        found.append(Side("ours, compiled", compile=True))
    if options.amp and options.compile:
        found.append(Side("ours, bf16, compiled", amp=True, compile=True))
    return found


def configs(options: argparse.Namespace) -> tuple[EncoderConfig, GeneratorConfig]:
    """The demo model, or the published widths."""
    if options.demo:
        return demo.encoder_config("inversion"), demo.GENERATOR
    generator = GeneratorConfig(size=options.size)
    return EncoderConfig(styles=generator.styles), generator


def build(options: argparse.Namespace) -> PSP:
    """The demo model's weights, or random ones; the same in every process."""
    torch.manual_seed(0)
    if options.demo:
        return demo.load_demo()
    model = PSP(*configs(options))
    for name, parameter in model.decoder.named_parameters():  # zero when new: a mistake there would not show
        if name.endswith(("noise.weight", "activate.bias")) or "to_rgb" in name and name.endswith("bias"):
            torch.nn.init.normal_(parameter, std=0.1)
    return model


def channels_last(model: PSP) -> PSP:
    """As the trainer does: in the generator, the layout of the constant is that of every feature map."""
    model.encoder.to(memory_format=torch.channels_last)
    constant = model.decoder.input.input
    constant.data = constant.data.contiguous(memory_format=torch.channels_last)
    return model


def make_forward(model: PSP, side: Side) -> Callable[[torch.Tensor], torch.Tensor]:
    """Input [B,3,256,256] -> picture [B,3,H,W]."""
    if side.compile:
        model.encoder.compile()
        model.decoder.compile()
    synthesise = partial(baseline.synthesise, model.decoder) if side.reference else model.decoder
    return lambda x: synthesise(model.encode(x).float()).float()


def make_step(side: Side, options: argparse.Namespace) -> Callable[[], None]:
    """One training step on pictures that are already on the device."""
    model = build(options).to(options.device).train()
    x = torch.rand(options.batch, 3, 256, 256, generator=torch.Generator().manual_seed(1)).to(options.device) * 2 - 1
    model.decoder.requires_grad_(side.reference)
    if not side.reference:
        model, x = channels_last(model), x.contiguous(memory_format=torch.channels_last)
    forward, optimizer = make_forward(model, side), torch.optim.Adam(model.encoder.parameters(), lr=1e-4, fused=True)

    def step() -> None:
        with torch.autocast(torch.device(options.device).type, torch.bfloat16, enabled=side.amp):
            picture = forward(x)
        F.mse_loss(F.adaptive_avg_pool2d(picture, 256), x).backward()
        optimizer.step()
        optimizer.zero_grad()  # the encoder's: those of the baseline's generator are nobody's to clear

    return step


def synchronize(device: str) -> None:
    """Wait for the GPU, where there is one."""
    if device != "cpu":
        torch.cuda.synchronize(device)


def work(pipe: Connection, side: Side, options: argparse.Namespace) -> None:
    """A side in its own process: warm up, then time as many steps as asked for, until asked for none."""
    step = make_step(side, options)
    for _ in range(WARM_STEPS):
        step()
    pipe.send("warm")
    while steps := pipe.recv():
        synchronize(options.device)
        start = time.perf_counter()
        for _ in range(steps):
            step()
        synchronize(options.device)
        pipe.send((time.perf_counter() - start) / steps)
    pipe.send(peak_bytes(options.device))


def peak_bytes(device: str) -> int:
    """The most memory this process has held: on the GPU if it used one, else its largest resident set."""
    if device != "cpu":
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def measure(rows: list[Side], options: argparse.Namespace) -> tuple[dict[str, list[float]], dict[str, int]]:
    """Seconds per step of every repeat and peak bytes, by side. The sides take turns: A B A B ..."""
    context, pipes = get_context("spawn"), {}
    for side in rows:
        pipes[side.name], theirs = context.Pipe()
        context.Process(target=work, args=(theirs, side, options), daemon=True).start()
        theirs.close()  # so that a worker that dies ends the wait with EOFError
        pipes[side.name].recv()
    seconds: dict[str, list[float]] = {name: [] for name in pipes}
    for _ in range(options.repeats):
        for name, pipe in pipes.items():
            seconds[name].append(ask(pipe, options.steps))
    return seconds, {name: ask(pipe, 0) for name, pipe in pipes.items()}


def ask(pipe: Connection, steps: int):
    """What a worker answers: seconds per step, or its peak bytes for 0 steps."""
    pipe.send(steps)
    return pipe.recv()


def picture_and_gradient(synthesise: Callable, codes: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The picture [B,3,H,W] and the gradient [B,L,S] of half its squared length, by the codes."""
    codes = codes.detach().requires_grad_()
    picture = synthesise(codes)
    return picture.detach(), torch.autograd.grad(picture, codes, picture.detach())[0]


def differences(options: argparse.Namespace) -> dict[str, float]:
    """How far ours is from the baseline: largest difference over largest value, in FP32 without TF32."""
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    decoder = channels_last(build(options)).decoder.to(options.device).requires_grad_(False)
    shape = options.batch, decoder.config.styles, decoder.config.style_dim
    codes = torch.randn(shape, generator=torch.Generator().manual_seed(2)).to(options.device)
    ours = picture_and_gradient(decoder, codes)
    reference = picture_and_gradient(lambda w: baseline.synthesise(decoder, w), codes)
    pairs = zip(("picture", "gradient"), ours, reference)
    return {name: float((a - b).abs().max() / b.abs().max()) for name, a, b in pairs}


def gigaflops(options: argparse.Namespace) -> dict[str, float]:
    """2 x multiply-accumulate in the forward passes of one picture, counted on shapes alone."""
    with FakeTensorMode():
        model = PSP(*configs(options)).eval()
        pieces = {"encoder": (model.encoder, torch.empty(1, 3, 256, 256))}
        generator = partial(baseline.synthesise, model.decoder)  # plain operations, all of which are counted
        pieces["generator"] = generator, torch.empty(1, *model.latent_avg.shape)
        counts = {}
        for name, (network, x) in pieces.items():
            with FlopCounterMode(display=False) as counter:
                network(x)
            counts[name] = round(counter.get_total_flops() / 1e9, 3)
    return counts


def summary(seconds: dict[str, list[float]], peaks: dict[str, int], batch: int) -> dict[str, dict]:
    """Per side: median, least and most seconds per step, pictures/s, times the baseline, peak GiB."""
    medians = {name: statistics.median(times) for name, times in seconds.items()}
    base = next(iter(medians.values()))
    return {
        name: {
            "seconds": round(medians[name], 4),
            "min": round(min(times), 4),
            "max": round(max(times), 4),
            "pictures_per_second": round(batch / medians[name], 4),
            "ratio": round(base / medians[name], 3),
            "peak_gib": round(peaks[name] / 2**30, 3),
        }
        for name, times in seconds.items()
    }


def show(rows: dict[str, dict]) -> None:
    """The table."""
    print(f"{'':22}{'s/step':>9}{'min..max':>18}{'pictures/s':>12}{'ratio':>8}{'peak GiB':>10}")
    for name, row in rows.items():
        spread = f"{row['min']:.3f}..{row['max']:.3f}"
        print(
            f"{name:22}{row['seconds']:9.3f}{spread:>18}{row['pictures_per_second']:12.3f}"
            f"{row['ratio']:7.2f}x{row['peak_gib']:10.2f}"
        )


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--size", type=int, default=256, help="output size of the published widths")
    parser.add_argument("--demo", action="store_true", help="the bundled small model instead")
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--steps", type=int, default=1, help="steps per repeat")
    parser.add_argument("--repeats", type=int, default=5, help="turns of every side")
    parser.add_argument("--amp", choices=["bf16"], help="also ours in bfloat16")
    parser.add_argument("--compile", action="store_true", help="also ours through torch.compile")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    return parser.parse_args(arguments)


def main() -> None:
    options = parse()
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:  # its memory is not that of a side
        difference = pool.submit(differences, options).result()
    if any(difference[name] > limit for name, limit in TOLERANCE.items()):
        sys.exit(f"ours and the baseline differ by {difference} of the largest value, more than {TOLERANCE}")
    rows = summary(*measure(sides(options), options), options.batch)
    show(rows)
    result = {
        "benchmark": "training_step",
        "command": " ".join(["python", *sys.argv]),
        "hardware": machine.describe("cpu" if options.device == "cpu" else "cuda")["name"],
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "workload": {"model": "demo" if options.demo else f"published {options.size}"} | vars(options),
        "gflop_per_picture": gigaflops(options),
        "difference": difference,
        "rows": rows,
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
