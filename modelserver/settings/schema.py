"""Schema of the settings: their defaults, bounds, purposes, and behaviour.

Each fact about a setting is here once; flags, variables, `[models.NAME]`, `modelserver config`, the
admin page and the reload derive theirs from it (`modelserver.settings.fields`). Only
`modelserver.ready` reads `host` and `port` itself, because it must not import anything.
`configuration` fills this from a file, the environment and flags. A setting in a section is written
`section.name`; sizes are bytes, or text such as "64MiB".
"""

import os
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import msgspec
from msgspec import Meta

from supervisor import PoolSettings, SpoolLimits

Port = Annotated[int, Meta(ge=0, le=65535)]
Bytes = Annotated[int, Meta(ge=0, extra={"unit": "bytes"})]
BytesOrAuto = Annotated[Annotated[int, Meta(ge=0)] | Literal["auto"], Meta(extra={"unit": "bytes"})]
Seconds = Annotated[float, Meta(gt=0)]
SecondsOrZero = Annotated[float, Meta(ge=0)]
Whole = Annotated[int, Meta(ge=0)]
Hosts = Annotated[tuple[Annotated[str, Meta(min_length=1)], ...], Meta(extra={"unit": "hosts"})]
Names = Annotated[tuple[Annotated[str, Meta(min_length=1)], ...], Meta(min_length=1)]

_POOL, _SPOOLS = PoolSettings(), SpoolLimits()
"""Defaults of the supervisor, which stand there and not here."""


def xdg_directory(variable: str, fallback: str) -> Path:
    """Our own directory below the one that the XDG base directory specification names; below `/`
    for a user without a home directory, as in a container."""
    return Path(os.environ.get(variable) or home() / fallback) / "modelserver"


def home() -> Path:
    """Return the user's home directory; `/` if there is none."""
    try:
        return Path.home()
    except RuntimeError:
        return Path("/")


def shown(path: Path) -> str:
    """Return a path as people write it: with `~` for the home directory."""
    if (base := home()) == Path("/") or not path.is_relative_to(base):
        return str(path)
    return f"~/{path.relative_to(base)}"


def _about(
    text: str,
    *,
    flag: str = "",
    per_model: bool = False,
    restart: bool = False,
    prepares: Literal["", "needs", "makes"] = "",
) -> Meta:
    """Describe a setting.

    `flag`: its flag, if it has one. `per_model`: `[models.NAME]` may set it too. `restart`: a
    changed value takes effect at the next start, not at a reload. `prepares`: the process that
    prepares a model needs it, or it also decides what is made.
    """
    facts = {"flag": flag, "per_model": per_model, "restart": restart, "prepares": prepares}
    return Meta(description=text, extra=facts)


class Section(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Base of the sections."""

    restart: ClassVar[bool] = False
    """True if all settings of the section take effect only at the next start."""


class WorkerSettings(Section, frozen=True):
    """Section `[workers]`: how many processes recognise speech, and how."""

    restart = True

    count: Annotated[
        int,
        Meta(ge=0, le=1024),
        _about("worker processes; 0: one for each CPU that this process may use", flag="--workers"),
    ] = 0
    budget: Annotated[
        BytesOrAuto,
        _about(
            "memory by which a worker may grow; beyond it the worker is replaced after its "
            "request, and beyond 1.5 times as much at once; auto: its share of the memory left "
            "beside the model"
        ),
    ] = "auto"


class MemoryLimitSettings(Section, frozen=True):
    """Section `[memory]`: how much memory the server may use."""

    restart = True

    limit: Annotated[
        BytesOrAuto,
        _about(
            "memory that all processes together may use, without mapped files; auto: the "
            "machine's memory or the cgroup's limit"
        ),
    ] = "auto"


class LimitSettings(Section, frozen=True):
    """Section `[limits]`: what one request may take."""

    body: Annotated[
        Bytes, _about("largest request body; the default holds an hour of 48 kHz stereo")
    ] = 768 * 1024 * 1024
    audio_s: Annotated[Seconds, _about("longest audio, in seconds")] = 3600.0
    queue: Annotated[
        int,
        Meta(ge=0, le=100_000),
        _about("requests admitted beyond those that the workers run at once", restart=True),
    ] = _POOL.queue
    request_s: Annotated[
        Seconds, _about("longest time from the end of an upload to its answer, in seconds")
    ] = 300.0
    upload_idle_s: Annotated[
        Seconds, _about("seconds without data after which an upload is rejected")
    ] = 30.0
    upload_min_bytes_s: Annotated[
        Bytes,
        _about(
            "slowest upload, in bytes a second, measured after upload_idle_s; a slower one is "
            "rejected"
        ),
    ] = 1000


class StreamSettings(Section, frozen=True):
    """Section `[streams]`: live streams."""

    restart = True

    idle_s: Annotated[
        Seconds,
        _about("seconds without data after which a live stream gets its final result and ends"),
    ] = 60.0
    longest_s: Annotated[
        Seconds, _about("seconds after which a live stream gets its final result and is closed")
    ] = 4 * 3600.0
    share: Annotated[
        float,
        Meta(gt=0, le=1),
        _about(
            "share of the workers' time that all live streams together may need; further streams "
            "are rejected"
        ),
    ] = _POOL.streams.share


class JobSettings(Section, frozen=True):
    """Section `[jobs]`: recordings that are transcribed when there is time, and stored until they
    are fetched."""

    restart = True

    directory: Annotated[
        Path, _about("directory of the jobs, which survive a restart; on a local disk")
    ] = msgspec.field(
        default_factory=lambda: xdg_directory("XDG_STATE_HOME", ".local/state") / "jobs"
    )
    name: Annotated[
        str,
        Meta(pattern="^([A-Za-z0-9][A-Za-z0-9.]{0,62})?$"),
        _about(
            "prefix of job ids, by which a gateway finds the right one of several servers; empty: "
            "the machine's name"
        ),
    ] = ""
    queue: Annotated[
        int, Meta(ge=0, le=1_000_000), _about("most unfinished jobs; 0: jobs are rejected")
    ] = 10_000
    audio_s: Annotated[
        Seconds,
        _about(
            "longest audio of a job, in seconds, if that is more than limits.audio_s; bodies may "
            "be larger in proportion"
        ),
    ] = 4 * 3600.0
    disk: Annotated[
        Bytes,
        _about(
            "most bytes that all jobs may use on the disk: more audio is rejected, and once "
            "transcripts use half of it the oldest are deleted"
        ),
    ] = 10 * 1024 * 1024 * 1024
    keep_s: Annotated[
        Seconds, _about("seconds after which a finished job is deleted, with its transcript")
    ] = 7 * 24 * 3600.0
    url_hosts: Annotated[
        Hosts,
        _about(
            'hosts that audio may be fetched from, such as "files.example.org", "*.example.org" '
            'or "*"; private addresses only if they are named: "10.0.0.0/8"; empty: none'
        ),
    ] = ()
    webhook_hosts: Annotated[
        Hosts, _about("hosts that webhooks may be sent to, written as in url_hosts; empty: none")
    ] = ()
    webhook_secret_file: Annotated[
        str, _about("a file with the secret that signs webhooks; required with webhook_hosts")
    ] = ""
    webhook_s: Annotated[
        Seconds, _about("seconds for which a webhook that fails is sent again")
    ] = 24 * 3600.0


class TextSettings(Section, frozen=True):
    """Section `[text]`: processing of text after recognition."""

    steps: Annotated[
        tuple[Annotated[str, Meta(min_length=1)], ...],
        Meta(extra={"unit": "text steps"}),
        _about(
            'steps that final texts go through, in this order, such as "vocabulary" (keywords of '
            'requests, by pronunciation; needs the extra `vocabulary`), "punctuation" (marks and '
            "capitals, by text.punctuation_model) and "
            '"numbers" (numbers, dates and amounts in figures; needs the extra `numbers`)'
        ),
    ] = ()
    punctuation_model: Annotated[
        str,
        Meta(min_length=1),
        _about(
            'model of the text step "punctuation": a path, or a name of the models directory or '
            'the catalogue, such as "punct-zh-en"; auto: the installed one for the language',
            per_model=True,
        ),
    ] = "auto"


class VoskEngineSettings(Section, frozen=True):
    """Section `[engines.vosk]`: how Vosk models are loaded."""

    simd: Annotated[
        Literal["auto", "on", "off"],
        _about(
            "SIMD library for the network and the search, which is built on first use and lays "
            "the weights out once; off: OpenBLAS; auto: on for a model that is prepared or has a "
            "static graph, if the library can be built",
            flag="--simd",
            prepares="needs",
        ),
    ] = "auto"
    rescoring: Annotated[
        Literal["auto", "on", "off"],
        _about(
            "load the parts of a large model that only correct the first pass; auto: if they fit "
            "into memory",
            flag="--rescoring",
            per_model=True,
            prepares="needs",
        ),
    ] = "auto"
    blas: Annotated[
        Literal["auto", "off", "SkylakeX", "Haswell", "Sandybridge", "Nehalem", "Prescott"],
        _about(
            "OpenBLAS kernel of the workers; auto: the best that the processor "
            "can run; off: what the library chooses",
            prepares="makes",
        ),
    ] = "auto"
    prefetch: Annotated[
        Literal["auto", "always", "never"],
        _about(
            "read a prepared graph through before serving; auto: if there is memory for all of it"
        ),
    ] = "auto"


class OnnxEngineSettings(Section, frozen=True):
    """Section `[engines.onnx]`: how ONNX models are loaded."""

    voice_activity: Annotated[
        Literal["silero", "loudness"],
        _about(
            "how speech is found in audio; silero: by a network that tells speech from other "
            "sounds; loudness: whatever is loud is recognised",
            per_model=True,
        ),
    ] = "silero"
    hotwords: Annotated[
        Literal["auto", "on", "off"],
        _about(
            "search that can prefer keywords, with transducers; on: for all requests, which makes"
            " them slower; auto: for those with keywords, if the model is prepared or small",
            per_model=True,
        ),
    ] = "auto"


class EngineSections(Section, frozen=True):
    """Section `[engines]`, with a section for each engine."""

    vosk: VoskEngineSettings = VoskEngineSettings()
    onnx: OnnxEngineSettings = OnnxEngineSettings()


class VoskSettings(Section, frozen=True):
    """Section `[vosk]`: the protocol of the Vosk project's WebSocket server, on the public port
    (`/` and `/ws`) and on one of its own."""

    restart = True

    port: Annotated[
        Port,
        _about(
            "a separate port for the Vosk protocol, such as 2700; 0: the public port only",
            flag="--vosk-port",
        ),
    ] = 0
    sample_rate: Annotated[
        Annotated[int, Meta(ge=1000, le=192_000)],
        _about("sample rate in Hz, if the client does not send one"),
    ] = 8000


class WyomingSettings(Section, frozen=True):
    """Section `[wyoming]`: the protocol of Home Assistant's voice assistants."""

    restart = True

    uri: Annotated[
        str,
        _about(
            'where to listen, such as "tcp://127.0.0.1:10300" or "unix:///run/wyoming.sock"; '
            "empty: nowhere. Needs the extra `wyoming`; has no authentication",
            flag="--wyoming",
        ),
    ] = ""
    announce: Annotated[
        str,
        _about(
            "the name announced to Home Assistant on the local network (mDNS), such as "
            '"modelserver"; empty: none. Needs the extra `zeroconf`'
        ),
    ] = ""


class AuthSettings(Section, frozen=True):
    """Section `[auth]`: keys for the public side, and the limits of each key."""

    keys_file: Annotated[
        str,
        _about(
            "a file of key names and hashes (`modelserver keys add NAME`); empty: no key is needed"
        ),
    ] = ""
    key_requests: Annotated[Whole, _about("concurrent requests of one key; 0: no limit")] = 0
    key_streams: Annotated[Whole, _about("concurrent live streams of one key; 0: no limit")] = 0
    key_audio_s: Annotated[
        SecondsOrZero,
        _about("seconds of audio a minute of one key, with a burst of one minute; 0: no limit"),
    ] = 0.0
    key_jobs: Annotated[Whole, _about("unfinished jobs of one key; 0: no limit")] = 0


class AssistantSettings(Section, frozen=True):
    """Section `[assistant]`: a language model that answers questions, on the page and at
    `/api/ask`."""

    url: Annotated[
        str,
        Meta(pattern="^(https?://.+)?$"),
        _about(
            "a server with OpenAI's chat API (vLLM, Ollama, llama.cpp, a cloud), such as "
            '"http://127.0.0.1:11434/v1"; empty: none'
        ),
    ] = ""
    model: Annotated[
        str, _about("name of the language model on that server; some servers need none")
    ] = ""
    key_file: Annotated[
        str, _about("a file with the API key for that server; clients never see it")
    ] = ""
    system_prompt: Annotated[str, _about("system prompt of each conversation")] = (
        "Questions come from a speech recogniser and may hold its mistakes: answer what was "
        "probably meant. Answer in the language of the question, briefly, in plain sentences that "
        "can be read aloud, without Markdown."
    )
    timeout_s: Annotated[
        Seconds, _about("longest pause before and within an answer, in seconds")
    ] = 30.0
    history_turns: Annotated[
        int, Meta(ge=0, le=1000), _about("earlier questions and answers sent with each question")
    ] = 10
    max_tokens: Annotated[Whole, _about("longest answer, in tokens; 0: no limit")] = 1000
    at_once: Annotated[Whole, _about("concurrent questions of one key or address; 0: no limit")] = 4
    per_minute: Annotated[
        Whole, _about("questions a minute of one key or address; 0: no limit")
    ] = 60


class CorsSettings(Section, frozen=True):
    """Section `[cors]`: web pages of other sites that may use the server."""

    origins: Annotated[
        tuple[str, ...],
        _about('origins whose web pages may use the API, such as "https://example.org"; "*": all'),
        Meta(extra={"unit": "origins"}),
    ] = ()


Networks = Annotated[tuple[str, ...], Meta(extra={"unit": "networks"})]


class ProxySettings(Section, frozen=True):
    """Section `[proxies]`: gateways whose headers are trusted."""

    trusted: Annotated[
        Networks, _about("addresses or networks of gateways whose X-Forwarded-For is trusted")
    ] = ("127.0.0.1", "::1")


class SpoolSettings(Section, frozen=True):
    """Section `[spool]`: where uploads wait."""

    restart = True

    memory_total: Annotated[
        Bytes, _about("memory for all uploads together; beyond it they go to disk")
    ] = _SPOOLS.memory_total
    directory: Annotated[Path, _about("directory of the uploads that are not held in memory")] = (
        Path(
            "/var/tmp"  # noqa: S108 - unnamed files only; /tmp may be memory
        )
    )


class ModelSettings(Section, frozen=True):
    """Section `[models.NAME]`: one of several models. Missing values are those for all models."""

    model: Annotated[
        Names | None, _about("as the setting `model`; default: the section's name")
    ] = None
    workers: Annotated[
        Annotated[int, Meta(ge=1, le=1024)] | None, _about("as the setting `workers.count`")
    ] = None
    load: Annotated[
        Literal["start", "first_use"],
        _about(
            "when the model is loaded; start: with the server; first_use: by the first request "
            "for it"
        ),
    ] = "start"
    idle_s: Annotated[
        SecondsOrZero,
        _about(
            "with first_use: seconds without requests after which the model is unloaded; 0: never"
        ),
    ] = 0.0
    second_pass: Annotated[
        str,
        _about(
            "name in brackets of another model, which recognises the segments of live streams once "
            "more if the client asks for second_pass; empty: this model, with the profile accurate"
        ),
    ] = ""
    given: dict[str, Any] = {}
    """The settings marked `per_model` that this section sets, by name."""


class AdminSettings(Section, frozen=True):
    """Section `[admin]`: the admin side."""

    restart = True

    listen: Annotated[
        str,
        _about(
            'address of health, metrics and admin calls: "auto" (a Unix socket of this user), '
            '"unix:/path", "host:port" with a token, or "off"',
            flag="--admin-listen",
        ),
    ] = "auto"
    agent: Annotated[
        str,
        Meta(pattern=r"^(\S+:[0-9]{1,5})?$"),
        _about(
            'address of HAProxy\'s agent-check, "host:port", which anyone may ask how much load '
            "this server can take; empty: none"
        ),
    ] = ""
    token_file: Annotated[
        str, _about("a file with the token that admin requests over TCP must send")
    ] = ""


class LogSettings(Section, frozen=True):
    """Section `[log]`: the log."""

    restart = True

    level: Annotated[
        Literal["debug", "info", "warning", "error"],
        _about("lowest level that is logged", flag="--log-level"),
    ] = "info"
    format: Annotated[
        Literal["auto", "text", "json"],
        _about(
            "format of log lines; text: key=value; json: one object for each event; auto: colours"
            " on a terminal, else text",
            flag="--log-format",
        ),
    ] = "auto"


class DebugSettings(Section, frozen=True):
    """Section `[debug]`: for measurements, tests and odd machines. The defaults are right
    elsewhere, and names here may change with any release."""

    allocator: Annotated[
        Literal["auto", "jemalloc", "glibc"],
        _about(
            "memory allocator of the workers; auto: jemalloc if the machine has it",
            restart=True,
            prepares="needs",
        ),
    ] = "auto"
    warmup: Annotated[
        Literal["clips", "noise", "none"],
        _about(
            "audio that is decoded before the first request; clips: bundled speech; none: nothing; "
            "with the SIMD library at least one clip is decoded, to check it"
        ),
    ] = "clips"
    nice: Annotated[
        int,
        Meta(ge=0, le=19),
        _about(
            "how much lower the workers' priority is than that of the server, which must answer "
            "while they keep every processor busy",
            restart=True,
        ),
    ] = _POOL.nice
    max_rss: Annotated[
        BytesOrAuto,
        _about(
            "a worker whose RSS, without mapped files, exceeds this is replaced at once; auto: "
            "bounded by the budget only",
            restart=True,
        ),
    ] = "auto"
    long_from_s: Annotated[
        Seconds,
        _about(
            "length in seconds from which a recording is cut into pieces, which all idle workers "
            "transcribe in parallel"
        ),
    ] = 60.0
    long_piece_s: Annotated[
        Annotated[float, Meta(ge=5, le=600)],
        _about("longest piece, in seconds; it is cut in a pause if there is one"),
    ] = 45.0
    spool_memory_each: Annotated[
        Bytes, _about("size above which an upload goes to a file on disk", restart=True)
    ] = _SPOOLS.memory_each
    stream_message: Annotated[Bytes, _about("largest message of a live stream", restart=True)] = (
        1024 * 1024
    )
    stream_ping_s: Annotated[
        Seconds, _about("seconds between WebSocket pings on live streams", restart=True)
    ] = 20.0
    stream_replay_s: Annotated[
        Seconds,
        _about(
            "seconds of audio of each live stream, since its last final result, that are held for"
            " a replay on another worker",
            restart=True,
        ),
    ] = _POOL.streams.replay
    hang_s: Annotated[
        Seconds,
        _about(
            "seconds without a sign of life after which a worker is killed and replaced",
            restart=True,
        ),
    ] = _POOL.hang_s
    memory_reserve: Annotated[
        BytesOrAuto,
        _about(
            "memory left unused below memory.limit; auto: a small share of the limit", restart=True
        ),
    ] = "auto"
    endpoint_ms: Annotated[
        int,
        Meta(ge=200, le=10_000),
        _about("silence that ends a spoken question on the page, in milliseconds"),
    ] = 600


RENAMED = {
    "models_url": "models_urls",
    "kernels": "engines.vosk.simd",
    "simd": "engines.vosk.simd",
    "rescoring": "engines.vosk.rescoring",
    "allocator": "debug.allocator",
    "blas": "engines.vosk.blas",
    "debug.blas": "engines.vosk.blas",
    "warmup": "debug.warmup",
    "prefetch": "engines.vosk.prefetch",
    "debug.prefetch": "engines.vosk.prefetch",
    "workers.nice": "debug.nice",
    "workers.max_rss": "debug.max_rss",
    "long.from_s": "debug.long_from_s",
    "long.piece_s": "debug.long_piece_s",
    "spool.memory_each": "debug.spool_memory_each",
    "streams.message": "debug.stream_message",
    "streams.ping_s": "debug.stream_ping_s",
    "streams.replay_s": "debug.stream_replay_s",
    "workers.hang_s": "debug.hang_s",
    "memory.reserve": "debug.memory_reserve",
    "assistant.endpoint_ms": "debug.endpoint_ms",
}
"""Settings by their names of before. An old name is refused with the new one."""

REMOVED = {
    "admin.token": "write the token to a file and name that in admin.token_file",
    "auth.key_body": "limits.body holds for every request",
    "tracing.endpoint": "set the variable OTEL_EXPORTER_OTLP_ENDPOINT",
    "tracing.sample": "set the variables OTEL_TRACES_SAMPLER and OTEL_TRACES_SAMPLER_ARG",
}
"""Settings of before, and what to do instead."""


class Settings(Section, frozen=True):
    """Settings of the server."""

    host: Annotated[
        str,
        _about(
            "address to listen on; 0.0.0.0: all addresses of this machine",
            flag="--host",
            restart=True,
        ),
    ] = "127.0.0.1"
    port: Annotated[
        Port, _about("port to listen on; 0: any free one", flag="--port", restart=True)
    ] = 8091
    server_names: Annotated[
        tuple[Annotated[str, Meta(min_length=1)], ...],
        _about(
            'public names of this server, such as "speech.example.org", "*.example.org" or "*"; '
            "addresses and local names always work. If no key is needed, requests with other "
            "names are rejected, because a web page could point its own name at this server"
        ),
    ] = ()
    model: Annotated[
        Names,
        _about(
            'model to serve: a name in models_dir, a path, or "auto" (the installed default); of '
            "several, the first that fits into memory",
            flag="--model",
            prepares="makes",
        ),
    ] = ("auto",)
    language: Annotated[
        str,
        _about(
            "language of the model, as a BCP 47 tag such as zh or en-US; empty: the one in the "
            "model's name",
            flag="--language",
            per_model=True,
            prepares="makes",
        ),
    ] = ""
    models_dir: Annotated[
        Path, _about("directory of the installed models", flag="--models-dir", prepares="makes")
    ] = msgspec.field(
        default_factory=lambda: xdg_directory("XDG_DATA_HOME", ".local/share") / "models"
    )
    prepared_dir: Annotated[
        Path, _about("directory of the prepared models", flag="--prepared-dir", prepares="makes")
    ] = msgspec.field(
        default_factory=lambda: xdg_directory("XDG_CACHE_HOME", ".cache") / "prepared"
    )
    models_urls: Annotated[
        tuple[str, ...],
        _about(
            "servers that models are downloaded from, tried in order: a folder of archives, or a "
            "template with {name}, {archive}, {repository} or {file}; none: the publishers",
            flag="--models-urls",
            prepares="needs",
        ),
    ] = ()
    prepare: Annotated[
        Literal["auto", "never", "first"],
        _about(
            "when a model is prepared; auto: in the background while it is served, if memory and "
            "disk allow; first: before it is served; never: not at all",
            flag="--prepare",
            per_model=True,
            prepares="makes",
        ),
    ] = "auto"
    sandbox: Annotated[
        Literal["auto", "on", "off"],
        _about(
            "rights that workers drop after warm-up: opening files, starting processes, "
            "connecting, signalling others; auto: as many as this machine allows; on: all of "
            "them, or no model is served",
            flag="--sandbox",
            restart=True,
        ),
    ] = "auto"
    profile: Annotated[
        Literal["fast", "balanced", "accurate"],
        _about(
            "work for the same audio, if a request names no profile; fast: less, accurate: more; "
            "balanced: as the model was published",
            flag="--profile",
            per_model=True,
        ),
    ] = "balanced"
    keywords_file: Annotated[
        str,
        _about(
            "a file with words and names that are likely to be said, one a line; it is read again"
            " when it changes, and its words are preferred like a request's `keywords`; empty: "
            "none",
            flag="--keywords-file",
            per_model=True,
        ),
    ] = ""
    drain_s: Annotated[
        SecondsOrZero, _about("seconds that running requests may take to finish after SIGTERM")
    ] = 30.0
    notice_s: Annotated[
        SecondsOrZero,
        _about(
            "seconds after SIGTERM during which requests are still accepted while /readyz and the"
            " agent already report the end, for gateways that poll"
        ),
    ] = 0.0
    workers: WorkerSettings = WorkerSettings()
    memory: MemoryLimitSettings = MemoryLimitSettings()
    limits: LimitSettings = LimitSettings()
    auth: AuthSettings = AuthSettings()
    assistant: AssistantSettings = AssistantSettings()
    cors: CorsSettings = CorsSettings()
    proxies: ProxySettings = ProxySettings()
    spool: SpoolSettings = SpoolSettings()
    text: TextSettings = TextSettings()
    jobs: JobSettings = msgspec.field(default_factory=JobSettings)
    streams: StreamSettings = StreamSettings()
    engines: EngineSections = EngineSections()
    vosk: VoskSettings = VoskSettings()
    wyoming: WyomingSettings = WyomingSettings()
    admin: AdminSettings = AdminSettings()
    log: LogSettings = LogSettings()
    debug: DebugSettings = DebugSettings()
    models: dict[str, ModelSettings] = {}
    """Sections `[models.NAME]`: several models at once, the first for requests that name none."""
