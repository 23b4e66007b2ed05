"""Streams on a pool: messages in, messages out, whatever becomes of the workers."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from pools import answers, eventually, pool_of, say, stream_on, texts
from stopwatch import Stopwatch, within

from supervisor import (
    Cause,
    DeadlineExceeded,
    Draining,
    JobCrashed,
    JobError,
    Pool,
    QueueFull,
    StreamLost,
    WorkerLost,
)


@pytest.fixture
async def pool() -> AsyncIterator[Pool]:
    async with pool_of() as running:
        yield running


async def test_every_input_has_its_answer_in_order(pool: Pool) -> None:
    with stream_on(pool) as stream:
        said = await say(stream, "a", "b", ".", "c", ".")
    assert texts(said) == ["a", "a b", "a b", "c", "c"]
    assert not any(worker.streams for worker in pool._lifecycle.workers)


async def test_streams_are_spread_over_the_workers(pool: Pool) -> None:
    with stream_on(pool) as one, stream_on(pool) as other:
        pids = {(await say(stream, "a"))[0]["pid"] for stream in (one, other)}
    assert len(pids) == 2


async def test_a_stream_goes_on_when_its_worker_is_killed(pool: Pool) -> None:
    with stream_on(pool) as stream:
        (*_, last) = await say(stream, "a", ".", "b", "c")
        os.kill(last["pid"], signal.SIGKILL)
        said = await say(stream, "d", ".")
        assert texts(said) == ["b c d", "b c d"]
        assert said[0]["pid"] != last["pid"]
        assert stream.replays == 1


async def test_another_worker_is_told_what_came_before(pool: Pool) -> None:
    with stream_on(pool) as stream:
        (*_, last) = await say(stream, "a", ".", "b")
        assert [one["before"] for one in await say(stream, ".")] == [0.0]
        os.kill(last["pid"], signal.SIGKILL)
        assert (await say(stream, "c", "."))[-1]["before"] == 4.0


async def test_nothing_is_said_twice_and_nothing_is_lost(pool: Pool) -> None:
    with stream_on(pool) as stream:
        (first,) = await say(stream, "a")
        for word in "bcdefgh":
            await stream.send({"say": word, "steps": 3, "step_s": 0.01}, 1.0)
        os.kill(first["pid"], signal.SIGKILL)
        said = texts(await answers(stream, 7))
        said += texts(await say(stream, "."))
    assert said == ["a b c d e f g h"[: 3 + 2 * n] for n in range(7)] + ["a b c d e f g h"]


@pytest.mark.parametrize("how", ["SIGKILL", "SIGSEGV", "exit", "hang"])
async def test_one_bad_moment_is_survived(pool: Pool, tmp_path: Path, how: str) -> None:
    marker = str(tmp_path / "marker")
    with stream_on(pool) as stream, stream_on(pool) as beside:
        await say(stream, "a")
        await say(beside, "x")
        if how == "hang":
            worker = stream.worker
            assert worker is not None
            os.kill(worker.pid, signal.SIGSTOP)
            said = await say(stream, "b")
        else:
            said = await say(stream, "b", do="once", marker=marker, how=how)
        assert texts(said) == ["a b"]
        assert texts(await say(beside, "y", ".")) == ["x y", "x y"]


async def test_what_was_answered_is_told_again_quietly(pool: Pool) -> None:
    with stream_on(pool) as stream:
        (*_, last) = await say(stream, "a", ".", "b", "c")
        assert last["quietly"] == 0
        os.kill(last["pid"], signal.SIGKILL)
        (said,) = await say(stream, "d")
        assert (said["partial"], said["quietly"]) == ("b c d", 2)


async def test_a_session_resumes_from_its_last_checkpoint(pool: Pool) -> None:
    with stream_on(pool) as stream:
        (*_, first) = await say(stream, "a", ".")
        assert first["checkpoint"] is None
        os.kill(first["pid"], signal.SIGKILL)
        (*_, second) = await say(stream, "b", ".")
        assert second["checkpoint"] == 2


async def test_what_is_needed_whole_is_retained_whole(pool: Pool) -> None:
    with pool.stream() as stream:
        stream.begin({"whole": True}, whole=True)
        (*_, last) = await say(stream, "a", ".", "b")
        assert len(stream._sent) == 3
        assert pool.streams.replay_bytes > 0
        os.kill(last["pid"], signal.SIGKILL)
        (said,) = await say(stream, ".")
        assert (said["final"], said["checkpoint"]) == ("b", 2)
    assert pool.streams.replay_bytes == 0


async def test_what_cannot_be_retained_whole_ends_with_its_worker() -> None:
    async with pool_of(2, replay_bytes=1000) as pool:
        with pool.stream() as stream:
            stream.begin({"whole": True}, whole=True)
            (*_, last) = await say(stream, *(["word" * 10] * 40))
            assert pool.streams.replay_bytes < 1000
            os.kill(last["pid"], signal.SIGKILL)
            with pytest.raises(StreamLost, match="too long to be retained"):
                await say(stream, "b")


async def test_one_that_says_when_it_is_finished_has_an_end(pool: Pool) -> None:
    with stream_on(pool) as stream:
        assert texts(await say(stream, "a")) == ["a"]
        await stream.send({"say": "."})
        stream.finish()
        assert texts(await stream.receive()) == ["a"]
        assert await stream.receive() == []


async def test_who_gives_up_waiting_to_send_loses_nothing_else() -> None:
    async with pool_of(1, window=100) as pool:
        with stream_on(pool) as stream:
            await stream.send({"say": "a", "steps": 30, "step_s": 0.01})
            await stream.send({"say": "b" * 100})
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(stream.send({"say": "never"}), 0.1)
            said = texts(await answers(stream, 2) + await say(stream, "c"))
            assert said[-1] == f"a {'b' * 100} c"


async def test_an_input_that_is_never_answered_ends_its_stream() -> None:
    async with pool_of(1, answer_s=0.5) as pool:
        with stream_on(pool) as stream, stream_on(pool) as beside:
            await stream.send({"say": "a", "steps": 400, "step_s": 0.01})
            with pytest.raises(DeadlineExceeded, match=r"got no answer for 0\.5 s"):
                await stream.receive()
            assert texts(await say(beside, "x", ".")) == ["x", "x"]


async def test_a_worker_with_more_streams_than_another_lets_one_go() -> None:
    async with pool_of(2, share=9.0) as pool:
        streams = [stream_on(pool) for _ in range(6)]
        open_ones = [stream.__enter__() for stream in streams]
        for one in open_ones:
            await say(one, "a")
        one_worker = open_ones[0].worker
        assert one_worker is not None
        for one, context in zip(open_ones, streams, strict=True):
            if one.worker is not one_worker:
                context.__exit__(None, None, None)
        for one in list(one_worker.streams):
            assert texts(await say(one, "b", ".")) == ["a b", "a b"]
            assert texts(await say(one, "c")) == ["c"]
        counts = sorted(len(w.streams) for w in pool._lifecycle.workers)
        assert counts == [1, 2]
        for context in streams:
            context.__exit__(None, None, None)


async def test_an_input_that_ends_every_worker_ends_its_stream_alone(pool: Pool) -> None:
    with stream_on(pool) as stream, stream_on(pool) as beside:
        await say(beside, "x")
        with pytest.raises(WorkerLost):
            await say(stream, "b", do="end", how="SIGSEGV")
        assert texts(await say(beside, "y", ".")) == ["x y", "x y"]
        assert len(stream._blame._deaths) == 2


async def test_a_stream_whose_worker_has_crashed_waits_until_the_model_is_known_to_be_sound(
    tmp_path: Path,
) -> None:
    asked, answered = asyncio.Event(), asyncio.Event()

    async def is_sound() -> bool:
        asked.set()
        await answered.wait()
        return False

    async with pool_of(sound=is_sound) as pool:
        first = pool.status().fork_server_pid
        with stream_on(pool) as stream, stream_on(pool) as beside:
            await say(beside, "x")
            saying = asyncio.create_task(
                say(stream, "b", do="once", marker=str(tmp_path / "marker"), how="SIGSEGV")
            )
            await asked.wait()
            assert texts(await say(beside, "y", ".")) == ["x y", "x y"]
            assert stream.worker is None
            answered.set()
            assert texts(await saying) == ["b"]
            assert pool.status().fork_server_pid != first


async def test_recycling_moves_a_stream_at_its_next_checkpoint(pool: Pool) -> None:
    with stream_on(pool) as stream:
        (said,) = await say(stream, "a")
        worker = stream.worker
        assert worker is not None
        pool.recycle(worker.slot)
        (still,) = await say(stream, "b")
        assert still["pid"] == said["pid"]
        await say(stream, ".")
        (later,) = await say(stream, "c")
        assert later["pid"] != said["pid"]
        assert texts([later]) == ["c"]
        assert stream.replays == 1
        await eventually(lambda: worker.gone.done())


async def test_a_stream_that_reaches_no_checkpoint_is_moved_as_it_is() -> None:
    async with pool_of(1, checkpoint_wait_s=0.3) as pool:
        with stream_on(pool) as stream:
            (said,) = await say(stream, "a")
            worker = stream.worker
            assert worker is not None
            pool.recycle(worker.slot)
            await eventually(lambda: worker.gone.done())
            (later,) = await say(stream, "b")
            assert texts([later]) == ["a b"]
            assert later["pid"] != said["pid"]


async def test_a_change_of_models_moves_streams_without_a_loss(pool: Pool) -> None:
    with stream_on(pool) as stream:
        (said,) = await say(stream, "a")
        renewed = asyncio.create_task(pool.renewed())
        await eventually(lambda: stream.wants_to_move)
        assert texts(await say(stream, "b", ".")) == ["a b", "a b"]
        (later,) = await say(stream, "c")
        assert texts([later]) == ["c"]
        assert later["pid"] != said["pid"]
        assert await renewed is None


async def test_all_survive_workers_that_are_killed_again_and_again() -> None:
    async with pool_of(2, share=9.0) as pool:
        await _killed_again_and_again(pool)


async def _killed_again_and_again(pool: Pool) -> None:
    words = [str(n) for n in range(40)]

    async def one() -> list[str]:
        with stream_on(pool) as stream:
            said = []
            for word in words:
                await stream.send({"say": word}, 1.0)
                said += texts(await answers(stream, 1))
                await asyncio.sleep(0.02)
            await stream.send({"say": "."}, 1.0)
            return said + texts(await answers(stream, 1))

    async def killer() -> None:
        while True:
            before = {stream: stream._answered for stream in pool.streams.all}
            await asyncio.sleep(0.2)
            # A stream that loses ten workers without an answer fails.
            await eventually(
                lambda before=before: all(s.over or s._answered > n for s, n in before.items()), 60
            )
            for worker in list(pool._lifecycle.workers):
                if worker.able:
                    os.kill(worker.pid, signal.SIGKILL)

    killing = asyncio.create_task(killer())
    said = await asyncio.gather(*(one() for _ in range(10)))
    killing.cancel()
    expected = [" ".join(words[: n + 1]) for n in range(40)] + [" ".join(words)]
    assert all(each == expected for each in said)
    assert pool.streams.replays > 5


async def test_streams_go_before_a_file_and_the_file_goes_on() -> None:
    async with pool_of(1) as pool:
        job = asyncio.create_task(pool.run({"do": "steps", "count": 100, "step_s": 0.01}))
        await eventually(lambda: any(w.job for w in pool._lifecycle.workers))
        with stream_on(pool) as stream:
            waits = []
            for word in "abcdefghij":
                watch = Stopwatch()
                await say(stream, word)
                waits.append(watch.seconds)
        assert not job.done()
        assert sorted(waits)[5] < 0.05  # a step of the file, and its own
        await job


async def test_two_streams_take_turns() -> None:
    async with pool_of(1) as pool:
        with stream_on(pool) as long, stream_on(pool) as short:
            await long.send({"say": "a", "steps": 100, "step_s": 0.01}, 1.0)
            watch = Stopwatch()
            await say(short, "b")
            assert watch.seconds < 0.5
            await answers(long, 1)


async def test_who_does_not_read_stops_only_itself() -> None:
    async with pool_of(1, window=200, unread=4) as pool:
        with stream_on(pool) as deaf, stream_on(pool) as other:
            sent = 0

            async def chatter() -> None:
                nonlocal sent
                while True:
                    await deaf.send({"say": "a"}, 1.0)
                    sent += 1

            chattering = asyncio.create_task(chatter())
            await eventually(lambda: len(deaf._answers) > 4)
            before = -1
            while before != sent:
                before = sent
                await asyncio.sleep(0.2)
            assert sent < 30
            assert texts(await say(other, "x", ".")) == ["x", "x"]
            chattering.cancel()
            assert len(await answers(deaf, sent)) == sent


async def test_more_than_fits_is_kept_in_order() -> None:
    async with pool_of(1, window=100) as pool:
        with stream_on(pool) as stream:
            words = ["w" * 300] * 5
            assert texts(await say(stream, *words))[-1] == " ".join(words)


async def test_the_replay_buffers_are_bounded() -> None:
    async with pool_of(2, replay=3.0) as pool:
        with stream_on(pool) as stream:
            (*_, last) = await say(stream, *"abcdefgh")
            assert len(stream._sent) <= 4
            os.kill(last["pid"], signal.SIGKILL)
            assert texts(await say(stream, ".")) == ["g h"]


async def test_what_the_model_refuses_ends_the_stream_with_its_code(pool: Pool) -> None:
    with stream_on(pool, {"refuse": True}) as stream, pytest.raises(JobError) as refused:
        await say(stream, "a")
    assert refused.value.code == "no_thanks"
    with stream_on(pool) as stream, pytest.raises(JobError) as refused:
        await say(stream, "a", do="refuse")
    assert refused.value.code == "no_more"


async def test_a_bug_in_the_model_costs_its_stream_alone(pool: Pool) -> None:
    with stream_on(pool) as stream, stream_on(pool) as beside:
        with pytest.raises(JobCrashed, match="a bug in the stream"):
            await say(stream, "a", do="raise")
        assert texts(await say(beside, "x")) == ["x"]
    assert not pool.deaths


async def test_one_more_than_can_be_kept_up_with_is_refused() -> None:
    async with pool_of(1, share=0.1) as pool:
        with stream_on(pool) as stream:
            # A worker's whole time, or its share of a processor that others use, too.
            await say(stream, *"abcdefghij", spin_s=0.1)
            with (
                pytest.raises(QueueFull, match="1 open stream and one more would need") as refused,
                stream_on(pool),
            ):
                pass
            assert refused.value.retry_after_s
            assert pool.streams.refused == 1


async def test_silence_leaves_room_for_others() -> None:
    async with pool_of(1, share=0.5) as pool:
        with stream_on(pool) as stream:
            await say(stream, *(["a"] * 20))
            with stream_on(pool) as other:
                assert texts(await say(other, "x")) == ["x"]


async def test_draining_asks_streams_to_come_to_their_end(pool: Pool) -> None:
    with stream_on(pool) as stream:
        await say(stream, "a")
        draining = asyncio.create_task(pool.drain(10))
        async with within(5):
            await stream.ending.wait()
        assert texts(await say(stream, ".")) == ["a"]
        with pytest.raises(Draining), stream_on(pool):
            pass
    assert await draining


async def test_a_pool_that_closes_ends_its_streams() -> None:
    async with pool_of(1) as pool:
        stream = stream_on(pool)
        begun = stream.__enter__()
        await say(begun, "a")
    with pytest.raises(Draining):
        await begun.send({"say": "b"})
    stream.__exit__(None, None, None)


async def test_many_that_come_and_go_leave_nothing() -> None:
    async with pool_of(2) as pool:
        for _ in range(300):
            with stream_on(pool) as stream:
                await stream.send({"say": "a"})
        with stream_on(pool) as stream:
            await say(stream, "a")
        assert not len(pool.streams)
        assert not any(worker.streams for worker in pool._lifecycle.workers)


async def test_a_worker_says_no_more_through_many_streams_than_fits(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("supervisor.dispatch.streams.MOST_UNREAD_OF_WORKER", 3_000_000)
    async with pool_of(1, share=100.0) as pool:
        with ExitStack() as opened:
            streams = [opened.enter_context(stream_on(pool)) for _ in range(5)]
            for stream in streams:  # of each, less than it may say alone
                await stream.send({"say": "a" * 1_000_000}, 1.0)
            await eventually(lambda: pool.deaths.get(Cause.PROTOCOL))
