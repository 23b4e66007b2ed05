"""Speech as every process sees it: requests and answers of a worker, segments, subtitles."""
