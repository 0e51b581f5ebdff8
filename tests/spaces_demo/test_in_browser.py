"""A user session with the demo in headless Chromium. Skipped without selenium, chromium and chromedriver."""

import shutil

import pytest

from ..encoders.videos import gray, write_video

webdriver = pytest.importorskip("selenium.webdriver")
if not shutil.which("chromium") or not shutil.which("chromedriver"):
    pytest.skip("no chromium with chromedriver", allow_module_level=True)

from selenium.common.exceptions import StaleElementReferenceException  # noqa: E402
from selenium.webdriver.common.by import By  # noqa: E402
from selenium.webdriver.support.ui import WebDriverWait  # noqa: E402

PATIENCE_SECONDS = 60


class Visitor:
    """The actions of a user on the page."""

    def __init__(self, url: str):
        options = webdriver.ChromeOptions()
        options.binary_location = shutil.which("chromium")
        for argument in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--window-size=1400,1600"):
            options.add_argument(argument)
        self.driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(shutil.which("chromedriver")))
        self.driver.get(url)

    def wait(self, condition):
        # The page may be redrawn while it is read.
        waiting = WebDriverWait(self.driver, PATIENCE_SECONDS, ignored_exceptions=[StaleElementReferenceException])
        return waiting.until(lambda _: condition())

    def all(self, selector: str):
        return self.driver.find_elements(By.CSS_SELECTOR, selector)

    def button(self):
        return next((item for item in self.all("button") if item.text == "Find the moment"), None)

    def upload(self, path):
        self.wait(lambda: self.all("input[type=file]"))[0].send_keys(str(path))
        # Gradio replaces the player of a file that the browser cannot play with an error.
        self.wait(lambda: self.all("video") or "not playable" in self.text())

    def text(self) -> str:
        return self.driver.find_element(By.TAG_NAME, "body").text

    def type(self, query: str, counters: str = ""):
        fields = self.wait(lambda: len(self.all("textarea, input[type=text]")) >= 2 and self.all("textarea"))
        fields[0].send_keys(query)
        fields[1].send_keys(counters)

    def press(self):
        self.wait(self.button).click()

    def cut(self) -> str | None:
        """Return the URL of the cut when it can be played."""
        videos = [video for video in self.all("video") if "moment.mp4" in video.get_attribute("src")]
        is_ready = videos and self.driver.execute_script("return arguments[0].readyState", videos[0]) >= 2
        return videos[0].get_attribute("src") if is_ready else None

    def cells(self) -> list[str]:
        """Return the cells of the moments table without the link column."""
        texts = [cell.text for cell in self.all("[role=gridcell]") if cell.text.strip()]
        rows = [texts[index + 1 : index + 4] for index, text in enumerate(texts) if text == "▶ play"]
        return [text for row in rows for text in row]


@pytest.fixture
def visit(server):
    visitors = []

    def arrive():
        visitors.append(Visitor(server))
        return visitors[-1]

    yield arrive
    for visitor in visitors:
        visitor.driver.quit()


def best_moment(find, video, query):
    best = find(video=video, query=query, top_k=1)["moments"][0]
    return [best["start"], best["end"], best["score"]]


def test_upload_shows_the_result(visit, find, video_file):
    person = visit()
    person.upload(video_file)
    person.type("a red star", "a blue star")
    person.press()
    cells = person.wait(lambda: len(person.cells()) >= 15 and person.cells())
    assert [float(cell) for cell in cells[:3]] == pytest.approx(best_moment(find, video_file, "a red star"), abs=0.011)
    assert person.wait(
        lambda: [image for image in person.all("img") if image.get_attribute("src").startswith("data:image")]
    )
    # The cut of the best moment is shown; a click on another row shows another.
    best = person.wait(person.cut)
    links = person.wait(lambda: [cell for cell in person.all("[role=gridcell]") if cell.text == "▶ play"])
    links[2].click()
    person.wait(lambda: person.cut() not in (None, best))
    # The table of one video does not stay when another is loaded.
    person.all("[aria-label='Clear'], [aria-label='Remove video'], [title='Clear']")[0].click()
    person.wait(lambda: not person.cells())


def test_bad_file_shows_an_error(visit, tmp_path):
    (tmp_path / "notes.mp4").write_text("this is not a video")
    person = visit()
    person.upload(tmp_path / "notes.mp4")
    person.type("a red star")
    person.press()
    person.wait(lambda: "not a readable video" in person.text())
    assert "notes.mp4" in person.text() and str(tmp_path) not in person.text()
    assert not person.cells()


def test_concurrent_users_get_their_own_results(visit, find, video_file, tmp_path):
    other = write_video(tmp_path / "other.mp4", [gray(200), gray(10)] * 6, fps=4)
    people = [(visit(), video_file, "a red star"), (visit(), other, "the dog barks")]
    for person, video, query in people:
        person.upload(video)
        person.type(query)
    for person, _, _ in people:
        person.press()
    for person, video, query in people:
        cells = person.wait(lambda: len(person.cells()) >= 15 and person.cells())  # noqa: B023
        assert [float(cell) for cell in cells[:3]] == pytest.approx(best_moment(find, video, query), abs=0.011)
