"""Still frames of videos: which are taken, and their pixels. Needs PyAV, the extra ``video``."""
