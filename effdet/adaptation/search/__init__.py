"""Search for an architecture that is accurate and cheap on one's own data; ``search_architectures`` begins here."""
