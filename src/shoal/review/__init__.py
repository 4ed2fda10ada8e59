"""The page on which a person reviews a clustering, and its server."""
