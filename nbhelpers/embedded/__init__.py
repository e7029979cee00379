"""The tiny Gemma-3 that ships with the package, and how it was made."""

from nbhelpers.embedded.model import embedded_path, write_checkpoint
