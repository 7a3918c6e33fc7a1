"""Everything a case gives back: one module per output."""
