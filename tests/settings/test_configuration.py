"""Settings from file, environment and flags, and messages about bad ones."""

import pwd
import re
from pathlib import Path

import pytest
from click.testing import CliRunner

from modelserver.cli import main
from modelserver.settings import Settings
from modelserver.settings.changes import (
    preparing_environment,
    same_preparation,
    until_restart,
    with_values,
)
from modelserver.settings.configuration import ConfigurationError, read_configuration
from modelserver.settings.fields import fields, value_of
from modelserver.settings.labels import own_settings, settings_for
from modelserver.settings.schema import REMOVED, RENAMED, shown

pytestmark = pytest.mark.quick


def test_defaults_need_nothing() -> None:
    configuration = read_configuration(None, {}, {})
    assert configuration.settings.port == 8091
    assert {origin for _, _, origin in configuration.rows()} == {"default"}


def test_flags_beat_variables_beat_the_file(tmp_path: Path) -> None:
    file = tmp_path / "settings.toml"
    file.write_text('port = 1\nhost = "file"\nmodel = "file"\n[limits]\nqueue = 3\n')
    configuration = read_configuration(
        file,
        {"MODELSERVER_PORT": "2", "MODELSERVER_HOST": "variable", "PATH": "/bin"},
        {"port": "3", "model": None},
    )
    settings = configuration.settings
    assert (settings.port, settings.host, settings.model) == (3, "variable", ("file",))
    assert settings.limits.queue == 3
    assert configuration.origins == {
        "port": "flag",
        "host": "MODELSERVER_HOST",
        "model": str(file),
        "limits.queue": str(file),
    }


def test_what_config_prints_can_be_used_and_gives_no_secret_away(tmp_path: Path) -> None:
    url = "https://user:the-secret@example.org/v1"
    shown = CliRunner().invoke(main, ["config"], env={"MODELSERVER_ASSISTANT_URL": url})
    assert shown.exit_code == 0
    assert "the-secret" not in shown.output
    assert re.search(r"^# url = .*set, and not shown", shown.output, re.MULTILINE)
    file = tmp_path / "settings.toml"
    file.write_text(shown.output)
    assert not read_configuration(file, {}, {}).settings.assistant.url


@pytest.mark.parametrize(
    "origin",
    [
        "example.org",
        "https://example.org/",
        "https://example.org/page",
        "https://example.org:443",
        "http://example.org:80",
        "https://user@example.org",
        "",
    ],
)
def test_an_origin_that_no_browser_sends_is_refused(origin: str) -> None:
    with pytest.raises(ConfigurationError, match="without a path"):
        read_configuration(None, {}, {"cors.origins": ["https://example.org", origin]})


def test_origins_are_compared_as_browsers_send_them() -> None:
    given = ["*", "HTTPS://Example.ORG", "http://192.0.2.7:3000", "chrome-extension://abcdef"]
    configuration = read_configuration(None, {}, {"cors.origins": given})
    assert configuration.settings.cors.origins == tuple(one.lower() for one in given)


@pytest.mark.parametrize(
    "name", ["auth.keys_file", "admin.token_file", "assistant.key_file", "jobs.webhook_secret_file"]
)
def test_the_home_directory_is_known_in_every_path(tmp_path: Path, name: str) -> None:
    section, _, leaf = name.partition(".")
    file = tmp_path / "settings.toml"
    file.write_text(f'[{section}]\n{leaf} = "~/secrets/one"\n')
    settings = read_configuration(file, {}, {}).settings
    assert getattr(getattr(settings, section), leaf) == str(Path.home() / "secrets/one")


def test_the_file_may_be_named_by_a_variable(tmp_path: Path) -> None:
    file = tmp_path / "settings.toml"
    file.write_text("port = 7\n")
    assert read_configuration(None, {"MODELSERVER_CONFIG": str(file)}, {}).settings.port == 7


@pytest.mark.parametrize(
    ("text", "size"),
    [("1000", 1000), ("64MiB", 64 << 20), ("1.5 GiB", 3 << 29), ("2GB", 2 * 10**9), ("7k", 7000)],
)
def test_sizes_may_have_units(text: str, size: int) -> None:
    configuration = read_configuration(None, {"MODELSERVER_LIMITS_BODY": text}, {})
    assert configuration.settings.limits.body == size


@pytest.mark.parametrize(
    ("variable", "value", "says"),
    [
        ("MODELSERVER_PORT", "99999", r"port = '99999' \(from MODELSERVER_PORT\).*0 to 65535"),
        ("MODELSERVER_PORT", "http", "a whole number"),
        ("MODELSERVER_DEBUG_ALLOCATOR", "mimalloc", "auto or glibc or jemalloc"),
        ("MODELSERVER_LIMITS_BODY", "64 apples", "a size in bytes"),
        ("MODELSERVER_LIMITS_BODY", "-1", "a size in bytes"),
        ("MODELSERVER_MODELS_DIR", "~nosuchuser/models", "allowed: a path"),
        ("MODELSERVER_KEYWORDS_FILE", "~nosuchuser/words", "allowed: a path"),
        ("MODELSERVER_DRAIN_S", "-1", "at least 0"),
        ("MODELSERVER_DRAIN_S", "nan", "at least 0"),
        ("MODELSERVER_LIMITS_AUDIO_S", "0", "above 0"),
        ("MODELSERVER_MODEL", "", "not empty"),
        ("MODELSERVER_ASSISTANT_URL", "localhost:11434", "a URL that begins with http://"),
        ("MODELSERVER_PROT", "1", "unknown setting MODELSERVER_PROT=1.*MODELSERVER_PORT"),
    ],
)
def test_a_bad_variable_is_refused_with_name_value_and_what_is_allowed(
    variable: str, value: str, says: str
) -> None:
    with pytest.raises(ConfigurationError, match=says):
        read_configuration(None, {variable: value}, {})


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("prot = 1", r"unknown setting prot = 1 \(from .*\); did you mean port"),
        ("port = true", "port = True"),
        ("port = 1.5", "port = 1.5"),
        ('port = "8091"', None),
        ("[limit]\nqueue = 3", r"unknown section \[limit\] .*did you mean \[limits\]"),
        ("[models.cn]\n[models.CN]", "differ too little"),
        ('proxies.trusted = ["gateway"]', r"proxies.trusted = \['gateway'\].*10\.0\.0\.0/8"),
        ('proxies.trusted = ["10.0.0.0/8", "::1"]', None),
        ("[limits]\nbodies = 1", "unknown setting limits.bodies"),
        ("limits = 3", "unknown setting limits = 3"),
        ("port = ", "is not TOML"),
        ("host = 1", "host = 1"),
    ],
)
def test_a_bad_file_is_refused(tmp_path: Path, text: str, says: str | None) -> None:
    file = tmp_path / "settings.toml"
    file.write_text(text)
    if says is None:
        assert read_configuration(file, {}, {}).settings.port == 8091
        return
    with pytest.raises(ConfigurationError, match=says):
        read_configuration(file, {}, {})


def test_a_file_that_is_not_there_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="cannot read /nonexistent"):
        read_configuration(Path("/nonexistent"), {}, {})


def test_every_setting_says_what_it_is_for() -> None:
    assert all(field.about and field.allowed for field in fields())
    assert not any("e+" in field.allowed for field in fields())


@pytest.mark.parametrize(
    ("old", "instead"),
    [
        ("allocator", "debug.allocator (MODELSERVER_DEBUG_ALLOCATOR)"),
        ("long.from_s", "debug.long_from_s"),
        ("streams.ping_s", "debug.stream_ping_s"),
        ("workers.hang_s", "debug.hang_s"),
        ("memory.reserve", "debug.memory_reserve"),
        ("assistant.endpoint_ms", "debug.endpoint_ms"),
        ("admin.token", "admin.token_file"),
        ("tracing.endpoint", "OTEL_EXPORTER_OTLP_ENDPOINT"),
    ],
)
def test_a_setting_s_old_name_is_refused_with_the_new_one(
    tmp_path: Path, old: str, instead: str
) -> None:
    file = tmp_path / "settings.toml"
    file.write_text(f'{old} = "TOPSECRET"\n')
    variable = "MODELSERVER_" + old.replace(".", "_").upper()
    given: list[tuple[Path | None, dict[str, str]]] = [(file, {}), (None, {variable: "TOPSECRET"})]
    for of_file, variables in given:
        with pytest.raises(ConfigurationError) as refused:
            read_configuration(of_file, variables, {})
        assert instead in str(refused.value)
        assert "TOPSECRET" not in str(refused.value)


def test_old_names_are_no_settings_and_flags_are_unique() -> None:
    names = [field.name for field in fields()]
    assert not {*RENAMED, *REMOVED} & set(names)
    assert set(RENAMED.values()) <= set(names)
    flags = [field.flag for field in fields() if field.flag]
    assert len(flags) == len(set(flags))


def test_every_default_is_read_back_from_text() -> None:
    defaults = Settings()
    for field in fields():
        value = value_of(defaults, field.name)
        assert field.convert(field.text(value)) == value, field.name


def test_what_a_preparing_process_needs_reaches_it(tmp_path: Path) -> None:
    given = {
        "model": ("one", "other"),
        "models_dir": tmp_path,
        "language": "ko",
        "engines.vosk.rescoring": "off",
        "engines.vosk.blas": "Haswell",
    }
    settings = with_values(Settings(), {**given, "limits.queue": 7})
    variables = preparing_environment(settings)
    there = read_configuration(None, variables, {}).settings
    assert there == with_values(Settings(), given)
    assert same_preparation(there, settings)
    for name in given.keys() - {"engines.vosk.rescoring"}:
        assert not same_preparation(there, with_values(there, {name: value_of(Settings(), name)}))
    # A reload of these does not throw away a preparation in progress.
    others = {
        "engines.vosk.rescoring": "on",
        "engines.vosk.simd": "off",
        "models_urls": "https://elsewhere.example",
    }
    assert same_preparation(there, with_values(there, others))


def test_a_model_may_have_settings_of_its_engine(tmp_path: Path) -> None:
    file = tmp_path / "settings.toml"
    file.write_text(
        '[engines.vosk]\nrescoring = "on"\n'
        '[models.ko.engines.vosk]\nrescoring = "off"\n[models.cn]\n'
    )
    configuration = read_configuration(file, {}, {})
    settings = configuration.settings
    values = {
        label: settings_for(settings, label, own).engines.vosk.rescoring
        for label, own in own_settings(settings).items()
    }
    assert values == {"ko": "off", "cn": "on"}
    shown = {field.name: value for field, value, _ in configuration.rows()}
    assert shown["models.ko.engines.vosk.rescoring"] == "off"
    variable = {"MODELSERVER_MODELS_CN_ENGINES_VOSK_RESCORING": "auto"}
    changed = read_configuration(file, variable, {}).settings
    assert settings_for(changed, "cn", changed.models["cn"]).engines.vosk.rescoring == "auto"


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ('simd = "on"', "engines.vosk.simd"),
        ('kernels = "on"', "engines.vosk.simd"),
        ('[debug]\nblas = "off"', "engines.vosk.blas"),
        ('[models.ko]\nrescoring = "off"', "models.ko.engines.vosk.rescoring"),
    ],
)
def test_settings_of_an_engine_are_named_where_they_are_now(
    tmp_path: Path, text: str, name: str
) -> None:
    file = tmp_path / "settings.toml"
    file.write_text(text)
    with pytest.raises(ConfigurationError, match=f"any more: it is {name} "):
        read_configuration(file, {}, {})


def test_what_needs_a_restart_stays_as_it_is_until_then() -> None:
    running = Settings()
    wanted = with_values(running, {"jobs.queue": 5, "limits.queue": 6, "limits.request_s": 7.0})
    now, late = until_restart(running, wanted)
    assert late == ["limits.queue", "jobs.queue"]
    assert now == with_values(running, {"limits.request_s": 7.0})


def test_a_model_of_several_may_have_some_settings_of_its_own(tmp_path: Path) -> None:
    file = tmp_path / "settings.toml"
    file.write_text('prepare = "never"\n[models.ko]\nlanguage = "ko"\n[models.cn]\nworkers = 2\n')
    settings = read_configuration(file, {}, {}).settings
    korean = settings_for(settings, "ko", settings.models["ko"])
    assert (korean.language, korean.prepare, korean.model) == ("ko", "never", ("ko",))
    assert settings_for(settings, "cn", settings.models["cn"]).workers.count == 2
    file.write_text("[models.ko]\nport = 1\n")
    with pytest.raises(ConfigurationError, match=r"unknown setting models.ko.port"):
        read_configuration(file, {}, {})


def test_config_prints_what_is_in_force_and_its_origin(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MODELSERVER_LIMITS_QUEUE", "5")
    result = CliRunner().invoke(main, ["config", "--port", "9999"])
    assert result.exit_code == 0
    lines = [" ".join(line.split()) for line in result.output.splitlines()]
    assert "port = 9999 # flag" in lines
    assert "queue = 5 # MODELSERVER_LIMITS_QUEUE" in lines
    assert 'host = "127.0.0.1" # default' in lines


def test_what_config_prints_is_a_settings_file(tmp_path: Path) -> None:
    file = tmp_path / "settings.toml"
    file.write_text(CliRunner().invoke(main, ["config", "--explain"]).output)
    again = read_configuration(file, {}, {})
    assert again.settings == read_configuration(None, {}, {}).settings


def test_a_bad_flag_ends_the_command_with_the_reason() -> None:
    result = CliRunner().invoke(main, ["serve", "--port", "x"])
    assert result.exit_code == 2
    assert "port = 'x' (from flag) is not allowed" in result.output


def test_models_of_several_sections_are_read_and_one_model_may_stand_for_them(
    tmp_path: Path,
) -> None:
    file = tmp_path / "settings.toml"
    file.write_text('[models.ko]\nmodel = "a"\nworkers = 1\n[models.cn]\n')
    read = read_configuration(file, {}, {})
    assert list(read.settings.models) == ["ko", "cn"]
    assert (read.settings.models["ko"].model, read.settings.models["ko"].workers) == (("a",), 1)
    names = {field.name: (value, origin) for field, value, origin in read.rows()}
    assert names["models.ko.workers"] == (1, str(file))
    alone = read_configuration(file, {"MODELSERVER_MODEL": "b, c"}, {})
    assert (alone.settings.models, alone.settings.model) == ({}, ("b", "c"))


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ('model = "x"\n[models.ko]\nworkers = 1\n', "sets both model and"),
        ('model = "x"\n[models.ko]\n', "sets both model and"),
        ("[models.ko]\nworkers = 0\n", "models.ko.workers = 0"),
        ("[models.ko]\nmodle = 'x'\n", "unknown setting models.ko.modle"),
        ("[models.'a b']\n", "models.a b is not a model's section"),
        (
            "[models.ko]\nsecond_pass = 'x'\n[models.cn]\n[models.en]\n",
            "is not another model of these settings; allowed: cn or en; without it the second pass",
        ),
        ("[models.ko]\nsecond_pass = 'ko'\n[models.cn]\n", "models.ko.second_pass = 'ko' (from "),
        ("[models.ko]\nsecond_pass = 'x'\n", "allowed: none, as there is no other"),
        ("models.ko = 'x'\n", "models.ko is not a model's section"),
        ("model = []\n", "model = []"),
        ("model = ['']\n", "model = ['']"),
        ("model = 7\n", "model = 7"),
    ],
)
def test_models_that_are_none_are_refused(tmp_path: Path, text: str, says: str) -> None:
    file = tmp_path / "settings.toml"
    file.write_text(text)
    with pytest.raises(ConfigurationError, match=re.escape(says)):
        read_configuration(file, {}, {})


@pytest.mark.parametrize(
    "variables",
    [
        {"MODELSERVER_SERVICE_HOST": "10.0.0.7", "MODELSERVER_SERVICE_PORT": "8091"},
        {"MODELSERVER_PORT": "tcp://10.0.0.7:8091"},
        {
            "MODELSERVER_PORT_8091_TCP": "tcp://10.0.0.7:8091",
            "MODELSERVER_PORT_8091_TCP_ADDR": "10.0.0.7",
        },
    ],
)
def test_what_kubernetes_says_of_a_service_is_no_setting(variables: dict[str, str]) -> None:
    assert read_configuration(None, variables, {}).settings.port == 8091


@pytest.mark.parametrize(
    "variables",
    [
        {"MODELSERVER_ADMIN_TOKEN": "TOPSECRET"},
        {"MODELSERVER_ADMIN_TOKENN": "TOPSECRET"},
        {"MODELSERVER_ADMIN_KEY": "TOPSECRET"},
        {"MODELSERVER_ADMIN_TOKN": "TOPSECRET"},
        {"MODELSERVER_MODELS_URLS": "https://user:TOPSECRET@mirror.example/models"},
        {"MODELSERVER_ASSISTANT_URL": "https://TOPSECRET@llm.example/v1?api-key=TOPSECRET"},
        {"MODELSERVER_ASSISTANT_URL": "ftp://user:TOPSECRET@llm.example/v1"},
    ],
)
def test_a_secret_is_shown_to_nobody(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str]
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert "TOPSECRET" not in CliRunner().invoke(main, ["config"]).output


@pytest.mark.parametrize(
    "text",
    [
        '[admin]\ntokn = "TOPSECRET"',
        '[assistant]\nkey = "sk-TOPSECRET"',
        '[assistant]\nurl = "ftp://user:TOPSECRET@llm.example/v1"',
        '[assistant]\nurl = "https://user:TOPSECRET@llm.example/v1"',
    ],
)
def test_a_secret_of_a_file_is_not_printed(tmp_path: Path, text: str) -> None:
    file = tmp_path / "settings.toml"
    file.write_text(text)
    shown = CliRunner().invoke(main, ["config", "--config", str(file)]).output
    assert "TOPSECRET" not in shown
    assert "admin" in shown or "assistant" in shown


@pytest.mark.parametrize(
    ("listen", "says"),
    [
        ("foo", "allowed: "),
        ("127.0.0.1:x", "allowed: "),
        ("127.0.0.1:\N{SUPERSCRIPT TWO}", "allowed: "),
        ("127.0.0.1:8092", "needs a token"),
    ],
)
def test_an_admin_address_that_is_none_is_said_before_anything_listens(
    listen: str, says: str
) -> None:
    for command in ("config", "serve", "status"):
        result = CliRunner().invoke(main, [command, f"--admin-listen={listen}"])
        assert (result.exit_code, says in result.output) == (1, True), result.output


def test_an_installation_s_directories_are_every_command_s(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    installed, own = tmp_path / "defaults.toml", tmp_path / "own.toml"
    installed.write_text(f'models_dir = "{tmp_path}/models"\nport = 1\n')
    own.write_text("port = 2\n")
    monkeypatch.setattr("modelserver.settings.configuration.INSTALLED_FILE", installed)
    configuration = read_configuration(own, {}, {})
    assert configuration.settings.models_dir == tmp_path / "models"
    assert configuration.settings.port == 2
    assert configuration.origins == {"models_dir": str(installed), "port": str(own)}


def test_a_user_without_a_home_gets_directories_below_the_root(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def unknown(_: int) -> pwd.struct_passwd:
        raise KeyError

    monkeypatch.setattr(pwd, "getpwuid", unknown)
    for name in ("HOME", "XDG_DATA_HOME", "XDG_CACHE_HOME", "XDG_STATE_HOME"):
        monkeypatch.delenv(name, raising=False)
    assert Settings().models_dir == Path("/.local/share/modelserver/models")
    assert shown(Settings().models_dir) == "/.local/share/modelserver/models"
    monkeypatch.setenv("HOME", "/home/a")
    assert shown(Settings().models_dir) == "~/.local/share/modelserver/models"
