"""Pictures of the page of serve.py, in light and dark, on a desk and on a phone.

    python benchmarks/page_pictures.py --checkpoint=out/smollm2 --out_dir=docs

It starts a server, asks two questions (greedy, so that the pictures are the same each time), and writes page_light.png,
page_dark.png and page_phone.png. It needs Debian's chromium and chromium-driver, and `pip install selenium`.
"""

import sys
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import configurator

# isort: split
import functools
import shutil

import serve
from benchmarks.bench_figures import need

QUESTIONS = ("What is a llama?", "Where do they live? Two sentences, please.")
DESK = (1000, 640)
PHONE = (390, 720)


@dataclass(frozen=True)
class PicturesConfig:
    """Settings of `python benchmarks/page_pictures.py`."""

    checkpoint: str = "out/smollm2"  # a Hugging Face folder with a chat template
    out_dir: str = "docs"  # where the pictures go
    max_tokens: int = 80  # of an answer


def open_browser(width: int, height: int) -> Any:
    """Chromium without a window. Raises ValueError where there is none."""
    webdriver = need("selenium.webdriver")
    driver = shutil.which("chromedriver")
    if driver is None:
        raise ValueError("there is no chromedriver; install it: apt-get install chromium chromium-driver")
    options = webdriver.ChromeOptions()
    for argument in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--hide-scrollbars", "--disable-gpu"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "SEVERE"})
    browser = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))
    browser.set_window_size(width, height)
    return browser


def set_view(browser: Any, size: tuple[int, int], dark: bool) -> None:
    """The size of the view, which windows without a frame cannot make small enough, and the system's colours."""
    width, height = size
    view = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 500}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", view)
    scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [scheme]})


def talk(browser: Any, address: str, max_tokens: int) -> None:
    """Ask the questions, greedily, and wait for the answers."""
    from selenium.webdriver.support.ui import WebDriverWait

    browser.get(address)
    settings = f'{{"temperature": 0, "max_tokens": {max_tokens}}}'
    browser.execute_script("localStorage.clear(); localStorage.setItem('nonllama.settings', arguments[0])", settings)
    browser.refresh()
    for number, question in enumerate(QUESTIONS, start=1):
        browser.find_element("id", "text").send_keys(question)
        browser.find_element("id", "send").click()
        WebDriverWait(browser, 300).until(functools.partial(has_answers, number))


def has_answers(count: int, browser: Any) -> bool:
    """Whether so many answers are complete."""
    turns = browser.find_elements("css selector", ".turn.assistant")
    return len(turns) == count and browser.find_element("id", "send").is_displayed()


def main(cfg: PicturesConfig) -> None:
    """Serve, talk, take pictures."""
    browser = open_browser(*DESK)
    served = serve.ServeConfig(checkpoint=cfg.checkpoint, port=0, rows=4)
    bound = serve.listen(served)
    state = serve.load(served)
    state.engine.start()
    server = serve.Server(state, served)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [bound]}, daemon=True)
    thread.start()

    try:
        set_view(browser, DESK, dark=False)
        talk(browser, serve.address_of(bound), cfg.max_tokens)
        for name, size, dark in (("light", DESK, False), ("dark", DESK, True), ("phone", PHONE, False)):
            set_view(browser, size, dark)
            browser.execute_script("scrollDown()")
            path = Path(cfg.out_dir) / f"page_{name}.png"
            browser.save_screenshot(str(path))
            print(f"wrote {path}")
    finally:
        browser.quit()
        server.should_exit = True
        server.force_exit = True
        thread.join()
        state.engine.stop()


if __name__ == "__main__":
    configurator.run(main, PicturesConfig)
