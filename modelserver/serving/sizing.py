"""The memory that a server needs on a shared machine: to ask for, and to be bounded by."""

from dataclasses import dataclass
from pathlib import Path

import models
from models.vosk.prepared import estimate_needs
from modelserver.settings import Settings
from supervisor import in_units

AT_ONCE_EACH = 2
"""What a worker is given by who hands out work: one that it works on, and one on its way."""
SUPERVISOR_BYTES = 80_000_000
"""What the supervisor takes, with what its work brings (measured: 62 MB)."""
_MARGIN = 1.25
"""The bound over what is asked for: so that the guard acts, and not the kernel."""
_STEP = 64 << 20
_PREPARE_MARGIN = 1.2


@dataclass(frozen=True, slots=True)
class Needs:
    """Of a server with so many workers, in bytes. `unreclaimable`: what cannot be taken back;
    `cached`: file cache for full speed, which a memory cgroup counts too, but gives back when it is
    needed."""

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
    unreclaimable = prediction.total(workers) + SUPERVISOR_BYTES + settings.spool.memory_total
    return Needs(workers, unreclaimable, prediction.touched)


def kubernetes_patch(name: str, original: Path, needs: Needs) -> str:
    """For `deploy/kubernetes`: what its containers ask for. Raises `models.ModelError`."""
    preparing = estimate_needs(original)
    memory = _rounded(_PREPARE_MARGIN * preparing.memory)
    disk = -(-preparing.disk // 1_000_000_000) + 1
    return f"""\
# modelserver models inspect --kubernetes {name} --workers {needs.workers}
#
# {in_units(needs.unreclaimable)} that cannot be reclaimed, {in_units(needs.cached)} of file cache
# for full speed; the limit leaves the guard room to act before the kernel does.
#
# Preparing the model, once on each volume, takes
# {preparing.in_words()}:
# the volume should have {disk} GB more than the models.
apiVersion: apps/v1
kind: StatefulSet
metadata:
  name: modelserver
spec:
  template:
    spec:
      initContainers:
        - name: prepare
          resources:
            requests: {{cpu: "1", memory: {_mebibytes(memory)}}}
            limits: {{memory: {_mebibytes(memory)}}}
      containers:
        - name: modelserver
          env:
            - {{name: MODELSERVER_WORKERS_COUNT, value: "{needs.workers}"}}
          resources:
            requests: {{cpu: "{needs.workers}", memory: {_mebibytes(needs.request)}}}
            limits: {{memory: {_mebibytes(needs.limit)}}}
"""


def _rounded(count: float) -> int:
    """Up to what people write."""
    return int(-(-count // _STEP) * _STEP)


def _mebibytes(count: int) -> str:
    return f"{count >> 20}Mi"
