"""Every setting: what there is, and where its value comes from."""

from modelserver.settings.schema import (
    AdminSettings,
    AuthSettings,
    CorsSettings,
    JobSettings,
    LimitSettings,
    LogSettings,
    ModelSettings,
    ProxySettings,
    Section,
    Settings,
    WorkerSettings,
    xdg_directory,
)

__all__ = [
    "AdminSettings",
    "AuthSettings",
    "CorsSettings",
    "JobSettings",
    "LimitSettings",
    "LogSettings",
    "ModelSettings",
    "ProxySettings",
    "Section",
    "Settings",
    "WorkerSettings",
    "xdg_directory",
]
