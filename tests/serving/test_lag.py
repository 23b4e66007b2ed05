"""Event loop lag, as it is measured."""

import asyncio
import time
from contextlib import asynccontextmanager

import pytest
from stopwatch import within

from modelserver.admin.lag import LoopLag

pytestmark = pytest.mark.quick


async def test_a_loop_that_stands_still_is_seen() -> None:
    lag = LoopLag()
    async with asynccontextmanager(lag.measured)(None):
        while not sum(count for _, count in lag.seen.buckets()):
            await asyncio.sleep(0.01)
        time.sleep(0.4)
        async with within(10):
            while lag.worst_s() < 0.3:
                await asyncio.sleep(0.01)
        for _ in range(5):
            await asyncio.sleep(0.05)
        assert lag.worst_s() > 0.3  # for a minute
    assert lag.seen.sum > 0.3
