"""Part of a program that loads a model: all that the engine says of a clip, as its own JSON."""

ENGINE_LINES = """
from models import RecognitionOptions

def in_steps(steps):
    try:
        while True:
            next(steps)
    except StopIteration as ended:
        return ended.value

def engine_lines(model, pcm, chunk, *, alternatives, partials):
    options = RecognitionOptions(words=True, alternatives=alternatives, partial_words=partials)
    recognizer = model.live(model.sample_rate, options)
    for at in range(0, len(pcm), chunk):
        if in_steps(recognizer.accept(pcm[at : at + chunk])):
            yield recognizer.result()
        elif partials:
            yield recognizer.partial()
    yield recognizer.final()
"""
