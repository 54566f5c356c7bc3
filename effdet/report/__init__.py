"""What a detector learned, as a page for people and as numbers for programs."""
