"""Progress for a client that reads slowly while a file is decoded."""

import pytest

from modelserver.api import progress
from modelserver.api.progress import OurStory, _Waiting
from modelserver.speech.messages import SpeechProgress, SpeechSegment

pytestmark = pytest.mark.quick


def test_of_what_passes_only_the_last_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "_REPORT_S", 0.0)
    waiting = _Waiting(OurStory())
    for number in range(1000):
        waiting.tell(SpeechProgress(float(number), partial=f"text {number}"))
    assert [event.name for event in waiting.events] == ["partial", "progress"]
    assert waiting.events[0].document == progress.PartialText("text 999")
    for number in range(3):
        waiting.tell(SpeechProgress(1.0, partial="a"))
        waiting.tell(SpeechProgress(2.0, segment=SpeechSegment(0.0, 1.0, f"said {number}", [])))
    names = [event.name for event in waiting.take()]
    assert names == ["final", "final", "final", "progress"]
    assert not waiting.events
