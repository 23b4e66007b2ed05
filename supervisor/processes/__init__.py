"""The processes, as the supervisor sees them: started, watched, ended, and their deaths named."""
