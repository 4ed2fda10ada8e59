<<<<<<< HEAD
"""The page on which a person reviews a clustering, and its server."""
=======
"""``shoal review``: a local page on which a person looks at clusters, corrects them and answers questions."""
>>>>>>> w-server
