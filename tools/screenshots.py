"""Screenshots of the page of ``objemb serve`` for the docs, light and dark, wide and narrow.

    objemb serve INDEX --port 8000 &
    python tools/screenshots.py http://127.0.0.1:8000 IMAGE_ID -o docs

The image is opened from the library, and the smallest of its stored boxes is searched for. Needs Playwright and a
Chromium (``--chromium PATH``; by default the one on the path).
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path
from typing import Any

#: Name, width, height and colour scheme of each picture.
SHOTS = (("serving", 1280, 860, "light"), ("serving_dark", 1280, 860, "dark"), ("serving_narrow", 360, 740, "light"))


def show(page: Any, image: str) -> None:
    """Search with the smallest stored box of an image, and wait for the photos of the hits."""
    page.click("#browse")
    page.get_by_label(f"Search with {image}").click()
    page.locator(".offered").last.press("Enter")
    page.locator("#hits .matched").first.wait_for(state="attached")
    page.wait_for_load_state("networkidle")


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("url")
    parser.add_argument("image", help="id of an indexed image with stored boxes")
    parser.add_argument("-o", "--output", type=Path, default=Path("docs"))
    parser.add_argument("--chromium", default=shutil.which("chromium") or shutil.which("google-chrome"))
    args = parser.parse_args(argv)

    from playwright.sync_api import sync_playwright

    with sync_playwright() as running:
        browser = running.chromium.launch(executable_path=args.chromium, args=["--no-sandbox"])
        for name, width, height, scheme in SHOTS:
            settings: Any = {"viewport": {"width": width, "height": height}, "color_scheme": scheme}
            context = browser.new_context(**settings)
            page = context.new_page()
            page.goto(args.url)
            show(page, args.image)
            page.screenshot(path=args.output / f"{name}.jpg", type="jpeg", quality=85)
            context.close()
        browser.close()


if __name__ == "__main__":
    main()
