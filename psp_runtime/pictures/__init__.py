"""Pictures: read into arrays, changed, shown, and written."""

from psp_runtime.pictures import heif

heif.register()
