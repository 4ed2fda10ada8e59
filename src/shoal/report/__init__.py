"""Self-contained HTML pages: one from a run, one about the number of clusters."""

from shoal.report.contents import MAX_SHOWN
from shoal.report.data import ReportData
from shoal.report.gallery import gallery_picture
from shoal.report.page import write_report
from shoal.report.suggestion import write_suggestion

__all__ = ["MAX_SHOWN", "ReportData", "gallery_picture", "write_report", "write_suggestion"]
