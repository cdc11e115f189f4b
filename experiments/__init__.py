"""The command line, the pipeline, protocols, reports and the demo."""
