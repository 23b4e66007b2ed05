"""Every setting: what there is, and where its value comes from."""

from modelserver.settings.schema import (
    AdminSettings,
    AssistantSettings,
    AuthSettings,
    CorsSettings,
    JobSettings,
    LimitSettings,
    LogSettings,
    ModelSettings,
    ProxySettings,
    Section,
    Settings,
    TracingSettings,
    WorkerSettings,
    xdg_directory,
)

__all__ = [
    "AdminSettings",
    "AssistantSettings",
    "AuthSettings",
    "CorsSettings",
    "JobSettings",
    "LimitSettings",
    "LogSettings",
    "ModelSettings",
    "ProxySettings",
    "Section",
    "Settings",
    "TracingSettings",
    "WorkerSettings",
    "xdg_directory",
]
