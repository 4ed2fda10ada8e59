"""One self-contained HTML page from a run."""

from shoal.report.gallery import gallery_picture
from shoal.report.page import ReportData, write_report

__all__ = ["ReportData", "gallery_picture", "write_report"]
