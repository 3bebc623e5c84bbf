"""Visual inspection: a local page where experts rule on spectra, and the file that keeps their verdicts."""
