"""The page of ``shoal review``, from the templates and scripts in ``templates/`` and those it shares with the report.

| view | template | script |
|---|---|---|
| clusters | board.html.jinja | board.js (cards, names), several.js (merge and rename many) |
| images, a cluster, what was found | gallery.html.jinja | gallery.js, wall.js and wallinput.js (the virtual list) |
| map | atlas.html.jinja (report) | map.js, dots.js, mapinput.js, loupe.js (report) |
| questions | questions.html.jinja | questions.js, learning.js (the proposal) |
| near-duplicates | review.html.jinja | copies.js |
| selection | review.html.jinja | picked.js |
| an image | image.html.jinja | image.js |
| dialogs | asking.html.jinja, help.html.jinja | dialogs.js, splitting.js, keys.js |

Below them: server.js (requests), connection.js (events, a server that is gone), outbox.js (decisions on their way),
library.js (state and columns), ids.js and thumbs.js (names and thumbnails of what is on the screen).
"""

from __future__ import annotations

from shoal.report.page import environment
from shoal.review.session import Session

SCRIPTS = tuple(
    f"{name}.js"
    for name in (
        *("dom", "server", "connection", "library", "outbox", "ids", "thumbs", "picture", "grid", "swatch", "picked"),
        *("dialogs", "wall", "wallinput", "gallery", "board", "several", "splitting", "image", "copies", "questions"),
        *("learning", "map", "dots", "loupe", "mapinput", "views", "keys", "begin"),
    )
)
"""In the order in which they run; each uses those before it when it starts."""


def page(session: Session, nonce: str) -> str:
    """The document; only scripts and styles with the nonce count."""
    title = session.result.folder.path.resolve().name
    template = environment("shoal.review").get_template("review.html.jinja")
    return template.render(title=title, nonce=nonce, scripts=SCRIPTS)
