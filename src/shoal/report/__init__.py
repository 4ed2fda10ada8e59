"""Self-contained HTML pages: the report of a clustering (``page``) and of the number of clusters (``suggestion``).

``data`` is what a report is made of. ``page`` renders it and lists which template and script draws what.
"""

from shoal.report.contents import sample_of_page
from shoal.report.data import ReportData
from shoal.report.page import write_report
from shoal.report.pictures import edge_for, gallery_picture
from shoal.report.suggestion import write_suggestion

__all__ = ["ReportData", "edge_for", "gallery_picture", "sample_of_page", "write_report", "write_suggestion"]
