print("Location: http://example.org/\n")
