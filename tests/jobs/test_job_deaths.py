"""Jobs outlive whatever happens: deaths, disks, directories; and are forgotten in time."""

import json
import os
import shutil
import signal
import sqlite3
import subprocess
import threading
import time
from pathlib import Path

from cgroup import cannot
from elsewhere import Elsewhere, Reply
from job_client import code_of, delete, over, take
from running import RunningServer, start_server, until
from waves import wav

from models.vosk.prepared import PreparedModel
from modelserver.jobs.store import JobStore

RATE = 16_000


# --- deaths ---------------------------------------------------------------------------------------


def kill(server: RunningServer) -> None:
    """Kill the server as the kernel does."""
    os.kill(server.pid, signal.SIGKILL)
    server.process.wait()


def test_it_goes_on_after_its_last_finished_piece(
    tmp_path: Path, prepared_embedded: PreparedModel, clips: list[bytes]
) -> None:
    pauses = bytes(RATE)
    pcm = b"".join(clip + pauses for clip in clips * 3)
    given = {"MODELSERVER_DEBUG_LONG_PIECE_S": "10", "MODELSERVER_WORKERS_COUNT": "1"}
    with start_server(tmp_path, **given) as running:
        running.wait_ready()
        undisturbed = running.convert(wav(pcm), "?words=true&segments=true").json
        job_id = take(running, wav(pcm), "?words=true&segments=true")["id"]
        until(lambda: 0.2 < running.ask(f"/v1/jobs/{job_id}").json["progress"] < 0.9)
        before = running.ask(f"/v1/jobs/{job_id}").json["progress"]
        kill(running)
    with sqlite3.connect(tmp_path / "jobs" / "jobs.db") as db:
        ((kept,),) = db.execute("SELECT count(*) FROM pieces")
        numbers = [number for (number,) in db.execute("SELECT number FROM pieces")]
        # Known pieces are not recognised again: the mark shows that.
        row = db.execute("SELECT heard FROM pieces WHERE number = ?", (numbers[0],)).fetchone()
        marked = json.loads(row[0])
        assert marked["segments"]
        marked["segments"][0]["words"][0]["word"] = "MARKED"
        text = " ".join(w["word"] for w in marked["segments"][0]["words"])
        marked["segments"][0]["text"] = text
        db.execute("UPDATE pieces SET heard = ? WHERE number = ?", (json.dumps(marked), numbers[0]))
    db.close()
    assert kept >= 1
    assert before > 0
    with start_server(tmp_path, **given) as running:
        done = over(running, job_id, 60)
    assert done["state"] == "done"
    words = [w["word"] for w in done["result"]["words"]]
    expected = [w["word"] for w in undisturbed["words"]]
    assert words.count("MARKED") == 1
    expected[words.index("MARKED")] = "MARKED"
    assert words == expected
    assert [w["start"] for w in done["result"]["words"]] == [
        w["start"] for w in undisturbed["words"]
    ]


def test_killed_again_and_again_every_one_is_done_once(
    tmp_path: Path, job_settings: dict[str, str], there: Elsewhere, short: bytes, clips: list[bytes]
) -> None:
    there.asked.clear()
    there.reply = lambda _: Reply(204)
    bodies = [short, wav(clips[1] * 2)]
    ids: dict[int, str] = {}
    kills = 0
    while len(ids) < 40 or kills < 3:
        with start_server(tmp_path, **job_settings) as running:
            running.wait_ready()
            for number in range(len(ids), min(40, len(ids) + 12)):
                answer = running.ask(
                    f"/v1/jobs?webhook={there.url}/",
                    bodies[number % 2],
                    Idempotency_Key=str(number),
                )
                if answer.status == 202:
                    ids[number] = answer.json["id"]
            kill(running)
            kills += 1
    with start_server(tmp_path, **job_settings) as running:
        running.wait_ready()
        for job_id in ids.values():
            assert over(running, job_id, 60)["state"] == "done"
        until(lambda: {json.loads(a.body)["data"]["id"] for a in there.asked} == set(ids.values()))
    told = [json.loads(asked.body) for asked in there.asked]
    for job_id in ids.values():
        attempts = [one["attempt"] for one in told if one["data"]["id"] == job_id]
        assert attempts == sorted(set(attempts))  # whatever came twice says so
    assert len(set(ids.values())) == 40


def all_stopped(pid: int) -> bool:
    """Return whether all of its threads are stopped."""
    tasks = Path(f"/proc/{pid}/task").iterdir()
    return all((task / "stat").read_text().rpartition(")")[2].split()[0] == "T" for task in tasks)


def test_a_snapshot_of_the_files_holds_all_that_was_taken(
    tmp_path: Path, job_settings: dict[str, str], short: bytes
) -> None:
    """Copy the files as a loss of power leaves them, as far as the kernel had written them."""
    taken: list[str] = []
    copies: list[tuple[Path, set[str]]] = []
    with start_server(tmp_path, **job_settings) as running:
        running.wait_ready()
        stop = threading.Event()

        def send() -> None:
            while not stop.is_set():
                taken.append(take(running, short)["id"])

        sending = threading.Thread(target=send)
        sending.start()
        for number in range(4):
            time.sleep(0.3)
            os.kill(running.pid, signal.SIGSTOP)
            until(lambda: all_stopped(running.pid))
            known = set(taken)
            copy = tmp_path / f"copy-{number}"
            shutil.copytree(tmp_path / "jobs", copy)
            os.kill(running.pid, signal.SIGCONT)
            copies.append((copy, known))
        stop.set()
        sending.join()
    for copy, known in copies:
        store = JobStore(copy)
        found = {job_id: store.get(job_id) for job_id in known}
        for job_id, kept in found.items():
            assert kept is not None
            assert kept.over or store.audio(job_id).read_bytes() == short
        store.close()
    assert all(known for _, known in copies[1:])


def test_what_is_told_is_on_the_disk(
    tmp_path: Path, job_settings: dict[str, str], short: bytes
) -> None:
    """Synced, and only then answered: the audio, its name in the directory, and the row."""
    trace = tmp_path / "trace"
    with start_server(tmp_path, **job_settings) as running:
        running.wait_ready()
        take(running, short)
        calls = "fsync,fdatasync,linkat,sendto,writev,write,sendmsg"
        command = ["strace", "-f", "-y", "-s", "20", "-e", calls, "-o", trace]
        with subprocess.Popen([*command, "-p", str(running.pid)], stderr=subprocess.PIPE) as tracer:
            assert tracer.stderr is not None
            tracer.stderr.readline()
            take(running, short)
            tracer.send_signal(signal.SIGINT)
            tracer.wait(10)
    said = trace.read_text()
    answered = said.index("HTTP/1.1 202")
    linked = said.index("linkat(")
    synced = [at for at in range(len(said)) if said.startswith(("fsync(", "fdatasync("), at)]
    assert any(at < linked for at in synced), "the audio"
    directory = str(tmp_path / "jobs")
    after = [said[at : at + 300].split("\n")[0] for at in synced if linked < at < answered]
    assert any(f"<{directory}>" in line for line in after), "its name"
    assert any("jobs.db-wal" in line for line in after), "the row"


def test_the_next_server_waits_for_the_one_before(
    tmp_path: Path, job_settings: dict[str, str], short: bytes
) -> None:
    shared = job_settings | {"MODELSERVER_JOBS_DIRECTORY": str(tmp_path / "shared")}
    one, other = tmp_path / "one", tmp_path / "other"
    one.mkdir()
    other.mkdir()
    with start_server(one, **shared) as first:
        first.wait_ready()
        job_id = take(first, short)["id"]
        with start_server(other, **shared) as second:
            second.wait_ready()
            answer = until(
                lambda: (
                    (a := second.ask("/v1/jobs", short)).status == 503 and "another" in str(a) and a
                )
            )
            assert code_of(answer) == "not_ready"
            assert second.convert(short).status == 200
            assert "another server" in second.health()["jobs"]["problem"]
            assert first.stop() == 0
            until(lambda: second.ask("/v1/jobs").status == 200)
            assert over(second, job_id)["state"] == "done"


def test_a_disk_that_is_full_is_said_before_anything_is_taken(
    tmp_path: Path, job_settings: dict[str, str], short: bytes, clips: list[bytes]
) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=72m", "tmpfs", str(disk)]
    if subprocess.run(mount, check=False).returncode != 0:
        cannot("a tmpfs cannot be mounted")
    try:
        given = job_settings | {"MODELSERVER_JOBS_DIRECTORY": str(disk / "jobs")}
        with start_server(tmp_path, **given) as running:
            running.wait_ready()
            assert over(running, take(running, short)["id"])["state"] == "done"
            large = wav(b"".join(clips) * 12)
            assert len(large) > 10_000_000
            known = running.ask("/v1/jobs", large)
            assert (known.status, code_of(known)) == (503, "spool_full")
            assert "audio of 11 MB: 8 MB may be used" in known.json["error"]["message"]
            import requests

            pieces = (large[at : at + 65536] for at in range(0, len(large), 65536))
            unknown = requests.post(f"{running.url}/v1/jobs", data=pieces, timeout=20)
            assert (unknown.status_code, unknown.json()["error"]["code"]) == (503, "spool_full")
            assert int(unknown.headers["Retry-After"]) > 0
            assert len(running.ask("/v1/jobs").json["jobs"]) == 1
            (disk / "filler").write_bytes(bytes(60_000_000))
            full = running.ask("/v1/jobs", short)
            assert (full.status, code_of(full)) == (503, "spool_full")
            assert running.convert(short).status == 200
            (disk / "filler").unlink()
            assert over(running, take(running, short)["id"])["state"] == "done"
    finally:
        subprocess.run(["umount", disk], check=True)


def test_a_directory_that_cannot_be_used_costs_jobs_alone(
    tmp_path: Path, job_settings: dict[str, str], short: bytes
) -> None:
    (tmp_path / "file").write_text("")
    given = job_settings | {"MODELSERVER_JOBS_DIRECTORY": str(tmp_path / "file" / "jobs")}
    with start_server(tmp_path, **given) as running:
        running.wait_ready()
        answer = running.ask("/v1/jobs", short)
        assert (answer.status, code_of(answer)) == (503, "not_ready")
        assert running.convert(short).status == 200
        running.wait_event("jobs.disabled")
        health = running.health()
        assert health["status"] == "degraded"
        assert health["reasons"] == [f"jobs are rejected: {tmp_path}/file/jobs: Not a directory"]
        (tmp_path / "file").unlink()
        until(lambda: running.health()["status"] == "ok", 10, "the directory can be made")


def test_jobs_that_are_disabled_degrade_nothing(
    tmp_path: Path, job_settings: dict[str, str]
) -> None:
    with start_server(tmp_path, **job_settings, MODELSERVER_JOBS_QUEUE="0") as running:
        running.wait_ready()
        assert running.health()["status"] == "ok"


def test_a_directory_that_goes_away_is_told_until_it_is_back(
    tmp_path: Path, job_settings: dict[str, str], short: bytes
) -> None:
    jobs, away = tmp_path / "jobs", tmp_path / "away"
    given = job_settings | {"MODELSERVER_JOBS_DIRECTORY": str(jobs)}
    with start_server(tmp_path, **given) as running:
        running.wait_ready()
        first = take(running, short)["id"]
        over(running, first)
        jobs.rename(away)
        answer = running.ask("/v1/jobs", short)
        assert (answer.status, code_of(answer)) == (503, "not_ready")
        assert f"{jobs}: No such file or directory" in answer.json["error"]["message"]
        assert running.convert(short).status == 200
        away.rename(jobs)
        assert over(running, take(running, short)["id"])["state"] == "done"
        assert running.ask(f"/v1/jobs/{first}").json["state"] == "done"


def test_what_is_old_or_too_much_is_forgotten(
    tmp_path: Path, job_settings: dict[str, str], short: bytes
) -> None:
    given = job_settings | {"MODELSERVER_JOBS_KEEP_S": "3", "MODELSERVER_JOBS_DISK": "400KB"}
    with start_server(tmp_path, **given) as running:
        running.wait_ready()
        first = take(running, short)["id"]
        over(running, first)
        until(lambda: running.ask(f"/v1/jobs/{first}").status == 404, 60, "it is forgotten")
        large = running.ask("/v1/jobs", wav(bytes(500_000)))
        assert (large.status, code_of(large)) == (503, "spool_full")
        running.wait_event("jobs.deleted")


def test_only_so_many_are_unfinished(
    tmp_path: Path, job_settings: dict[str, str], clips: list[bytes]
) -> None:
    long = wav(b"".join(clips) * 20)
    with start_server(tmp_path, **job_settings, MODELSERVER_JOBS_QUEUE="2") as running:
        running.wait_ready()
        ids = [take(running, long)["id"] for _ in range(2)]
        answer = running.ask("/v1/jobs", long)
        assert (answer.status, code_of(answer)) == (503, "queue_full")
        assert answer.headers["Retry-After"]
        assert [delete(running, one) for one in ids] == [204, 204]
        take(running, long)
    with start_server(tmp_path, **job_settings, MODELSERVER_JOBS_QUEUE="0") as running:
        assert code_of(running.ask("/v1/jobs", long)) == "not_ready"
