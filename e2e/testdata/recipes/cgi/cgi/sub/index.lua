print("Content-Type: text/plain\n")
print("index of " .. os.getenv("SCRIPT_NAME"))
