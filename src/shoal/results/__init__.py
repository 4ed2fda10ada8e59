"""What training and clustering leave behind: one kind of folder, its tables and how it is read again."""
