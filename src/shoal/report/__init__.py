"""Self-contained HTML pages: one from a run, one about the number of clusters."""

from shoal.report.contents import sample_of_page
from shoal.report.data import ReportData
from shoal.report.page import write_report
from shoal.report.pictures import edge_for, gallery_picture
from shoal.report.suggestion import write_suggestion

__all__ = ["ReportData", "edge_for", "gallery_picture", "sample_of_page", "write_report", "write_suggestion"]
