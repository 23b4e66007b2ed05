"""Models of the settings, each under its label, and the settings that hold for each."""

import msgspec

from modelserver.settings import ModelSettings, Settings

DEFAULT_LABEL = "default"
"""What the model is called that the settings name outside of `[models.LABEL]`."""


def own_settings(settings: Settings) -> dict[str, ModelSettings]:
    """Return each model's own settings, by label; the first is for requests that name none."""
    return settings.models or {DEFAULT_LABEL: ModelSettings(model=settings.model)}


def settings_for(settings: Settings, label: str, own: ModelSettings) -> Settings:
    """Return all settings, with this model's own in place."""
    workers = settings.workers
    if own.workers is not None:
        workers = msgspec.structs.replace(workers, count=own.workers)
    return msgspec.structs.replace(
        settings, model=own.model or (label,), workers=workers, models={}, **own.given
    )


def first_model(settings: Settings) -> Settings:
    """Return the settings of the model for requests that name none."""
    label, own = next(iter(own_settings(settings).items()))
    return settings_for(settings, label, own)
