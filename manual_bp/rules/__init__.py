"""The text: a folder is a chapter, a file is a page."""
