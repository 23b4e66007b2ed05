"""Settings: their names, and where their values come from.

`modelserver.ready` reads `host` and `port` without importing this: a health check must cost neither
time nor memory.
"""

from modelserver.settings.schema import (
    AdminSettings,
    AssistantSettings,
    AuthSettings,
    CorsSettings,
    DebugSettings,
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
    "AssistantSettings",
    "AuthSettings",
    "CorsSettings",
    "DebugSettings",
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
