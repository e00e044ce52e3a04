"""What torch lacks in one call, written with torch operations that autograd differentiates."""
