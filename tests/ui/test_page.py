"""The page in a real browser: what a visitor is promised, each of it tried; and whom it refuses."""

import re
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from ui_pages import (
    PIXELS,
    button,
    chromium,
    done,
    download,
    loaded,
    make_all,
    paint,
    run_command,
    shown_command,
    visiting,
)

from psp_runtime.ui.canvas import face_labels


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as one:
        yield one


COPY = """async bytes => {
    const blob = new Blob([new Uint8Array(bytes)], {type: 'image/png'})
    await navigator.clipboard.write([new ClipboardItem({'image/png': blob})])
}"""


def test_the_first_screen_says_what_it_is(url: str, browser: Any) -> None:
    with visiting(browser, url) as page:
        page.get_by_role("button", name="Generate", exact=True).first.wait_for()
        assert page.get_by_text("Turn photos, sketches and label maps into faces").is_visible()
        assert page.get_by_text("cartoon faces").is_visible()
        assert page.get_by_role("link", name="published weights").is_visible()
        assert page.locator("button[role=tab]:visible").count() == 6
        assert page.locator(".examples:visible img").count() == 6
        page.get_by_text("About, sources and licences").click()
        page.get_by_role("link", name="Encoding in Style").wait_for()
        assert page.get_by_text("Licence: the toolkit is").is_visible()


def test_an_example_is_shown_before_and_after(url: str, browser: Any, here: Path) -> None:
    with visiting(browser, url) as page:
        page.locator(".examples:visible img").first.click()
        done(page, "1 picture in")
        page.get_by_text("Before and after").locator("visible=true").wait_for()
        loaded(page, 16)  # as large as the result
        made = download(page, button(page, "Download result"))
        assert made.name == "face_1_out.png" and Image.open(made).size == (16, 16)


def test_paste_interpolate_and_download(url: str, browser: Any, here: Path) -> None:
    with visiting(browser, url, permissions=["clipboard-read", "clipboard-write"]) as page:
        page.get_by_label("Paste from clipboard").first.wait_for()
        page.evaluate(COPY, list(Path("a.png").read_bytes()))
        page.get_by_label("Paste from clipboard").first.click()
        done(page, "1 picture in")
        pasted = download(page, button(page, "Download input"))
        assert np.array_equal(np.asarray(Image.open(pasted).convert("RGB")), PIXELS[0])
        page.get_by_label("Interpolate").first.check()
        done(page, "Interpolate: give both pictures first")
        page.locator("button:visible", has_text="Random face").nth(1).click()
        done(page, "7 pictures in")
        command = rf"psp morph {pasted} --engine \S+inversion.onnx --to face_\d+.png --steps 7"
        assert re.fullmatch(command, shown_command(page))
        assert page.get_by_text("share 0.17").count() == 1
        page.get_by_label("Also make an animation (GIF)").first.check()
        button(page, "Download GIF").wait_for()
        assert Image.open(download(page, button(page, "Download GIF"))).n_frames == 12
        page.get_by_label("Thumbnail 3 of 7").first.click()
        made = download(page, page.get_by_label("Download", exact=True).locator("visible=true").first)
        assert made.name == f"{pasted.stem}_out_3.png" and Image.open(made).size == (16, 16)


def test_old_results_go_and_errors_stand_by_their_cause(url: str, browser: Any, here: Path) -> None:
    Path("bad.png").write_bytes(b"not a picture")
    with visiting(browser, url) as page:
        made, command = page.locator(".made:visible img"), page.get_by_text("The same from a shell")
        upload = page.locator("input[type=file]").first
        upload.set_input_files("b.png")
        done(page, "1 picture in")
        page.get_by_label("Variations", exact=True).first.check()
        done(page, "6 pictures in")
        assert made.count() == 6
        slider = page.get_by_label("range slider for Variations").first
        slider.focus()
        slider.press("ArrowRight")
        done(page, "7 pictures in")
        expected = r"psp mix b.png --engine \S+inversion.onnx --alpha 1.0 --count 7 --seed 7.*"
        assert re.fullmatch(expected, shown_command(page))
        page.get_by_label("Layers").first.fill("99")
        button(page, "Generate").click()
        wrong = page.locator(".block.wrong:visible")
        wrong.get_by_text("--layers 99: expected layers such as").wait_for()
        assert made.count() == 0 and not command.locator("visible=true").count()
        generate = button(page, "Generate").bounding_box()
        assert 0 < generate["y"] - wrong.bounding_box()["y"] < 150
        upload.set_input_files("bad.png")
        wrong.get_by_text("cannot read bad.png: not a picture of a known format").wait_for()
        done(page, "Variations: give a picture first")
        assert page.locator(".block.wrong:visible").count() == 1
        assert made.count() == 0 and not command.locator("visible=true").count()


def test_what_is_no_picture_is_named_where_it_was_given(url: str, browser: Any, here: Path) -> None:
    """Also as a photo, as the other picture, in a batch, and as a label map: the server must end without a trace."""
    Path("bad.png").write_bytes(b"not a picture")
    with visiting(browser, url) as page:
        wrong = page.locator(".block.wrong:visible", has_text="cannot read bad.png: not a picture of a known format")
        page.get_by_label("A whole photo: find the faces").first.check()
        page.locator(".given:visible input[type=file]").first.set_input_files("bad.png")
        wrong.wait_for()
        page.locator(".examples:visible img").first.click()
        done(page, "1 picture in")
        assert not wrong.count()
        page.get_by_label("Style transfer").first.check()
        page.locator(".given:visible input[type=file]").last.set_input_files("bad.png")
        wrong.wait_for()
        done(page, "Style transfer: give both pictures first")
        make_all(page, "a.png", "bad.png")
        done(page, "cannot read bad.png: not a picture of a known format")
        page.get_by_role("tab", name="segmentation").click()
        page.locator("canvas:visible").first.wait_for()
        with page.expect_file_chooser() as asked:
            button(page, "Open a label map (grey or palette PNG of class ids)").click()
        asked.value.set_files("bad.png")
        wrong.wait_for()


def test_a_model_is_made_when_it_is_first_used(url: str, browser: Any) -> None:
    with visiting(browser, url) as page:
        page.get_by_role("tab", name="super resolution").click()
        page.locator(".examples:visible img").first.click()
        page.get_by_text("Preparing the super resolution model, once for all").first.wait_for()
        button(page, "Cancel").click()
        done(page, "Cancelled.")
        button(page, "Cancel").wait_for(state="hidden")


def test_edit_and_a_batch(url: str, browser: Any, here: Path) -> None:
    with visiting(browser, url) as page:
        page.locator(".examples:visible img").first.click()
        done(page, "1 picture in")
        page.get_by_label("Edit", exact=True).first.check()
        page.locator(".block.wrong:visible").wait_for()  # this generator has no directions of its own
        page.locator("input[type=file][accept*='.npy']").first.set_input_files("direction.npy")
        button(page, "Generate").click()
        done(page, "7 pictures in")
        assert "--direction direction.npy --strength -3:3:7" in shown_command(page)
        make_all(page, "a.png", "b.png")
        done(page, "2 pictures in")
        with zipfile.ZipFile(download(page, button(page, "Download all (ZIP)"))) as archive:
            assert {"a_out.png", "b_out.png", "a.png", "b.png", "command.txt"} == set(archive.namelist())


def test_a_painted_class_is_what_the_command_runs_on(
    url: str, browser: Any, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with visiting(
        browser, url, device_scale_factor=0.5, viewport={"width": 1280, "height": 1400}
    ) as page:  # no GPU here
        page.get_by_role("tab", name="segmentation").click()
        canvas = page.locator("canvas:visible").first
        canvas.wait_for()
        with page.expect_response(re.compile("gradio_api/run")):  # the brush comes from the server
            page.locator(".palette:visible label", has_text="hat").click()
        paint(page, canvas, "hat")
        button(page, "Generate").click()
        done(page, "1 picture in")
        labels = np.asarray(Image.open(download(page, button(page, "Download input"))))
        made = download(page, button(page, "Download result"))
        text = shown_command(page)
        page.get_by_label("Label swap").locator("visible=true").check()
        done(page, "2 pictures in")
    changed = labels[labels != face_labels().repeat(2, 0).repeat(2, 1)]
    assert set(np.unique(changed)) == {14}  # a hat, and nothing else
    shown = made.read_bytes()
    made.unlink()
    run_command(text, monkeypatch)
    assert made.read_bytes() == shown


def test_two_visitors_see_only_their_own(url: str, browser: Any, here: Path) -> None:
    with visiting(browser, url) as anna, visiting(browser, url) as ben:
        served = {anna: set(), ben: set()}
        for page, files in served.items():
            page.on("response", lambda r, files=files: files.add(r.url) if "/file=" in r.url else None)
        anna.locator("input[type=file]").first.set_input_files("a.png")
        ben.locator("input[type=file]").first.set_input_files("b.png")
        for page in served:
            done(page, "1 picture in")
        ben.get_by_label("Variations", exact=True).first.check()
        done(ben, "6 pictures in")
        assert shown_command(anna).startswith("psp run a.png") and shown_command(ben).startswith("psp mix b.png")
        button(anna, "Cancel").wait_for(state="hidden")
        names = {page: {one.rsplit("/", 1)[1] for one in files} for page, files in served.items()}
        assert "a_out.png" in names[anna] and not any(re.match("b[._]", name) for name in names[anna])
        assert "b_out_6.png" in names[ben] and not any(re.match("a[._]", name) for name in names[ben])


def test_on_a_phone_all_is_at_hand(url: str, browser: Any) -> None:
    with visiting(browser, url, viewport={"width": 390, "height": 844}, has_touch=True) as page:
        generate = button(page, "Generate")
        generate.wait_for()
        assert generate.bounding_box()["y"] + 30 < 844  # it stays at the lower edge
        assert page.evaluate("document.documentElement.scrollWidth") <= 390
        page.locator(".examples:visible img").first.click()
        generate.click()
        done(page, "1 picture in")
        page.wait_for_function("document.querySelector('.status').getBoundingClientRect().top < 500")
        tab = page.locator("button[role=tab]:visible", has_text="segmentation")
        if not tab.count():  # behind "All tasks"
            page.locator(".overflow-menu:visible > button").click()
            tab = page.locator(".overflow-dropdown button:visible", has_text="segmentation")
        tab.click()
        page.locator(".palette:visible").wait_for()


def test_a_face_of_a_photo_is_chosen_and_the_photo_compared(url: str, browser: Any) -> None:
    with visiting(browser, url) as page:
        page.locator(".examples:visible img").nth(5).click()  # a photo of four people
        page.get_by_label("Thumbnail 3 of 4").locator("visible=true").click()
        page.wait_for_function("[...document.querySelectorAll('textarea')].some(one => /--faces 3rd/.test(one.value))")
        command = r"psp run photo_1.jpg --engine \S+inversion.onnx --align --faces 3rd --paste-back face"
        assert re.fullmatch(command, shown_command(page))
        loaded(page, 960)  # as large as the photo


def test_the_page_serves_only_its_own_files(url: str, here: Path) -> None:
    """A request with a path of its own making gets nothing."""
    httpx = pytest.importorskip("httpx")
    assert httpx.get(f"{url}/gradio_api/file={here / 'a.png'}").status_code in (403, 404)
    assert httpx.get(url).status_code == 200


def test_the_page_is_only_for_those_who_know_its_name(url: str, tmp_path: Path) -> None:
    """A page whose name leads to 127.0.0.1 (DNS rebinding), or of another site, sees nothing and stores nothing."""
    httpx = pytest.importorskip("httpx")
    upload = {"files": ("stored.png", b"by a stranger")}
    for strange in ({"Host": "evil.com"}, {"Origin": "http://evil.com"}, {"Origin": "null"}):
        assert httpx.get(url, headers=strange).status_code == 403
        assert httpx.post(f"{url}/gradio_api/upload", files=upload, headers=strange).status_code == 403
    own = httpx.post(f"{url}/gradio_api/upload", files=upload, headers={"Origin": url})
    assert own.status_code == 200 and Path(own.json()[0]).name == "stored.png"
    assert httpx.post(f"{url}/gradio_api/upload", files={"files": ("big.png", bytes(21 << 20))}).status_code == 413
    assert httpx.post(f"{url}/gradio_api/upload", content=iter([b"no length"])).status_code == 411
