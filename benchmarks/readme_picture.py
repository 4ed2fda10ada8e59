"""The picture in README: a row of images for each cluster of a finished run.

shoal train propos-digits --out my-run && python benchmarks/readme_picture.py my-run docs/digits.png
"""

from __future__ import annotations

import sys
from pathlib import Path

from shoal.report import gallery_picture
from shoal.results.page import report_data
from shoal.results.result import Result


def main() -> None:
    """Draw the run in the first argument to the file in the second."""
    run, picture = Path(sys.argv[1]), Path(sys.argv[2])
    gallery_picture(report_data(Result.load(run)), picture)


if __name__ == "__main__":
    main()
