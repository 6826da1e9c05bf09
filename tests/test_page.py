"""The page in a real browser: Debian's chromium without a window, driven by selenium."""

import shutil

import pytest
from served import serving, slow_down, tiny_folder

webdriver = pytest.importorskip("selenium.webdriver")
from selenium.webdriver.common.by import By  # noqa: E402
from selenium.webdriver.common.keys import Keys  # noqa: E402
from selenium.webdriver.support.ui import Select, WebDriverWait  # noqa: E402

from benchmarks.page_pictures import open_browser  # noqa: E402

has_browser = shutil.which("chromium") and shutil.which("chromedriver")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not has_browser, reason="no browser: apt-get install chromium chromium-driver"),
]
WAIT_S = 60


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny_folder(tmp_path_factory.mktemp("page") / "tiny")


@pytest.fixture(scope="module")
def running(folder):
    with serving(folder, context=2048, max_new_tokens=2000) as running:
        yield running


@pytest.fixture(scope="module")
def browser():
    browser = open_browser(1000, 700)
    yield browser
    browser.quit()


class Page:
    """What a user sees and does."""

    def __init__(self, browser, address):
        self.browser = browser
        browser.get(address)
        browser.execute_script("localStorage.clear(); sessionStorage.clear()")
        self.reload()

    def reload(self):
        self.browser.refresh()
        self.until(lambda: self.find("model").text != "NonLlama" or self.find("notice").text)

    def until(self, condition):
        WebDriverWait(self.browser, WAIT_S).until(lambda _: condition())

    def find(self, name):
        return self.browser.find_element(By.ID, name)

    def texts(self) -> list[str]:
        """All turns, as they are, white space included."""
        script = "return [...document.querySelectorAll('.turn .text')].map((text) => text.textContent)"
        return self.browser.execute_script(script)

    def set(self, **settings):
        """Change settings, and wait until the page has taken them: a dialog tells that it is closed a moment later."""
        self.find("open-settings").click()
        self.browser.execute_script(
            "window.taken = false;"
            "const took = () => { window.taken = true; };"
            "document.getElementById('settings').addEventListener('close', took, { once: true });"
        )
        for key, value in settings.items():
            field = self.find(key)
            if field.tag_name == "select":
                Select(field).select_by_value(value)
            else:
                field.clear()
                field.send_keys(str(value))
        self.find("close-settings").click()
        self.until(lambda: self.browser.execute_script("return window.taken"))

    def ask(self, text):
        self.find("text").send_keys(text)
        self.find("send").click()

    def wait_for_answer(self):
        self.until(lambda: self.find("send").is_displayed())

    def press(self, name):
        self.browser.find_element(By.XPATH, f"//button[text()='{name}']").click()

    def no_errors(self):
        """The console is empty: nothing was refused by the policy, no script has failed."""
        severe = [line for line in self.browser.get_log("browser") if "favicon" not in line["message"]]
        assert severe == []


@pytest.fixture
def page(browser, running):
    page = Page(browser, running.address)
    browser.get_log("browser")
    return page


def answers(running, messages, **options) -> str:
    """What the API answers."""
    import httpx

    fields = {"messages": messages, "temperature": 0, "max_tokens": 20, "top_p": 0.95, **options}
    response = httpx.post(f"{running.address}/v1/chat/completions", json=fields, timeout=WAIT_S)
    return response.json()["choices"][0]["message"]["content"]


def test_a_conversation_of_two_turns(page, running):
    """The second question is asked with the first one and its answer; all of it is there after a reload."""
    page.set(temperature=0, max_tokens=20, system="Be brief.")
    page.ask("One?")
    page.wait_for_answer()
    system = {"role": "system", "content": "Be brief."}
    one = [system, {"role": "user", "content": "One?"}]
    first = answers(running, one)
    assert page.texts() == ["One?", first]

    page.find("text").send_keys("Two", Keys.SHIFT, Keys.ENTER, Keys.NULL, "lines", Keys.ENTER)
    page.wait_for_answer()
    two = [*one, {"role": "assistant", "content": first}, {"role": "user", "content": "Two\nlines"}]
    assert page.texts() == ["One?", first, "Two\nlines", answers(running, two)]
    before = page.texts()
    page.reload()
    assert page.texts() == before
    page.press("New")
    assert page.texts() == []
    page.reload()
    assert page.texts() == []
    page.no_errors()


def test_an_answer_appears_while_it_is_written_and_can_be_stopped(page, running, monkeypatch):
    slow_down(running, monkeypatch, seconds=0.1)
    page.set(max_tokens=2000, temperature=0)  # 97 tokens
    page.ask("Long?")
    page.until(lambda: len(page.texts()) == 2 and len(page.texts()[1]) > 5)
    assert not page.find("send").is_displayed()
    page.find("stop").click()
    page.wait_for_answer()
    assert 5 < len(page.texts()[1])
    assert "stopped" in page.find("turns").text
    running.wait(lambda: running.state.engine.running == 0)
    assert running.state.engine.metrics.gone._value.get() >= 1
    assert len(page.texts()[1]) < 2000
    page.no_errors()


def test_retry_answers_the_same_question_anew(page, running):
    page.set(temperature=1.5, max_tokens=20)
    page.ask("Again?")
    page.wait_for_answer()
    first = page.texts()
    page.press("Retry")
    page.wait_for_answer()
    assert page.texts()[0] == first[0] and page.texts()[1] != first[1] and len(page.texts()) == 2

    page.set(seed=7)
    found = []
    for _ in range(2):
        page.press("Retry")
        page.wait_for_answer()
        found.append(page.texts()[1])
    question = [{"role": "user", "content": "Again?"}]
    assert found == [answers(running, question, temperature=1.5, seed=7)] * 2


def test_text_is_never_html(page):
    """A question that would be a script, which the answer cannot be made to say here, but both go the same way."""
    evil = "<img src=x onerror=\"document.title='taken'\"><b>bold</b>"
    page.set(max_tokens=3)
    page.ask(evil)
    page.wait_for_answer()
    assert page.texts()[0] == evil
    kept = page.browser.execute_script("return localStorage.getItem('nonllama.turns')").replace("[", "[", 1)
    page.browser.execute_script(
        "const turns = JSON.parse(arguments[0]); turns[1].content = turns[0].content;"
        "localStorage.setItem('nonllama.turns', JSON.stringify(turns))",
        kept,
    )
    page.reload()
    assert page.texts() == [evil, evil]
    assert page.browser.execute_script("return document.querySelectorAll('#turns img, #turns b').length") == 0
    assert page.browser.title == "tiny"


def test_old_turns_go_when_the_context_is_full(page):
    page.set(max_tokens=8)
    page.ask("x" * 1200)
    page.wait_for_answer()
    page.ask("y" * 1200)
    page.wait_for_answer()
    assert len(page.texts()) == 4
    assert "does not see the first 2 messages" in page.find("notice").text


def test_colours_follow_the_setting(page):
    def paper():
        return page.browser.execute_script("return getComputedStyle(document.body).backgroundColor")

    page.set(theme="light")
    light = paper()
    page.set(theme="dark")
    assert paper() != light == "rgb(255, 255, 255)"
    page.reload()
    assert paper() != light


def test_each_field_and_button_has_a_name(page):
    """As a screen reader finds it; and the page does not scroll sideways on a phone."""
    script = """
        const named = (field) => field.labels?.length || field.textContent.trim();
        return [...document.querySelectorAll("input, textarea, select, button")].filter((field) => !named(field)).length
    """
    assert page.browser.execute_script(script) == 0
    page.browser.set_window_size(500, 800)
    sizes = page.browser.execute_script("return [document.documentElement.scrollWidth, innerWidth]")
    page.browser.set_window_size(1000, 700)
    assert sizes[0] <= sizes[1]


def test_all_can_be_done_with_the_keyboard(page):
    """Tab reaches the buttons; Enter opens, Escape closes the settings and stops an answer."""
    page.find("text").send_keys(Keys.SHIFT, Keys.TAB)
    focused = page.browser.switch_to.active_element
    while focused.get_attribute("id") != "open-settings":
        focused.send_keys(Keys.SHIFT, Keys.TAB)
        focused = page.browser.switch_to.active_element
    focused.send_keys(Keys.ENTER)
    assert page.find("settings").is_displayed()
    page.browser.switch_to.active_element.send_keys(Keys.ESCAPE)
    page.until(lambda: not page.find("settings").is_displayed())


def test_a_key_is_asked_for(browser, folder):
    with serving(folder, api_key="secret") as running:
        page = Page(browser, running.address)
        assert page.find("settings").is_displayed()
        page.find("key").send_keys("secret")
        page.find("close-settings").click()
        page.until(lambda: page.find("model").text == "tiny")
        page.set(max_tokens=5)
        page.ask("Hi?")
        page.wait_for_answer()
        assert len(page.texts()) == 2


def test_a_model_without_template_continues_texts(browser, tmp_path):
    with serving(tiny_folder(tmp_path / "base", with_template=False)) as running:
        page = Page(browser, running.address)
        assert "continues your text" in page.find("empty").text
        page.set(max_tokens=12, temperature=0)
        page.ask("the king")
        page.wait_for_answer()
        (text,) = page.texts()
        assert text.startswith("the king") and len(text) > len("the king")
        page.press("Retry")
        page.wait_for_answer()
        assert page.texts() == [text]


def test_a_server_that_has_gone_is_said(browser, folder):
    with serving(folder) as running:
        page = Page(browser, running.address)
    page.ask("Are you there?")
    page.wait_for_answer()
    assert "cannot be reached" in page.find("notice").text
    assert page.find("text").get_attribute("value") == "Are you there?"
