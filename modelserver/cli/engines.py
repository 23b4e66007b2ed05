"""Engines of commands: workers of their own, or a running server."""

from pathlib import Path
from urllib.parse import quote

import click
import msgspec

from modelserver.batch.engine import Engine
from modelserver.logs import configure_logs
from modelserver.serving.keywords import KeywordsUnreadable, read_keywords
from modelserver.settings import Settings
from modelserver.settings.changes import with_values
from modelserver.settings.configuration import FLAG, Configuration
from modelserver.speech.messages import SpeechRequest

_MOST_ADDRESS_BYTES = 6000


def pool_settings_of(configuration: Configuration) -> Settings:
    """Return the settings for workers of a command's own."""
    settings = configuration.settings
    if "debug.warmup" not in configuration.origins:  # it takes longer than a few files do
        settings = with_values(settings, {"debug.warmup": "none"})
    return settings


def engine_of(
    configuration: Configuration,
    asked: SpeechRequest,
    encoding: str | None,
    rate: int | None,
    server: str | None,
    key: str | None,
) -> Engine:
    """Return an engine: the running `server`, if given, or workers of its own. A server receives
    `encoding` and `rate` of samples as they were given."""
    if server is not None:
        from modelserver.batch.server import Server

        given = {
            "channels": asked.channels,
            "keywords": "\n".join(_keywords(configuration, asked)),
            "encoding": encoding,
            "rate": rate and str(rate),
            "channel_count": asked.raw and str(asked.raw.channels),
            "endpoint_ms": asked.endpoint_ms and str(asked.endpoint_ms),
            "max_utterance_s": asked.max_utterance_s and str(asked.max_utterance_s),
        }
        parameters = {name: value for name, value in given.items() if value}
        return Server(server, key, {**parameters, **named(configuration)})
    from modelserver.batch.own_pool import OwnPool

    settings = pool_settings_of(configuration)
    quiet = msgspec.structs.replace(settings.log, level="warning")
    configure_logs(quiet if settings.log.level == "info" else settings.log)
    return OwnPool(settings, asked)


def _keywords(configuration: Configuration, asked: SpeechRequest) -> tuple[str, ...]:
    """Return the keywords that are sent to a server: in the address of each request, which is
    bounded. Raises `click.ClickException`."""
    keywords = asked.keywords
    if configuration.origins.get("keywords_file") == FLAG:
        try:
            keywords += read_keywords(Path(configuration.settings.keywords_file))
        except KeywordsUnreadable as error:
            raise click.ClickException(str(error)) from error
    if len(quote("\n".join(keywords))) > _MOST_ADDRESS_BYTES:
        raise click.ClickException(
            f"the keywords take more than {_MOST_ADDRESS_BYTES} bytes of an address: name them in "
            "the server's setting keywords_file"
        )
    return keywords


def named(configuration: Configuration) -> dict[str, str]:
    """Return the model, language and profile that flags of the command name."""
    settings = configuration.settings
    given = {"model": settings.model[0], "language": settings.language, "profile": settings.profile}
    return {n: value for n, value in given.items() if configuration.origins.get(n) == FLAG}
