"""The server that classifies for other programs: tables of spectra in, results out, over HTTP."""
