"""The researcher's side: synthetic hospitals, in-process runs, baselines, reports."""
