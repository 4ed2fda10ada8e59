"""Self-contained HTML pages: one from a run, one about the number of clusters."""

from shoal.report.gallery import gallery_picture
from shoal.report.page import ReportData, write_report
from shoal.report.suggestion import write_suggestion

__all__ = ["ReportData", "gallery_picture", "write_report", "write_suggestion"]
