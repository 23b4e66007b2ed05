"""Every setting: what there is, and where its value comes from."""

from modelserver.settings.schema import (
    AdminSettings,
    LimitSettings,
    LogSettings,
    ModelSettings,
    Section,
    Settings,
    WorkerSettings,
    xdg_directory,
)

__all__ = [
    "AdminSettings",
    "LimitSettings",
    "LogSettings",
    "ModelSettings",
    "Section",
    "Settings",
    "WorkerSettings",
    "xdg_directory",
]
