"""The NEON variant, on an emulated processor (make test-aarch64): right answers, no speed."""

import subprocess
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from places import SUPPORT
from test_simd import NETWORK, SOURCES, Driver, compare

pytestmark = pytest.mark.aarch64


@pytest.fixture(scope="module")
def driver(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Driver]:
    program = tmp_path_factory.mktemp("aarch64") / "simd-driver"
    sources = [SUPPORT / "simd_driver.cc"]
    sources += [SOURCES / f"{name}.cc" for name in ("product", "packed", "weights")]
    command = ["aarch64-linux-gnu-g++", "-std=c++17", "-O2", "-static", "-Wno-psabi"]
    command += [f"-I{SOURCES}", "-o", str(program), *map(str, sources), "-ldl", "-pthread"]
    subprocess.run(command, check=True)
    running = Driver(program, None, "qemu-aarch64")
    assert running.ask("variants") == ["wide", "narrow", "NEON"]
    yield running
    running.close()


@pytest.mark.parametrize("shape", NETWORK)
def test_the_networks_products_are_right(driver: Driver, shape: tuple[int, int, int]) -> None:
    compare(driver, "NEON", *shape, 0, 3, 5, 1, 1, 0, 7)


@given(
    m=st.integers(1, 60),
    n=st.integers(1, 400),
    k=st.integers(1, 700),
    alpha=st.sampled_from([1.0, -0.5]),
    beta=st.sampled_from([1.0, 0.0, 0.3]),
    seed=st.integers(0, 1 << 30),
)
@settings(max_examples=60, deadline=None)
def test_any_product_is_right(
    driver: Driver, m: int, n: int, k: int, alpha: float, beta: float, seed: int
) -> None:
    compare(driver, "NEON", m, n, min(k, 4_000_000 // (m * n)), 1, 2, 3, alpha, beta, 0, seed)


def test_only_weights_that_are_constant_are_ever_used(driver: Driver) -> None:
    assert driver.ask("weights") == ["right"]
