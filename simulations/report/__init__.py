"""What a stream has shown, of one method or of many, turned into what a researcher reads: numbers, figures and one page."""

from simulations.report.write import write_casam_report, write_report

__all__ = ["write_casam_report", "write_report"]
