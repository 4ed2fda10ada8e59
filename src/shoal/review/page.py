"""The page of a review: one HTML document, whose scripts ask the server for everything else."""

from __future__ import annotations

from jinja2 import Environment, PackageLoader, StrictUndefined

from shoal.review.session import Session


def page(session: Session, nonce: str) -> str:
    """The document; only scripts and styles with the nonce count."""
    environment = Environment(loader=PackageLoader("shoal.review"), autoescape=True, undefined=StrictUndefined)
    title = session.result.folder.path.resolve().name
    return environment.get_template("review.html.jinja").render(title=title, nonce=nonce)
