"""Models of the settings, each under its label, and the settings that hold for each."""

from modelserver.settings import ModelSettings, Settings
from modelserver.settings.changes import with_values

DEFAULT_LABEL = "default"
"""Label of the model that the settings name outside of `[models.LABEL]`."""


def own_settings(settings: Settings) -> dict[str, ModelSettings]:
    """Return each model's own settings, by label; the first is for requests that name none."""
    return settings.models or {DEFAULT_LABEL: ModelSettings(model=settings.model)}


def settings_for(settings: Settings, label: str, own: ModelSettings) -> Settings:
    """Return all settings, with this model's own in place."""
    workers = {} if own.workers is None else {"workers.count": own.workers}
    return with_values(
        settings, {"model": own.model or (label,), "models": {}, **workers, **own.given}
    )


def first_model(settings: Settings) -> Settings:
    """Return the settings of the model for requests that name none."""
    label, own = next(iter(own_settings(settings).items()))
    return settings_for(settings, label, own)
