"""Shared by all pages: style, template, thumbnails, and marks of files written by d2s."""

PAGE_MARK = b'<meta name="generator" content="d2s">'
SHEET_MARK = b"Software\0d2s"
