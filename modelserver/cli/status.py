"""Command `modelserver status`: a running server's health, for people."""

import click
import msgspec

from models import DEFAULT_PROFILE
from modelserver.admin.client import NoServer, fetch_health, printable
from modelserver.admin.health import Health, ModelHealth
from modelserver.admin.sentences import (
    death_sentences,
    jobs_sentence,
    memory_sentences,
    requests_sentence,
    streams_sentence,
    uploads_sentence,
)
from modelserver.cli.options import with_settings
from modelserver.settings.configuration import Configuration
from supervisor import in_units

_DEATHS = 5


@click.command()
@click.option("--json", "as_json", is_flag=True, help="print the whole health document as JSON")
@with_settings("admin.listen")
def status(configuration: Configuration, as_json: bool) -> None:
    """Show the health of the running server.

    Exit status: 0 if it accepts requests, else 1.
    """
    try:
        health = fetch_health(configuration.settings)
    except NoServer as error:
        raise click.ClickException(str(error)) from error
    if as_json:
        click.echo(msgspec.json.format(msgspec.json.encode(health)).decode())
    else:
        for line in in_words(health):
            click.echo(printable(line))
    if health.status not in ("ok", "degraded"):
        raise SystemExit(1)


def in_words(health: Health) -> list[str]:
    """Return the document in a few lines."""
    lines = [f"{health.status}: {health.model.get('model', 'no model')}, pid {health.pid}"]
    lines += [f"  {reason}" for reason in health.reasons]
    if health.preparing:
        lines.append(f"preparing: {health.preparing}")
    lines += [f"not prepared: {m.not_prepared}" for m in health.models if m.not_prepared]
    several = len(health.models) > 1
    for model in health.models:
        whose = f" ({model.label})" if several else ""
        if model.sandbox or model.sandbox_missing:
            lines.append(f"sandbox of its workers{whose}: {', '.join(model.sandbox) or 'none'}")
            lines += [f"  not in force: {missing}" for missing in model.sandbox_missing]
        if model.profile != DEFAULT_PROFILE:
            lines.append(f"profile{whose}: {model.profile}")
        lines += [f"text step {name}{whose}: {state}" for name, state in model.text_steps.items()]
        if model.engine is not None:
            why = f" ({model.missing})" if model.missing else ""
            lines.append(f"engine{whose}: {model.engine}, form {model.form}{why}")
            facts = {name: fact for name, fact in model.details.items() if fact != ""}
            lines += [f"  {name}: {_fact(fact)}" for name, fact in facts.items()]
    if several:
        lines += [_of_several(model) for model in health.models]
    sentences = [
        *memory_sentences(health),
        requests_sentence(health),
        streams_sentence(health),
        uploads_sentence(health),
        jobs_sentence(health),
    ]
    lines += [f"{said.subject}: {said.text}" for said in sentences]
    for worker in health.workers:
        label = f" ({worker.model})" if several else ""
        lines.append(
            f"worker {worker.id}{label}: {worker.state}, pid {worker.pid}, {worker.jobs_done} "
            f"done, grown by {in_units(worker.growth_bytes)} of {in_units(worker.budget_bytes)}"
        )
    lines += [
        f"{resource.name}: {_share(resource.used, resource.limit)}" for resource in health.resources
    ]
    if health.exits_by_cause:
        causes = ", ".join(f"{cause} {n}" for cause, n in sorted(health.exits_by_cause.items()))
        lines.append(f"ended so far: {causes}")
    lines += [f"{said.subject}: {said.text}" for said in death_sentences(health, _DEATHS)]
    return lines


def _of_several(model: ModelHealth) -> str:
    facts = [model.state, model.model, "" if model.language == "und" else model.language]
    why = f" ({model.reason})" if model.reason else ""
    return f"model {model.label}: {', '.join(filter(None, facts))}{why}"


def _fact(fact: object) -> str:
    """Return an engine's fact for a person: yes, no, or names with commas."""
    if isinstance(fact, bool):
        return "yes" if fact else "no"
    return ", ".join(map(str, fact)) if isinstance(fact, list | tuple) else str(fact)


def _share(used: int, limit: int) -> str:
    return f"{100 * used / limit:.0f} % used" if limit else "unknown"
