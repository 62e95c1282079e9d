"""Draw pictures/inspect.svg and report-*.png again: python docs/draw_pictures.py (needs chromium and its driver).

The file is README's: 64 problems of `builtin:tiny`, TEMPO's credit. The same file gives the same pictures, but for the
browser's fonts.
"""

import base64
import shutil
import time
from pathlib import Path
from tempfile import TemporaryDirectory

from apportion.cli.main import app
from selenium import webdriver
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from typer.testing import CliRunner

PICTURES = Path(__file__).parent / "pictures"
GROUP = "arithmetic-d7792cdf4fd1d34b@906fa750"
SIZE = {"width": 1200, "height": 1270}
CHAIN = (
    "sample --prompts 64 --n 8 --seed 1 --device cpu -o {}/rollouts.parquet",
    "tree-build {}/rollouts.parquet -o {}/tree.parquet",
    "score {}/tree.parquet --with verify -o {}/scored.parquet",
    "assign-credit {}/scored.parquet --method tempo -o {}/credit.parquet",
    f"inspect {{}}/credit.parquet --group {GROUP} --sort reward --no-stats --svg {{}}/inspect.svg",
    "inspect {}/credit.parquet --html {}/report.html",
)


def draw(folder: Path) -> None:
    for line in CHAIN:
        result = CliRunner().invoke(app, line.replace("{}", str(folder)).split(), catch_exceptions=False)
        assert result.exit_code == 0, result.output
    shutil.copyfile(folder / "inspect.svg", PICTURES / "inspect.svg")
    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium") or shutil.which("google-chrome") or ""
    for word in ("--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"):
        options.add_argument(word)
    browser = webdriver.Chrome(options=options, service=Service(shutil.which("chromedriver") or ""))
    try:
        for scheme in ("light", "dark"):
            screenshot(browser, folder / "report.html", scheme)
    finally:
        browser.quit()


def screenshot(browser: webdriver.Chrome, page: Path, scheme: str) -> None:
    """The group, with the focus on the token that decided."""
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", {**SIZE, "deviceScaleFactor": 1.1, "mobile": False})
    browser.execute_cdp_cmd(
        "Emulation.setEmulatedMedia", {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
    )
    browser.get(page.as_uri())
    drawn(browser)
    number = browser.find_element(By.CSS_SELECTOR, f'.group[title="{GROUP}"]').get_attribute("data-group")
    browser.get("about:blank")
    browser.get(f"{page.as_uri()}#group-{number}")
    drawn(browser)
    browser.execute_script("document.querySelector('.rollout .token:nth-child(3)').focus({preventScroll: true})")
    time.sleep(0.5)
    taken = browser.execute_cdp_cmd("Page.captureScreenshot", {"format": "png"})
    (PICTURES / f"report-{scheme}.png").write_bytes(base64.b64decode(taken["data"]))


def drawn(browser: webdriver.Chrome) -> None:
    while not browser.execute_script("return document.documentElement.dataset.ready"):
        time.sleep(0.05)
    time.sleep(0.5)


if __name__ == "__main__":
    with TemporaryDirectory() as temporary:
        draw(Path(temporary))
