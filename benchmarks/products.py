"""The network's products, one thread: the engine's own, our SIMD library, oneDNN and libxsmm.

    scripts/system-packages benchmark products
    python benchmarks/products.py [--rounds N]

Rounds of one process each; what is printed is the median. Other libraries get the weights laid out
as they like them best, beforehand.
"""

import argparse
import os
import statistics
import subprocess
import tempfile
from pathlib import Path

import vosk
from tables import spread, table

from models.processor import processor_flags
from models.vosk.blas import blas_environment
from models.vosk.simd import SAME_AS, must_run

HERE = Path(__file__).parent
SOURCES = HERE.parent / "models" / "vosk" / "simd" / "source"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    flags = processor_flags()
    library = str(Path(vosk.__file__).parent / "libvosk.so")
    runs = []
    with tempfile.TemporaryDirectory() as directory:
        program = str(Path(directory) / "products")
        sources = [str(HERE / "products.cc"), str(SOURCES / "product.cc")]
        command = ["g++", "-O3", "-std=c++17", f"-I{SOURCES}", "-o", program, *sources]
        subprocess.run([*command, "-ldnnl", "-lxsmm", "-lblas", "-ldl", "-lpthread"], check=True)
        environment = {**os.environ, **blas_environment(SAME_AS, flags), "OMP_NUM_THREADS": "1"}
        for _ in range(arguments.rounds):
            said = subprocess.run(
                [program, library, must_run(flags, "auto")],
                env=environment,
                stdout=subprocess.PIPE,
                text=True,
                check=True,
            ).stdout
            runs.append([line.split() for line in said.splitlines()])
    rows = []
    for same in zip(*runs, strict=True):
        *shape, _, _, _, _ = same[0]
        cells = [[float(line[-4 + way]) for line in same] for way in range(4)]
        if shape == ["all"]:
            rows.append(["all of 100 s of speech, s", *(spread(cell, ".2f") for cell in cells)])
        else:
            rows.append([" x ".join(shape), *(f"{statistics.median(c):.0f}" for c in cells)])
    head = ["rows x columns x depth, GFLOPS", "OpenBLAS, Haswell", "ours", "oneDNN", "libxsmm"]
    print(table(head, rows))


if __name__ == "__main__":
    main()
