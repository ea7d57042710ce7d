"""Reports of a run folder: Markdown, HTML and the terminal's table; none of them needs torch."""
