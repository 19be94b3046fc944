io.write("Status: 201 Made\r\nX-Extra: ", os.getenv("PATH_INFO") or "none", "\r\nContent-Type: text/plain\r\n\r\n")
for _, name in ipairs({ "GATEWAY_INTERFACE", "SERVER_PROTOCOL", "REQUEST_METHOD", "QUERY_STRING", "SCRIPT_NAME", "CONTENT_LENGTH", "HTTP_X_TEST" }) do
  print(name .. "=" .. (os.getenv(name) or ""))
end
print("body=" .. io.read("a"))
io.stderr:write("foo.lua was here\n")
