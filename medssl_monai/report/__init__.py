"""What people read of a run: the console table and the HTML page."""

from medssl_monai.report.console import format_table
from medssl_monai.report.page import write_page

__all__ = ["format_table", "write_page"]
