"""The memory that a server needs on a shared machine: to ask for, and to be bounded by."""

from dataclasses import dataclass

import models
from modelserver.settings import Settings
from supervisor import in_units

AT_ONCE_EACH = 2
"""Requests for each worker that a distributor of work keeps open: one in progress, and one on its
way."""
SUPERVISOR_BYTES = 80_000_000
"""Bytes of the supervisor, with what its work adds (measured: 62 MB)."""
_MARGIN = 1.25
"""The bound over what is asked for: so that the guard acts, and not the kernel."""
_STEP = 64 << 20
_PREPARE_MARGIN = 1.2


@dataclass(frozen=True, slots=True)
class Needs:
    """Bytes that a server with `workers` workers needs. `unreclaimable`: memory that the
    kernel cannot take back; `cached`: file cache for full speed, which a memory cgroup counts too,
    but gives back when needed."""

    workers: int
    unreclaimable: int
    cached: int

    @property
    def request(self) -> int:
        """Bytes to ask for, for full speed."""
        return _rounded(self.unreclaimable + self.cached)

    @property
    def limit(self) -> int:
        """Beyond which the kernel kills; the server stays below it by itself."""
        return _rounded(_MARGIN * self.request)


def server_needs(prediction: models.Prediction, workers: int, settings: Settings) -> Needs:
    """Return the needs of a server with that model."""
    model = max(prediction.total(workers), prediction.most_while_loading)
    unreclaimable = model + SUPERVISOR_BYTES + settings.spool.memory_total
    return Needs(workers, unreclaimable, prediction.touched)


def kubernetes_patch(location: models.ModelLocation, needs: Needs) -> str:
    """Return a patch of the containers' resources for `deploy/kubernetes`. Raises
    `models.ModelError`."""
    store = models.engine_of(location.directory).store
    preparing = store.needs(location) if store is not None else None
    unreclaimable = in_units(needs.unreclaimable)
    return f"""\
# modelserver models inspect --kubernetes {location.name} --workers {needs.workers}
#
# {unreclaimable} that cannot be taken back, and {in_units(needs.cached)} of file cache for
# full speed; the limit leaves the guard room to act before the kernel does.
{_disk(preparing) if preparing else ""}apiVersion: apps/v1
kind: StatefulSet
metadata:
  name: modelserver
spec:
  template:
    spec:
{_init_container(preparing) if preparing else ""}      containers:
        - name: modelserver
          env:
            - {{name: MODELSERVER_WORKERS_COUNT, value: "{needs.workers}"}}
          resources:
            requests: {{cpu: "{needs.workers}", memory: {_mebibytes(needs.request)}}}
            limits: {{memory: {_mebibytes(needs.limit)}}}
"""


def _disk(preparing: models.PreparationNeeds) -> str:
    disk = -(-preparing.disk // 1_000_000_000) + 1
    return f"""\
#
# Preparing the model, once on each volume, takes
# {preparing.in_words()}:
# the volume should have {disk} GB more than the models.
"""


def _init_container(preparing: models.PreparationNeeds) -> str:
    memory = _mebibytes(_rounded(_PREPARE_MARGIN * preparing.memory))
    return f"""\
      initContainers:
        - name: prepare
          resources:
            requests: {{cpu: "1", memory: {memory}}}
            limits: {{memory: {memory}}}
"""


def _rounded(count: float) -> int:
    """Up to what people write."""
    return int(-(-count // _STEP) * _STEP)


def _mebibytes(count: int) -> str:
    return f"{count >> 20}Mi"
