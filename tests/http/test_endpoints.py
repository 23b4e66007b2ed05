"""Options for the end of an utterance: what is accepted, and what is refused."""

import pytest

from modelserver.refusal import Refusal
from modelserver.request.endpoints import read_endpoint_ms, read_max_utterance_s
from modelserver.request.parameters import STREAM_NAMES, read_parameters
from modelserver.speech.messages import CaptionRequest, SpeechRequest, recognition_of

pytestmark = pytest.mark.quick

HOSTILE = ["abc", "nan", "inf", "-1", "-300", "1e9", "1e2", "9" * 5000, "0x12c", "300ms", "３００"]
HOSTILE_NUMBERS = [float("nan"), float("inf"), -300, 10**400, 1e9, True, [300], {"a": 1}, 0.5]


@pytest.mark.parametrize(
    ("given", "read"),
    [("100", 100), ("300.0", 300), (" 10000 ", 10_000), (250, 250), (300.4, 300), ("0", 0), (0, 0)],
)
def test_a_pause_is_read_from_a_number_and_from_its_text(given: object, read: int) -> None:
    assert read_endpoint_ms(given) == read


@pytest.mark.parametrize("given", [*HOSTILE, *HOSTILE_NUMBERS, "99", "10001"])
def test_a_pause_outside_of_the_range_is_refused_with_the_range(given: object) -> None:
    with pytest.raises(Refusal, match=r"^endpoint_ms.*expected 100 to 10000 milli") as refused:
        read_endpoint_ms(given)
    assert refused.value.code == "bad_parameter"
    assert len(refused.value.message) < 200


@pytest.mark.parametrize("given", [*HOSTILE, *HOSTILE_NUMBERS, "0.9", "60.1"])
def test_a_length_outside_of_the_range_is_refused_with_the_range(given: object) -> None:
    with pytest.raises(Refusal, match=r"^max_utterance_s.*expected 1 to 60 seconds"):
        read_max_utterance_s(given)


def test_the_query_reaches_what_a_worker_is_asked() -> None:
    query = [("endpoint_ms", "700"), ("max_utterance_s", "2.5")]
    for names in (("endpoint_ms", "max_utterance_s"), STREAM_NAMES):
        asked, _ = read_parameters(query, {}, "", names)
        for request in (
            SpeechRequest(**recognition_of(asked)),
            CaptionRequest(**recognition_of(asked)),
        ):
            options = request.options(words=False, partials=False)
            assert (options.endpoint_ms, options.max_utterance_s) == (700, 2.5)


def test_without_them_the_rules_are_the_engines() -> None:
    asked, _ = read_parameters([("endpoint_ms", ""), ("max_utterance_s", "")], {}, "", STREAM_NAMES)
    assert (asked.endpoint_ms, asked.max_utterance_s) == (0, 0.0)
