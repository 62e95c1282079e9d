"""The page of `inspect --html`, driven in a real browser without a screen. One browser serves all tests."""

import json
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from apportion.formats.parquet import RolloutFile, write_rollouts
from apportion.formats.provenance import Provenance
from apportion.formats.ragged import Ragged
from apportion.formats.rollouts import Rollouts
from apportion.stages.assign_credit._examples import rollouts_of
from apportion.stages.inspect.branches import FORKS_SHOWN
from apportion.stages.inspect.html import ROLLOUTS_SHOWN, room_on_the_page, safe_json, write_page
from apportion.stages.inspect.statistics import statistics_of
from apportion.stages.structure.prefix_tree import add_prefix_tree
from selenium import webdriver
from selenium.webdriver import ActionChains, Keys
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support.ui import Select, WebDriverWait
from typer.testing import Result

Cli = Callable[..., Result]
HOSTILE = "</script><img src=x onerror=\"window.broken='yes'\">"
LOADED = "return document.documentElement.dataset.ready || document.getElementById('fault')?.textContent"


def found_on_path(*names: str) -> str | None:
    return next((path for name in names if (path := shutil.which(name))), None)


CHROMIUM = found_on_path("chromium", "chromium-browser", "google-chrome")
DRIVER = found_on_path("chromedriver")


@pytest.fixture(scope="module")
def browser() -> Iterator[webdriver.Chrome]:
    if CHROMIUM is None or DRIVER is None:
        pytest.skip("no chromium or no chromedriver here; run: apt-get install chromium chromium-driver")
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for word in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu"):
        options.add_argument(word)
    options.add_argument("--window-size=1300,900")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service(DRIVER))
    yield driver
    driver.quit()


class Page:
    """An open page."""

    def __init__(self, browser: webdriver.Chrome, path: Path):
        self.browser = browser
        started = time.perf_counter()
        browser.get("about:blank")  # so that the same file is loaded anew
        browser.get(path.as_uri())
        self.wait(lambda: browser.execute_script(LOADED))
        self.seconds = time.perf_counter() - started
        assert browser.execute_script(LOADED) == "true"
        if self.all(".rollout"):
            self.wait(lambda: self.all(".token"))

    def wait(self, condition: Callable[[], object]) -> None:
        WebDriverWait(self.browser, 10, poll_frequency=0.02).until(lambda _: condition())

    def all(self, selector: str) -> list[WebElement]:
        return self.browser.find_elements(By.CSS_SELECTOR, selector)

    def one(self, selector: str) -> WebElement:
        return self.browser.find_element(By.CSS_SELECTOR, selector)

    def text(self, selector: str) -> str:
        return str(self.one(selector).get_property("textContent"))

    def token(self, place: int) -> WebElement:
        return self.one(f'.token[data-place="{place}"]')

    def hover(self, element: WebElement) -> None:
        self.browser.execute_script("arguments[0].scrollIntoView({block: 'center'})", element)
        ActionChains(self.browser, duration=0).move_to_element(element).perform()

    def panel(self) -> dict[str, str]:
        """The numbers in the open panel."""
        self.wait(lambda: self.one("#panel").is_displayed())
        names = [str(each.get_property("textContent")) for each in self.all("#panel dt")]
        values = [str(each.get_property("textContent")) for each in self.all("#panel dd")]
        return {name: value.replace("−", "-") for name, value in zip(names, values, strict=True)}

    def colour(self, place: int) -> str:
        return self.token(place).value_of_css_property("background-color")

    def choose(self, selector: str, label: str) -> None:
        Select(self.one(selector)).select_by_visible_text(label)

    def complaints(self) -> list[dict]:
        return self.browser.get_log("browser")


Open = Callable[[Path], Page]


@pytest.fixture
def opened(browser: webdriver.Chrome) -> Iterator[Open]:
    """Open a page; at the end nothing was complained of and nothing was fetched."""
    browser.get_log("browser")
    yield lambda path: Page(browser, path)
    assert browser.get_log("browser") == []
    assert browser.execute_script("return performance.getEntriesByType('resource').map((each) => each.name)") == []


@pytest.fixture(scope="module")
def report(chain: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of the real chain's credit file."""
    from apportion.cli.main import app
    from typer.testing import CliRunner

    out = tmp_path_factory.mktemp("page") / "report.html"
    result = CliRunner().invoke(app, ["inspect", str(chain / "credit.parquet"), "--html", str(out)])
    assert result.exit_code == 0, result.output
    assert result.stderr.splitlines()[-1] == f"page: {out}"
    return out


@pytest.fixture(scope="module")
def rollouts(chain: Path) -> Rollouts:
    return RolloutFile(chain / "credit.parquet").read()


def page_of(rollouts: Rollouts, folder: Path, texts: Callable[[int], str] = str) -> Path:
    """A page of rollouts that are in no file yet."""
    path, out = folder / "rollouts.parquet", folder / "page.html"
    write_rollouts(path, [rollouts], Provenance())
    write_page(
        out, RolloutFile(path), rollouts, statistics=statistics_of(rollouts), signal=None,
        texts=lambda ids: [texts(token) for token in ids],
    )  # fmt: skip
    return out


def forked() -> Rollouts:
    """Rewards 1, 0, 1, 0. All begin with 5; then 7 or 6; after 7, 9 or 8; after 9, 2 or 3."""
    tokens = [[5, 7, 9, 2], [5, 7, 8, 2], [5, 6, 4], [5, 7, 9, 3, 2]]
    return add_prefix_tree(rollouts_of([1.0, 0.0, 1.0, 0.0], tokens=tokens))


def test_the_page_says_what_the_file_holds(report: Path, rollouts: Rollouts, opened: Open) -> None:
    page = opened(report)
    assert page.text("h1") == "credit.parquet"
    facts = page.text("#facts")
    assert all(
        words in facts for words in ("48 rollouts", "12 groups", f"{rollouts.num_tokens:,} tokens", "builtin:tiny")
    )
    stages = [each.text for each in page.all("#history summary")]
    assert stages[0].startswith("sample")
    assert stages[-1] == "assign-credit grpo"
    assert len(page.all(".group")) == 12
    assert len(page.all(".rollout")) == 4
    assert not page.one("#cut").is_displayed()


def test_hovering_a_token_shows_the_files_numbers(report: Path, rollouts: Rollouts, opened: Open) -> None:
    page = opened(report)
    row, at = 1, 3
    place = int(rollouts.tokens.offsets[row]) + at
    page.hover(page.token(place))
    shown = page.panel()
    assert shown["position from 0"] == f"{at} of {rollouts.tokens.sizes[row]}"
    assert int(shown["token id"]) == rollouts.token_ids[row][at]
    for name in ("advantage", "advantage_grpo", "logprob"):
        assert float(shown[name]) == pytest.approx(float(rollouts.ragged(f"token.{name}")[row][at]), rel=1e-5)
    starts, ends = rollouts.ragged("node.start")[row], rollouts.ragged("node.end")[row]
    (on_path,) = np.flatnonzero((starts <= at) & (at < ends))
    for name in ("node.id", "node.visits", "node.value"):
        if name in rollouts:
            assert float(shown[name]) == pytest.approx(float(rollouts.ragged(name)[row][on_path]), rel=1e-5)
    page.hover(page.one("h1"))
    page.wait(lambda: not page.one("#panel").is_displayed())


def test_the_keyboard_moves_from_token_to_token(report: Path, opened: Open) -> None:
    page = opened(report)
    page.browser.execute_script("arguments[0].focus()", page.token(0))
    assert page.panel()["position from 0"].startswith("0 of ")
    for keys, position in ((Keys.ARROW_RIGHT, "1 of "), (Keys.ARROW_RIGHT, "2 of "), (Keys.ARROW_LEFT, "1 of ")):
        page.browser.switch_to.active_element.send_keys(keys)
        assert page.panel()["position from 0"].startswith(position)
    assert page.browser.switch_to.active_element.get_attribute("aria-describedby") == "panel"
    page.browser.switch_to.active_element.send_keys(Keys.ESCAPE)
    assert not page.one("#panel").is_displayed()


def test_tab_comes_back_to_the_token_that_was_clicked(report: Path, opened: Open) -> None:
    page = opened(report)
    page.token(2).click()
    stops = '.rollout:first-child .token[tabindex="0"]'
    assert [each.get_attribute("data-place") for each in page.all(stops)] == ["2"]
    page.browser.switch_to.active_element.send_keys(Keys.ARROW_RIGHT)
    assert [each.get_attribute("data-place") for each in page.all(stops)] == ["3"]


def test_keys_with_others_are_left_to_the_browser(report: Path, opened: Open) -> None:
    page = opened(report)
    press = (
        "const event = new KeyboardEvent('keydown', {key: 'ArrowLeft', bubbles: true, cancelable: true, ...arguments[1]});"
        "arguments[0].dispatchEvent(event); return event.defaultPrevented"
    )
    for element in (page.token(1), page.one(".tree .node")):
        assert page.browser.execute_script(press, element, {}) is True
        for other in ("altKey", "ctrlKey", "metaKey"):
            assert page.browser.execute_script(press, page.one(".tree .node"), {other: True}) is False
            assert page.browser.execute_script(press, page.token(1), {other: True}) is False


def test_escape_closes_what_is_open(report: Path, opened: Open) -> None:
    page = opened(report)
    page.one("#history summary").click()
    assert page.all("#history details[open]")
    page.browser.switch_to.active_element.send_keys(Keys.ESCAPE)
    assert not page.all("#history details[open]")
    assert page.browser.switch_to.active_element.tag_name == "summary"
    page.hover(page.token(3))
    page.wait(lambda: page.one("#panel").is_displayed())
    page.browser.switch_to.active_element.send_keys(Keys.ESCAPE)
    assert not page.one("#panel").is_displayed()


def test_next_and_previous_follow_the_list_and_keep_the_focus(report: Path, rollouts: Rollouts, opened: Open) -> None:
    page = opened(report)
    names = [rollouts.strings("group_id")[start] for start in rollouts.groups.starts.tolist()]
    best = [names[group] for group in np.argsort(-rollouts.groups.mean(rollouts.numbers("reward")), kind="stable")]
    page.all(".group")[0].click()
    page.choose("#sort", "mean reward")
    at = best.index(names[0])
    to = 1 if at + 1 < len(best) else -1
    page.one(f'#steps [data-by="{to}"]').click()
    for place in range(at + to, len(best) if to > 0 else -1, to):
        assert page.text(".title h2") == best[place]
        page.browser.switch_to.active_element.send_keys(Keys.ENTER)
    focused = page.browser.switch_to.active_element
    assert focused.get_attribute("data-by") == str(-to), "at the end there is only the way back"
    page.one("#filter").send_keys(best[0])
    assert not any(each.is_enabled() for each in page.all("#steps button"))


def test_another_signal_recolours_the_tokens(report: Path, rollouts: Rollouts, opened: Open) -> None:
    page = opened(report)
    credit = rollouts.ragged("token.advantage").values
    place = next(place for place in range(int(rollouts.tokens.offsets[4])) if credit[place] < 0)
    assert "minus" in str(page.token(place).get_attribute("class"))
    before, legend = page.colour(place), page.text("#legend")
    page.choose("#signal", "logprob")
    assert "amount" in str(page.token(place).get_attribute("class"))
    assert page.colour(place) != before
    assert page.text("#legend") != legend
    page.choose("#signal", "advantage")
    assert page.colour(place) == before


def test_the_filter_finds_prompts_and_responses(report: Path, rollouts: Rollouts, opened: Open) -> None:
    page = opened(report)
    names = [rollouts.strings("group_id")[start] for start in rollouts.groups.starts.tolist()]
    page.one("#filter").send_keys(names[5])
    assert [each.get_attribute("title") for each in page.all(".group")] == [names[5]]
    assert page.text("#found") == "1 of 12 groups"
    page.one(".group").click()
    assert page.text(".title h2") == names[5]
    page.one("#filter").send_keys(" and nothing like it")
    assert page.all(".group") == []
    page.one("#filter").clear()
    page.one("#filter").send_keys(Keys.SPACE)
    assert len(page.all(".group")) == 12


def test_groups_sort_by_mean_reward(report: Path, rollouts: Rollouts, opened: Open) -> None:
    page = opened(report)
    names = [rollouts.strings("group_id")[start] for start in rollouts.groups.starts.tolist()]
    means = rollouts.groups.mean(rollouts.numbers("reward"))
    page.choose("#sort", "mean reward")
    shown = [each.get_attribute("title") for each in page.all(".group")]
    assert shown == [names[group] for group in np.argsort(-means, kind="stable")]


def test_the_tree_opens_and_closes(tmp_path: Path, opened: Open) -> None:
    page = opened(page_of(forked(), tmp_path))
    assert len(page.all(".tree .node")) == 8  # the prompt; 5; 7, 6 4; 9, 8 2; 2, 3 2
    page.one("#close-all").click()
    assert len(page.all(".tree .node")) == 2
    page.all(".tree .node")[1].find_element(By.TAG_NAME, "circle").click()
    nodes = page.all(".tree .node")
    assert [each.get_attribute("aria-expanded") for each in nodes] == ["true", "true", "false", None]
    assert str(nodes[2].get_attribute("aria-label")) == "7, 3 rollouts · mean reward 0.333"
    page.browser.switch_to.active_element.send_keys(Keys.ARROW_DOWN, Keys.ENTER)
    assert len(page.all(".tree .node")) == 6
    page.browser.switch_to.active_element.send_keys(Keys.ARROW_LEFT)
    assert len(page.all(".tree .node")) == 4
    page.one("#open-all").click()
    assert len(page.all(".tree .node")) == 8


def test_a_node_lights_up_the_rollouts_through_it(tmp_path: Path, opened: Open) -> None:
    page = opened(page_of(forked(), tmp_path))
    (nine,) = [each for each in page.all(".tree .node") if str(each.get_attribute("aria-label")).startswith("9,")]
    page.hover(nine.find_element(By.TAG_NAME, "circle"))
    assert [each.get_attribute("data-row") for each in page.all(".rollout.through")] == ["0", "3"]
    assert [each.get_attribute("data-place") for each in page.all(".token.spanned")] == ["2", "13"]


def fork_rows(page: Page) -> list[list[str]]:
    rows = page.all("#forks tbody tr")
    return [[cell.text for cell in row.find_elements(By.TAG_NAME, "td")] for row in rows]


def test_the_forks_that_decided_the_reward(tmp_path: Path, opened: Open) -> None:
    """As in the terminal: test_branches has the arithmetic."""
    credit = Ragged.from_lists([[0, 0.5, 0.25, 1], [0, -0.5, -1, 0], [0, 2, 0], [0, 0.5, 0.75, 0, 0]], np.float32)
    batch = forked()
    entropy = Ragged(np.ones(batch.num_tokens, np.float32), batch.tokens.offsets)
    page = opened(page_of(batch.with_columns({"token.advantage": credit, "token.entropy": entropy}), tmp_path))
    headings = [each.text for each in page.all("#forks thead th")]
    assert headings == ["decided", "after", "came", "rollouts", "mean reward", "advantage"]
    assert fork_rows(page) == [
        ["50 %", "579", "2", "1", "1", "+1"],
        ["", "", "32", "1", "0", "0"],
        ["33 %", "5", "64", "1", "1", "+2"],
        ["", "", "7", "3", "0.333", "+0.167"],
        ["17 %", "57", "9", "2", "0.5", "+0.5"],
        ["", "", "82", "1", "0", "−1"],
    ]
    page.hover(page.all("#forks tbody tr")[4])
    assert [each.get_attribute("data-row") for each in page.all(".rollout.through")] == ["0", "3"]
    page.choose("#signal", "entropy")
    assert [row[5] for row in fork_rows(page)] == ["1"] * 6


def test_forks_that_decided_least_are_counted_only(tmp_path: Path, opened: Open) -> None:
    # Ten rollouts, each of which leaves the rest one token later than the one before.
    tokens = [[1] * place + [2, 9] for place in range(10)]
    batch = add_prefix_tree(rollouts_of([float(place % 2) for place in range(10)], tokens=tokens))
    page = opened(page_of(batch, tmp_path))
    assert len(page.all("#forks tbody")) == FORKS_SHOWN
    assert page.text("#forks .hint") == "and 1 fork that decided less"


def test_no_forks_where_nothing_was_decided(tmp_path: Path, opened: Open) -> None:
    unscored = forked().with_columns({"reward": pa.array([1.0, None, 1.0, 0.0])})
    assert opened(page_of(unscored, tmp_path)).all("#forks") == []


def test_text_that_looks_like_markup_stays_text(tmp_path: Path, opened: Open) -> None:
    prompt = [[{"role": "user", "content": HOSTILE}]] * 4
    hostile = forked().with_columns({"prompt": pa.array(prompt), "rollout_id": [f"{HOSTILE}{row}" for row in range(4)]})
    out = page_of(
        hostile, tmp_path, lambda token: HOSTILE if token == 7 else "<b>\u2028\u202e" if token == 9 else "&lt;"
    )
    page = opened(out)
    assert page.token(1).text == HOSTILE
    assert page.token(0).text == "&lt;"
    assert page.token(2).text == "<b>\\u2028\\u202e"  # what turns or breaks a line is written out
    assert page.text(".message span:last-child") == HOSTILE
    assert page.all("img, b:empty") == []
    assert page.browser.execute_script("return window.broken") is None
    assert HOSTILE not in out.read_text()


def test_what_cannot_be_seen_is_written_out_wherever_it_stands(tmp_path: Path, opened: Open) -> None:
    hidden = "a\u202eb\u200b\U000e0041c\u3164"
    shown = "a\\u202eb\\u200b\\u{e0041}c\\u3164"
    batch = rollouts_of([1.0, 0.0], tokens=[[5, 6], [7]]).with_columns(
        {
            "rollout_id": [f"{hidden}{row}" for row in range(2)], "group_id": [hidden] * 2, "task": [hidden] * 2,
            "reference": [f'{{"answer": "{hidden}"}}'] * 2, "flags": [[hidden], []], "finish_reason": [hidden] * 2,
            "prompt": pa.array([[{"role": hidden, "content": f"{hidden}\t\u2764\ufe0f"}]] * 2),
        }
    )  # fmt: skip
    page = opened(page_of(batch, tmp_path, lambda token: f"{hidden}{token}"))
    assert page.token(0).text == f"{shown}5"
    for selector in (".title h2", ".message span:first-child", ".chip", ".facts > span:nth-child(4)"):
        assert page.text(selector) == shown, selector
    assert page.text(".message span:last-child") == f"{shown}\t\u2764\ufe0f"
    assert page.text(".rollout h4") == f"{shown}0"
    assert page.one(".group").get_attribute("title") == shown
    page.one("#tab-statistics").click()
    seen = page.browser.execute_script(
        "return document.documentElement.outerHTML.replace(/<script.*?<\\/script>/gs, '') + document.body.innerText"
    )
    assert shown in seen
    assert not set("\u202e\u200b\U000e0041\u3164") & set(seen)


def test_safe_json_is_still_json() -> None:
    said = {"a": [HOSTILE, "<!--", "é\u2028", "&amp;"], "b": None}
    text = safe_json(said)
    assert json.loads(text) == said
    assert not set("<>&") & set(text)
    assert text.isascii()


def test_the_page_allows_no_script_but_its_own(report: Path, browser: webdriver.Chrome) -> None:
    page = Page(browser, report)
    page.browser.execute_script(
        "const made = document.createElement('script'); made.textContent = 'window.broken = 1'; document.body.append(made);"
        "fetch('http://127.0.0.1:9/').catch(() => { window.refused = true })"
    )
    page.wait(lambda: page.browser.execute_script("return window.refused"))
    assert page.browser.execute_script("return window.broken") is None
    assert any("Content Security Policy" in each["message"] for each in page.complaints())


def test_a_bare_file_has_a_page(tmp_path: Path, opened: Open) -> None:
    page = opened(page_of(rollouts_of([1.0, 0.0], tokens=[[5, 6], []]), tmp_path))
    assert page.all(".tree") == []
    assert "tree-build" in page.text(".hint")
    assert [each.text for each in page.all(".token")] == ["5", "6"]
    assert not page.one("#signal").is_enabled()
    page.one("#tab-statistics").click()
    assert page.text("#statistics .tile b") == "2"


def test_steps_turns_and_what_is_not_assigned(tmp_path: Path, opened: Open) -> None:
    batch = rollouts_of([1.0, 0.0], tokens=[[1, 2, 3, 4], [5, 6]], mask=[[True, True, False, True], [True, True]])
    columns = {
        "token.advantage": pa.array([[0.5, -0.25, 0, 0], None], pa.list_(pa.float32())),
        "step.start": Ragged.from_lists([[0, 1], [0]], np.int32),
        "step.end": Ragged.from_lists([[1, 2], [2]], np.int32),
        "step.kind": pa.array([["turn", None], None], pa.list_(pa.string())),
        "step.reward": pa.array([None, [0.75]], pa.list_(pa.float64())),
    }
    page = opened(page_of(batch.with_columns(columns), tmp_path))
    assert [each.get_attribute("data-place") for each in page.all(".token.step")] == ["1"]
    assert [each.get_attribute("data-place") for each in page.all(".token.environment")] == ["2"]
    assert [each.text for each in page.all(".turn")] == ["environment", "policy"]
    page.hover(page.token(0))
    assert (
        page.panel() | {"advantage": "+0.5", "step": "1 of 2", "step.kind": "turn", "step.reward": "–"} == page.panel()
    )
    page.hover(page.token(2))
    assert page.panel()["written by"] == "the environment"
    page.hover(page.token(5))
    assert page.panel() | {"advantage": "–", "step": "1 of 1", "step.reward": "0.75"} == page.panel()


def test_statistics_are_drawn_of_the_chosen_signal(report: Path, rollouts: Rollouts, opened: Open) -> None:
    page = opened(report)
    page.one("#tab-statistics").click()
    found = statistics_of(rollouts).signals[0]
    assert found.histogram is not None
    assert len(page.all("#values rect")) == len(found.histogram.counts)
    assert len(page.all("#by-position rect")) == 20
    first = str(page.one("#by-position rect title").get_property("textContent"))
    assert first == f"0 to 5 % of the response: {100 * found.by_position[0]:.1f} %"
    page.choose("#signal", "logprob")
    assert page.text("#values figcaption").startswith("Values of logprob")
    assert page.text("th.chosen-column") == "logprob"


def test_light_and_dark(report: Path, opened: Open) -> None:
    page = opened(report)

    def backdrop() -> str:
        return page.one("body").value_of_css_property("background-color")

    before = backdrop()
    page.one("#theme").click()
    assert backdrop() != before
    page.one("#theme").click()
    assert backdrop() == before


def test_a_big_file_opens_at_once(tmp_path: Path, opened: Open) -> None:
    random = np.random.default_rng(0)
    tokens = random.integers(0, 30_000, (ROLLOUTS_SHOWN, 2000), np.int32)
    big = rollouts_of(
        random.integers(0, 2, len(tokens)).astype(float).tolist(), tokens=tokens.tolist(),
        groups=[row // 8 for row in range(len(tokens))],
    )  # fmt: skip
    offsets = big.tokens.offsets
    for name in ("token.advantage", "token.logprob", "token.entropy"):
        values = random.normal(size=tokens.size) if name == "token.advantage" else random.exponential(size=tokens.size)
        values = -values if name == "token.logprob" else values
        big = big.with_columns({name: Ragged(values.astype(np.float32), offsets)})
    started = time.perf_counter()
    out = page_of(add_prefix_tree(big), tmp_path, lambda token: f" t{token}")
    assert time.perf_counter() - started < 10
    assert out.stat().st_size < 8 << 20
    page = opened(out)
    assert page.seconds < 5
    assert len(page.all(".group")) == ROLLOUTS_SHOWN / 8
    assert 2000 <= len(page.all(".token")) < 16_000 + 1
    page.all(".group")[-1].click()
    page.wait(lambda: page.all(f'.token[data-place="{tokens.size - 8 * 2000}"]'))


def test_the_rest_of_a_long_response_is_drawn_when_asked_for(tmp_path: Path, opened: Open) -> None:
    page = opened(page_of(rollouts_of([1.0], tokens=[list(range(4100))]), tmp_path))
    assert len(page.all(".token")) == 4000
    page.one(".body .quiet").send_keys(Keys.ENTER)
    page.wait(lambda: len(page.all(".token")) == 4100)
    assert page.browser.switch_to.active_element.get_attribute("data-place") == "4000"


def test_more_groups_than_are_listed_at_once(tmp_path: Path, cli: Cli, opened: Open) -> None:
    many = rollouts_of([float(row % 2) for row in range(203)], groups=list(range(203)))
    write_rollouts(tmp_path / "many", [many], Provenance())
    assert cli("inspect", tmp_path / "many", "--html", tmp_path / "page.html", "--limit", 203).exit_code == 0
    page = opened(tmp_path / "page.html")
    assert len(page.all(".group")) == 200
    page.all(".group")[199].click()
    page.one('#steps [data-by="1"]').click()
    assert page.one(".group[aria-current]").get_attribute("title") == "g200"
    page = opened(tmp_path / "page.html")
    page.one("#more").send_keys(Keys.ENTER)
    assert len(page.all(".group")) == 203
    assert page.browser.switch_to.active_element.get_attribute("title") == "g200"
    assert not page.one("#more").is_displayed()


def test_the_page_stops_at_whole_groups() -> None:
    assert room_on_the_page((6, 180, 10), (20, 1))
    assert not room_on_the_page((6, 180, 10), (30, 1))
    assert not room_on_the_page((6, 60, 1_999_999), (1, 2))
    assert room_on_the_page((0, 0, 0), (300, 3_000_000))  # one group at least


def test_the_page_says_what_it_leaves_out(chain: Path, tmp_path: Path, cli: Cli, opened: Open) -> None:
    out = tmp_path / "report.html"
    assert cli("inspect", chain / "credit.parquet", "--html", out, "--limit", 2).exit_code == 0
    page = opened(out)
    assert len(page.all(".group")) == 2
    assert "2 groups with 8 rollouts of the file's 12 and 48" in page.text("#cut")


def test_a_page_is_not_overwritten_unasked(chain: Path, tmp_path: Path, cli: Cli) -> None:
    out = tmp_path / "report.html"
    out.write_text("mine")
    refused = cli("inspect", chain / "credit.parquet", "--html", out)
    assert (refused.exit_code, out.read_text()) == (2, "mine")
    assert cli("inspect", chain / "credit.parquet", "--html", out, "--rollout", "3", "--force").exit_code == 0
    assert out.read_text().startswith("<!doctype html>")


def test_the_same_rollouts_give_the_same_page(chain: Path, tmp_path: Path, cli: Cli) -> None:
    for name in ("a.html", "b.html"):
        cli("inspect", chain / "credit.parquet", "--html", tmp_path / name)
    assert (tmp_path / "a.html").read_bytes() == (tmp_path / "b.html").read_bytes()
