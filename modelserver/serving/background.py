"""Recognition in the background, one utterance at a time: the request for a worker, and the
captions of an utterance that this side ends."""

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
    """End the utterance and return the captions since the last end; the last one is final. Raises
    `supervisor.PoolError`."""
    await stream.send(RESET)
    captions: list[Caption] = []
    while not (captions and captions[-1].finalized):
        captions += [msgspec.convert(one, Caption) for one in await stream.receive()]
    return captions


def words_later(caption: Caption, seconds: float) -> list[SpeechWord]:
    """Return a caption's words, shifted by `seconds`."""
    return [
        msgspec.structs.replace(
            word, start=round(word.start + seconds, 2), end=round(word.end + seconds, 2)
        )
        for word in caption.words or ()
    ]
