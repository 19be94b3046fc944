// A server that speaks HTTP/2 without TLS, and nothing else.
const http2 = require('http2');
const server = http2.createServer();
server.on('stream', (stream, headers) => {
  const path = headers[':path'];
  if (path === '/die') process.exit(3);
  if (path === '/reset') return stream.close(http2.constants.NGHTTP2_INTERNAL_ERROR);
  let size = 0;
  stream.on('error', () => {});
  stream.on('data', (piece) => { size += piece.length; });
  stream.on('end', () => {
    stream.respond({ ':status': 201, 'x-node': 'h2' }, { waitForTrailers: true });
    stream.on('wantTrailers', () => stream.sendTrailers({ 'grpc-status': '0' }));
    stream.end(`${headers[':method']} ${path} ${headers[':authority']} ${headers['te']} ${size}`);
  });
});
server.listen(process.argv[2] === 'unix' ? process.env.LIEGE_SOCKET : process.env.PORT);
