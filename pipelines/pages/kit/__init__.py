"""What all pages share: style, template, thumbnails; and how a page or a sheet is known as ours."""

PAGE_MARK = b'<meta name="generator" content="d2s">'
SHEET_MARK = b"Software\0d2s"
