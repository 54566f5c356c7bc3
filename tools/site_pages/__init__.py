"""What the site shows beyond the files of ``docs/``: commands, config keys, source files, formulas, notebooks."""
