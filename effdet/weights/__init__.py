"""Weight files of any project, brought to the names used here."""
