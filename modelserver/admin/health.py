"""The health document: what a person asks first, in one piece of JSON."""

from collections.abc import Mapping

import msgspec

from modelserver.jobs.record import State


class WorkerHealth(msgspec.Struct):
    """Health of one worker. Sizes in bytes (`rss_bytes`: null until it has been read), times in
    seconds. `model`: the label of the model that it serves."""

    id: int
    model: str
    pid: int
    state: str
    jobs_done: int
    busy_s: float
    silent_s: float
    rss_bytes: int | None
    growth_bytes: int
    budget_bytes: int


class ModelHealth(msgspec.Struct):
    """Health of one model. `state`: "ready", "not_ready" (`reason` says why) or "unloaded".
    `not_prepared`: why preparing it failed. `engine`: the engine that decodes; `form`: how the
    model was loaded, such as "prepared"; `missing`: why no better form could be loaded; `details`:
    the engine's own facts. They are null or empty until the model is loaded."""

    label: str
    state: str
    reason: str | None
    model: str
    language: str
    load: str
    fork_server_pid: int | None
    workers: int
    admitted: int
    preparing: str | None
    not_prepared: str | None
    engine: str | None
    form: str | None
    missing: str | None
    details: dict[str, object]
    profile: str
    """Profile of requests that name none."""
    text_steps: dict[str, str]
    """Text steps by name, and whether each has an effect in this model's language."""
    sandbox: tuple[str, ...]
    """Rights that the model's workers have dropped; empty if none."""
    sandbox_missing: tuple[str, ...]
    """Rights that they could not drop on this machine, and why."""


class QueueHealth(msgspec.Struct):
    """Admitted requests, at most `limit`. `s_per_audio_s`: seconds of work for one second of audio,
    averaged over recent requests."""

    admitted: int
    waiting: int
    limit: int
    s_per_audio_s: float | None


class StreamsHealth(msgspec.Struct):
    """Live streams. `behind_s`: age of the oldest input that is not answered yet; `replay_bytes`:
    audio that is retained for a replay; `replays`: how often a stream continued on another worker;
    `refused`: how many were refused because others would have been late."""

    open: int
    behind_s: float
    replay_bytes: int
    replays: int
    refused: int


class BoundHealth(msgspec.Struct):
    """Limit on memory, and how much of it is used."""

    name: str
    limit_bytes: int
    used_bytes: int


class MemoryHealth(msgspec.Struct):
    """Memory, in the words of the guard: see the README.

    `lost_share`: of the workers' time of the last seconds, what went into reading the model's pages
    again; `waiting_share`: what they waited for anything but a processor; `pressure_*`: what the
    kernel says of all tasks, of the last ten seconds in percent, and since boot. The counts without
    a time are since the start (`refaults`: since boot).
    """

    level: str
    starved: bool
    starved_needs: str
    concurrency: int
    limit_bytes: int
    limit_is: str
    reserve_bytes: int
    reserve_is: str
    used_bytes: int
    left_bytes: int
    reserved_bytes: int
    headroom_bytes: int
    mapped_bytes: int
    budget_bytes: int
    budget_is: str
    hard_budget_bytes: int
    tightest: str
    bounds: list[BoundHealth]
    pressure_some_avg10: float | None
    pressure_stalled_s: float | None
    lost_share: float
    waiting_share: float
    major_faults_per_work_s: float
    refaults_per_work_s: float
    major_faults: int
    refaults: int
    waited_s: float
    available_bytes: int
    swap_total_bytes: int
    swap_free_bytes: int


class ResourceHealth(msgspec.Struct):
    """Resource other than memory that can run out, such as file descriptors."""

    name: str
    used: int
    limit: int


class SpoolHealth(msgspec.Struct):
    """Uploads that are held in memory and on the disk."""

    open: int
    memory_bytes: int
    disk_bytes: int
    directory: str


class JobsHealth(msgspec.Struct):
    """Transcription jobs, by state. `problem`: why none can be taken or looked up."""

    counts: Mapping[State, int]
    bytes: int
    problem: str | None


class DeathHealth(msgspec.Struct):
    """A process that ended without being asked, newest first."""

    time: float
    role: str
    worker: int | None
    pid: int
    cause: str
    sentence: str
    job: int | None
    rss_bytes: int | None
    growth_bytes: int | None
    memory: list["MomentHealth"]


class MomentHealth(msgspec.Struct):
    """Memory at one moment before a death."""

    time: float
    level: str
    left_bytes: int
    used_bytes: int
    process_rss_bytes: int | None
    process_growth_bytes: int | None


class Health(msgspec.Struct):
    """The document. `status`: "ok", "degraded", "unavailable" or "draining"; `reasons` say why."""

    status: str
    reasons: list[str]
    version: str
    pid: int
    uptime_s: float
    model: dict[str, object]
    fork_server_pid: int | None
    preparing: str | None
    models: list[ModelHealth]
    workers: list[WorkerHealth]
    queue: QueueHealth
    streams: StreamsHealth
    memory: MemoryHealth | None
    spools: SpoolHealth
    jobs: JobsHealth
    resources: list[ResourceHealth]
    exits_by_cause: dict[str, int]
    last_deaths: list[DeathHealth]
    url: str = ""
    """URL at which HTTP clients reach the server; empty until it accepts connections."""
