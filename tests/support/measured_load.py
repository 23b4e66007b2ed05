"""Loads a model as a fork server does, and prints what it holds then: a process for one test."""

import json
import os
import sys

from models.processor import processor_flags
from models.vosk.blas import blas_environment
from models.vosk.simd import SAME_AS, SIMD, SimdLibrary, must_run
from modelserver.settings import Settings
from modelserver.worker.model import load
from supervisor import read_process
from supervisor.processes.environment import choose_allocator, find_jemalloc, process_environment
from supervisor.settings import Allocator
from supervisor.trim import collect_and_release


def main() -> None:
    asked = json.loads(sys.argv[1])
    if "READY" not in os.environ:  # the allocator is chosen before a process begins
        lazy = not asked["made"]
        allocator = choose_allocator(Allocator.AUTO, find_jemalloc(), huge_pages=lazy)
        blas = blas_environment("auto" if lazy else SAME_AS, processor_flags())
        layers = [os.environ, allocator.variables, blas, {"READY": "1"}]
        if not lazy:
            layers.append(_simd().environment)
        environment = process_environment(*layers)
        os.execve(sys.executable, [sys.executable, *sys.argv], environment)
    options = {
        "made": asked["made"],
        "left_out": asked["left_out"],
        "simd": _simd().variant if asked["made"] else None,
        "prefetch": bool(asked["made"]),  # or the disk would have to be waited for, page by page
    }
    model = load("vosk", asked["directory"], "variant", "ko", options, warmup="clips")
    model.warm()
    collect_and_release()
    held = read_process(os.getpid())
    assert held is not None
    report = model.report()
    print(
        json.dumps(
            {
                "kept": held.unreclaimable,
                "graph": report["details"]["graph"],
                "mapped": report.get("mapped_bytes"),
            }
        )
    )


def _simd() -> SimdLibrary:
    return SimdLibrary(SIMD.build(Settings().prepared_dir), must_run(processor_flags(), "auto"))


if __name__ == "__main__":
    main()
