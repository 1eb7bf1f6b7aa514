"""What a person sees while something runs: safe output, progress lines and bars, times in words."""
