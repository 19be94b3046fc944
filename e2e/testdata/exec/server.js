const http = require("http");
const server = http.createServer((q, r) => {
  if (q.url === "/die") process.exit(3);
  r.end(`node ${process.getuid()} ${q.method} ${q.url} ${process.env.GREETING}`);
});
server.on("upgrade", (q, s) => {
  s.write("HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n");
  s.pipe(s);
});
server.listen(process.argv[2] === "unix" ? process.env.LIEGE_SOCKET : process.env.PORT);
