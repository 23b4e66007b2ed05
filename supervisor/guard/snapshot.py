"""Snapshots: what is known at one moment, for the policy and the history."""

import os
import time

from supervisor.deaths.history import Moment, ProcessMoment
from supervisor.deaths.level import Level
from supervisor.guard.members import Members
from supervisor.guard.observer import Observer
from supervisor.guard.policy import HelperView, LoadView, Situation, WorkerView
from supervisor.processes.forkserver_handle import ForkServerHandle
from supervisor.processes.worker_handle import WorkerState
from supervisor.sizes import in_units


class Snapshots:
    """Frozen values, made of the observer's accounts."""

    def __init__(self, observer: Observer, members: Members) -> None:
        self._observer = observer
        self._members = members
        self._accounting = observer.accounting

    def situation(self, left: int) -> Situation:
        """Describe the moment for the policy; `left`: bytes until the tightest bound."""
        observer, of, budgets = self._observer, self._accounting.of, self._observer.budgets
        own = {process.pid for process in self._members.processes}
        return Situation(
            time.monotonic(),
            left,
            budgets.limits,
            budgets.budget,
            tuple(
                WorkerView(
                    w.pid,
                    w.busy,
                    w.state is WorkerState.LEAVING,
                    of(w.pid).growth,
                    of(w.pid).unreclaimable,
                    of(w.pid).rate,
                    self._members.replaceable(w),
                    budgets.for_streams(w),
                    budgets.hard(w),
                    observer.threads.get(w.pid, 1) if w.in_force else 1,
                )
                for w in self._members.workers
                if w.running
            ),
            tuple(
                self._load(server) for server in self._members.servers if not server.loaded.done()
            ),
            tuple(HelperView(pid, of(pid).unreclaimable) for pid in observer.helpers - own),
            observer.meter.waiting(),
        )

    def _load(self, server: ForkServerHandle) -> LoadView:
        pids = (server.pid, *self._observer.below.get(server.pid, ()))
        accounts = [self._accounting.of(pid) for pid in pids]
        return LoadView(
            server.pid, sum(a.unreclaimable for a in accounts), sum(a.rate for a in accounts)
        )

    def moment(self, level: Level) -> Moment:
        """Describe the moment for the history."""
        roles = {worker.pid: "worker" for worker in self._members.workers}
        roles |= {server.pid: "fork server" for server in self._members.servers}
        roles[os.getpid()] = "supervisor"
        return Moment(
            time.time(),
            level,
            self._observer.budgets.left,
            self._observer.used(),
            self._observer.tightest().name,
            tuple(
                ProcessMoment(
                    pid,
                    roles.get(pid, "helper"),
                    account.rss or 0,
                    account.unreclaimable,
                    account.growth,
                )
                for pid, account in self._accounting.items()
            ),
        )

    def mapped(self) -> int:
        """Return the most file cache that one of the models' processes has mapped and resident."""
        pids = (process.pid for process in self._members.processes)
        return max((self._accounting.of(pid).mapped for pid in pids), default=0)

    def missing(self) -> str:
        """Describe how much more memory the models' mapped pages would need; empty if no model is
        loaded."""
        reports = [server.report() for server in self._members.live_servers]
        if not reports:
            return ""
        resident = self.mapped()
        mapped = sum(report.get("mapped_bytes") or 0 for report in reports)
        usual = sum(report.get("working_set_bytes") or 0 for report in reports)
        most = max(0, mapped - resident)
        if usual > resident:
            return f"about {in_units(usual - resident)} more memory, at most {in_units(most)}"
        return f"at most {in_units(most)} more memory"
