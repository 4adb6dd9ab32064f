"""What `d2s review` shows of a captioning run: a page and a contact sheet, worst cases first."""
