"""``shoal review``: a local page on which a person looks at clusters, corrects them and answers questions."""
