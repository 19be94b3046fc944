package e2e

import (
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"liege/internal/testenv"
)

// transferSize is what passes through each language: many times what any
// buffer holds, and what an interpreter may take by itself.
const transferSize = 1 << 30

// transferApps count what they are sent, and send SIZE bytes.
var transferApps = map[string]struct {
	need        testenv.Feature
	lines, file string
	text        string
	path        string
	process     string // how the worker's command begins; empty: only the core is watched
}{
	"ruby": {testenv.Ruby, "rack = config.ru\n", "config.ru", `
class Flood
  def each; p = 'x' * 65536; (SIZE / 65536).times { yield p }; end
end
run lambda { |env|
  next [200, {'Content-Length' => 'SIZE'}, Flood.new] if env['REQUEST_METHOD'] == 'GET'
  n, p = 0, ''
  n += p.bytesize while env['rack.input'].read(65536, p)
  [200, {}, [n.to_s]]
}
`, "/", "site worker"},
	"perl": {testenv.Plack, "psgi = app.psgi\n", "app.psgi", `
sub { my $env = shift;
    if ($env->{REQUEST_METHOD} eq 'GET') { return sub { my $w = $_[0]->([200, ['Content-Length', SIZE]]); my $p = 'x' x 65536; $w->write($p) for 1 .. SIZE / 65536; $w->close } }
    my ($n, $b) = (0);
    while ($env->{'psgi.input'}->read($b, 65536)) { $n += length $b }
    [200, [], [$n]];
}
`, "/", "site worker"},
	"php": {testenv.PHP, "php-docroot = DIR\nprocesses = 1\n", "index.php", `<?php
if ($_SERVER['REQUEST_METHOD'] === 'GET') {
    header('Content-Length: SIZE');
    $p = str_repeat('x', 65536);
    for ($i = 0; $i < SIZE / 65536; $i++) { echo $p; flush(); }
    exit;
}
$n = 0;
$in = fopen('php://input', 'r');
while (!feof($in)) { $n += strlen(fread($in, 65536)); }
echo $n;
`, "/index.php", "/usr/bin/php-cgi"},
	"exec": {testenv.Node, "exec = node server.js\n", "server.js", `
const piece = Buffer.alloc(65536, 'x')
require('http').createServer((req, res) => {
  if (req.method === 'POST') {
    let n = 0
    req.on('data', b => { n += b.length })
    return req.on('end', () => res.end(String(n)))
  }
  res.setHeader('Content-Length', 'SIZE')
  let left = SIZE / piece.length
  const more = () => {
    while (left-- > 0) { if (!res.write(piece)) return res.once('drain', more) }
    res.end()
  }
  more()
}).listen(process.env.LIEGE_SOCKET)
`, "/", ""},
}

// TestTransferLanguages: what is sent to an app of any language, or comes from
// it, is in nobody's memory but for buffers: neither in the core's nor in the
// worker's.
func TestTransferLanguages(t *testing.T) {
	for name, app := range transferApps {
		t.Run(name, func(t *testing.T) {
			testenv.Need(t, testenv.Root, app.need)
			dir := kitchen(t)
			fill := strings.NewReplacer("SIZE", strconv.Itoa(transferSize), "DIR", dir)
			file := filepath.Join(dir, "site.ini")
			err := errors.Join(os.WriteFile(filepath.Join(dir, app.file), []byte(fill.Replace(app.text)), 0o644),
				os.WriteFile(file, []byte("[uwsgi]\nhttp-socket = 127.0.0.1:0\n"+fill.Replace(app.lines)), 0o644))
			if err != nil {
				t.Fatal(err)
			}
			s := serve(t, dir, nobody, file)
			url := strings.TrimSuffix(s.await(loopURL, 1), "/") + app.path
			core := coreOf(t, s)
			for _, method := range []string{"POST", "GET"} {
				move(t, "POST", url, 1<<20) // what is made once
				peaks := map[string]func() int64{"core": growth(t, core)}
				if app.process != "" {
					peaks["worker"] = growth(t, childOf(t, core, app.process))
				}
				move(t, method, url, transferSize)
				for who, peak := range peaks {
					grown := peak()
					t.Logf("%s %s: %d KiB", method, who, grown>>10)
					if grown > 24<<20 {
						t.Errorf("%s: the %s grew by %d KiB", method, who, grown>>10)
					}
				}
			}
			endServed(t, s)
		})
	}
}

// childOf is the youngest process below pid whose command begins so.
func childOf(t *testing.T, pid int, command string) (child int) {
	t.Helper()
	for _, p := range below(t, pid) {
		b, err := os.ReadFile("/proc/" + strconv.Itoa(p) + "/cmdline")
		if err == nil && strings.HasPrefix(string(b), command) {
			child = max(child, p)
		}
	}
	if child == 0 {
		t.Fatalf("no %s below the core", command)
	}
	return child
}
