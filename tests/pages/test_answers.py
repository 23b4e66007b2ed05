"""Answers on the voice page: Markdown, thoughts, code, what is read aloud, and hostile texts."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from browser import Browsers, Visit, violations, visit
from language_model import LanguageModel, language_model
from playwright.sync_api import Browser, Page, expect
from running import RunningServer, start_server, until

ANSWER = """# Title

Some **bold**, *slanted* and `inline` text. See [the page](https://example.org/a_b) or https://example.org/c.

> quoted

3. three
4. four
   - inner

| a | b |
| - | - |
| 1 | 2 |

```python
print("<b>not bold</b>")
```

The end 😀."""

UNSAFE = """<img src=x onerror="window.harmed = 1"> <b>html</b>

<script>window.harmed = 1</script>

[js](javascript:window.harmed=1) [data](data:text/html,x) [file](file:///etc/passwd) [own](/admin/)

![a picture](https://tracker.example/p.png) ![js](javascript:1)

<https://example.org/auto> <javascript:alert(1)>

[x](https://example.org/"onmouseover="window.harmed=1)"""

SPEECH = """
  window.spoken = [];
  window.primed = 0;
  Object.defineProperty(window, "speechSynthesis", { value: {
    speaking: false,
    speak(one) {
      if (!one.volume) { primed += navigator.userActivation.isActive; return; }
      spoken.push(one.text);
    },
    cancel() {},
  }});
  localStorage.setItem('modelserver.choices', JSON.stringify({aloud: true}));
"""
"""Read answers aloud, and note what is spoken."""


@pytest.fixture(scope="module")
def talker() -> Iterator[LanguageModel]:
    with language_model() as model:
        yield model


@pytest.fixture(autouse=True)
def _well(talker: LanguageModel) -> None:
    talker.way, talker.pause_s = "stream", 0.0


@pytest.fixture(scope="module")
def server(
    tmp_path_factory: pytest.TempPathFactory, small_settings: dict[str, str], talker: LanguageModel
) -> Iterator[RunningServer]:
    given = small_settings | {
        "MODELSERVER_ASSISTANT_URL": talker.url,
        "MODELSERVER_ASSISTANT_PER_MINUTE": "0",
    }
    with start_server(tmp_path_factory.mktemp("answers"), **given) as running:
        running.wait_whole()
        yield running


def opened(
    launched: Browser,
    server: RunningServer,
    locale: str = "en-US",
    script: str = "",
    host: str = "",
) -> Visit:
    context = launched.new_context(locale=locale)
    if script:
        context.add_init_script(script)
    url = server.url.replace("127.0.0.1", host or "localhost")
    found = visit(context, url)
    found.page.wait_for_selector("html[data-ready]")
    return found


def asked(page: Page, timeout_s: float = 20) -> None:
    """Ask, and wait for the end of the answer."""
    page.locator("#text").fill("a question")
    page.locator("#send").click()
    answer = page.locator(".turn.assistant")
    expect(answer).to_have_count(1, timeout=timeout_s * 1000)
    expect(page.locator(".turn.assistant.open")).to_have_count(0, timeout=timeout_s * 1000)


def pieces(text: str, size: int = 3) -> list[str]:
    return [text[at : at + size] for at in range(0, len(text), size)]


def test_an_answer_is_shown_as_markdown(
    server: RunningServer, launched: Browser, talker: LanguageModel, node_packages: Path
) -> None:
    talker.words = pieces(ANSWER)
    visited = opened(launched, server)
    page = visited.page
    asked(page)
    text = page.locator(".turn.assistant .text")
    expect(text.locator("h3")).to_have_text("Title")
    expect(text.locator("strong")).to_have_text("bold")
    expect(text.locator("em")).to_have_text("slanted")
    expect(text.locator("blockquote")).to_have_text("quoted")
    expect(text.locator("ol")).to_have_attribute("start", "3")
    expect(text.locator("ol > li")).to_have_count(2)
    expect(text.locator("ol ul li")).to_have_text("inner")
    expect(text.locator("td")).to_have_text(["1", "2"])
    expect(text.locator("pre code")).to_have_text('print("<b>not bold</b>")')
    links = text.locator("a")
    assert links.evaluate_all("all => all.map((a) => [a.href, a.target, a.rel])") == [
        ["https://example.org/a_b", "_blank", "noopener noreferrer"],
        ["https://example.org/c", "_blank", "noopener noreferrer"],
    ]
    assert violations(page, node_packages) == []
    # A streamed answer looks as it does when it is shown at once.
    streamed = text.inner_html()
    page.reload()
    page.wait_for_selector("html[data-ready]")
    assert text.inner_html() == streamed
    visited.must_be_well()


def test_nothing_of_a_model_is_taken_for_html_or_loaded(
    server: RunningServer, launched: Browser, talker: LanguageModel
) -> None:
    talker.words = [UNSAFE]
    visited = opened(launched, server)
    page = visited.page
    asked(page)
    text = page.locator(".turn.assistant .text")
    expect(text).to_contain_text('<img src=x onerror="window.harmed = 1"> <b>html</b>')
    expect(text).to_contain_text("<script>window.harmed = 1</script>")
    assert text.locator("img, script, b, style, iframe").count() == 0
    hrefs = text.locator("a").evaluate_all("all => all.map((a) => a.getAttribute('href'))")
    assert hrefs[:2] == ["https://tracker.example/p.png", "https://example.org/auto"]
    assert all(href.startswith("https://") for href in hrefs)
    expect(text.get_by_role("link", name="a picture")).to_be_visible()
    attributes = text.locator("*").evaluate_all(
        "all => [...new Set(all.flatMap((one) => one.getAttributeNames()))].sort()"
    )
    assert attributes == ["href", "rel", "target"]
    assert page.evaluate("window.harmed") is None
    visited.must_be_well()


@pytest.mark.parametrize(("locale", "summary"), [("en-US", "Thoughts"), ("zh-CN", "思考过程")])
@pytest.mark.parametrize("way", ["thinks", "reasons"])
def test_thoughts_are_folded_away_and_not_read_aloud(
    server: RunningServer,
    launched: Browser,
    talker: LanguageModel,
    way: str,
    locale: str,
    summary: str,
) -> None:
    talker.way, talker.words = way, ["Hello, ", "you asked. "]
    page = opened(launched, server, locale, SPEECH).page
    asked(page)
    folded = page.locator(".turn.assistant details")
    expect(folded.locator("div")).to_be_hidden()
    expect(folded.locator("summary")).to_have_text(summary)
    folded.locator("summary").click()
    expect(folded.locator("div")).to_have_text(re.compile("^Hmm?, hello\\?$"))
    expect(page.locator(".turn.assistant .text")).to_have_text("Hello, you asked.")
    until(lambda: page.evaluate("spoken") == ["Hello, you asked."])


def test_thoughts_that_are_not_finished_are_folded_away_too(
    server: RunningServer, launched: Browser, talker: LanguageModel
) -> None:
    talker.way = "thinks_too_long"
    page = opened(launched, server, script=SPEECH).page
    asked(page)
    expect(page.locator(".turn.assistant details div")).to_be_hidden()
    expect(page.locator(".turn.assistant .text")).to_have_text("")
    expect(page.locator(".turn.assistant .note")).to_contain_text("cut")
    assert page.evaluate("spoken") == []
    # Thoughts are not a part of the conversation.
    page.locator("#text").fill("and now?")
    page.locator("#send").click()
    until(
        lambda: len(talker.asked) > 1 and talker.asked[-1]["messages"][-1]["content"] == "and now?"
    )
    assert all("Hm" not in one["content"] for one in talker.asked[-1]["messages"])


def test_marks_links_code_and_emoji_are_not_spoken(
    server: RunningServer, launched: Browser, talker: LanguageModel
) -> None:
    talker.words = pieces(ANSWER, 5)
    page = opened(launched, server, script=SPEECH).page
    asked(page)
    assert page.evaluate("spoken") == [
        "Title",
        "Some bold, slanted and inline text.",
        "See the page or",
        "quoted",
        "three",
        "four",
        "inner",
        "a",
        "b",
        "1",
        "2",
        "The end .",
    ]
    assert page.evaluate("primed") == 1  # while the button was pressed, as Safari asks for


def test_chinese_numbers_and_long_sentences_are_spoken_in_pieces(
    server: RunningServer, launched: Browser, talker: LanguageModel
) -> None:
    talker.words = ["圆周率是 3.14。", "很好！", "**一*二**", "\n\n", "word, " * 100]
    page = opened(launched, server, script=SPEECH).page
    asked(page)
    spoken = page.evaluate("spoken")
    assert spoken[:3] == ["圆周率是 3.14。", "很好！", "一二"]
    assert " ".join(spoken[3:]) == ("word, " * 100).strip()
    assert all(len(one) <= 300 for one in spoken)


@pytest.mark.parametrize("host", ["localhost", "speech.test"], ids=["clipboard", "without"])
def test_code_can_be_copied(
    server: RunningServer, driver: Browsers, talker: LanguageModel, host: str
) -> None:
    talker.words = ["```sh\necho one\n", "echo two\n```\n"]
    rule = "--host-resolver-rules=MAP speech.test 127.0.0.1"
    with driver.launch(b"", rule) as launched:
        page = opened(launched, server, host=host).page
        assert page.evaluate("isSecureContext") == (host == "localhost")
        asked(page)
        button = page.locator(".copy-code")
        button.click()
        expect(button).to_have_text("Copied")
        expect(button).to_have_text("Copy")
        page.locator("#text").focus()
        page.keyboard.press("Control+V")
        expect(page.locator("#text")).to_have_value("echo one\necho two")


def test_what_is_selected_stays_while_an_answer_comes(
    server: RunningServer, launched: Browser, talker: LanguageModel
) -> None:
    talker.words, talker.pause_s = ["first *words* ", *["more "] * 60], 0.05
    page = opened(launched, server).page
    page.locator("#text").fill("a question")
    page.locator("#send").click()
    strong = page.locator(".turn.assistant.open em")
    expect(strong).to_have_text("words")
    strong.evaluate("one => getSelection().selectAllChildren(one)")
    expect(page.locator(".turn.assistant.open .text")).to_contain_text("more more more")
    assert page.evaluate("getSelection().toString()") == "words"
    page.locator("#tongue").select_option("zh")
    expect(page.locator(".turn.assistant:not(.open) .text")).to_contain_text("more " * 59)


HOSTILE = {
    "stars": "*" * 100_000,
    "emphasis": "*a_" * 33_000,
    "quotes": ">" * 100_000,
    "quoted": "> a\n" * 25_000,
    "lists": "\n".join(" " * n + "- a" for n in range(440)),
    "links": "[a](http://b/c) " * 10_000,
    "brackets": "![" * 50_000,
    "backticks": "\n".join("`" * n for n in range(440)),
    "table": "|a|b|\n|-|-|\n" + "|a|b|\n" * 15_000,
    "paragraphs": "a\n\n" * 33_000,
    "one word": "a" * 2_000_000,
}

LONGEST_TASK = """
  window.longest = 0;
  new PerformanceObserver((list) => {
    for (const one of list.getEntries()) longest = Math.max(longest, one.duration);
  }).observe({type: "longtask", buffered: true});
"""


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_answer_takes_bounded_work(
    server: RunningServer, launched: Browser, talker: LanguageModel, name: str
) -> None:
    text = HOSTILE[name]
    talker.words = pieces(text, max(50, len(text) // 500))
    page = opened(launched, server, script=LONGEST_TASK).page
    asked(page, 60)
    shown = page.locator(".turn.assistant .text")
    assert "a" in shown.inner_text() or name in ("stars", "quotes", "backticks", "brackets")
    # The page is usable meanwhile: nothing keeps it busy for long.
    assert page.evaluate("longest") < 3000
    deepest = """root => {
      const depth = (one) => 1 + Math.max(0, ...[...one.children].slice(0, 50).map(depth));
      return depth(root);
    }"""
    assert shown.evaluate(deepest) < 60
