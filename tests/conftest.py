"""Fixtures: one loaded model and one running server are shared by all tests that need them."""

import fcntl
import json
import os
import shutil
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import structlog
from browser import Browsers, browsers, close_pages
from cgroup import cannot
from elsewhere import Elsewhere, elsewhere
from job_client import SECRET
from places import SUPPORT
from playwright.sync_api import Browser
from running import RunningServer, start_server
from small_model import SMALL_WORDS, make_small_model
from waves import wav
from wavs import wav_file
from xdist.scheduler import LoadScopeScheduling

import models
from models.clips import clips_for, decode_clip
from models.vosk.prepared import PreparedModel, compiled_graph, prepare
from models.vosk.prepared.compiler import GRAPH_COMPILER
from modelserver.settings import Settings, configuration
from supervisor import available_memory

SAMPLE_RATE = 16_000

ONE_AFTER_THE_OTHER = {"test_guard", "test_readings", "test_serving_prepared", "test_story"}
"""Files whose tests turn swap on, or count the kernel's kills: only one of them runs at a time."""


def scope_of(nodeid: str) -> str:
    """Name what runs in one process: a file, whose tests share what they start."""
    module = Path(nodeid.split("::")[0]).stem
    return "kernel" if module in ONE_AFTER_THE_OTHER else module


class LongestFirst(LoadScopeScheduling):
    """Scheduling of tests in several processes: a scope's tests run in one process, and those that
    took longest in earlier runs begin first, so that no process is left with a long one at the
    end."""

    def __init__(self, config: pytest.Config, log: Any, seconds: dict[str, float]) -> None:
        super().__init__(config, log)
        self._seconds = seconds

    def _split_scope(self, nodeid: str) -> str:
        return scope_of(nodeid)

    def schedule(self) -> None:
        if self.collection is None:  # the first call, which fills the queue and keeps its order
            tests = Counter(map(scope_of, next(iter(self.registered_collections.values()))))
            unknown = max(self._seconds.values(), default=0.0)
            for scope in sorted(tests, key=lambda s: (-self._seconds.get(s, unknown), -tests[s])):
                self.workqueue[scope] = {}
        super().schedule()


class Durations:
    """Seconds of each scope in the run before, kept between runs beside prepared models; and
    those of this run."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._now: dict[str, float] = {}
        try:
            self.before: dict[str, float] = json.loads(file.read_text())
        except (OSError, ValueError):
            self.before = {}

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Hook of pytest: add a test's duration."""
        scope = scope_of(report.nodeid)
        self._now[scope] = self._now.get(scope, 0.0) + report.duration

    def pytest_sessionfinish(self) -> None:
        """Hook of pytest: write the durations to the file."""
        partial = self._file.with_name(f"{self._file.name}.{os.getpid()}")
        partial.parent.mkdir(parents=True, exist_ok=True)
        partial.write_text(json.dumps(self.before | self._now))
        partial.replace(self._file)


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> LoadScopeScheduling:
    """pytest-xdist's hook, in the process that gives out the tests."""
    durations = Durations(Settings().prepared_dir.parent / "test-durations.json")
    config.pluginmanager.register(durations)
    return LongestFirst(config, log, durations.before)


_PROCESS_STARTS = {"subprocess.Popen", "os.fork", "os.forkpty", "os.posix_spawn", "os.system"}
_quick: list[str] = []


def _refuse_processes(event: str, _: Any) -> None:
    if _quick and event in _PROCESS_STARTS:
        raise AssertionError(f"{_quick[0]} is marked quick and starts a process ({event})")


sys.addaudithook(_refuse_processes)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Iterator[None]:
    """Hold tests to their mark: what `make check` runs starts no process."""
    if item.get_closest_marker("quick") is not None:
        _quick.append(item.nodeid)
    try:
        return (yield)
    finally:
        _quick.clear()


@pytest.fixture(scope="session", autouse=True)
def state(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Use a state directory and settings of the tests' own, not those of the user and the
    machine."""
    os.environ["XDG_STATE_HOME"] = str(tmp_path_factory.mktemp("state"))
    os.environ["MODELSERVER_CONFIG"] = os.devnull
    configuration.SYSTEM_FILE = Path("/nonexistent/modelserver.toml")


@pytest.fixture(scope="session")
def embedded() -> models.ModelLocation:
    """The embedded model's location."""
    return models.find_model("auto", Path("/nonexistent"))


@pytest.fixture(scope="session")
def clips() -> list[bytes]:
    """Spoken sentences: 16-bit mono PCM at 16 kHz."""
    return [decode_clip(path, SAMPLE_RATE) for path in clips_for("ko")]


@pytest.fixture(scope="session")
def wav_clips(clips: list[bytes]) -> list[bytes]:
    """The same as WAV files."""
    return [wav_file(clip) for clip in clips]


@pytest.fixture(scope="session")
def cache() -> Path:
    """Return the directory of prepared models, which is retained between runs."""
    return Settings().prepared_dir


@pytest.fixture(scope="session")
def prepared_embedded(embedded: models.ModelLocation, cache: Path) -> PreparedModel:
    """The embedded model, prepared: four minutes the first time ever, and then found."""
    while True:
        try:
            return prepare(embedded, cache, available_memory=available_memory())
        except models.ModelError as error:
            if error.code != "being_prepared":
                raise
        time.sleep(1.0)  # another process of these tests is at it


@pytest.fixture(scope="session")
def small(
    tmp_path_factory: pytest.TempPathFactory, embedded: models.ModelLocation
) -> models.ModelLocation:
    """A model that is prepared in seconds."""
    directory = make_small_model(
        embedded.directory, tmp_path_factory.mktemp("models") / "small", SMALL_WORDS.split()
    )
    return models.ModelLocation("small", directory, "ko")


@pytest.fixture(scope="session")
def prepared_small(
    tmp_path_factory: pytest.TempPathFactory, small: models.ModelLocation, cache: Path
) -> PreparedModel:
    """The small model, prepared. Tests that harm one copy it first."""
    store = tmp_path_factory.mktemp("prepared")
    share_compiler(cache, store)
    return prepare(small, store, available_memory=available_memory())


@pytest.fixture
def copied(store: Path, prepared_small: PreparedModel) -> PreparedModel:
    """A copy of the small prepared model, to be harmed."""
    directory = store / prepared_small.directory.name
    shutil.copytree(prepared_small.directory, directory, symlinks=True)
    return PreparedModel(directory, prepared_small.manifest)


@pytest.fixture(scope="session")
def small_settings(small: models.ModelLocation, prepared_small: PreparedModel) -> dict[str, str]:
    """Settings of a server of the small model that is ready within a second."""
    return {
        "MODELSERVER_MODEL": str(small.directory),
        "MODELSERVER_PREPARED_DIR": str(prepared_small.directory.parent),
    }


def share_compiler(cache: Path, store: Path) -> None:
    """Let a store of a test use the graph compiler that was built before."""
    GRAPH_COMPILER.build(cache)
    (store / "tools").symlink_to(cache / "tools")


@pytest.fixture(scope="session")
def shared_server(
    tmp_path_factory: pytest.TempPathFactory, prepared_embedded: PreparedModel
) -> Iterator[RunningServer]:
    """A server with the embedded model, prepared, and two workers, started once."""
    assert compiled_graph(prepared_embedded.directory).is_file()
    directory = tmp_path_factory.mktemp("server")
    with start_server(
        directory, MODELSERVER_DEBUG_HANG_S="2", MODELSERVER_WORKERS_COUNT="2"
    ) as server:
        server.wait_ready()
        yield server


@pytest.fixture
def server(shared_server: RunningServer) -> RunningServer:
    """The shared server, whole: two workers that are able."""
    shared_server.wait_whole()
    return shared_server


@pytest.fixture
def events() -> Iterator[list[structlog.typing.EventDict]]:
    """Events that are logged in this process during the test."""
    structlog.reset_defaults()  # a command that ran in this process may have set a level
    with structlog.testing.capture_logs() as captured:
        yield captured


@pytest.fixture(scope="session")
def embedded_path(embedded: models.ModelLocation) -> Path:
    """The embedded model's directory."""
    return embedded.directory


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of a megabyte."""
    directory = tmp_path / "disk"
    directory.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(directory)]
    if subprocess.run(mount, check=False).returncode != 0:
        cannot("a tmpfs cannot be mounted")
    yield directory
    subprocess.run(["umount", directory], check=True)


@pytest.fixture(scope="session")
def node_packages() -> Path:
    """The directory of npm packages that tests use, fetched once, and kept between runs."""
    directory = Settings().prepared_dir.parent / "test-node"
    directory.mkdir(parents=True, exist_ok=True)
    with (directory / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # of the other process of these tests
        for file in (SUPPORT / "node").iterdir():
            shutil.copy(file, directory)
        wanted = json.loads((directory / "package.json").read_text())["dependencies"]
        if not all((directory / "node_modules" / name).is_dir() for name in wanted):
            subprocess.run(
                ["npm", "install", "--silent", "--no-audit", "--no-fund"],
                cwd=directory,
                check=True,
                timeout=120,
            )
    return directory


@pytest.fixture
def store(tmp_path: Path, cache: Path) -> Path:
    """An empty store of prepared models."""
    directory = tmp_path / "store"
    directory.mkdir()
    share_compiler(cache, directory)
    return directory


# --- jobs -----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def there() -> Iterator[Elsewhere]:
    with elsewhere() as other:
        yield other


@pytest.fixture(scope="module")
def webhook_secret(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("secret") / "secret"
    file.write_text(SECRET)
    return file


@pytest.fixture(scope="module")
def job_settings(small_settings: dict[str, str], webhook_secret: Path) -> dict[str, str]:
    return {
        **small_settings,
        "MODELSERVER_WORKERS_COUNT": "2",
        "MODELSERVER_JOBS_NAME": "here",
        "MODELSERVER_JOBS_URL_HOSTS": "127.0.0.1,*.invalid,localhost",
        "MODELSERVER_JOBS_WEBHOOK_HOSTS": "127.0.0.1",
        "MODELSERVER_JOBS_WEBHOOK_SECRET_FILE": str(webhook_secret),
        "MODELSERVER_LIMITS_UPLOAD_IDLE_S": "3",
    }


@pytest.fixture(scope="module")
def short(clips: list[bytes]) -> bytes:
    return wav(clips[0][: 3 * 16_000 * 2])


@pytest.fixture(scope="module")
def driver(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browsers]:
    """Browsers to launch; for a module, since its thread has an event loop of its own."""
    with browsers(tmp_path_factory.mktemp("browsers")) as found:
        yield found


@pytest.fixture(scope="module")
def module_browser(driver: Browsers) -> Iterator[Browser]:
    """A browser without a microphone, shared by a module's tests."""
    with driver.launch() as browser:
        yield browser


@pytest.fixture
def launched(module_browser: Browser) -> Iterator[Browser]:
    """The module's browser, without the pages of earlier tests."""
    yield module_browser
    close_pages(module_browser)


@pytest.fixture(scope="module")
def described(server: RunningServer) -> dict[str, Any]:
    """The AsyncAPI document, as it is served."""
    document: dict[str, Any] = server.ask("/asyncapi.json").json
    return document
