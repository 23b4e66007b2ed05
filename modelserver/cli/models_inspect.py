"""Command `modelserver models inspect`: a model's parts, and the memory that it needs here."""

import asyncio
from typing import TYPE_CHECKING, Any

import click
import msgspec
import psutil
import uvloop

import models as model_package
from modelserver.cli.errors import model_errors_shown
from modelserver.cli.options import with_settings
from modelserver.logs import configure_logs
from modelserver.serving.load_specs import find_model
from modelserver.serving.pool_settings import memory_settings
from modelserver.serving.selection import Choice, candidate, does_not_fit, worker_count
from modelserver.serving.sizing import kubernetes_patch, server_needs
from modelserver.settings import Settings
from modelserver.settings.configuration import Configuration
from modelserver.settings.labels import first_model
from modelserver.speech.languages import all_languages, languages_text
from supervisor import Headroom, NotReady, counted, find_headroom, in_units

if TYPE_CHECKING:  # imported by --measure only, which needs the whole server
    from modelserver.serving.measure import Measured


@click.command("inspect")
@click.argument("model", metavar="[NAME|PATH]", required=False)
@click.option(
    "--measure", "measured", is_flag=True, help="load the model once, and correct the prediction"
)
@click.option("--json", "as_json", is_flag=True, help="print JSON, with sizes in bytes")
@click.option(
    "--kubernetes",
    is_flag=True,
    help="print the requests and limits of its containers, as a patch for deploy/kubernetes",
)
@with_settings("models_dir", "prepared_dir", "language", "workers.count", "prepare")
def inspect_model(
    configuration: Configuration, model: str | None, measured: bool, as_json: bool, kubernetes: bool
) -> None:
    """Show a model's parts and predict its memory.

    The prediction uses the sizes of its files. PRIVATE is unreclaimable memory. MAPPED is file
    cache, which the kernel may reclaim. TOUCHED is the part of MAPPED that speech really uses.
    """
    settings = first_model(configuration.settings)
    if model is not None:
        settings = msgspec.structs.replace(settings, model=(model,))
    with model_errors_shown():
        location = find_model(settings)
        choice = candidate(location, settings)
    result = _measure(settings) if measured else None
    prediction = choice.prediction
    if result is not None:
        prediction = model_package.measured(
            prediction, model=result.model, growth=result.growth, load_s=result.load_s
        )
    headroom = find_headroom(memory_settings(settings))
    workers = worker_count(settings)
    if kubernetes:
        needs = server_needs(prediction, workers, settings)
        with model_errors_shown():
            patch = kubernetes_patch(location, needs)
        click.echo(patch, nl=False)
        return
    if as_json:
        document = _document(choice, prediction, result, headroom, workers)
        click.echo(msgspec.json.format(msgspec.json.encode(document)).decode())
        return
    for line in _in_words(choice, prediction, result, headroom, workers):
        click.echo(line)


def _measure(settings: Settings) -> "Measured":
    from modelserver.serving.measure import measure

    configure_logs(msgspec.structs.replace(settings.log, level="error"))
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            return runner.run(measure(settings))
    except NotReady as error:
        raise click.ClickException(error.message) from error


def _in_words(
    choice: Choice,
    prediction: model_package.Prediction,
    result: "Measured | None",
    headroom: Headroom,
    workers: int,
) -> list[str]:
    location = choice.location
    languages = all_languages(location.language, choice.form.abilities)
    punctuation = choice.punctuation
    marks = punctuation.problem or (punctuation.model and punctuation.model.name)
    together = f"{counted(workers, 'worker')} and the model: {in_units(prediction.total(workers))}"
    lines = [
        f"{location.name} ({languages_text(languages)}): {location.directory}",
        f"engine: {choice.engine}, form {choice.form.name}",
        *choice.form.notes,
        *([f"punctuation: {marks}"] if marks else []),
        "",
        f"{'PART':<28}{'ON DISK':>10}{'PRIVATE':>10}{'MAPPED':>10}{'TOUCHED':>10}",
    ]
    lines += [
        f"{part.name:<28}{_or_dash(part.disk):>10}{_or_dash(part.private):>10}"
        f"{_or_dash(part.mapped):>10}{_or_dash(part.touched):>10}"
        for part in prediction.parts
    ]
    lines.append(
        f"{'together':<28}{in_units(prediction.disk):>10}{in_units(prediction.model):>10}"
        f"{_or_dash(prediction.mapped):>10}{_or_dash(prediction.touched):>10}"
    )
    lines += [
        "",
        f"each worker grows by about {in_units(prediction.growth)}",
        f"{together}, and {in_units(prediction.touched)} of file cache for full speed"
        if prediction.touched
        else together,
        f"loads in about {prediction.load_s:g} s, from a warm disk cache, and warms up after that",
        f"based on {prediction.rests_on}",
    ]
    if prediction.loading:
        lines.append(f"while it loads it takes up to {in_units(prediction.most_while_loading)}")
    if "accurate" in choice.form.abilities.profiles:
        grown = in_units(prediction.growth_accurate)
        lines.append(f"with the profile accurate a worker grows by about {grown}")
    if result is not None:
        off = (choice.prediction.model - result.model) / result.model
        lines.append(
            f"measured: {in_units(result.model)} for the model ({_difference(off)}), "
            f"{in_units(result.growth)} for a worker after {result.audio_s:.0f} s of speech"
        )
    lines.append("")
    if choice.needs(workers) <= headroom.now:
        lines.append(
            f"It fits here now, with {counted(workers, 'worker')}: there is room for "
            f"{in_units(headroom.now)}; {headroom.limit}."
        )
    else:
        lines.append(f"{does_not_fit(choice, workers, headroom)}.")
    return lines


def _document(
    choice: Choice,
    prediction: model_package.Prediction,
    result: "Measured | None",
    headroom: Headroom,
    workers: int,
) -> dict[str, Any]:
    return {
        "model": choice.location.name,
        "language": choice.location.language,
        "directory": str(choice.location.directory),
        "engine": choice.engine,
        "form": choice.form.name,
        "prepared": choice.form.prepared is not None,
        "details": choice.form.details,
        "punctuation_model": choice.punctuation.model and choice.punctuation.model.name,
        "parts": [msgspec.to_builtins(part) for part in prediction.parts],
        "model_bytes": prediction.model,
        "loading_bytes": prediction.most_while_loading,
        "mapped_bytes": prediction.mapped,
        "touched_bytes": prediction.touched,
        "growth_bytes": prediction.growth,
        "growth_accurate_bytes": prediction.growth_accurate,
        "workers": workers,
        "total_bytes": prediction.total(workers),
        "load_s": prediction.load_s,
        "rests_on": prediction.rests_on,
        "predicted_model_bytes": choice.prediction.model,
        "measured": msgspec.to_builtins(result) if result is not None else None,
        "room_bytes": headroom.now,
        "room_is": headroom.limit,
        "fits": choice.needs(workers) <= headroom.now,
        "machine_bytes": psutil.virtual_memory().total,
    }


def _or_dash(count: int) -> str:
    return in_units(count) if count else "-"


def _difference(off: float) -> str:
    percent = round(100 * off)
    if not percent:
        return "as predicted"
    return f"{abs(percent)} % {'more' if percent > 0 else 'less'} was predicted"
