"""Tells schemathesis, which loads this module, what bodies of the Arrow form are."""

import schemathesis
from hypothesis import strategies

from serving import ARROW, spectra, stream

tables = strategies.integers(0, 3).map(lambda n: stream(spectra(4).slice(0, n)))
schemathesis.openapi.media_type(ARROW, tables)
