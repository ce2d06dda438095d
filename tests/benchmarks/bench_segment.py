"""Time from a file to its mask with the bank loaded, beside its parts timed apart; another box; a volume; the command.

    python -m tests.benchmarks.bench_segment BANK IMAGE [--repeats 20] [--planes 100] [--threads 2]

BANK: of a finished run, e.g. runs/demo. IMAGE: a picture that a task of it claims. Medians in milliseconds.

- parts: encoder, routers, layer and decoder, each by itself on the same image, summed;
- file to mask: decoding in the process of its own, routing, layer, decoder, and the mask and its report written;
- another box: the same, less the encoder, as a viewer would ask again (`segment_marked` with two boxes less one with one);
- volume: PLANES copies of the picture's grey values in one NIfTI file, one box a plane, beside PLANES times the parts;
- command: from its start to its end, one picture.
"""

import argparse
import contextlib
import io
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import nibabel
import numpy as np
import torch

from casam_fed.inference.segmenter import Prompt, decode_prompts
from casam_fed.routing.pooling import pool
from casam_fed.segmenting.case import Marked, read_case
from casam_fed.segmenting.command import Wishes, segment_files
from casam_fed.segmenting.decoding import Decoder
from casam_fed.segmenting.opened import OpenedBank, open_bank


def median_ms(work: Callable[[], object], repeats: int) -> float:
    """Return the median time of `work`, after one call that warms up."""
    work()
    times = []
    for _ in range(repeats):
        began = time.perf_counter()
        work()
        times.append(1000 * (time.perf_counter() - began))
    return statistics.median(times)


def parts(opened: OpenedBank, image: Path, repeats: int) -> dict[str, float]:
    """Return what encoder, routers, layer and decoder take, each alone."""
    segmenter = opened.segmenter
    pixels = read_case(image).plane(0)
    embedding, frame = segmenter.embed(pixels)
    features = pool(embedding[None])
    task = segmenter.route(features)[0].nearest
    aligned = segmenter.aligned(embedding, task)
    prompt = [Prompt((10.0, 10.0, frame.source[1] - 10.0, frame.source[0] - 10.0))]
    works: dict[str, Callable[[], object]] = {
        "encoder": lambda: segmenter.embed(pixels),
        "routers": lambda: segmenter.route(features),
        "layer": lambda: segmenter.aligned(embedding, task),
        "decoder": lambda: list(decode_prompts(segmenter.backbone, aligned, frame, prompt)),
    }
    return {name: median_ms(work, repeats) for name, work in works.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bank", type=Path)
    parser.add_argument("image", type=Path)
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--planes", type=int, default=100)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    opened = open_bank(options.bank, device="cpu")
    apart = parts(opened, options.image, options.repeats)
    total = sum(apart.values())
    print("  ".join(f"{name} {value:.1f}" for name, value in apart.items()), f" sum {total:.1f} ms")
    _, height, width = read_case(options.image).shape
    box = Marked("target", (10, 10), (width - 11, height - 11))
    with tempfile.TemporaryDirectory() as name, Decoder() as decoder:
        folder = Path(name)
        one = median_ms(lambda: opened.segment_marked(decoder.read(options.image), [box]), options.repeats)
        print(f"file to mask, in memory {one:.1f} ms ({one / total:.2f} times the parts)")
        two = median_ms(lambda: opened.segment_marked(decoder.read(options.image), [box, box]), options.repeats)
        print(f"another box {two - one:.1f} ms")
        boxes = folder / "boxes.csv"
        boxes.write_text(f"class,x0,y0,x1,y1\ntarget,10,10,{width - 11},{height - 11}\n")
        wishes = Wishes((options.image,), boxes, None, folder / "out", "auto", 0, False, False, False, True)
        with contextlib.redirect_stdout(io.StringIO()):
            written = median_ms(lambda: segment_files(lambda: opened, wishes), max(1, options.repeats // 4))
        print(f"the same with a decoding process and files of its own {written:.1f} ms")
        grey = np.asarray(read_case(options.image).plane(0)[:, :, 0].T, dtype=np.int16)
        volume = folder / "volume.nii.gz"
        nibabel.save(nibabel.Nifti1Image(np.repeat(grey[:, :, None], options.planes, 2), np.eye(4)), volume)
        deep = Marked("target", (10, 10, 0), (width - 11, height - 11, options.planes - 1))
        began = time.perf_counter()
        opened.segment_marked(decoder.read(volume), [deep])
        took = 1000 * (time.perf_counter() - began)
        print(f"{options.planes} planes {took:.0f} ms ({took / (options.planes * total):.2f} times their parts)")
        print(f"peak memory {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f} MB")
        program = [sys.executable, "-c", "from simulations.cli import main; main()", "segment", "--bank", options.bank]
        command = [*program, options.image, "--boxes", boxes, "--out", folder / "out", "--overwrite"]
        took = median_ms(lambda: subprocess.run(command, check=True, capture_output=True), 3)
        print(f"the command {took:.0f} ms")


if __name__ == "__main__":
    main()
