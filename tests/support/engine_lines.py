"""Part of a program that loads a model: all that the engine says of a clip, in its own numbers."""

ENGINE_LINES = """
from models import RecognitionOptions, run_steps

def engine_lines(model, pcm, chunk, *, alternatives, partials):
    options = RecognitionOptions(words=True, alternatives=alternatives, partial_words=partials)
    recognizer = model.recognizer(options, rate=model.sample_rate)
    for at in range(0, len(pcm), chunk):
        if said := run_steps(recognizer.accept(pcm[at : at + chunk])):
            yield repr(said)
        elif partials:
            yield repr(recognizer.partial())
    yield repr(run_steps(recognizer.finish()))
"""
