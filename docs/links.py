"""Check the internal links of the built site: every page and anchor is there.

python docs/links.py docs/_build/html
"""

import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit


class Page(HTMLParser):
    """What a page links to, and what can be linked to in it."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.links: list[str] = []
        self.anchors: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        for name, value in attrs:
            if name in ("href", "src") and value is not None:
                self.links.append(value)
            elif name in ("id", "name") and value:
                self.anchors.add(value)


def broken(folder: Path) -> list[str]:
    """The links that lead nowhere, as words."""
    pages = {path.resolve(): Page(path.read_text()) for path in folder.rglob("*.html")}
    found = []
    for path, page in sorted(pages.items()):
        for link in page.links:
            parts = urlsplit(link)
            if parts.scheme or parts.netloc:
                continue
            there = (
                (path.parent / unquote(parts.path)).resolve() if parts.path else path
            )
            if there.is_dir():
                there = there / "index.html"
            where = f"{path.relative_to(folder.resolve())}: {link}"
            fragment = unquote(parts.fragment) if there in pages else ""
            if not there.exists():
                found.append(f"{where}: there is no such file")
            elif fragment and fragment not in pages[there].anchors:
                found.append(f"{where}: the page has no such anchor")
    return found


def main() -> int:
    folder = Path(sys.argv[1])
    count = len([*folder.rglob("*.html")])
    found = broken(folder)
    print("\n".join(found) or f"The internal links of {count} pages lead somewhere.")
    return bool(found) or not count


if __name__ == "__main__":
    sys.exit(main())
