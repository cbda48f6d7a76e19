"""The address of the published book, and where its feed and its preview image are."""

from urllib.parse import urlsplit

import yaml

from titlesmith.runs import root

FEED, PREVIEW = "feed.xml", "_static/preview.png"


def find_address() -> str:
    """The address of the published book, with a slash at its end; empty if it is unknown.

    It is ``html.baseurl``, or GitHub's for the pages of ``repository.url``, in the settings that building the book
    wrote, which know the git remote.
    """
    built = root() / "_build" / "config.yml"
    config = yaml.safe_load((built if built.is_file() else root() / "_config.yml").read_text("utf-8"))
    if base := config.get("html", {}).get("baseurl"):
        return base.rstrip("/") + "/"
    parts = urlsplit(config.get("repository", {}).get("url", ""))
    owner, _, name = parts.path.strip("/").partition("/")
    return f"https://{owner.lower()}.github.io/{name}/" if parts.netloc == "github.com" and name else ""
