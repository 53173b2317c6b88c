"""Every page of the built site in Chromium: no error, no request to another server, no dead link, none too wide for a phone."""

import functools
import http.server
import re
import threading
import urllib.parse
from pathlib import Path

from tests.conftest import CHROMIUM, FLAGS

SHOWN = ("index.html", "notebooks/00_one_picture/index.html", "notebooks/06_kl/index.html", "exercises/ex06_kl/index.html",
         "api/kl/index.html", "report.html")  # fmt: skip
SIZES = {"desktop": (1280, 900), "phone": (390, 844)}


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *args):
        pass


def visit(public: Path, screens: Path) -> int:
    """Prints what is wrong; returns 1 if anything is."""
    from playwright.sync_api import sync_playwright

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(public)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    home, wrong = f"http://127.0.0.1:{server.server_address[1]}/", dead_links(public)
    screens.mkdir(exist_ok=True)
    pages = sorted(path.relative_to(public).as_posix() for path in public.rglob("*.html") if path.name != "404.html")
    with sync_playwright() as driver:
        chromium = driver.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        for name in pages:
            page = chromium.new_page(viewport=dict(zip(("width", "height"), SIZES["phone"], strict=True)))
            page.on("console", lambda said, name=name: said.type == "error" and wrong.append(f"{name}: {said.text}"))
            page.on("pageerror", lambda error, name=name: wrong.append(f"{name}: {error}"))
            page.on("request", lambda asked, name=name: elsewhere(asked.url, home) and wrong.append(f"{name} asks {asked.url}"))
            page.goto(home + name, wait_until="load")
            page.wait_for_timeout(300)
            if (width := page.evaluate("document.documentElement.scrollWidth")) > SIZES["phone"][0] + 2:
                wrong.append(f"{name}: {width} pixels wide on a phone of {SIZES['phone'][0]}")
            if "arithmatex" in (public / name).read_text(encoding="utf-8") and not page.query_selector("mjx-container svg"):
                wrong.append(f"{name}: its formulas are not drawn")
            page.close()
        for name in [name for name in SHOWN if (public / name).exists()]:
            shoot(chromium, home, name, screens)
        wrong += search(chromium, home)
        chromium.close()
    server.shutdown()
    print(f"{len(pages)} pages visited; pictures of {len(SHOWN)} in {screens}", *wrong, sep="\n")
    return int(bool(wrong))


def elsewhere(url: str, home: str) -> bool:
    return not url.startswith((home, "data:", "blob:", "about:"))


def dead_links(public: Path) -> list[str]:
    """Links within the site whose page, or place on it, is not there."""
    texts = {path: path.read_text(encoding="utf-8") for path in public.rglob("*.html")}
    places = {path: set(re.findall(r'\bid="?([^"\s>]+)', text)) for path, text in texts.items()}
    dead = []
    for path, text in texts.items():
        for link in set(re.findall(r'<a [^>]*?href="([^"]+)"', text)):
            target, _, anchor = urllib.parse.unquote(link).partition("#")
            if path.name == "404.html" or re.match(r"[a-z]+:", link):
                continue
            there = (path.parent / target).resolve() if target else path
            there = there / "index.html" if there.is_dir() else there
            if not there.exists() or (anchor and there in places and anchor not in places[there] | {"__top"}):
                dead.append(f"{path.relative_to(public)} links to {link}")
    return dead


def shoot(chromium, home: str, name: str, screens: Path) -> None:
    for size, (width, height) in SIZES.items():
        for scheme in ("light", "dark"):
            page = chromium.new_page(viewport={"width": width, "height": height}, color_scheme=scheme)
            page.goto(home + name, wait_until="load")
            page.wait_for_timeout(500)
            page.screenshot(path=screens / f"{name.removesuffix('/index.html').replace('/', '-')}-{size}-{scheme}.png")
            page.close()


def search(chromium, home: str) -> list[str]:
    """Whether a word of the lessons is found."""
    page = chromium.new_page()
    page.goto(home, wait_until="load")
    page.keyboard.press("/")
    page.keyboard.type("importance ratio", delay=30)
    try:
        page.wait_for_selector(".md-search-result__item", timeout=15_000)
    except Exception:
        return ["The search finds nothing."]
    finally:
        page.close()
    return []
