"""Workers die, clients go, a thousand come at once: the server keeps serving."""

import signal
import socket
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest
import wavs
from by_hand import check_error
from running import RunningServer, busy_worker, until
from wavs import wav_file


@pytest.mark.parametrize(
    ("how", "cause"),
    [
        (signal.SIGKILL, "killed"),
        (signal.SIGSEGV, "crash"),
        (signal.SIGSTOP, "hang"),
        (signal.SIGTERM, "terminated"),
    ],
)
def test_a_worker_lost_in_mid_request_costs_the_client_nothing(
    server: RunningServer, clips: list[bytes], how: signal.Signals, cause: str
) -> None:
    long = wav_file(b"".join(clips))
    expected = server.convert(long).json["text"]
    seen = len(server.events())
    with ThreadPoolExecutor() as threads:
        answer = threads.submit(server.convert, long)
        victim = busy_worker(server)
        victim.send_signal(how)
        assert answer.result().json["text"] == expected
    event = server.wait_event("worker.exited", seen, pid=victim.pid)
    assert event["cause"] == cause
    server.wait_event("job.retried", seen)
    server.wait_whole()


def test_a_request_that_loses_two_workers_gets_a_clear_error(
    server: RunningServer, clips: list[bytes]
) -> None:
    seen = len(server.events())
    with ThreadPoolExecutor() as threads:
        # As long as one worker has it: of a longer one its samples are made, which is soon done.
        answer = threads.submit(server.convert, wav_file(b"".join(clips) * 2))
        busy_worker(server).send_signal(signal.SIGSEGV)
        server.wait_event("job.retried", seen)
        busy_worker(server).send_signal(signal.SIGSEGV)
        check_error(answer.result(), 500, "worker_lost")
    assert "crashed with SIGSEGV" in answer.result().json["error"]["message"]
    server.wait_whole()
    assert server.convert(wav_file(b"")).status == 200


def test_the_fork_server_may_die_and_nobody_notices(
    server: RunningServer, clips: list[bytes]
) -> None:
    long = wav_file(b"".join(clips))
    expected = server.convert(long).json["text"]
    seen = len(server.events())
    old = server.fork_server()
    with ThreadPoolExecutor() as threads:
        answers = [threads.submit(server.convert, long) for _ in range(4)]
        busy_worker(server)
        old.kill()
        assert [a.result().json["text"] for a in answers] == [expected] * 4
    server.wait_event("fork_server.exited", seen, pid=old.pid, cause="killed")
    server.wait_event("model.loaded", seen, timeout_s=60)
    until(lambda: len(server.workers()) == 2, 20)
    server.wait_whole()
    assert server.convert(long).json["text"] == expected


def resources(server: RunningServer) -> tuple[int, int]:
    process = psutil.Process(server.pid)
    return process.num_fds(), process.memory_info().rss


def test_a_thousand_aborted_uploads_leave_nothing_behind(
    server: RunningServer, wav_clips: list[bytes]
) -> None:
    host, port = server.url.removeprefix("http://").split(":")
    wav = wav_clips[2]
    head = (
        f"POST /api/audio/convert HTTP/1.1\r\nHost: x\r\nContent-Length: {len(wav)}\r\n\r\n"
    ).encode()

    def abort(number: int) -> None:
        with socket.create_connection((host, int(port))) as sock:
            if number % 10 == 0:  # goes away while it waits for its answer
                sock.sendall(head + wav)
            else:
                sock.sendall(head + wav[: number * 200])

    for number in range(100):
        abort(number)
    server.wait_whole()
    until(lambda: server.convert(wav_file(b"")).status == 200)
    fds, rss = resources(server)
    seen = len(server.events())
    for number in range(1000):
        abort(number)
    server.wait_event("job.cancelled", seen)
    until(lambda: resources(server)[0] <= fds, 20, "descriptors as before")
    assert resources(server)[1] < rss + 8_000_000
    maps = Path(f"/proc/{server.pid}/maps").read_text()
    assert "memfd:spool" not in maps
    answer = server.convert(wav)
    assert answer.status == 200
    server.wait_whole()


def test_running_work_stops_when_its_client_goes_away(
    server: RunningServer, clips: list[bytes]
) -> None:
    host, port = server.url.removeprefix("http://").split(":")
    wav = wav_file(b"".join(clips) * 20)
    seen = len(server.events())
    with socket.create_connection((host, int(port))) as sock:
        sock.sendall(
            b"POST /api/audio/convert HTTP/1.1\r\nHost: x\r\n"
            + f"Content-Length: {len(wav)}\r\n\r\n".encode()
            + wav
        )
        busy_worker(server)
    # Whose piece has just ended begins no other.
    server.wait_event("job.cancelled", seen, timeout_s=2)
    until(lambda: {w["state"] for w in server.health()["workers"]} == {"idle"}, 2)


def test_two_hundred_uploads_at_once_are_answered_or_refused(
    server: RunningServer, clips: list[bytes]
) -> None:
    # A megabyte each, most of it silence, as a phone left on the table sends it: 8 channels.
    speech = b"".join(clips[2][at : at + 2] * 8 for at in range(0, 32_000, 2))
    wav = wavs.wav_file(speech + bytes(1_000_000 - len(speech)), channels=8)
    rss_before = resources(server)[1]
    peak = [rss_before]
    over = threading.Event()

    def watch() -> None:
        while not over.wait(0.02):
            peak[0] = max(peak[0], resources(server)[1])

    watcher = threading.Thread(target=watch)
    watcher.start()
    with ThreadPoolExecutor(200) as threads:
        answers = list(threads.map(lambda _: server.convert(wav, timeout_s=110), range(200)))
    over.set()
    watcher.join()
    statuses = [a.status for a in answers]
    assert set(statuses) <= {200, 503}
    assert statuses.count(200) >= 66  # the two workers and the queue
    for answer in answers:
        if answer.status == 503:
            check_error(answer, 503, "queue_full")
            assert int(answer.headers["Retry-After"]) >= 1
    assert len({a.json["text"] for a in answers if a.status == 200}) == 1
    assert peak[0] < rss_before + 30_000_000
