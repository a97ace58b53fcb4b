"""Pushes with signed URLs: what they are, how they are read, sealed, used and renewed. Knows no library."""
