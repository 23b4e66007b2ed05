"""Transcripts of a recording's pieces, made one: no word lost at a seam, and none twice."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import msgspec

from modelserver.speech.messages import SpeechSegment, SpeechWord
from modelserver.speech.segments import segment_of_words
from modelserver.speech.transcript import join_texts

_SAME_S = 0.3
"""Two words are the same if they are alike and begin within that."""
_MARGIN_S = 0.6
"""Silence within two segments whose words have no times, at the end of one and the start of the
other."""
_LONGEST_S = 20.0
"""Length of a segment that is made of two, if a request names none."""


@dataclass(frozen=True, slots=True)
class RecognisedPiece:
    """Recognised piece; times from the start of the recording. `begin` to `end` is its own part;
    `paused`: it ends in a pause."""

    begin: float
    end: float
    paused: bool
    segments: list[SpeechSegment]
    """Segments with their words, if the model has words."""


class Joiner:
    """Give it the pieces in order; each brings the segments that are complete with it."""

    def __init__(self, pause_s: float = 0.0, longest_s: float = 0.0) -> None:
        """Join pieces. `pause_s`: seconds of silence that end a segment, `longest_s`: length at
        which a segment ends; 0: a segment ends with its piece, if there is a pause."""
        self._pause_s, self._longest_s = pause_s, longest_s
        self._before: RecognisedPiece | None = None
        self._open: list[SpeechSegment] = []
        """Of the piece before, what may still change."""

    def add(self, piece: RecognisedPiece) -> list[SpeechSegment]:
        """Add the next piece; return the segments that are complete."""
        before, self._before = self._before, piece
        segments = list(piece.segments)
        if before is None:
            self._open = segments
            return []
        if before.paused:
            earlier, later = self._open, segments
        else:
            earlier, later = _at_the_seam(self._open, segments, before.end)
        done = earlier
        if earlier and later and self._are_one(earlier[-1], later[0], paused=before.paused):
            done, later = earlier[:-1], [_joined(earlier[-1], later[0]), *later[1:]]
        self._open = later
        return done

    def _are_one(self, earlier: SpeechSegment, later: SpeechSegment, *, paused: bool) -> bool:
        """Return whether an utterance continues across the seam."""
        length_s = later.end - earlier.start
        if not paused and _is_one_utterance(earlier, later):
            return length_s <= self._longest_s or not self._longest_s
        gap_s = later.start - earlier.end
        if not earlier.words or not later.words:
            gap_s += _MARGIN_S
        return gap_s < self._pause_s and length_s <= (self._longest_s or _LONGEST_S)

    def finish(self) -> list[SpeechSegment]:
        """Return the segments that are still open, after the last piece."""
        done, self._open = self._open, []
        return done


def _at_the_seam(
    earlier: list[SpeechSegment], later: list[SpeechSegment], seam: float
) -> tuple[list[SpeechSegment], list[SpeechSegment]]:
    """Return both lists without their common part. The cut is after a word that both contain, the
    one nearest to the seam; or else at the seam itself."""
    ours = [word for segment in earlier for word in segment.words]
    theirs = [word for segment in later for word in segment.words]
    same = [
        (abs(one.end - seam), one, other)
        for one in ours
        for other in theirs
        if one.word == other.word and abs(one.start - other.start) < _SAME_S
    ]
    if same:
        _, one, other = min(same, key=lambda found: found[0])
        return (
            _with_words(earlier, lambda word: word.end <= one.end),
            _with_words(later, lambda word: word.start > other.start),
        )
    before_seam = _with_words(earlier, lambda word: _middle(word) < seam)
    last = max((word.end for segment in before_seam for word in segment.words), default=seam)
    after = max(seam, last - _SAME_S / 2)
    return before_seam, _with_words(later, lambda word: _middle(word) >= after)


def _is_one_utterance(earlier: SpeechSegment, later: SpeechSegment) -> bool:
    """Return whether there is no pause between the segments, which only words can tell."""
    return bool(earlier.words and later.words) and later.start - earlier.end < _SAME_S


def _joined(earlier: SpeechSegment, later: SpeechSegment) -> SpeechSegment:
    if earlier.words and later.words:
        return segment_of_words([*earlier.words, *later.words], earlier.language)
    return msgspec.structs.replace(
        earlier, end=later.end, text=join_texts((earlier.text, later.text)), alternatives=[]
    )


def _middle(word: SpeechWord) -> float:
    return (word.start + word.end) / 2


def _with_words(
    segments: Iterable[SpeechSegment], wanted: Callable[[SpeechWord], bool]
) -> list[SpeechSegment]:
    """Return the segments with the `wanted` words only, without those that have none left. Segments
    that never had words belong to pieces that do not overlap, and stay."""
    found = []
    for segment in segments:
        words = [word for word in segment.words if wanted(word)]
        if len(words) == len(segment.words):
            found.append(segment)
        elif words:
            found.append(segment_of_words(words, segment.language))
    return found


def without_words(segment: SpeechSegment) -> SpeechSegment:
    """Return the segment without words, for a request that did not ask for them."""
    return msgspec.structs.replace(segment, words=[])
