"""Reports: what was found, as data, text, pictures and pages."""
