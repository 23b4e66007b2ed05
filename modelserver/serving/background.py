"""Speech that is heard in the background, an utterance at a time: what a worker is asked, and what
it has understood when an utterance is ended here."""

import msgspec

from modelserver.audio.formats import RawFormat
from modelserver.speech.messages import (
    RESET,
    Caption,
    CaptionRequest,
    RecognitionRequest,
    SpeechRequest,
    SpeechWord,
)
from supervisor import Stream


def begin(stream: Stream, rate: int, asked: SpeechRequest | CaptionRequest, profile: str) -> None:
    """Begin a stream of samples (16-bit, mono), `rate` a second, with words and the options of
    `asked`, but for its `profile`."""
    shared = {name: getattr(asked, name) for name in RecognitionRequest.__struct_fields__}
    shared["profile"] = profile
    raw = RawFormat("s16le", rate)
    request = CaptionRequest(raw=raw, words=True, partials=False, **shared)
    stream.begin(msgspec.to_builtins(request))


async def end_utterance(stream: Stream) -> list[Caption]:
    """All that it has understood since the last end; the last of them is this end's. Raises
    `supervisor.PoolError`."""
    await stream.send(RESET)
    captions: list[Caption] = []
    while not (captions and captions[-1].finalized):
        captions += [msgspec.convert(one, Caption) for one in await stream.receive()]
    return captions


def words_later(caption: Caption, seconds: float) -> list[SpeechWord]:
    """A caption's words, so much later."""
    return [
        msgspec.structs.replace(
            word, start=round(word.start + seconds, 2), end=round(word.end + seconds, 2)
        )
        for word in caption.words or ()
    ]
