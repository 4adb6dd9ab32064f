"""What all pages share: style, template, thumbnails."""
