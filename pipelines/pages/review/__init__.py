"""The page and contact sheet of `d2s review`, worst cases first."""
